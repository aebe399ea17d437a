//! `tile-proxy fsck`: it finds what is damaged, wherever that is, and nothing else.

use std::{fs, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use serde_json::{Value, json};

use crate::{
    find, honest, size_of,
    world::{FixtureLog, Outcome, Proxy, Upstream, cache_directory, eventually, run, sync_all},
};

/// The fixture log has 273 full tiles at level 0 and one at level 1, and 274 bundles.
const ENTRIES: usize = 70_000;

fn counts(proven: u64, damaged: u64, unprovable: u64, missing: u64) -> Value {
    json!({"proven": proven, "damaged": damaged, "unprovable": unprovable, "missing": missing})
}

/// The report about the only log.
fn report(outcome: &Outcome) -> Value {
    let output = outcome.json();
    assert_eq!(output["logs"].as_array().map(Vec::len), Some(1), "{output}");
    output["logs"][0].clone()
}

/// A cache with all of the fixture log, and no process on it.
fn whole_cache() -> tempfile::TempDir {
    let (_log, _upstream, cache, proxy) = honest(ENTRIES);
    sync_all(&proxy);
    assert_eq!(proxy.stop(), Some(0));
    cache
}

fn group_file(cache: &Path, level: &str, name: &str) -> std::path::PathBuf {
    find(cache, name)
        .into_iter()
        .find(|path| {
            path.parent()
                .and_then(|parent| parent.file_name())
                .is_some_and(|parent| parent == level)
        })
        .expect("stored")
}

fn write_at(file: &Path, bytes: &[u8], at: u64) {
    let file = fs::File::options().write(true).open(file).expect("there");
    file.write_all_at(bytes, at).expect("written");
}

#[test]
fn a_whole_cache_is_proven_beside_the_proxy_that_serves_it() {
    let (_log, _upstream, cache, proxy) = honest(ENTRIES);
    sync_all(&proxy);
    let tiles = || counts(274, 0, 0, 0);
    let mut last = None;
    eventually("everything is written", || {
        let outcome = run("fsck", cache.path(), &["--json"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let done = report(&outcome)["tiles"] == tiles() && report(&outcome)["bundles"] == tiles();
        last = Some(report(&outcome));
        done
    });
    let report = last.expect("looked at");
    assert_eq!(report["size"], ENTRIES);
    assert_eq!(report["checkpoints"], counts(1, 0, 0, 0));
    assert_eq!(report["edges"], counts(1, 0, 0, 0));
    assert_eq!(report["strays"], json!([]));
    let table = run("fsck", cache.path(), &[]);
    let line = |kind: &str| {
        let line = table.stdout.lines().find(|line| line.contains(kind));
        line.unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("tiles"), ["tiles", "274", "0", "0", "0"], "{table:?}");
    assert_eq!(proxy.get("/tile/0/003").status, 200, "served all the while");
}

#[test]
fn damage_anywhere_is_found_and_taken_away_by_repair() {
    let cache = whole_cache();
    let path = cache.path();
    write_at(&group_file(path, "0", "0.tiles"), b"rot", 3 * 8_192 + 77);
    write_at(&group_file(path, "0", "0.meta"), b"rot", 5 * 64 + 20);
    // Of a tile that is swapped whole, bytes and record agree; only the tree tells.
    let (tiles, meta) = (
        group_file(path, "0", "0.tiles"),
        group_file(path, "0", "0.meta"),
    );
    let all = (
        fs::read(&tiles).expect("there"),
        fs::read(&meta).expect("there"),
    );
    write_at(&tiles, &all.0[8 * 8_192..9 * 8_192], 7 * 8_192);
    write_at(&meta, &all.1[8 * 64..9 * 64], 7 * 64);
    let bundle = find(path, "009")
        .into_iter()
        .find(|path| path.parent().is_some_and(|p| p.ends_with("entries")));
    write_at(&bundle.expect("stored"), b"rot", 1_000);
    let checkpoints = find(path, "70000.edge").remove(0);
    let checkpoints = checkpoints.parent().expect("below");
    fs::write(checkpoints.join("12.checkpoint"), "not a note").expect("written");
    fs::write(checkpoints.join("12.checkpoint.tmp"), "half").expect("written");

    let outcome = run("fsck", path, &["--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found = report(&outcome);
    assert_eq!(found["tiles"], counts(271, 3, 0, 3));
    // The bundles of damaged tiles hold the hashes of those themselves.
    assert_eq!(found["bundles"], counts(273, 1, 0, 1));
    assert_eq!(found["checkpoints"], counts(1, 1, 0, 0));
    assert_eq!(found["strays"].as_array().map(Vec::len), Some(1));
    for what in [
        "tile/0/003",
        "tile/0/005",
        "tile/0/007",
        "tile/entries/009",
        "checkpoint 12",
    ] {
        let named = |finding: &Value| finding.as_str().is_some_and(|f| f.starts_with(what));
        assert!(
            found["findings"]
                .as_array()
                .expect("a list")
                .iter()
                .any(named),
            "{what}: {found}"
        );
    }

    let repaired = run("fsck", path, &["--repair", "--json"]);
    assert_eq!(
        repaired.code,
        Some(1),
        "something was damaged: {repaired:?}"
    );
    assert_eq!(report(&repaired)["removed"], 5);
    let clean = run("fsck", path, &["--json"]);
    assert_eq!(clean.code, Some(0), "{clean:?}");
    assert_eq!(report(&clean)["tiles"], counts(271, 0, 0, 3));
    assert_eq!(report(&clean)["bundles"], counts(273, 0, 0, 1));
}

#[test]
fn below_a_damaged_parent_nothing_is_damaged_and_nothing_can_be_proven() {
    let cache = whole_cache();
    write_at(&group_file(cache.path(), "1", "0.tiles"), b"rot", 0);
    let found = report(&run("fsck", cache.path(), &["--json"]));
    // 256 tiles are below it; the other 17 are below the edge.
    assert_eq!(found["tiles"], counts(17, 1, 256, 257));
    assert_eq!(found["bundles"], counts(18, 0, 256, 256));
}

#[test]
fn a_damaged_edge_leaves_everything_unprovable_and_the_floor_where_it_is() {
    let cache = whole_cache();
    let edge = find(cache.path(), "70000.edge").remove(0);
    write_at(&edge, b"rot", 40);
    let outcome = run("fsck", cache.path(), &["--repair", "--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found = report(&outcome);
    assert_eq!(found["size"], Value::Null);
    assert_eq!(found["edges"], counts(0, 1, 0, 0));
    assert_eq!(found["tiles"], counts(0, 0, 274, 0));
    assert_eq!(found["removed"], 0);
    assert_eq!(
        find(cache.path(), "70000.checkpoint").len(),
        1,
        "the floor stays"
    );
}

#[test]
fn two_histories_in_one_cache_are_found_and_neither_is_removed() {
    let log = Arc::new(FixtureLog::with_entries(ENTRIES));
    let upstream = Upstream::serving(&log);
    upstream.becomes(&log, 300);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    let served = |size| size_of(&proxy.get("/checkpoint").body) == size;
    eventually("the small tree is served", || served(300));
    upstream.becomes(&log, ENTRIES as u64);
    eventually("it has grown", || served(ENTRIES as u64));
    sync_all(&proxy);
    assert_eq!(proxy.stop(), Some(0));
    let clean = run("fsck", cache.path(), &["--json"]);
    assert_eq!(
        report(&clean)["checkpoints"],
        counts(2, 0, 0, 0),
        "{clean:?}"
    );

    let fork = FixtureLog::forked(299, 300);
    let note = find(cache.path(), "300.checkpoint").remove(0);
    fs::write(&note, fork.checkpoint(300)).expect("written");
    let outcome = run("fsck", cache.path(), &["--repair", "--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found = report(&outcome);
    assert_eq!(found["checkpoints"], counts(1, 1, 0, 0));
    assert!(
        found["findings"].to_string().contains("a split view"),
        "{found}"
    );
    assert_eq!(fs::read(&note).expect("kept"), fork.checkpoint(300));
}

#[test]
fn repair_does_not_wait_for_the_proxy_that_has_the_cache() {
    let (_log, _upstream, cache, _proxy) = honest(300);
    let outcome = run("fsck", cache.path(), &["--repair"]);
    assert_eq!(outcome.code, Some(75), "{outcome:?}");
    assert!(
        outcome.stderr.contains("a proxy serves from"),
        "{outcome:?}"
    );
    assert!(
        outcome.stderr.contains("scale it to no replicas"),
        "{outcome:?}"
    );
}

#[test]
fn where_there_is_no_cache_nothing_is_called_clean() {
    let directory = cache_directory();
    let config = format!(
        "tile_proxy: {{public_keys: ['{}'], cache: {{base_path: {}/none}}}}",
        FixtureLog::with_entries(1).vkey(),
        directory.path().display()
    );
    fs::write(directory.path().join("config.yaml"), config).expect("written");
    let outcome = run("fsck", directory.path(), &[]);
    assert_eq!(outcome.code, Some(74), "{outcome:?}");
    assert!(outcome.stderr.contains("there is no cache"), "{outcome:?}");
}
