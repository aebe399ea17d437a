//! An upstream that can lie. Each connection is one request; each request is counted.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{FixtureLog, RekorServer};

/// What is sent instead of the truth.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This body, with status 200.
    Body(Vec<u8>),
    /// This many bytes are promised, half of them sent, and the connection is reset.
    Reset(Vec<u8>),
    /// This status, with these headers, each with its end of line, and this body.
    Full(u16, &'static str, Vec<u8>),
    /// This status, with a page for people.
    Status(u16),
    /// 429, and how many seconds to leave it alone.
    Throttle(u32),
    /// 429, and the moment until which to leave it alone, as a date.
    ThrottleUntil(String),
    /// A redirect to there.
    Redirect(String),
    /// This body, compressed by gzip, whether or not anybody offered to read that.
    Gzip(Vec<u8>),
    /// As many zeros as this, compressed to a thousandth.
    Bomb(usize),
    /// Zeros without end.
    Endless,
    /// This body, a byte every tenth of a second.
    Drip(Vec<u8>),
    /// Nothing at all, for as long as the other side waits.
    Silence,
}

/// A log's server.
pub(crate) struct Upstream {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
}

/// What it serves when it tells the truth.
enum Serves {
    Rekor(RekorServer),
    Tiles {
        log: Arc<FixtureLog>,
        size: u64,
        partials_gone: bool,
    },
}

impl Serves {
    fn get(&self, path: &str) -> Option<Vec<u8>> {
        match self {
            Self::Rekor(server) => server.get(path),
            Self::Tiles {
                log,
                size,
                partials_gone,
            } => log.get(path, *size, *partials_gone),
        }
    }
}

struct State {
    serves: Serves,
    /// What stands before every path.
    prefix: &'static str,
    delay: Duration,
    lies: HashMap<String, Answer>,
    /// About everything there is no other lie about.
    always: Option<Answer>,
    requests: HashMap<String, usize>,
    heads: HashMap<String, String>,
    bodies: HashMap<String, Vec<u8>>,
    under_way: usize,
    most_at_once: usize,
    gone: bool,
}

impl Upstream {
    /// Serves the whole of `log`.
    pub(crate) fn serving(log: &Arc<FixtureLog>) -> Self {
        Self::of(Serves::Tiles {
            log: Arc::clone(log),
            size: log.size(),
            partials_gone: false,
        })
    }

    /// Serves a Rekor v1 log.
    pub(crate) fn rekor(server: RekorServer) -> Self {
        Self::of(Serves::Rekor(server))
    }

    fn of(serves: Serves) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State {
            serves,
            prefix: "",
            delay: Duration::ZERO,
            lies: HashMap::new(),
            always: None,
            requests: HashMap::new(),
            heads: HashMap::new(),
            bodies: HashMap::new(),
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
        let state = &mut *self.lock();
        let gone = matches!(
            state.serves,
            Serves::Tiles {
                partials_gone: true,
                ..
            }
        );
        state.serves = Serves::Tiles {
            log: Arc::clone(log),
            size,
            partials_gone: gone,
        };
    }

    /// Serves another Rekor v1 log, or another size of the same one.
    pub(crate) fn becomes_rekor(&self, server: RekorServer) {
        self.lock().serves = Serves::Rekor(server);
    }

    pub(crate) fn lies_about(&self, path: &str, answer: Answer) {
        self.lock().lies.insert(path.to_owned(), answer);
    }

    /// Answers like this whatever it is asked for.
    pub(crate) fn always(&self, answer: Answer) {
        self.lock().always = Some(answer);
    }

    pub(crate) fn tells_the_truth(&self) {
        let mut state = self.lock();
        state.lies.clear();
        state.always = None;
    }

    /// Has everything below this prefix, and nothing anywhere else.
    pub(crate) fn moves_below(&self, prefix: &'static str) {
        self.lock().prefix = prefix;
    }

    pub(crate) fn deletes_partials(&self) {
        if let Serves::Tiles { partials_gone, .. } = &mut self.lock().serves {
            *partials_gone = true;
        }
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

    /// The head of the last request for a path, with names in lower case.
    pub(crate) fn head(&self, path: &str) -> String {
        self.lock().heads.get(path).cloned().unwrap_or_default()
    }

    /// The body of the last request for a path.
    pub(crate) fn body(&self, path: &str) -> Vec<u8> {
        self.lock().bodies.get(path).cloned().unwrap_or_default()
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

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = reader.by_ref().lines();
    let Some(request) = lines.next().transpose()? else {
        return Ok(());
    };
    let mut head = String::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        head += &format!("{}:{value}\n", name.to_ascii_lowercase());
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or_default()];
    reader.read_exact(&mut body)?;
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
        state.heads.insert(path.clone(), head);
        state.bodies.insert(path.clone(), body);
        state.under_way += 1;
        state.most_at_once = state.most_at_once.max(state.under_way);
        let below = path.strip_prefix(state.prefix);
        let get = |path: &str| state.serves.get(path);
        let truth = || match below.and_then(get) {
            Some(body) => Answer::Body(body),
            None => Answer::Status(404),
        };
        let lie = state.lies.get(&path).or(state.always.as_ref());
        (lie.cloned().unwrap_or_else(truth), state.delay)
    };
    thread::sleep(delay);
    state
        .lock()
        .expect("no test panics while it holds this")
        .under_way -= 1;
    send(stream, answer)
}

pub(super) fn send(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    const PAGE: &[u8] = b"<html>sorry</html>";
    let whole = |status: u16, headers: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}");
        [format!("{head}Connection: close\r\n\r\n").as_bytes(), body].concat()
    };
    let html = "Content-Type: text/html\r\n";
    let bytes = match answer {
        Answer::Body(body) => whole(200, "", &body),
        Answer::Reset(body) => {
            let mut bytes = whole(200, "", &body);
            bytes.truncate(bytes.len() - body.len() / 2);
            bytes
        }
        Answer::Full(status, headers, body) => whole(status, headers, &body),
        Answer::Status(status) => whole(status, html, PAGE),
        Answer::Throttle(seconds) => whole(429, &format!("Retry-After: {seconds}\r\n"), PAGE),
        Answer::ThrottleUntil(date) => whole(429, &format!("Retry-After: {date}\r\n"), PAGE),
        Answer::Redirect(to) => whole(302, &format!("Location: {to}\r\n"), PAGE),
        Answer::Gzip(body) => whole(200, "Content-Encoding: gzip\r\n", &gzip(&body)),
        Answer::Bomb(zeros) => whole(200, "Content-Encoding: gzip\r\n", &gzip(&vec![0; zeros])),
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[0; 4_096])?; // until the other side has had enough
            }
        }
        Answer::Drip(body) => {
            let bytes = whole(200, "", &body);
            let (head, body) = bytes.split_at(bytes.len() - body.len());
            stream.write_all(head)?;
            for byte in body {
                stream.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(100));
            }
            return Ok(());
        }
        Answer::Silence => return stream.read(&mut [0]).map(drop),
    };
    stream.write_all(&bytes)?;
    stream.flush()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
