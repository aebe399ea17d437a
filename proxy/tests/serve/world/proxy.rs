//! The real binary, on ports of its own, and a small client for it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longest wait for anything; far more than it takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    address: SocketAddr,
    /// Where administration is; the same, unless the configuration has `admin_listen`.
    admin: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

/// What a proxy answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A directory for a cache, outside any other test's.
pub(crate) fn cache_directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Waits until `holds`, with a deadline.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

impl Proxy {
    /// Starts a proxy for one log, and waits until it listens. `more` are further keys.
    pub(crate) fn start(upstream: &str, vkey: &str, cache: &Path, more: &str) -> Self {
        let more = format!("  upstream_url: {upstream}\n{more}");
        Self::start_with(vkey, cache, &more)
    }

    /// As [`Proxy::start`], with the upstream among the further keys.
    pub(crate) fn start_with(vkey: &str, cache: &Path, more: &str) -> Self {
        Self::start_in(&[], vkey, cache, more)
    }

    /// As [`Proxy::start_with`], in an environment with these variables.
    pub(crate) fn start_in(
        environment: &[(&str, &str)],
        vkey: &str,
        cache: &Path,
        more: &str,
    ) -> Self {
        let more = format!("  public_keys: [\"{vkey}\"]\n{more}");
        Self::start_bare(environment, cache, &more)
    }

    /// Starts a proxy that knows of no log but those among the keys, and waits until it listens.
    pub(crate) fn start_bare(environment: &[(&str, &str)], cache: &Path, more: &str) -> Self {
        let failover = match more.contains("  failover:") {
            true => "",
            false => "  failover: {retry_count: 1, retry_delay_ms: 10}\n",
        };
        let config = cache.join("config.yaml");
        let text = format!(
            "tile_proxy:\n  listen: 127.0.0.1:0\n{failover}  \
             checkpoint: {{refresh_interval: 1s}}\n  log: {{format: json}}\n  \
             cache: {{base_path: {}}}\n{more}",
            cache.join("cache").display()
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tile-proxy"));
        command.args(["serve", "--config"]).arg(&config);
        command.envs(environment.iter().copied());
        Self::launch(command, 1 + usize::from(more.contains("admin_listen")))
    }

    /// Starts a proxy without a file, and waits until it listens on one port, with JSON lines.
    pub(crate) fn start_from(environment: &BTreeMap<String, String>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tile-proxy"));
        command.arg("serve").envs(environment);
        Self::launch(command, 1)
    }

    fn launch(mut command: Command, ports: usize) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let printed = Arc::clone(&lines);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                printed.lock().expect("no panic").push(line);
            }
        });
        let mut addresses: Vec<SocketAddr> = Vec::new();
        eventually("the proxy listens", || {
            let lines = lines.lock().expect("no panic");
            addresses = lines
                .iter()
                .filter_map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).ok()?;
                    let listening = line["message"] == "listening";
                    line["address"].as_str().filter(|_| listening)?.parse().ok()
                })
                .collect();
            addresses.len() == ports
        });
        Self {
            child,
            address: addresses[0],
            admin: addresses[ports - 1],
            lines,
        }
    }

    /// As [`Proxy::start`], and waits until it is ready.
    pub(crate) fn ready(upstream: &str, vkey: &str, cache: &Path) -> Self {
        let proxy = Self::start(upstream, vkey, cache, "");
        eventually("the proxy is ready", || {
            proxy.get("/_admin/ready").status == 200
        });
        proxy
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, "")
    }

    /// One request on one connection; `headers` end with `\r\n` each.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str) -> Response {
        let address = match path {
            path if path.starts_with("/_admin") => self.admin,
            _ => self.address,
        };
        request(address, method, path, headers)
    }

    /// As [`Proxy::send`], with a body whose length is among the headers.
    pub(crate) fn send_body(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Response {
        request_with(self.admin, method, path, headers, body)
    }

    /// A `POST` by a client; `headers` as for [`Proxy::send`].
    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> Response {
        let headers = format!("Content-Length: {}\r\n{headers}", body.len());
        request_with(self.address, "POST", path, &headers, body)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The value of one metric, `name{labels}` as it is printed; 0 if it is not.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.get("/_admin/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// How it says that it goes with following its first log, where the statistics and the metric agree.
    pub(crate) fn log_state(&self) -> String {
        let stats = self.get("/_admin/cache/stats").text();
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap_or_default();
        let log = &stats["logs"][0];
        let (name, state) = (log["name"].as_str(), log["state"].as_str());
        let (name, state) = (name.unwrap_or_default(), state.unwrap_or_default());
        let series = format!("tile_proxy_log_state{{log=\"{name}\",state=\"{state}\"}}");
        match self.metric(&series) == 1.0 {
            true => state.to_owned(),
            false => format!("{state}, and no {series}"), // it has just changed
        }
    }

    /// Lines printed so far that hold `text`.
    pub(crate) fn printed(&self, text: &str) -> Vec<String> {
        let lines = self.lines.lock().expect("no panic");
        lines
            .iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("alive");
    }

    /// Bytes of memory that it has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("alive");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("in kB") * 1_024
    }

    /// Waits until it has ended; gives its exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("waited").code()
    }

    /// Asks it to stop, and waits until it has; gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("alive");
        self.child.wait().expect("waited").code()
    }

    /// Whether it has ended by itself. Its state stays as it is for whoever waits for it.
    pub(crate) fn has_ended(&self) -> bool {
        let id = rustix::process::Pid::from_child(&self.child);
        let options = rustix::process::WaitIdOptions::EXITED
            | rustix::process::WaitIdOptions::NOHANG
            | rustix::process::WaitIdOptions::NOWAIT;
        let state = rustix::process::waitid(rustix::process::WaitId::Pid(id), options);
        state.expect("our child").is_some()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("alive");
        self.child.wait().expect("waited");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Already gone after `stop` and `kill`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on one connection.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> Response {
    request_with(address, method, path, headers, "")
}

fn request_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Response {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let host = if headers.to_ascii_lowercase().contains("host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n{body}"
    )
    .expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read");
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .expect("a status");
    Response {
        status,
        head,
        body: bytes.split_off(end + 4),
    }
}
