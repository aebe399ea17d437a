//! `tile-proxy inspect`: what is said about logs, and about what is none.

use std::{
    process::{Command, Output},
    sync::Arc,
};

use super::world::{Answer, FixtureLog, Https, Upstream, cache_directory};

fn inspect(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
        .arg("inspect")
        .args(arguments)
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn json(arguments: &[&str]) -> serde_json::Value {
    let (_, stdout, stderr) = inspect(&[arguments, &["--json"]].concat());
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

#[test]
fn a_log_is_described_and_its_configuration_can_be_used() {
    let log = Arc::new(FixtureLog::with_entries(700));
    let upstream = Upstream::serving(&log);
    let (url, vkey) = (upstream.url(), log.vkey());
    let origin = vkey.split('+').next().expect("a name");
    for key in [vkey.clone(), log.pem()] {
        let (code, stdout, stderr) = inspect(&[&url, "--key", &key]);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        for line in [
            "kind        tlog-tiles".to_owned(),
            format!("origin      {origin}"),
            "size        700 entries".to_owned(),
            "Ed25519, verified".to_owned(),
            "fold to the root: tile/0/002.p/188, tile/1/000.p/2".to_owned(),
        ] {
            assert!(stdout.contains(&line), "{line}: {stdout}");
        }
        let (_, snippet) = stdout
            .split_once("# To follow it:\n")
            .expect("a configuration");
        let directory = cache_directory();
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, snippet).expect("written");
        let check = Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .expect("the binary starts");
        assert!(check.status.success(), "{snippet}{check:?}");
    }
    // A URL as it is read off a browser, and a log that has deleted what is full by now.
    upstream.becomes(&log, 600);
    upstream.deletes_partials();
    let report = json(&[&format!("{url}checkpoint"), "--key", &vkey]);
    assert_eq!(report["size"], 600);
    assert_eq!(report["edge"]["folds"], true);
    assert_eq!(report["verified"], true);
    assert_eq!(report["signatures"][0]["verified"], true);
    assert_eq!(report["problems"], serde_json::json!([]));
}

#[test]
fn a_server_that_only_a_given_authority_vouches_for_is_asked() {
    let log = Arc::new(FixtureLog::with_entries(10));
    let server = Https::serving("log.rome.invalid", &log, &[b"h2"]);
    let url = format!("https://{}/", server.address);
    let (code, _, stderr) = inspect(&[&url]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("certificate"), "{stderr}");

    let directory = cache_directory();
    let ca = format!("file:{}/ca.pem", directory.path().display());
    std::fs::write(directory.path().join("ca.pem"), &server.authority).expect("written");
    for ca in [&ca, &server.authority] {
        let report = json(&[&url, "--ca", ca, "--key", &log.vkey()]);
        assert_eq!(
            (&report["size"], &report["verified"]),
            (&10.into(), &true.into())
        );
        let configuration = report["configuration"].as_str().expect("text");
        assert!(configuration.contains("trusted_ca:"), "{configuration}");
    }
    let (code, _, stderr) = inspect(&[&url, "--ca", &log.pem()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("there is no certificate in it"), "{stderr}");
}

#[test]
fn without_a_key_nothing_is_called_verified() {
    let log = Arc::new(FixtureLog::with_entries(10));
    let upstream = Upstream::serving(&log);
    let (code, stdout, _) = inspect(&[&upstream.url()]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("Ed25519, not checked: no such key given"),
        "{stdout}"
    );
    assert!(
        stdout.contains("public_keys: [] # its verifier key"),
        "{stdout}"
    );
    let report = json(&[&upstream.url()]);
    assert_eq!(report["verified"], serde_json::Value::Null);
    assert_eq!(report["signatures"][0]["verified"], serde_json::Value::Null);
}

#[test]
fn what_cannot_be_followed_is_said_and_fails() {
    let log = Arc::new(FixtureLog::with_entries(700));
    let other = FixtureLog::with_entries(10).signed_by(9);
    let upstream = Upstream::serving(&log);
    let url = upstream.url();
    let fails = |arguments: &[&str], want_code: i32, want: &str| {
        let (code, stdout, stderr) = inspect(arguments);
        assert_eq!(code, Some(want_code), "{want}: {stdout}{stderr}");
        assert!(stderr.contains(want), "{want}: {stderr}");
        assert!(!stdout.contains("To follow it"), "{stdout}");
    };
    fails(
        &[&url, "--key", &other.vkey()],
        1,
        "not signed by a known key",
    );
    fails(
        &[&url, "--key", "rome"],
        78,
        "--key rome: not a verifier key",
    );
    fails(
        &[&url, "--key", "file:/nowhere"],
        78,
        "cannot read /nowhere",
    );
    fails(&["ftp://log.example/"], 1, "must start with `http://`");

    let mut flipped = log.get("tile/0/002.p/188", 700, false).expect("there");
    flipped[100] ^= 1;
    upstream.lies_about("tile/0/002.p/188", Answer::Body(flipped));
    fails(
        &[&url, "--key", &log.vkey()],
        1,
        "the edge tiles do not fold to the root",
    );
    upstream.lies_about("tile/0/002.p/188", Answer::Body(vec![7; 8_193]));
    fails(&[&url], 1, "is longer than 8192 bytes");
    upstream.lies_about("tile/0/002.p/188", Answer::Status(403));
    fails(&[&url], 1, "tile/0/002.p/188 answered 403");

    let edited = String::from_utf8(log.checkpoint(700))
        .expect("text")
        .replace("\n700\n", "\n701\n");
    upstream.lies_about("checkpoint", Answer::Body(edited.into_bytes()));
    fails(&[&url, "--key", &log.vkey()], 1, "does not verify");

    upstream.lies_about("checkpoint", Answer::Body(b"<html>hello</html>".to_vec()));
    fails(&[&url], 1, "checkpoint is not a signed note");
    upstream.lies_about("checkpoint", Answer::Status(404));
    fails(&[&url], 1, "there is no log");
    upstream.disappears();
    fails(&[&url], 1, "cannot read");
}

#[test]
fn rekor_is_recognised_in_both_versions() {
    let log = Arc::new(FixtureLog::with_entries(10));
    let upstream = Upstream::serving(&log);
    let (url, key) = (upstream.url(), log.vkey());
    upstream.lies_about("checkpoint", Answer::Status(404));
    let tile = log.get("tile/0/000.p/10", 10, false).expect("there");
    upstream.lies_about("api/v2/tile/0/000.p/10", Answer::Body(tile));
    upstream.lies_about("api/v2/checkpoint", Answer::Body(log.checkpoint(10)));
    for given in [
        url.clone(),
        format!("{url}api/v2"),
        format!("{url}api/v2/checkpoint"),
    ] {
        let report = json(&[&given, "--key", &key]);
        assert_eq!(report["kind"], "rekor-v2", "{given}");
        assert_eq!(report["url"], format!("{url}api/v2/"));
        assert_eq!(report["edge"]["folds"], true);
        assert_eq!(report["problems"], serde_json::json!([]));
    }

    upstream.lies_about("api/v2/checkpoint", Answer::Status(404));
    let note = String::from_utf8(log.checkpoint(10)).expect("text");
    let v1 = serde_json::json!({"rootHash": "00", "treeSize": 10, "signedTreeHead": note});
    upstream.lies_about("api/v1/log", Answer::Body(v1.to_string().into_bytes()));
    let (code, stdout, stderr) = inspect(&[&url, "--key", &key]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("kind        Rekor v1"), "{stdout}");
    assert!(stdout.contains("Ed25519, verified"), "{stdout}");
    assert!(stdout.contains("kind: rekor-v1"), "{stdout}");
}
