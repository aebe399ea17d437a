//! What stands before a log: it passes requests on or serves files, counts every one, and can lie.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result};

use crate::http::{self, Answer};

/// A small HTTP/1.1 server on loopback; closed when dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    state: Arc<State>,
}

/// How the body of an answer is changed: by its path.
pub type Lie = fn(path: &str, body: &mut Vec<u8>);

#[derive(Debug)]
struct State {
    source: Source,
    agent: ureq::Agent,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: BTreeMap<String, u64>,
    lie: Option<Lie>,
    closed: bool,
}

#[derive(Debug)]
enum Source {
    /// The server at this URL, which does not end in a slash.
    Server(String),
    /// The files of a directory, below a prefix such as `api/v2/`.
    Files { root: PathBuf, prefix: &'static str },
}

impl Front {
    /// Stands before the server at `url`.
    pub fn before(url: impl Into<String>) -> Result<Self> {
        Self::start(Source::Server(url.into()))
    }

    /// Serves the files of the directory `root` below `prefix`, which ends in a slash.
    pub fn of_files(root: impl Into<PathBuf>, prefix: &'static str) -> Result<Self> {
        let root = root.into();
        Self::start(Source::Files { root, prefix })
    }

    fn start(source: Source) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port of loopback")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            source,
            agent: http::agent(),
            shared: Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.with(|shared| shared.closed) {
                    return;
                }
                let state = Arc::clone(&accepting);
                // A client that goes away is not our concern.
                thread::spawn(move || drop(state.serve(&stream)));
            }
        });
        Ok(Self { address, state })
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often each path was asked for, such as `tile/0/000`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.state.with(|shared| shared.requests.clone())
    }

    /// Changes answers from now on.
    pub fn lies(&self, lie: Lie) {
        self.state.with(|shared| shared.lie = Some(lie));
    }

    /// Tells the truth again.
    pub fn tells_the_truth(&self) {
        self.state.with(|shared| shared.lie = None);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.state.with(|shared| shared.closed = true);
        // Wakes the thread that accepts, which then ends and closes the port.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers the requests of one connection.
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream);
        loop {
            let mut request = String::new();
            if lines.read_line(&mut request)? == 0 {
                return Ok(());
            }
            // Of the headers, only the length of a body matters; of HTTP/1.1 there is no other end here.
            let (mut header, mut length) = (String::new(), 0);
            while lines.read_line(&mut header)? > 2 {
                let line = header.to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or_default();
                }
                header.clear();
            }
            let mut posted = vec![0; length];
            lines.read_exact(&mut posted)?;
            let path = request.split(' ').nth(1).unwrap_or_default();
            let path = path.trim_start_matches('/').to_owned();
            let closed = self.with(|shared| {
                *shared.requests.entry(path.clone()).or_default() += 1;
                shared.closed
            });
            if closed {
                return Ok(());
            }
            let mut answer = match request.starts_with("POST ") {
                true => self.post(&path, &String::from_utf8_lossy(&posted)),
                false => self.find(&path),
            };
            if let Some(lie) = self
                .with(|shared| shared.lie)
                .filter(|_| answer.status == 200)
            {
                lie(&path, &mut answer.body);
            }
            let Answer { status, body } = answer;
            let mut message = format!(
                "HTTP/1.1 {status} -\r\nContent-Type: {}\r\n\
                 Content-Length: {}\r\n\r\n",
                if path.starts_with("api/v1/") {
                    "application/json"
                } else {
                    "application/octet-stream"
                },
                body.len()
            )
            .into_bytes();
            message.extend(body);
            (&*stream).write_all(&message)?;
        }
    }

    /// Hands on a body in JSON.
    fn post(&self, path: &str, body: &str) -> Answer {
        let answer = match &self.source {
            Source::Server(url) => http::post_json(&self.agent, &format!("{url}/{path}"), body),
            Source::Files { .. } => Err(Error::msg("files take nothing")),
        };
        answer.unwrap_or_else(|error| Answer {
            status: 502,
            body: format!("{error:#}\n").into_bytes(),
        })
    }

    fn find(&self, path: &str) -> Answer {
        match &self.source {
            Source::Server(url) => http::fetch(&self.agent, &format!("{url}/{path}"))
                .unwrap_or_else(|error| Answer {
                    status: 502,
                    body: format!("{error:#}\n").into_bytes(),
                }),
            Source::Files { root, prefix } => {
                let file = path
                    .strip_prefix(prefix)
                    .filter(|file| !file.split('/').any(|part| part == ".."))
                    .and_then(|file| fs::read(root.join(file)).ok());
                Answer {
                    status: if file.is_some() { 200 } else { 404 },
                    body: file.unwrap_or_default(),
                }
            }
        }
    }
}

/// How long a connection may be idle: longer than a client keeps one.
const IDLE: Duration = Duration::from_secs(120);
