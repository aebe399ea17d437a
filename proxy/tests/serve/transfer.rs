//! `tile-proxy export` and `import`: what is carried over an air gap arrives whole, or not at all,
//! and is believed only where it is proven.

mod hostile;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use serde_json::{Value, json};
use tile_proxy::{
    note::{self, checkpoint::Checkpoint, vkey::VerifierKey},
    tlog::{
        Hash,
        bundle::entries,
        edge::{edge_tiles, fold},
        leaf_hash, perfect_root,
        tile::{FULL_WIDTH, MAX_LEVEL, width_in},
    },
};

use crate::{
    find,
    world::{FixtureLog, Outcome, Proxy, Upstream, cache_directory, eventually, run, sync_all},
};

/// A log with full tiles on two levels, and an edge on three.
const ENTRIES: usize = 70_000;

/// A directory with a configuration and a cache, as one side of the gap has them.
struct Side(tempfile::TempDir);

impl Side {
    /// The connected side, with all of the first `size` entries of a log in its cache.
    fn connected(log: &Arc<FixtureLog>, size: u64) -> Self {
        let side = Self(cache_directory());
        side.follow(log, size);
        side
    }

    /// Follows the log to this size and fetches all of it, then stops.
    fn follow(&self, log: &Arc<FixtureLog>, size: u64) {
        let upstream = Upstream::serving(log);
        upstream.becomes(log, size);
        let proxy = Proxy::ready(&upstream.url(), &log.vkey(), self.path());
        eventually("the tree is trusted", || {
            let served = proxy.get("/checkpoint");
            served.status == 200 && crate::size_of(&served.body) == size
        });
        sync_all(&proxy);
        assert_eq!(proxy.stop(), Some(0));
    }

    /// The other side, which has nothing yet but the log's key.
    fn offline(log: &FixtureLog) -> Self {
        let side = Self(cache_directory());
        let config = format!(
            "tile_proxy:\n  mode: offline\n  public_keys: ['{}']\n  cache: {{base_path: {}}}\n",
            log.vkey(),
            side.path().join("cache").display()
        );
        fs::write(side.path().join("config.yaml"), config).expect("written");
        side
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn export(&self, format: &str, out: &Path) -> Outcome {
        let out = out.display().to_string();
        run(
            "export",
            self.path(),
            &["--format", format, "--out", &out, "--json"],
        )
    }

    fn import(&self, from: &Path) -> Outcome {
        run(
            "import",
            self.path(),
            &[&from.display().to_string(), "--json"],
        )
    }

    /// Imports what must be imported without a complaint, and gives the log's report.
    fn imported(&self, from: &Path) -> Value {
        let outcome = self.import(from);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        report(&outcome)
    }

    fn serve(&self, log: &FixtureLog) -> Proxy {
        let nowhere = "http://127.0.0.1:1/";
        let proxy = Proxy::start(nowhere, &log.vkey(), self.path(), "  mode: offline\n");
        eventually("it is ready", || proxy.get("/_admin/ready").status == 200);
        proxy
    }

    /// Every file of the cache with its content; what a refused import must leave as it is.
    fn stored(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = all_files(&self.path().join("cache/tiles"));
        files.sort();
        files
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).expect("readable")))
            .collect()
    }
}

/// The report about the only log.
fn report(outcome: &Outcome) -> Value {
    let output = outcome.json();
    assert_eq!(output["logs"].as_array().map(Vec::len), Some(1), "{output}");
    output["logs"][0].clone()
}

fn taken(stored: u64, present: u64) -> Value {
    json!({"stored": stored, "present": present, "damaged": 0, "unprovable": 0})
}

fn all_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => all_files(&path),
            path => vec![path],
        })
        .collect()
}

/// Every path that a mirror of this tree has.
fn paths_of(size: u64) -> Vec<String> {
    let mut paths: Vec<String> = edge_tiles(size).iter().map(ToString::to_string).collect();
    for level in 0..=MAX_LEVEL {
        let full = (size >> (8 * u32::from(level))) / u64::from(FULL_WIDTH);
        paths.extend((0..full).map(|index| format!("tile/{level}/{index:03}")));
    }
    paths.extend(
        (0..size.div_ceil(256)).map(|index| match width_in(0, index, size) {
            FULL_WIDTH => format!("tile/entries/{index:03}"),
            width => format!("tile/entries/{index:03}.p/{width}"),
        }),
    );
    paths
}

/// Proves from what is served alone that entry `index` is in the tree that a key signed.
fn assert_included(proxy: &Proxy, vkey: &str, index: u64) {
    let get = |path: String| {
        let response = proxy.get(&format!("/{path}"));
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.body
    };
    let key: VerifierKey = vkey.parse().expect("a key");
    let served = get("checkpoint".to_owned());
    let text = note::open(&served, &[key]).expect("signed");
    let checkpoint = Checkpoint::parse(text).expect("a checkpoint");
    let edge: Vec<_> = edge_tiles(checkpoint.size)
        .into_iter()
        .map(|tile| (tile, get(tile.to_string())))
        .collect();
    let root = fold(edge.iter().map(|(tile, bytes)| (*tile, &bytes[..])));
    assert_eq!(
        root,
        Some(checkpoint.root),
        "the edge folds to the signed root"
    );

    let at = |level, index| match width_in(level, index, checkpoint.size) {
        FULL_WIDTH => format!("{index:03}"),
        width => format!("{index:03}.p/{width}"),
    };
    let bundle = get(format!("tile/entries/{}", at(0, index / 256)));
    let entry = entries(&bundle).expect("entries")[(index % 256) as usize];
    let mut hash = leaf_hash(entry);
    let mut position = index;
    for level in 0..=MAX_LEVEL {
        let (tile, slot) = (position / 256, (position % 256) as usize);
        let bytes = get(format!("tile/{level}/{}", at(level, tile)));
        assert_eq!(Hash::chunks(&bytes).nth(slot), Some(hash), "level {level}");
        if width_in(level, tile, checkpoint.size) < FULL_WIDTH {
            return; // an edge tile, which folds to the root
        }
        hash = perfect_root(Hash::chunks(&bytes)).expect("full");
        position = tile;
    }
    panic!("no edge tile is above entry {index}");
}

#[test]
fn what_was_synced_is_served_behind_the_gap_whatever_it_was_carried_in() {
    let log = Arc::new(FixtureLog::with_entries(ENTRIES));
    let connected = Side::connected(&log, ENTRIES as u64);
    let carried = cache_directory();
    let mut archives = Vec::new();
    for format in ["bundle", "files", "tlog-tiles"] {
        let out = carried.path().join(format);
        let exported = connected.export(format, &out);
        assert_eq!(exported.code, Some(0), "{exported:?}");
        let exported = report(&exported);
        for kind in ["tiles", "bundles"] {
            let all = json!({"exported": 274, "damaged": 0, "unprovable": 0, "missing": 0});
            assert_eq!(exported[kind], all, "{format}");
        }

        let offline = Side::offline(&log);
        let imported = offline.imported(&out);
        assert_eq!(imported["checkpoint"], "advanced", "{format}");
        assert_eq!(imported["tiles"], taken(274, 0), "{format}");
        assert_eq!(imported["bundles"], taken(274, 0), "{format}");
        assert_eq!(run("fsck", offline.path(), &[]).code, Some(0), "{format}");

        let proxy = offline.serve(&log);
        for path in paths_of(ENTRIES as u64)
            .iter()
            .map(String::as_str)
            .chain(["checkpoint"])
        {
            let response = proxy.get(&format!("/{path}"));
            assert_eq!(response.status, 200, "{format}: {path}");
            assert_eq!(
                Some(response.body),
                log.get(path, ENTRIES as u64, false),
                "{path}"
            );
        }
        for index in [0, 255, 256, 65_535, 65_536, 69_887, 69_999] {
            assert_included(&proxy, &log.vkey(), index);
        }
        assert_eq!(proxy.stop(), Some(0));

        // Again: nothing to do.
        let again = offline.imported(&out);
        assert_eq!(again["checkpoint"], "current");
        assert_eq!(again["tiles"], taken(0, 274));
        assert_eq!(again["bundles"], taken(0, 274));

        // What arrived is the same as what left: it exports to the same bytes.
        let archive = carried.path().join(format!("{format}.again"));
        assert_eq!(offline.export("bundle", &archive).code, Some(0));
        archives.push(fs::read(&archive).expect("written"));
    }
    let first = fs::read(carried.path().join("bundle")).expect("written");
    assert!(
        archives.iter().all(|archive| *archive == first),
        "one cache, one archive"
    );
}

#[test]
fn plain_files_say_what_the_cache_knows_about_them() {
    let log = Arc::new(FixtureLog::with_entries(ENTRIES));
    let upstream = Upstream::serving(&log);
    let side = Side(cache_directory());
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), side.path());
    sync_all(&proxy);
    eventually("it is written", || {
        proxy.get("/_admin/cache/tiles/0/3").status == 200
    });
    let out = side.path().join("out");
    assert_eq!(
        side.export("files", &out).code,
        Some(0),
        "beside a serving proxy"
    );
    let directory = fs::read_dir(out.join("tiles")).expect("there").next();
    let directory = directory.expect("one log").expect("readable").path();
    let meta = |path: &str| -> Value {
        let bytes = fs::read(directory.join(path)).expect(path);
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let told: Value =
        serde_json::from_slice(&proxy.get("/_admin/cache/tiles/0/3").body).expect("JSON");
    assert_eq!(meta("0/3.meta.json"), told, "as the proxy itself tells it");
    let edge = meta("0/273.meta.json");
    assert_eq!(edge["isPartial"], true);
    assert_eq!(edge["treeSize"], ENTRIES);
    assert_eq!(edge["upstreamUrl"], upstream.url());
    let tile = fs::read(directory.join("0/273.tile")).expect("there");
    assert_eq!(
        Some(tile),
        log.get("tile/0/273.p/112", ENTRIES as u64, false)
    );
    let note = fs::read(directory.join("checkpoints/70000.checkpoint")).expect("there");
    assert_eq!(note, log.checkpoint(ENTRIES as u64));
}

/// Serves the files below a directory, as any file server does.
fn file_server(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let directory = directory.to_owned();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
            let request = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines
                .next()
                .and_then(Result::ok)
                .is_some_and(|line| !line.is_empty())
            {}
            let path = request
                .split(' ')
                .nth(1)
                .unwrap_or("/")
                .trim_start_matches('/');
            let (status, body) = match fs::read(directory.join(path)) {
                Ok(body) => (200, body),
                Err(_) => (404, Vec::new()),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n");
            // A client that goes away early is not our concern.
            let _ = write!(stream, "{head}Connection: close\r\n\r\n");
            let _ = stream.write_all(&body);
        }
    });
    format!("http://{address}/")
}

#[test]
fn a_mirror_on_any_file_server_is_followed_as_it_is_refreshed() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let connected = Side::connected(&log, 700);
    let mirror = cache_directory();
    assert_eq!(connected.export("tlog-tiles", mirror.path()).code, Some(0));
    for path in paths_of(700)
        .iter()
        .map(String::as_str)
        .chain(["checkpoint"])
    {
        let file = fs::read(mirror.path().join(path)).ok();
        assert_eq!(file, log.get(path, 700, false), "{path}");
    }
    let follower = Side(cache_directory());
    let proxy = Proxy::ready(&file_server(mirror.path()), &log.vkey(), follower.path());
    let served = |size: u64| {
        eventually("the mirror is followed", || {
            let served = proxy.get("/checkpoint");
            served.status == 200 && crate::size_of(&served.body) == size
        });
        for path in paths_of(size) {
            let body = Some(proxy.get(&format!("/{path}")).body);
            assert_eq!(body, log.get(&path, size, false), "{path}");
        }
    };
    served(700);
    connected.follow(&log, 3_000);
    assert_eq!(connected.export("tlog-tiles", mirror.path()).code, Some(0));
    served(3_000);

    // An older cache must not take it back.
    let older = Side::connected(&log, 700);
    let outcome = older.export("tlog-tiles", mirror.path());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("is of 3000 entries, and the cache's of 700"),
        "{outcome:?}"
    );
}

#[test]
fn a_refresh_brings_what_is_new_and_an_older_export_takes_nothing_back() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let connected = Side::connected(&log, 700);
    let carried = cache_directory();
    let (old, new) = (carried.path().join("old"), carried.path().join("new"));
    assert_eq!(connected.export("bundle", &old).code, Some(0));
    connected.follow(&log, 3_000);
    assert_eq!(connected.export("bundle", &new).code, Some(0));

    let offline = Side::offline(&log);
    assert_eq!(offline.imported(&old)["tiles"], taken(2, 0));
    let refreshed = offline.imported(&new);
    assert_eq!(refreshed["checkpoint"], "advanced");
    assert_eq!(refreshed["trusted"], 3_000);
    assert_eq!(refreshed["tiles"], taken(9, 2));
    assert_eq!(refreshed["bundles"], taken(10, 2)); // that of entries 512.. was partial

    let stale = offline.imported(&old);
    assert_eq!(stale["checkpoint"], "stale");
    assert_eq!(stale["trusted"], 3_000);
    assert_eq!(stale["tiles"], taken(0, 2));
    let says = stale["findings"][0].as_str().expect("a finding").to_owned();
    assert!(
        says.contains("700 entries is older than the trusted one of 3000"),
        "{says}"
    );
    let proxy = offline.serve(&log);
    assert_eq!(crate::size_of(&proxy.get("/checkpoint").body), 3_000);
}

#[test]
fn another_history_is_refused_and_kept_as_evidence() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let fork = Arc::new(FixtureLog::forked(600, 3_000));
    for (ours, theirs) in [(700, 700), (700, 3_000), (3_000, 700)] {
        let carried = cache_directory();
        let out = |name: &str| carried.path().join(name);
        assert_eq!(
            Side::connected(&log, ours).export("bundle", &out("a")).code,
            Some(0)
        );
        assert_eq!(
            Side::connected(&fork, theirs)
                .export("bundle", &out("b"))
                .code,
            Some(0)
        );
        let offline = Side::offline(&log);
        offline.imported(&out("a"));
        let before = offline.stored();
        let outcome = offline.import(&out("b"));
        assert_eq!(outcome.code, Some(76), "{ours} and {theirs}: {outcome:?}");
        assert_eq!(report(&outcome)["checkpoint"], "split_view");
        let kept = find(offline.path(), "offered.checkpoint");
        assert_eq!(kept.len(), 1, "{ours} and {theirs}");
        assert_eq!(fs::read(&kept[0]).expect("kept"), fork.checkpoint(theirs));
        let mut after = offline.stored();
        after.retain(|(path, _)| !path.components().any(|part| part.as_os_str() == "evidence"));
        assert!(
            after == before,
            "{ours} and {theirs}: nothing else has changed"
        );
        let proxy = offline.serve(&log);
        assert_eq!(proxy.get("/checkpoint").body, log.checkpoint(ours));
    }
}

#[test]
fn growth_that_nothing_proves_is_not_taken_up() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let carried = cache_directory();
    let (old, new) = (carried.path().join("old"), carried.path().join("new"));
    assert_eq!(
        Side::connected(&log, 700).export("bundle", &old).code,
        Some(0)
    );
    assert_eq!(
        Side::connected(&log, 3_000).export("tlog-tiles", &new).code,
        Some(0)
    );
    // Where the tree of 700 entries ended, only this tile can tell.
    let spine = new.join("tile/0/002");
    let kept = fs::read(&spine).expect("exported");
    fs::remove_file(&spine).expect("there");
    let offline = Side::offline(&log);
    offline.imported(&old);
    let outcome = offline.import(&new);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let unproven = report(&outcome);
    assert_eq!(unproven["checkpoint"], "unproven");
    assert_eq!(unproven["trusted"], 700);
    assert!(
        unproven["findings"][0]
            .as_str()
            .expect("why")
            .ends_with("that takes tile/0/002")
    );

    fs::write(&spine, kept).expect("written");
    assert_eq!(offline.imported(&new)["trusted"], 3_000);
}

#[test]
fn only_a_configured_log_with_a_configured_key_is_taken_up() {
    let log = Arc::new(FixtureLog::with_entries(700));
    let other = Arc::new(FixtureLog::with_entries(700).signed_by(9));
    let carried = cache_directory();
    let out = carried.path().join("bundle");
    assert_eq!(
        Side::connected(&other, 700).export("bundle", &out).code,
        Some(0)
    );
    let offline = Side::offline(&log);
    let outcome = offline.import(&out);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let refused = report(&outcome);
    assert_eq!(refused["checkpoint"], "refused");
    let why = refused["findings"][0].as_str().expect("why");
    assert!(
        why.contains("not signed by a known key; signed by: rome.example"),
        "{why}"
    );

    // The right key, and another origin asked for.
    let config = offline.path().join("config.yaml");
    let text = fs::read_to_string(&config).expect("there");
    let text = text.replace(&log.vkey(), &other.vkey());
    fs::write(&config, format!("{text}  origin: oslo.example/2026h1\n")).expect("written");
    let outcome = offline.import(&out);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let why = "its checkpoint is of `rome.example/2026h1`, not of `oslo.example/2026h1`";
    assert!(outcome.stdout.contains(why), "{outcome:?}");
    assert!(offline.stored().is_empty(), "nothing was stored");
}

#[test]
fn an_import_does_not_wait_for_the_proxy_that_has_the_cache() {
    let (log, _upstream, cache, _proxy) = crate::honest(300);
    let side = Side(cache);
    let out = side.path().join("bundle");
    eventually("the proxy has a checkpoint to export", || {
        side.export("bundle", &out).code == Some(0)
    });
    let outcome = side.import(&out);
    assert_eq!(outcome.code, Some(75), "{outcome:?}");
    assert!(
        outcome.stderr.contains("a proxy serves from"),
        "{outcome:?}"
    );
    drop(log);
}

#[test]
fn a_damaged_tile_is_left_out_and_the_rest_is_carried() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let connected = Side::connected(&log, 3_000);
    let tiles = find(connected.path(), "0.tiles");
    let mut bytes = fs::read(&tiles[0]).expect("stored");
    bytes[3 * 8_192 + 77] ^= 1;
    fs::write(&tiles[0], bytes).expect("written");
    let out = connected.path().join("bundle");
    let outcome = connected.export("bundle", &out);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(
        report(&outcome)["tiles"],
        json!({"exported": 10, "damaged": 1, "unprovable": 0, "missing": 1})
    );
    assert!(
        outcome.stderr.contains("1 damaged resources were left out"),
        "{outcome:?}"
    );
    let offline = Side::offline(&log);
    let imported = offline.imported(&out);
    assert_eq!(imported["tiles"], taken(10, 0));
    assert_eq!(
        imported["bundles"],
        taken(12, 0),
        "its entries prove themselves"
    );
}

#[test]
fn an_export_that_is_cut_off_does_not_look_like_one() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let connected = Side::connected(&log, 3_000);
    let config = connected.path().join("config.yaml").display().to_string();
    for (format, complete) in [("bundle", "out"), ("tlog-tiles", "out/checkpoint")] {
        let out = connected.path().join("out");
        // The kernel ends the process when a file reaches this many blocks: 2 KiB, or 20 KiB.
        let blocks = if format == "bundle" { 40 } else { 4 };
        let killed = std::process::Command::new("sh")
            .args(["-c", "ulimit -f $0; exec \"$@\"", &blocks.to_string()])
            .arg(env!("CARGO_BIN_EXE_tile-proxy"))
            .args(["export", "--config", &config, "--format", format, "--out"])
            .arg(&out)
            .output()
            .expect("a shell");
        assert!(!killed.status.success(), "{killed:?}");
        let complete = connected.path().join(complete);
        assert!(!complete.exists(), "{format}");

        let again = connected.export(format, &out);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert!(complete.exists(), "{format}");
        Side::offline(&log).imported(&out);
        let _ = fs::remove_file(&out);
    }
}

#[test]
fn an_archive_through_a_pipe_is_the_same_archive() {
    let log = Arc::new(FixtureLog::with_entries(3_000));
    let connected = Side::connected(&log, 3_000);
    let out = connected.path().join("out");
    assert_eq!(connected.export("bundle", &out).code, Some(0));
    let piped = |format: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
            .args(["export", "--out", "-", "--format", format, "--config"])
            .arg(connected.path().join("config.yaml"))
            .output()
            .expect("the binary starts")
    };
    let archive = piped("bundle");
    let summary = String::from_utf8_lossy(&archive.stderr);
    assert!(archive.status.success(), "{summary}");
    assert!(summary.contains("11 exported"), "{summary}");
    assert_eq!(archive.stdout, fs::read(&out).expect("written"));

    let mirror = piped("tlog-tiles");
    assert_eq!((mirror.status.code(), mirror.stdout.len()), (Some(1), 0));
    let says = String::from_utf8_lossy(&mirror.stderr);
    assert!(says.contains("only --format bundle"), "{says}");
}
