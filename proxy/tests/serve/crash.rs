//! kill -9 at random moments under load, again and again on one cache.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    size_of,
    world::{FixtureLog, Proxy, Upstream, cache_directory, eventually},
};

/// Crashes in a row; with `TILE_PROXY_TEST_FULL`, as many as the acceptance asks for.
const ROUNDS: u64 = 8;
const ROUNDS_FULL: u64 = 100;

/// Size at the first start, and how much the log grows at a time.
const FIRST: u64 = 5_000;
const GROWTH: u64 = 297;

/// Clients that ask all the time.
const CLIENTS: usize = 4;

#[test]
fn a_crash_at_any_moment_makes_nothing_false_and_loses_no_checkpoint_that_was_served() {
    let full = std::env::var_os("TILE_PROXY_TEST_FULL").is_some();
    let rounds = if full { ROUNDS_FULL } else { ROUNDS };
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = Arc::new(FixtureLog::with_entries(
        (FIRST + GROWTH * 20 * rounds) as usize,
    ));
    let upstream = Upstream::serving(&log);
    let mut size = FIRST;
    upstream.becomes(&log, size);
    let cache = cache_directory();
    let mut served = 0;
    for round in 0..rounds {
        // What is there after the crash, by itself.
        upstream.disappears();
        let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), "");
        if served > 0 {
            eventually("it is ready without the log", || {
                proxy.get("/_admin/ready").status == 200
            });
            let checkpoint = proxy.get("/checkpoint");
            let now = size_of(&checkpoint.body);
            assert!(
                now >= served,
                "round {round}, seed {seed}: {served} was served, now {now}"
            );
            assert_eq!(
                checkpoint.body,
                log.checkpoint(now),
                "round {round}, seed {seed}"
            );
            let stored = (0..now / 256)
                .filter(|index| reads_true(&log, proxy.address(), &tile(*index), now))
                .count();
            assert!(
                round < 3 || stored > 0,
                "round {round}, seed {seed}: nothing is left"
            );
        }
        upstream.returns();
        eventually("it is ready", || proxy.get("/_admin/ready").status == 200);
        eventually("it follows the log", || {
            let checkpoint = proxy.get("/checkpoint");
            checkpoint.status == 200 && size_of(&checkpoint.body) == size
        });
        served = load(&log, &upstream, proxy, &mut size, served, &mut random);
    }
    assert!(served > FIRST, "it never grew");
}

/// Lets clients ask until a random number of requests was answered, while the log grows; then kills
/// the proxy in the middle of it. Returns the largest size that a client was given.
fn load(
    log: &Arc<FixtureLog>,
    upstream: &Upstream,
    proxy: Proxy,
    size: &mut u64,
    served: u64,
    random: &mut StdRng,
) -> u64 {
    let (address, until) = (proxy.address(), random.random_range(1..1_500_u64));
    let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let largest = AtomicU64::new(served);
    let seeds: Vec<u64> = (0..CLIENTS).map(|_| random.next_u64()).collect();
    thread::scope(|scope| {
        for seed in seeds {
            let (answered, over, largest) = (&answered, &over, &largest);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                while !over.load(Ordering::Relaxed) {
                    let before = largest.load(Ordering::Relaxed);
                    // Checkpoints are published all the time, so that many crashes meet one.
                    ask("POST", address, "/_admin/refresh");
                    let Some((200, body)) = ask("GET", address, "/checkpoint") else {
                        continue;
                    };
                    let now = size_of(&body);
                    assert!(now >= before, "the size went from {before} to {now}");
                    assert_eq!(body, log.checkpoint(now));
                    largest.fetch_max(now, Ordering::Relaxed);
                    for _ in 0..8 {
                        let index = random.random_range(0..now / 256);
                        reads_true(log, address, &tile(index), now);
                        let bundle = tile(index).replace("tile/0/", "tile/entries/");
                        reads_true(log, address, &bundle, now);
                        answered.fetch_add(2, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut grown = 0;
        eventually("enough was answered", || {
            let answered = answered.load(Ordering::Relaxed);
            if answered / 100 > grown && grown < 20 {
                grown += 1;
                *size += GROWTH;
                upstream.becomes(log, *size);
            }
            answered >= until
        });
        proxy.kill();
        over.store(true, Ordering::Relaxed);
    });
    largest.into_inner()
}

/// Path of a full level-0 tile.
fn tile(index: u64) -> String {
    format!("tile/0/{index:03}")
}

/// Reads a resource; what is answered must be the truth, or an error. Whether it was the truth.
fn reads_true(log: &FixtureLog, address: SocketAddr, path: &str, size: u64) -> bool {
    match ask("GET", address, &format!("/{path}")) {
        Some((200, body)) => {
            assert_eq!(Some(body), log.get(path, size, false), "{path}");
            true
        }
        _ => false,
    }
}

/// Status and body of a whole answer; `None` if the proxy ended before it was.
fn ask(method: &str, address: SocketAddr, path: &str) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length: usize = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    })?;
    let body = bytes.split_off(end + 4);
    (body.len() == length).then_some((status, body))
}
