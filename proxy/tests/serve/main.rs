//! The real binary between scripted logs and plain HTTP clients.

mod clients;
mod crash;
mod damage;
mod failover;
mod fsck;
mod honest;
mod hostile;
mod https;
mod inspect;
mod interface;
mod logs;
mod peers;
mod process;
mod prune;
mod rekor;
mod rekor_commands;
mod rekor_tuf;
mod reload;
mod standalone;
mod sync;
mod tls;
mod transfer;
mod tuf;
mod tuf_client;
mod upstreams;
mod world;

use std::sync::Arc;

use world::{FixtureLog, Proxy, Upstream, cache_directory, eventually};

/// A world with one honest log of `entries`, and a proxy that is ready.
fn honest(entries: usize) -> (Arc<FixtureLog>, Upstream, tempfile::TempDir, Proxy) {
    let log = Arc::new(FixtureLog::with_entries(entries));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    (log, upstream, cache, proxy)
}

/// As [`honest`], with further keys in the configuration.
fn honest_with(
    entries: usize,
    more: &str,
) -> (Arc<FixtureLog>, Upstream, tempfile::TempDir, Proxy) {
    let log = Arc::new(FixtureLog::with_entries(entries));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), more);
    eventually("the proxy is ready", || {
        proxy.get("/_admin/ready").status == 200
    });
    (log, upstream, cache, proxy)
}

fn size_of(checkpoint: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(checkpoint);
    text.lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .expect("a tree size")
}

/// Files with this name below a directory.
fn find(directory: &std::path::Path, name: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => find(&path, name),
            path if path.file_name().is_some_and(|file| file == name) => vec![path],
            _ => Vec::new(),
        })
        .collect()
}
