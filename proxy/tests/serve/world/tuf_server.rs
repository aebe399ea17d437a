//! A web server with the files of a TUF repository, which can be gone.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use super::{Answer, tuf_repository::Files, upstream::send};

/// The server.
pub(crate) struct TufServer {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

#[derive(Default)]
struct State {
    files: Files,
    lies: HashMap<String, Answer>,
    gone: bool,
    requests: HashMap<String, usize>,
}

impl TufServer {
    pub(crate) fn serving(files: &Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State {
            files: files.clone(),
            ..State::default()
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

    pub(crate) fn becomes(&self, files: &Files) {
        self.lock().files = files.clone();
    }

    pub(crate) fn lies_about(&self, path: &str, answer: Answer) {
        self.lock().lies.insert(path.to_owned(), answer);
    }

    /// Accepts connections and says nothing.
    pub(crate) fn disappears(&self) {
        self.lock().gone = true;
    }

    pub(crate) fn returns(&self) {
        let mut state = self.lock();
        state.gone = false;
        state.lies.clear();
    }

    pub(crate) fn requests(&self, path: &str) -> usize {
        self.lock().requests.get(path).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no test panics while it holds this")
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
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
        .trim_start_matches('/');
    let answer = {
        let mut state = state.lock().expect("no test panics while it holds this");
        if state.gone {
            return Ok(());
        }
        *state.requests.entry(path.to_owned()).or_default() += 1;
        let truth = || match state.files.get(&path.replace("%20", " ")) {
            Some(bytes) => Answer::Body(bytes.clone()),
            None => Answer::Status(404),
        };
        state.lies.get(path).cloned().unwrap_or_else(truth)
    };
    send(stream, answer)
}
