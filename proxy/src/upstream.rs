//! Asks an upstream for bytes, within limits. What comes back is unverified.

pub mod retry;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use tokio::sync::Semaphore;
use tracing::debug;
use url::Url;

use self::retry::{Backoff, retry_after};
use crate::{config::UpstreamSettings, metrics::UpstreamMetrics};

/// How we introduce ourselves. Logs ask for a way to find out who reads them.
pub(crate) const USER_AGENT: &str = concat!(
    "tile-proxy/",
    env!("CARGO_PKG_VERSION"),
    " (+https://tiles.stella-ops.org)"
);

/// Longest time to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that an upstream is left alone because it asked for that. A header must not silence
/// a log for a day.
const MAX_QUIET: Duration = Duration::from_secs(300);

/// Redirects followed, all on the upstream's own host.
const MAX_REDIRECTS: usize = 3;

/// Why an upstream gave no bytes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The upstream does not have it: 404 or 410. Not evidence of anything.
    #[error("{upstream} does not have it")]
    NotFound {
        /// Name of the upstream.
        upstream: String,
    },
    /// Another status than success.
    #[error("{upstream} answered {status}")]
    Status {
        /// Name of the upstream.
        upstream: String,
        /// Its answer.
        status: StatusCode,
        /// When it asks to be asked again.
        retry_after: Option<Duration>,
    },
    /// No answer, or half of one.
    #[error("cannot read from {upstream}: {message}")]
    Network {
        /// Name of the upstream.
        upstream: String,
        /// Why, without the URL.
        message: String,
    },
    /// It asked not to be asked for a while, and that while is not over.
    #[error("{upstream} asked to be left alone for another {} s", left.as_secs())]
    Throttled {
        /// Name of the upstream.
        upstream: String,
        /// How long.
        left: Duration,
    },
    /// More bytes than such a resource can have.
    #[error("{upstream} sent more than {limit} bytes")]
    TooLarge {
        /// Name of the upstream.
        upstream: String,
        /// Most bytes it may send, after decompression.
        limit: usize,
    },
}

impl FetchError {
    /// Whether asking again may help.
    fn is_transient(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::NotFound { .. } | Self::Throttled { .. } | Self::TooLarge { .. } => false,
        }
    }

    /// How long the upstream asks to be left alone.
    fn quiet(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => retry_after.map(|time| time.min(MAX_QUIET)),
            _ => None,
        }
    }
}

/// One place that serves a log.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    client: reqwest::Client,
    backoff: Backoff,
    /// Requests under way at once.
    slots: Semaphore,
    /// Until when it asked not to be asked.
    quiet_until: Mutex<Option<Instant>>,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// Prepares a client; connects to nothing.
    ///
    /// # Errors
    /// When the machine has no usable TLS set-up.
    pub fn new(
        settings: UpstreamSettings,
        backoff: Backoff,
        requests: usize,
        metrics: UpstreamMetrics,
    ) -> Result<Self, reqwest::Error> {
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            let host = |url: &Url| (url.scheme().to_owned(), url.authority().to_owned());
            let same = attempt
                .previous()
                .first()
                .is_some_and(|first| host(first) == host(attempt.url()));
            match attempt.previous().len() {
                // Bytes are proven wherever they are from; but what we ask for, and how often,
                // concerns nobody else.
                _ if !same => attempt.error("it redirects to another host"),
                n if n > MAX_REDIRECTS => attempt.error("it redirects too often"),
                _ => attempt.follow(),
            }
        });
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(settings.timeout)
            .redirect(redirects)
            .build()?;
        Ok(Self {
            settings,
            client,
            backoff,
            slots: Semaphore::new(requests),
            quiet_until: Mutex::new(None),
            metrics,
        })
    }

    /// Its name in metrics, records and messages.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Its base URL.
    pub fn url(&self) -> &Url {
        &self.settings.url
    }

    /// Fetches the checkpoint, once: whoever wants one soon asks again anyway.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn checkpoint(&self, limit: usize) -> Result<Bytes, FetchError> {
        self.attempt(&self.settings.url, "checkpoint", limit).await
    }

    /// Longest time for one request.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Fetches what is at `path`, such as `tile/0/000`. Repeats what may pass, as long as the next
    /// attempt begins within `patience`.
    ///
    /// # Errors
    /// See [`FetchError`]; that of the last attempt.
    pub async fn fetch(
        &self,
        path: &str,
        limit: usize,
        patience: Duration,
    ) -> Result<Bytes, FetchError> {
        let begin = Instant::now();
        let mut attempts = 0;
        loop {
            let error = match self
                .attempt(&self.settings.tile_base_url, path, limit)
                .await
            {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let pause = self
                .backoff
                .pause(attempts)
                .filter(|_| error.is_transient());
            let Some(pause) = pause.map(|pause| pause.max(self.quiet_for())) else {
                return Err(error);
            };
            if begin.elapsed() + pause >= patience {
                return Err(error);
            }
            debug!(upstream = self.name(), path, %error, ?pause, "upstream asked again");
            tokio::time::sleep(pause).await;
            attempts += 1;
        }
    }

    /// Asks it again from now on, whatever it said: a person knows better.
    pub fn forget_quiet(&self) {
        *self
            .quiet_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long it still wants to be left alone.
    fn quiet_for(&self) -> Duration {
        let until = *self
            .quiet_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until
            .map(|until| until.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }

    async fn attempt(&self, base: &Url, path: &str, limit: usize) -> Result<Bytes, FetchError> {
        let network = |message: String| FetchError::Network {
            upstream: self.name().to_owned(),
            message,
        };
        let url = base
            .join(path)
            .map_err(|error| network(error.to_string()))?;
        // Never closed, so it is always had.
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|error| network(error.to_string()))?;
        let left = self.quiet_for();
        if !left.is_zero() {
            return Err(FetchError::Throttled {
                upstream: self.name().to_owned(),
                left,
            });
        }
        let begin = Instant::now();
        let outcome = self.get(url, limit).await;
        if let Some(quiet) = outcome.as_ref().err().and_then(FetchError::quiet) {
            let mut until = self
                .quiet_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *until = Some(Instant::now() + quiet);
        }
        let status = match &outcome {
            Ok(_) => "200".to_owned(),
            Err(FetchError::NotFound { .. }) => "404".to_owned(),
            Err(FetchError::Status { status, .. }) => status.as_str().to_owned(),
            Err(
                FetchError::Network { .. }
                | FetchError::Throttled { .. }
                | FetchError::TooLarge { .. },
            ) => "error".to_owned(),
        };
        self.metrics.observe(&status, begin.elapsed());
        outcome
    }

    async fn get(&self, url: Url, limit: usize) -> Result<Bytes, FetchError> {
        let upstream = || self.name().to_owned();
        let network = |error: reqwest::Error| FetchError::Network {
            upstream: upstream(),
            // The innermost cause says most ("connection refused"); URLs stay out of metrics,
            // messages and clients' eyes.
            message: innermost(&error.without_url()),
        };
        let mut response = self.client.get(url).send().await.map_err(network)?;
        let status = response.status();
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Err(FetchError::NotFound {
                upstream: upstream(),
            });
        }
        if status != StatusCode::OK {
            let after = response
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|v| v.to_str().ok());
            return Err(FetchError::Status {
                upstream: upstream(),
                status,
                retry_after: after.and_then(|value| retry_after(value, jiff::Timestamp::now())),
            });
        }
        let announced = response
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        let mut body = BytesMut::with_capacity(announced.unwrap_or_default().min(limit));
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            // The decompressed length: what a header announces is not believed.
            if body.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge {
                    upstream: upstream(),
                    limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
