//! A web server as an upstream: one request, its limits, and what its answer means.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use url::Url;

use super::{
    error::FetchError,
    race::Begun,
    reread::Reread,
    retry::{quiet_after, retry_after},
    trace::Trace,
};
use crate::config::UpstreamSettings;

/// How we introduce ourselves. Logs ask for a way to find out who reads them.
pub(crate) const USER_AGENT: &str = concat!(
    "tile-proxy/",
    env!("CARGO_PKG_VERSION"),
    " (+https://tiles.stella-ops.org)"
);

/// What tlog-tiles asks clients to offer. Some servers send gzip unasked, which is read as well.
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("gzip, identity");

/// Longest time to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection shared by many requests is asked whether the other end is still there, and
/// how long that may take to say so: a connection that was cut off silently costs one wait, not all.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time to a connection with another replica, which is near.
const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Says that a request comes from another replica, and is not to be handed on.
pub(crate) const HOP: HeaderName = HeaderName::from_static("tile-proxy-hop");

/// How old a checkpoint is: seconds since the log confirmed it.
pub(crate) const CHECKPOINT_AGE: HeaderName = HeaderName::from_static("tile-proxy-checkpoint-age");

/// Asks for what is cached, and for nobody to be asked for it.
pub(crate) const ONLY_IF_CACHED: HeaderValue = HeaderValue::from_static("only-if-cached");

/// Redirects followed, all on the upstream's own host.
const MAX_REDIRECTS: usize = 3;

/// The client of one upstream.
#[derive(Debug)]
pub(crate) struct Web {
    name: String,
    timeout: Duration,
    authorities: Option<Reread>,
    beside: Beside,
    clients: Mutex<Clients>,
    /// With the only place it is for.
    authorization: Option<(Reread, url::Origin)>,
    /// Times in a row that it said it is asked too often.
    refusals: AtomicU32,
    /// Whether this is another replica.
    peer: bool,
}

/// Clients, and the authorities they were made with; made anew when these change.
#[derive(Debug)]
struct Clients {
    pem: Option<Arc<str>>,
    reading: reqwest::Client,
    /// Made when something is handed on for the first time.
    passing: Option<reqwest::Client>,
}

/// Who may vouch for a server beside the authorities that are configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Beside {
    /// Nobody.
    Nobody,
    /// Those the system trusts.
    System,
}

/// What a client is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    /// Handing on a request as it is: whoever made it is told of a redirect.
    Passing,
    /// Another replica.
    Peer,
    /// Reading a log.
    Reading,
}

/// A client's request that is handed on.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Its method.
    pub method: Method,
    /// Path and query below the upstream's URL.
    pub path: String,
    /// What of its headers is handed on.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Whether it writes, and goes to `write_url`.
    pub writes: bool,
}

/// What was answered to that, whatever it is.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// All of its headers.
    pub headers: HeaderMap,
    /// Its body, decompressed.
    pub body: Bytes,
}

/// What a server sent.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) bytes: Bytes,
    /// How old it says that is.
    pub(super) age: Option<Duration>,
}

/// How something is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    /// Set when a response has begun.
    pub(super) begun: Begun,
    /// Whether nobody else is to be asked for it.
    pub(super) only_if_cached: bool,
}

impl Web {
    /// Prepares a client; connects to nothing.
    ///
    /// # Errors
    /// When authorities or the credential cannot be read or used, or the machine has no usable TLS.
    pub(crate) fn new(settings: &UpstreamSettings) -> anyhow::Result<Self> {
        let timeout = settings.timeout;
        let purpose = if settings.peer {
            Purpose::Peer
        } else {
            Purpose::Reading
        };
        let (key, beside, source) = match &settings.ca {
            Some(source) => ("ca", Beside::Nobody, Some(source)),
            None => ("trusted_ca", Beside::System, settings.trusted_ca.as_ref()),
        };
        let authorities = match source.cloned() {
            Some(source) => Some(Reread::new(key, source, |pem| usable(pem, timeout))?),
            None => None,
        };
        let pem = authorities.as_ref();
        let pem = pem.map(|read| read.current(|pem| usable(pem, timeout)));
        let authorization = match settings.authorization.clone() {
            Some(source) => Some((
                Reread::new("authorization", source, |text| credential(text).map(drop))?,
                settings.url.origin(),
            )),
            None => None,
        };
        Ok(Self {
            name: settings.name.clone(),
            timeout,
            clients: Mutex::new(Clients {
                reading: client((pem.as_deref(), beside), timeout, purpose)?,
                passing: None,
                pem,
            }),
            authorities,
            beside,
            authorization,
            refusals: AtomicU32::new(0),
            peer: settings.peer,
        })
    }

    /// The body of `url`, of at most `limit` bytes once it is decompressed.
    pub(crate) async fn get(&self, url: Url, limit: usize, how: &How) -> Result<Got, FetchError> {
        let headers = self.headers(&url, how);
        let request = self.client().get(url).headers(headers);
        let response = request.send().await.map_err(|error| self.network(error))?;
        how.begun.set();
        if let Some(error) = self.refusal(response.status(), response.headers()) {
            return Err(error);
        }
        self.refusals.store(0, Ordering::Relaxed);
        let age = response.headers().get(CHECKPOINT_AGE);
        let age = age.and_then(|age| age.to_str().ok()?.parse().ok());
        let age = age.map(Duration::from_secs);
        let bytes = self.body(response, limit).await?;
        Ok(Got { bytes, age })
    }

    /// Hands on a request, and reads the answer, of at most `limit` bytes.
    pub(super) async fn pass(
        &self,
        url: Url,
        request: &Passed,
        limit: usize,
    ) -> Result<Answered, FetchError> {
        let mut headers = self.headers(&url, &How::default());
        headers.extend(request.headers.clone());
        let client = self.passing_client();
        let client = client.map_err(|error| FetchError::Network {
            upstream: self.name.clone(),
            message: error.to_string(),
        })?;
        let sent = client
            .request(request.method.clone(), url)
            .headers(headers)
            .body(request.body.clone())
            .send();
        let response = sent.await.map_err(|error| self.network(error))?;
        Ok(Answered {
            status: response.status(),
            headers: response.headers().clone(),
            body: self.body(response, limit).await?,
        })
    }

    /// The body of a response, of at most `limit` bytes once it is decompressed.
    async fn body(
        &self,
        mut response: reqwest::Response,
        limit: usize,
    ) -> Result<Bytes, FetchError> {
        let announced = response
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        let mut body = BytesMut::with_capacity(announced.unwrap_or_default().min(limit));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.network(error))?
        {
            // The decompressed length: what a header announces is not believed.
            if body.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge {
                    upstream: self.name.clone(),
                    limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn network(&self, error: reqwest::Error) -> FetchError {
        FetchError::Network {
            upstream: self.name.clone(),
            // The innermost cause says most ("connection refused"); URLs stay out of metrics,
            // messages and clients' eyes.
            message: innermost(&error.without_url()),
        }
    }

    fn headers(&self, url: &Url, how: &How) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, ACCEPT_ENCODING);
        if let Some(trace) = Trace::current() {
            trace.add_to(&mut headers);
        }
        if let Some((text, home)) = &self.authorization
            && *home == url.origin()
            // Checked when it was read.
            && let Ok(value) = self.credential(&text.current(|text| credential(text).map(drop)))
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        if self.peer {
            headers.insert(HOP, HeaderValue::from_static("1"));
        }
        if how.only_if_cached {
            headers.insert(header::CACHE_CONTROL, ONLY_IF_CACHED);
        }
        headers
    }

    /// What is sent as a credential: what is configured, or the token that peers share.
    fn credential(&self, text: &str) -> Result<HeaderValue, String> {
        match self.peer {
            true => credential(&format!("Bearer {text}")),
            false => credential(text),
        }
    }

    /// The client, with the authorities as they are now.
    fn client(&self) -> reqwest::Client {
        self.clients().reading.clone()
    }

    /// The same for handing on.
    fn passing_client(&self) -> anyhow::Result<reqwest::Client> {
        let mut made = self.clients();
        if let Some(client) = &made.passing {
            return Ok(client.clone());
        }
        let client = client(
            (made.pem.as_deref(), self.beside),
            self.timeout,
            Purpose::Passing,
        )?;
        Ok(made.passing.insert(client).clone())
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        let pem = self.authorities.as_ref();
        let pem = pem.map(|read| read.current(|pem| usable(pem, self.timeout)));
        let reading = if self.peer {
            Purpose::Peer
        } else {
            Purpose::Reading
        };
        let mut made = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if made.pem != pem
            && let Ok(client) = client((pem.as_deref(), self.beside), self.timeout, reading)
        {
            *made = Clients {
                pem,
                reading: client,
                passing: None,
            };
        }
        made
    }

    /// What an answer other than 200 means.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap) -> Option<FetchError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let upstream = self.name.clone();
        match status {
            StatusCode::OK => return None,
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Some(FetchError::NotFound { upstream });
            }
            StatusCode::NOT_IMPLEMENTED => return Some(FetchError::ReadElsewhere { upstream }),
            _ => {}
        }
        let said =
            text(header::RETRY_AFTER).and_then(|value| retry_after(value, jiff::Timestamp::now()));
        // Content delivery networks say 403, on a page for people, when they mean 429.
        let is_page = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
        let too_many =
            status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::FORBIDDEN && is_page);
        // What another replica says of its own clients is no reason not to ask it.
        let quiet = (!self.peer && (said.is_some() || too_many))
            .then(|| quiet_after(said, self.refusals.fetch_add(1, Ordering::Relaxed)));
        Some(FetchError::Status {
            upstream,
            status,
            quiet,
        })
    }
}

/// A client that trusts the authorities in PEM, alone or beside the system's, or else the system's.
fn client(
    (pem, beside): (Option<&str>, Beside),
    timeout: Duration,
    purpose: Purpose,
) -> anyhow::Result<reqwest::Client> {
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let same = attempt
            .previous()
            .first()
            .is_some_and(|first| first.origin() == attempt.url().origin());
        match attempt.previous().len() {
            // Bytes are proven wherever they are from; but what we ask for, and how often,
            // concerns nobody else.
            _ if !same => attempt.error("it redirects to another host"),
            n if n > MAX_REDIRECTS => attempt.error("it redirects too often"),
            _ => attempt.follow(),
        }
    });
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .redirect(redirects);
    if purpose != Purpose::Reading {
        builder = builder.redirect(reqwest::redirect::Policy::none());
    }
    if purpose == Purpose::Peer {
        // Replicas are neighbours: the way to them leads through no proxy and to nobody else.
        builder = builder.no_proxy().connect_timeout(PEER_CONNECT_TIMEOUT);
    }
    if let Some(pem) = pem {
        let authorities = reqwest::Certificate::from_pem_bundle(pem.as_bytes())?;
        anyhow::ensure!(!authorities.is_empty(), "there is no certificate in it");
        builder = match beside {
            Beside::Nobody => builder.tls_certs_only(authorities),
            Beside::System => builder.tls_certs_merge(authorities),
        };
    }
    Ok(builder.build()?)
}

/// Whether a client can be made that trusts these authorities.
fn usable(pem: &str, timeout: Duration) -> Result<(), String> {
    client((Some(pem), Beside::Nobody), timeout, Purpose::Reading)
        .map(drop)
        .map_err(|error| format!("not certificates in PEM: {error:#}"))
}

/// The value of an `Authorization` header.
fn credential(text: &str) -> Result<HeaderValue, String> {
    let wrong = || "not the value of a header such as `Bearer …`, on one line".to_owned();
    let mut value = HeaderValue::from_str(text).map_err(|_| wrong())?;
    if value.is_empty() {
        return Err(wrong());
    }
    value.set_sensitive(true);
    Ok(value)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
