//! The clients: wrk where a server is to be saturated, and one of our own where each path is to be
//! asked for once, or all clients at the same moment.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tile_proxy::tlog::tile::{FULL_WIDTH, Tile};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};

use crate::server::Cores;

/// Connections of every load but the herd.
pub(crate) const CONNECTIONS: usize = 64;

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saturated {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Full tiles of level 0 in the spelling of tlog-tiles.
pub(crate) fn path(index: u64) -> String {
    Tile::new(0, index, FULL_WIDTH).map_or_else(String::new, |tile| format!("/{tile}"))
}

/// Asks for the first `tiles` full tiles at random, as fast as they come.
///
/// # Errors
/// When wrk is not there, or saw an answer that is not a success.
pub(crate) fn saturate(
    address: SocketAddr,
    cores: Cores,
    tiles: u64,
    time: Duration,
    directory: &Path,
) -> Result<Saturated> {
    let script = directory.join("tiles.lua");
    let mut text =
        "local requests = {}\nfunction init(args)\n  for _, path in ipairs({\n".to_owned();
    for index in 0..tiles {
        let _ = writeln!(text, "    \"{}\",", path(index));
    }
    // Each thread has its own interpreter; the address of a fresh table tells them apart.
    text.push_str(
        "  }) do requests[#requests + 1] = wrk.format(\"GET\", path) end\n  \
         math.randomseed(os.time() + tonumber(tostring({}):sub(8), 16) % 65536)\nend\n\
         function request() return requests[math.random(#requests)] end\n",
    );
    fs::write(&script, text)?;
    let (program, before, threads) = match cores {
        Cores::First => ("taskset", vec!["-c", "1", "wrk"], "1"),
        Cores::All => ("wrk", vec![], "2"),
    };
    let output = Command::new(program)
        .args(before)
        .args(["--latency", "--threads", threads])
        .args(["--connections", &CONNECTIONS.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs())])
        .arg("--script")
        .arg(&script)
        .arg(format!("http://{address}"))
        .output()
        .context("cannot start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = text.contains("Non-2xx") || text.contains("Socket errors");
    ensure!(output.status.success() && !wrong, "wrk: {text}");
    let field = |before: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(before));
        line.and_then(|line| line.split_whitespace().next())
            .with_context(|| format!("wrk says nothing about {before}: {text}"))
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())
        .context("wrk says no number of requests")?;
    Ok(Saturated {
        requests,
        per_second: field("Requests/sec:")?.parse()?,
        p50: duration(field("50%")?)?,
        p99: duration(field("99%")?)?,
    })
}

/// A time as wrk writes it.
fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        unit => anyhow::bail!("wrk wrote a time in `{unit}`"),
    };
    Ok(Duration::from_secs_f64(digits.parse::<f64>()? * unit))
}

/// Asks for each of the first `tiles` full tiles once, and gives how long all of it took.
///
/// # Errors
/// When an answer is not a tile.
pub(crate) async fn sweep(address: SocketAddr, tiles: u64) -> Result<Duration> {
    let next = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let next = Arc::clone(&next);
        clients.spawn(async move {
            let mut client = Client::connect(address).await?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tiles {
                    return Ok(());
                }
                let (status, length) = client.get(&path(index)).await?;
                ensure!(
                    (status, length) == (200, 8_192),
                    "{}: status {status}, {length} bytes",
                    path(index)
                );
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.context("a client panicked")??;
    }
    Ok(begin.elapsed())
}

/// What a herd saw.
#[derive(Clone, Debug)]
pub(crate) struct Herd {
    /// When half of the clients, and when all of them, had their answer.
    pub(crate) p50: Duration,
    pub(crate) last: Duration,
    pub(crate) statuses: Vec<u16>,
}

/// `clients` connections that are open already ask for one path at the same moment.
///
/// # Errors
/// When a connection breaks.
pub(crate) async fn herd(address: SocketAddr, clients: usize, path: &str) -> Result<Herd> {
    let start = Arc::new(Barrier::new(clients + 1));
    let mut asking = JoinSet::new();
    for _ in 0..clients {
        let (start, path) = (Arc::clone(&start), path.to_owned());
        asking.spawn(async move {
            let client = Client::connect(address).await;
            start.wait().await;
            let begin = Instant::now();
            let (status, _) = client?.get(&path).await?;
            anyhow::Ok((begin.elapsed(), status))
        });
    }
    start.wait().await;
    let mut answers = Vec::new();
    while let Some(answer) = asking.join_next().await {
        answers.push(answer.context("a client panicked")??);
    }
    answers.sort();
    let mut statuses: Vec<u16> = answers.iter().map(|(_, status)| *status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    Ok(Herd {
        p50: answers[answers.len() / 2].0,
        last: answers[answers.len() - 1].0,
        statuses,
    })
}

/// A connection that is kept.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16_384),
        })
    }

    /// The status and the length of the body.
    async fn get(&mut self, path: &str) -> Result<(u16, usize)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(answer) = answer(&self.buffer)? {
                return Ok(answer);
            }
        }
    }
}

/// Status and length, once all of an answer is there.
fn answer(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(4).position(|at| at == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().ok())?
    });
    let length = length.context("an answer without a length")?;
    Ok((bytes.len() >= end + 4 + length).then_some((status, length)))
}
