//! Asks a running operator whether it is ready, as `helm test` does from a pod of its own.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest answer that is read, in bytes: each is a line.
const MAX_ANSWER_BYTES: usize = 1024;

/// Returns once the operator at `address` (`host:port`) says that it is ready.
///
/// # Errors
/// What it said last, or why it could not be asked, if that took longer than `within`.
pub async fn ready(address: &str, within: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + within;
    loop {
        let answer = match timeout_at(end, ask(address)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer")),
        };
        let Err(error) = answer else { return Ok(()) };
        if Instant::now() + PAUSE >= end {
            return Err(error.context(format!("{address} was not ready within {within:?}")));
        }
        sleep(PAUSE).await;
    }
}

async fn ask(address: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address)
        .await
        .context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection); // ends with `sender`
    let request = Request::get("/readyz")
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let body = body.await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    drop(sender);
    connection.await??;
    if status != StatusCode::OK {
        bail!("{status}: {}", String::from_utf8_lossy(&body).trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::admin::{self, Metrics};

    /// An operator's own endpoints, and what decides whether it is ready.
    async fn operator() -> (String, Arc<AtomicBool>) {
        let listener = admin::bind(([127, 0, 0, 1], 0).into()).await.expect("port");
        let address = listener.local_addr().expect("bound").to_string();
        let is_ready = Arc::new(AtomicBool::new(false));
        let metrics = Metrics::new().expect("registered");
        tokio::spawn(admin::serve(listener, metrics, is_ready.clone()));
        (address, is_ready)
    }

    #[tokio::test]
    async fn one_that_becomes_ready_is_waited_for() {
        let (address, is_ready) = operator().await;
        let asked = ready(&address, Duration::from_secs(60));
        let (answer, ()) = tokio::join!(asked, async {
            assert!(ask(&address).await.is_err(), "it is not ready yet");
            is_ready.store(true, Ordering::Release);
        });
        answer.expect("ready");
    }

    #[tokio::test]
    async fn the_last_answer_says_why_it_is_not() {
        let (address, _) = operator().await;
        let error = ready(&address, Duration::ZERO).await.expect_err("unready");
        let says = format!("{address} was not ready within 0ns");
        assert_eq!(error.to_string(), says);
        assert!(error.source().is_some(), "and why");
        let error = ask(&address).await.expect_err("unready");
        assert_eq!(
            error.to_string(),
            "503 Service Unavailable: waiting for the first list of TileProxies"
        );
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let closed = closed.and_then(|l| l.local_addr()).expect("port");
        let error = ask(&closed.to_string()).await.expect_err("nobody there");
        assert_eq!(error.to_string(), "cannot connect");
    }
}
