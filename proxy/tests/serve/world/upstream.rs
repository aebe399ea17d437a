//! An upstream that can lie. Each connection is one request; each request is counted.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::FixtureLog;

/// What is sent instead of the truth.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This body, with status 200.
    Body(Vec<u8>),
    /// This many bytes are promised, half of them sent, and the connection is reset.
    Reset(Vec<u8>),
    /// This status, with a page for people.
    Status(u16),
    /// 429, and how many seconds to leave it alone.
    Throttle(u32),
}

/// A log's server.
pub(crate) struct Upstream {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
}

struct State {
    log: Arc<FixtureLog>,
    size: u64,
    partials_gone: bool,
    delay: Duration,
    lies: HashMap<String, Answer>,
    requests: HashMap<String, usize>,
    under_way: usize,
    most_at_once: usize,
    gone: bool,
}

impl Upstream {
    /// Serves the whole of `log`.
    pub(crate) fn serving(log: &Arc<FixtureLog>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State {
            log: Arc::clone(log),
            size: log.size(),
            partials_gone: false,
            delay: Duration::ZERO,
            lies: HashMap::new(),
            requests: HashMap::new(),
            under_way: 0,
            most_at_once: 0,
            gone: false,
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away early is not our concern.
                thread::spawn(move || answer(stream, &state).ok());
            }
        });
        Self { state, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Serves another log, or another size of the same one.
    pub(crate) fn becomes(&self, log: &Arc<FixtureLog>, size: u64) {
        let mut state = self.lock();
        state.log = Arc::clone(log);
        state.size = size;
    }

    pub(crate) fn lies_about(&self, path: &str, answer: Answer) {
        self.lock().lies.insert(path.to_owned(), answer);
    }

    pub(crate) fn tells_the_truth(&self) {
        self.lock().lies.clear();
    }

    pub(crate) fn deletes_partials(&self) {
        self.lock().partials_gone = true;
    }

    pub(crate) fn takes(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Closes every connection without a word, from now on.
    pub(crate) fn disappears(&self) {
        self.lock().gone = true;
    }

    pub(crate) fn returns(&self) {
        self.lock().gone = false;
    }

    /// Requests for a path so far.
    pub(crate) fn requests(&self, path: &str) -> usize {
        self.lock().requests.get(path).copied().unwrap_or_default()
    }

    /// Everything that was asked for so far.
    pub(crate) fn paths(&self) -> HashSet<String> {
        self.lock().requests.keys().cloned().collect()
    }

    /// Most requests that were under way at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.lock().most_at_once
    }

    /// Requests for anything but checkpoints so far.
    pub(crate) fn tile_requests(&self) -> usize {
        let state = self.lock();
        state
            .requests
            .iter()
            .filter(|(path, _)| *path != "checkpoint")
            .map(|(_, n)| n)
            .sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no test panics while it holds this")
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(request) = lines.next().transpose()? else {
        return Ok(());
    };
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request
        .split(' ')
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/')
        .to_owned();
    let (answer, delay) = {
        let mut state = state.lock().expect("no test panics while it holds this");
        if state.gone {
            return Ok(());
        }
        *state.requests.entry(path.clone()).or_default() += 1;
        state.under_way += 1;
        state.most_at_once = state.most_at_once.max(state.under_way);
        let truth = || match state.log.get(&path, state.size, state.partials_gone) {
            Some(body) => Answer::Body(body),
            None => Answer::Status(404),
        };
        (
            state.lies.get(&path).cloned().unwrap_or_else(truth),
            state.delay,
        )
    };
    thread::sleep(delay);
    state
        .lock()
        .expect("no test panics while it holds this")
        .under_way -= 1;
    let sorry = b"<html>sorry</html>".to_vec();
    let (status, more, body, sent) = match answer {
        Answer::Body(body) => (200, String::new(), body, 1),
        Answer::Reset(body) => (200, String::new(), body, 2),
        Answer::Status(status) => (status, String::new(), sorry, 1),
        Answer::Throttle(seconds) => (429, format!("Retry-After: {seconds}\r\n"), sorry, 1),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{more}");
    write!(stream, "{head}Connection: close\r\n\r\n")?;
    stream.write_all(&body[..length / sent])?;
    stream.flush()
}
