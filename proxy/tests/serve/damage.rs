//! A disk that fails: every file damaged in every way, a full one, a read-only one.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    honest, size_of,
    world::{FixtureLog, Proxy, Upstream, cache_directory, eventually},
};

/// What is read after each damage.
const PATHS: [&str; 8] = [
    "checkpoint",
    "tile/0/001",
    "tile/0/002.p/9",
    "tile/1/000",
    "tile/0/273.p/112",
    "tile/entries/001",
    "tile/entries/001.p/7",
    "tile/entries/273.p/112",
];

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// One bit, in the first, a middle, or the last of the bytes that say something.
    Flip(usize),
    Empty,
    Garbage,
    Gone,
    Huge,
    Directory,
}

const HARMS: [Harm; 8] = [
    Harm::Flip(0),
    Harm::Flip(1),
    Harm::Flip(2),
    Harm::Empty,
    Harm::Garbage,
    Harm::Gone,
    Harm::Huge,
    Harm::Directory,
];

/// Size of a file that is much too large; a hole, so that it takes no room.
const HUGE: u64 = 1 << 36;

impl Harm {
    fn befall(self, path: &Path) {
        let mut bytes = fs::read(path).expect("readable");
        match self {
            Self::Flip(which) => {
                // In a sparse file, most bytes say nothing.
                let said: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
                let Some(at) = said.get((said.len() * which / 2).min(said.len().max(1) - 1)) else {
                    return; // a file without content, such as the lock
                };
                bytes[*at] ^= 1 << (which * 3);
                let file = fs::File::options().write(true).open(path).expect("there");
                file.write_all_at(&bytes[*at..=*at], *at as u64)
                    .expect("written");
            }
            Self::Empty => fs::write(path, b"").expect("written"),
            Self::Garbage => fs::write(path, [0xa5; 100_000]).expect("written"),
            Self::Gone => fs::remove_file(path).expect("there"),
            Self::Huge => {
                let file = fs::File::options().write(true).open(path).expect("there");
                file.set_len(HUGE).expect("sparse");
            }
            Self::Directory => {
                fs::remove_file(path).expect("there");
                fs::create_dir(path).expect("made");
            }
        }
    }
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("readable").flatten();
    let mut files: Vec<PathBuf> = entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => vec![path],
        })
        .collect();
    files.sort();
    files
}

#[test]
fn whatever_happens_to_a_file_nothing_false_is_served() {
    let (log, upstream, cache, proxy) = honest(70_000);
    for path in PATHS {
        assert_eq!(proxy.get(&format!("/{path}")).status, 200, "{path}");
    }
    assert_eq!(proxy.stop(), Some(0));
    upstream.disappears();
    let (base, whole) = (cache.path().join("cache"), cache.path().join("whole"));
    fs::rename(&base, &whole).expect("moved");
    let every = std::env::var_os("TILE_PROXY_TEST_FULL").is_some();
    let files = files(&whole);
    assert!(files.len() >= 12, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let name = file.strip_prefix(&whole).expect("below");
        for (which, harm) in HARMS.into_iter().enumerate() {
            // A sample has two harms for each file, and each harm for some.
            if !every && ![number % 8, (number + 3) % 8].contains(&which) {
                continue;
            }
            let copied = Command::new("cp")
                .args(["-a", "--sparse=always"])
                .args([&whole, &base])
                .status();
            assert!(copied.expect("cp runs").success());
            harm.befall(&base.join(name));
            let what = format!("{} {harm:?}", name.display());
            serves_the_truth_or_refuses(&log, &upstream, cache.path(), name, &what);
            fs::remove_dir_all(&base).expect("removed");
        }
    }
}

/// Starts on a damaged cache, without the log, and reads everything.
fn serves_the_truth_or_refuses(
    log: &Arc<FixtureLog>,
    upstream: &Upstream,
    directory: &Path,
    name: &Path,
    what: &str,
) {
    // These two alone may keep a proxy from starting, and then say what is wrong with them.
    let vital = ["FORMAT", "LOCK"].contains(&name.to_str().unwrap_or_default());
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), directory, "");
    eventually(what, || {
        let ended = vital && proxy.has_ended();
        ended || !proxy.printed("\"ready\"").is_empty()
    });
    if vital && proxy.has_ended() {
        let told = proxy.printed(&name.display().to_string());
        assert!(!told.is_empty(), "{what}: it does not say which file");
        return;
    }
    for path in PATHS {
        let response = proxy.get(&format!("/{path}"));
        match response.status {
            200 => assert_eq!(
                Some(response.body),
                log.get(path, 70_000, false),
                "{what}: {path}"
            ),
            502 | 503 => {}
            other => panic!("{what}: {path} is answered with {other}"),
        }
    }
    assert_eq!(proxy.stop(), Some(0), "{what}");
}

/// Mounts a file system of `size` that only this test and its children see. `None`, and a line that
/// says so, where that is not allowed.
fn small_disk(size: &str) -> Option<tempfile::TempDir> {
    let directory = cache_directory();
    let options = format!("size={size},mode=0755");
    let none: Option<&str> = None;
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| {
            let at = directory.path();
            mount(
                Some("tmpfs"),
                at,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(&*options),
            )
        });
    match mounted {
        Ok(()) => Some(directory),
        Err(error) if nix::unistd::geteuid().is_root() && std::env::var_os("CI").is_some() => {
            panic!("root may mount in its own namespace: {error}")
        }
        Err(error) => {
            println!("NOT RUN: a small disk needs root and a mount namespace: {error}");
            None
        }
    }
}

#[test]
fn a_full_disk_stops_storing_and_not_serving() {
    let Some(disk) = small_disk("24m") else {
        return;
    };
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    upstream.becomes(&log, 69_000);
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), disk.path());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 69_000);
    // Somebody else fills it.
    let ballast = disk.path().join("ballast");
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "status=none"])
        .arg(format!("of={}", ballast.display()))
        .stderr(std::process::Stdio::null())
        .status();
    assert!(!filled.expect("dd runs").success(), "until it is full");
    for index in 0..40 {
        for path in [
            format!("tile/0/{index:03}"),
            format!("tile/entries/{index:03}"),
        ] {
            let response = proxy.get(&format!("/{path}"));
            assert_eq!(response.status, 200, "{path}: {}", response.text());
            assert_eq!(Some(response.body), log.get(&path, 69_000, false), "{path}");
        }
    }
    eventually("what is not kept is counted", || {
        proxy.metric("tile_proxy_cache_store_refused_total{log=\"default\"}") >= 40.0
    });
    assert_eq!(proxy.printed("cache cannot store").len(), 1, "one warning");
    assert_eq!(proxy.get("/_admin/ready").status, 200, "a degradation");
    // A checkpoint that cannot be kept is not served, and the one before is.
    upstream.becomes(&log, 70_000);
    eventually("it is said", || {
        !proxy.printed("cannot store the checkpoint").is_empty()
    });
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 69_000);

    fs::remove_file(&ballast).expect("there");
    eventually("the log is followed again", || {
        size_of(&proxy.get("/checkpoint").body) == 70_000
    });
    assert_eq!(proxy.get("/tile/0/100").status, 200);
    eventually("storing goes on", || {
        proxy.get("/_admin/cache/tiles/0/100").status == 200
    });
    assert_eq!(proxy.stop(), Some(0));
}

#[test]
fn a_read_only_disk_is_refused_at_the_start_with_its_name() {
    let Some(disk) = small_disk("24m") else {
        return;
    };
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), disk.path());
    assert_eq!(proxy.get("/tile/0/000").status, 200);
    assert_eq!(proxy.stop(), Some(0));
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, disk.path(), none, flags, none).expect("remounted");
    let output = Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
        .args(["serve", "--config"])
        .arg(disk.path().join("config.yaml"))
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("LOCK") && stderr.contains("ead-only"),
        "{stderr}"
    );
}
