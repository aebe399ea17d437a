//! Plays the admin ports of replicas: each says of its logs what the test lets it say.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};
use tile_proxy_operator::controller::{AdminUrl, names::Names};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The replicas of a namespace; gone when dropped.
pub(crate) struct Replicas {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    /// What each replica answers; one that is not here refuses to.
    says: BTreeMap<String, String>,
    asked: usize,
    last: Option<Instant>,
}

impl Replicas {
    /// Some that say nothing yet.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let script = Arc::<Mutex<Script>>::default();
        Self {
            address: listener.local_addr().expect("bound"),
            task: tokio::spawn(serve(listener, script.clone())),
            script,
        }
    }

    /// From now on the replica `name` says this of its only log.
    pub(crate) fn say(&self, name: &str, state: &str) {
        let serves = state != "Failing";
        let log = json!({
            "name": "default",
            "origin": serves.then_some("rome.example.net/2026h1"),
            "size": serves.then_some(70_000),
            "state": state,
        });
        self.answer(name, &json!({"version": 1, "logs": [log]}));
    }

    /// From now on the replica `name` answers with this.
    pub(crate) fn answer(&self, name: &str, json: &Value) {
        self.script().says.insert(name.to_owned(), json.to_string());
    }

    /// From now on none of them answers.
    pub(crate) fn fall_silent(&self) {
        self.script().says.clear();
    }

    /// How often they were asked, and when last.
    pub(crate) fn asked(&self) -> (usize, Option<Instant>) {
        let script = self.script();
        (script.asked, script.last)
    }

    /// Where the operator asks them.
    pub(crate) fn url(&self) -> AdminUrl {
        let address = self.address;
        Box::new(move |names: &Names, ordinal| {
            format!("http://{address}/{}", names.replica(ordinal))
        })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        // One that goes away in the middle is no matter.
        let _ = answer(stream, &script).await;
    }
}

async fn answer(mut stream: TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let name = path.strip_suffix("/_admin/cache/stats");
    let body = {
        let mut script = lock(script);
        script.asked += 1;
        script.last = Some(Instant::now());
        let name = name.and_then(|path| path.strip_prefix('/'));
        name.and_then(|name| script.says.get(name).cloned())
    };
    let (status, body) = match body {
        Some(body) => ("200 OK", body),
        None => ("503 Service Unavailable", String::new()),
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}
