//! What bad input gets: each lie of a repository, of whoever stands before it, and of the disk has a
//! word of its own, the last good trust stays, and nothing is served that only the bad trust vouches
//! for.

use std::{fs, path::Path};

use super::*;
use crate::world::Files;

/// When what is good again expires.
const FAR: &str = "2099-01-01T00:00:00Z";

/// What is published, or said on the way, instead of the truth.
struct Lie {
    what: &'static str,
    /// Label of the metric.
    reason: &'static str,
    /// Stands in the statistics and on the status page.
    says: &'static str,
    tell: fn(&mut Liar<'_>),
}

/// Who has some of the repository's keys, or the network; and a key of their own, for a log of the
/// same name.
struct Liar<'a> {
    repository: &'a mut TufRepository,
    server: &'a TufServer,
    key: String,
}

impl Liar<'_> {
    /// Publishes honestly in all but the log's key.
    fn publish(&mut self) {
        self.repository.list("rekor-key-v1", self.key.clone());
        self.repository.publish();
        self.serve();
    }

    /// Publishes honestly, with a key that nobody has fetched yet.
    fn publish_another_key(&mut self) {
        let next = FixtureLog::with_entries(1).signed_by(3).pem();
        self.repository.list("rekor-key-v2", next).publish();
        self.serve();
    }

    fn serve(&self) {
        self.server.becomes(&self.repository.files);
    }

    /// Serves what was published, with one file changed, whose name ends like this.
    fn serve_with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut files = self.repository.files.clone();
        let name = match name.starts_with(char::is_alphabetic) {
            true => self.repository.served_as(name),
            false => format!("{}{name}", self.repository.version),
        };
        change(files.get_mut(&name).expect("published"));
        self.server.becomes(&files);
    }

    /// Serves, as this version, what was published as the one before.
    fn serve_older(&self, name: &str) {
        let older = format!("{}{name}", self.repository.version - 1);
        let older = self.repository.files[&older].clone();
        self.serve_with(name, |bytes| *bytes = older);
    }
}

const LIES: [Lie; 29] = [
    Lie {
        what: "an older version of everything",
        reason: "rollback",
        says: "rollback of timestamp",
        tell: |liar| {
            liar.repository.list("rekor-key-v1", liar.key.clone());
            liar.repository.publish_as(1);
            liar.serve();
        },
    },
    Lie {
        what: "an older snapshot below a new timestamp",
        reason: "rollback",
        says: "rollback of snapshot",
        tell: |liar| {
            liar.repository.point("snapshot.json", 1);
            liar.publish();
        },
    },
    Lie {
        what: "older targets below a new snapshot",
        reason: "rollback",
        says: "rollback of targets.json",
        tell: |liar| {
            liar.repository.point("targets.json", 1);
            liar.publish();
        },
    },
    Lie {
        what: "the snapshot of another version",
        reason: "mix_and_match",
        says: "snapshot version",
        tell: |liar| {
            liar.publish();
            liar.serve_older(".snapshot.json");
        },
    },
    Lie {
        what: "the targets of another version",
        reason: "mix_and_match",
        says: "targets.json version",
        tell: |liar| {
            liar.publish();
            liar.serve_older(".targets.json");
        },
    },
    Lie {
        what: "a root by somebody without its keys",
        reason: "threshold",
        says: "root is signed by 0 of the 2 keys",
        tell: |liar| {
            let mut rogue = liar.repository.rogue();
            rogue.list("rekor-key-v1", liar.key.clone()).publish();
            liar.server.becomes(&rogue.files);
        },
    },
    Lie {
        what: "everything below the root by somebody without its keys",
        reason: "threshold",
        says: "timestamp is signed by 0 of the 1 keys",
        tell: |liar| {
            let mut rogue = liar.repository.rogue();
            rogue.list("rekor-key-v1", liar.key.clone()).publish();
            let roots = |files: &Files, keep: bool| -> Files {
                let files = files.clone().into_iter();
                files
                    .filter(|(name, _)| name.ends_with(".root.json") == keep)
                    .collect()
            };
            let mut files = roots(&liar.repository.files, true);
            files.extend(roots(&rogue.files, false));
            liar.server.becomes(&files);
        },
    },
    Lie {
        what: "a root that skips a version",
        reason: "bad_root",
        says: "does not follow",
        tell: |liar| {
            let next = liar.repository.root_version + 1;
            liar.repository.renew_root().renew_root();
            liar.publish();
            let mut files = liar.repository.files.clone();
            let skipped = files[&format!("{}.root.json", next + 1)].clone();
            files.insert(format!("{next}.root.json"), skipped);
            liar.server.becomes(&files);
        },
    },
    Lie {
        what: "another key of the same length in place of the listed one",
        reason: "integrity",
        says: "sha256 mismatch",
        tell: |liar| {
            liar.publish_another_key();
            liar.serve_with("rekor-key-v2", |bytes| *bytes = liar.key.clone().into());
        },
    },
    Lie {
        what: "a snapshot of other bytes than the timestamp pins",
        reason: "integrity",
        says: "snapshot.json: sha256 mismatch",
        tell: |liar| {
            liar.repository.pin();
            liar.publish();
            liar.serve_with(".snapshot.json", |bytes| bytes.rotate_left(1));
        },
    },
    Lie {
        what: "a snapshot of another length than the timestamp pins",
        reason: "length",
        says: "snapshot.json: length",
        tell: |liar| {
            liar.repository.pin();
            liar.publish();
            liar.serve_with(".snapshot.json", |bytes| bytes.push(b'\n'));
        },
    },
    Lie {
        what: "a target that is cut",
        reason: "length",
        says: "rekor-key-v1: length",
        tell: |liar| {
            liar.publish();
            liar.serve_with("rekor-key-v1", |bytes| bytes.truncate(40));
        },
    },
    Lie {
        what: "a target that goes on behind its end",
        reason: "length",
        says: "longer than the listed",
        tell: |liar| {
            liar.publish_another_key();
            let more = liar.key.clone();
            liar.serve_with("rekor-key-v2", |bytes| bytes.extend(more.bytes()));
        },
    },
    Lie {
        what: "a target without an end",
        reason: "length",
        says: "longer than the listed",
        tell: |liar| {
            liar.publish();
            let name = liar.repository.served_as("rekor-key-v1");
            liar.server.lies_about(&name, Answer::Endless);
        },
    },
    Lie {
        what: "a timestamp without an end",
        reason: "too_large",
        says: "16384 bytes",
        tell: |liar| liar.server.lies_about("timestamp.json", Answer::Endless),
    },
    Lie {
        what: "a root without an end",
        reason: "too_large",
        says: "512000 bytes",
        tell: |liar| {
            let next = format!("{}.root.json", liar.repository.root_version + 1);
            liar.server.lies_about(&next, Answer::Endless);
        },
    },
    Lie {
        what: "a snapshot without an end",
        reason: "too_large",
        says: "2000000 bytes",
        tell: |liar| {
            liar.publish();
            let name = format!("{}.snapshot.json", liar.repository.version);
            liar.server.lies_about(&name, Answer::Endless);
        },
    },
    Lie {
        what: "a target that is listed and not there",
        reason: "missing",
        says: "rekor-key-v1",
        tell: |liar| {
            liar.publish();
            let name = liar.repository.served_as("rekor-key-v1");
            liar.server.lies_about(&name, Answer::Status(404));
        },
    },
    Lie {
        what: "an expired root",
        reason: "expired",
        says: "root metadata expired",
        tell: |liar| {
            liar.repository.expire("root", &hours(-1)).renew_root();
            liar.publish();
        },
    },
    Lie {
        what: "an expired timestamp",
        reason: "expired",
        says: "timestamp metadata expired",
        tell: |liar| {
            liar.repository.expire("timestamp", &hours(-1));
            liar.publish();
        },
    },
    Lie {
        what: "an expired snapshot",
        reason: "expired",
        says: "snapshot metadata expired",
        tell: |liar| {
            liar.repository.expire("snapshot", &hours(-1));
            liar.publish();
        },
    },
    Lie {
        what: "expired targets",
        reason: "expired",
        says: "targets metadata expired",
        tell: |liar| {
            liar.repository.expire("targets", &hours(-1));
            liar.publish();
        },
    },
    Lie {
        what: "a service map of a version that nobody knows",
        reason: "map_version",
        says: "its version is 2",
        tell: |liar| {
            let map = json!({"version": 2, "rekor": {"url": "https://rekor.example"}});
            liar.repository
                .list("sigstore-services-v1", map.to_string());
            liar.publish();
        },
    },
    Lie {
        what: "a service map that leads to plain HTTP",
        reason: "plain_http",
        says: "`rekor.url` is `http://rekor.example`",
        tell: |liar| {
            let map = json!({"version": 1, "rekor": {"url": "http://rekor.example"}});
            liar.repository
                .list("sigstore-services-v1", map.to_string());
            liar.publish();
        },
    },
    Lie {
        what: "a trusted root that is none",
        reason: "target",
        says: "`trusted_root.json`",
        tell: |liar| {
            liar.repository.list("trusted_root.json", "{}");
            liar.publish();
        },
    },
    Lie {
        what: "nothing about logs",
        reason: "no_targets",
        says: "none of the targets",
        tell: |liar| {
            liar.repository.targets.clear();
            liar.repository.list("something", "else").publish();
            liar.serve();
        },
    },
    Lie {
        what: "a page for people",
        reason: "malformed",
        says: "unusable metadata",
        tell: |liar| {
            let page = Answer::Body(b"<html>sign in first</html>".to_vec());
            liar.server.lies_about("timestamp.json", page);
        },
    },
    Lie {
        what: "a redirect to another host",
        reason: "unreachable",
        says: "redirect",
        tell: |liar| {
            let elsewhere = Answer::Redirect("http://tuf.example/timestamp.json".to_owned());
            liar.server.lies_about("timestamp.json", elsewhere);
        },
    },
    Lie {
        what: "a server in trouble",
        reason: "unreachable",
        says: "503",
        tell: |liar| {
            liar.publish();
            liar.server
                .lies_about("timestamp.json", Answer::Status(503));
        },
    },
];

#[test]
fn each_lie_has_its_own_word_and_vouches_for_nothing() {
    let mut world = World::new();
    world.publish();
    // What only the bad trust would vouch for: the same log, larger, under another key.
    let foreign = Arc::new(FixtureLog::with_entries(70_001).signed_by(9));
    let start = |world: &World| world.proxy(", refresh_interval: 24h");
    let mut proxy = start(&world);
    eventually("the log is served", || serves(&proxy, 70_000));
    eventually("trust is fresh", || is(&proxy, "fresh"));
    for Lie {
        what,
        reason,
        says,
        tell,
    } in LIES
    {
        tell(&mut Liar {
            repository: &mut world.repository,
            server: &world.server,
            key: foreign.pem(),
        });
        world.upstream.becomes(&foreign, 70_001);
        // Once with what is in memory, and once with what a crash has left on the disk.
        for begins in ["running", "started anew"] {
            if begins == "started anew" {
                proxy.kill();
                proxy = start(&world);
                eventually("it has the cache", || serves(&proxy, 70_000));
            }
            let before = failures(&proxy, reason);
            let refreshed = proxy.send("POST", "/_admin/refresh", "");
            let tuf = status(&proxy);
            let context = format!("{what}, {begins}: {tuf}");
            assert!(failures(&proxy, reason) > before, "{context}");
            let error = tuf["lastError"].as_str().unwrap_or_default();
            assert!(error.contains(says), "{context}");
            let state = match reason {
                "unreachable" => "offline",
                _ => "failed",
            };
            assert_eq!(tuf["state"], state, "{context}");
            assert!(is(&proxy, state), "{context}");
            let page = proxy.get("/_admin/").text();
            assert!(page.contains(&format!("<td>{state}</td>")), "{page}");
            let word = format!("\"reason\":\"{reason}\"");
            eventually("it is said", || {
                let said = proxy.printed("trust from TUF not refreshed");
                said.iter().any(|line| line.contains(&word))
            });
            // The last good trust, and nothing that only the bad one vouches for.
            assert_eq!(tuf["expired"], false, "{context}");
            assert_eq!(refreshed.status, 502, "{context}: {}", refreshed.text());
            assert!(refreshed.text().contains("not signed by a known key"));
            assert!(serves(&proxy, 70_000), "{context}");
        }
        world.server.returns();
        world.upstream.becomes(&world.log, 70_000);
        world.repository.targets.clear();
        world.repository.list("rekor-key-v1", world.log.pem());
        for role in ["root", "timestamp", "snapshot", "targets"] {
            world.repository.expire(role, FAR);
        }
        if says.starts_with("root metadata") {
            world.repository.renew_root();
        }
        world.publish();
        let refreshed = proxy.send("POST", "/_admin/refresh", "");
        assert_eq!(refreshed.status, 200, "{what}: {}", refreshed.text());
        assert!(is(&proxy, "fresh"), "{what}: {}", status(&proxy));
    }
}

#[test]
fn a_repository_frozen_in_time_vouches_for_nothing_new_once_it_has_expired() {
    let mut world = World::new();
    let proxy = world.proxy(", refresh_interval: 24h");
    eventually("the log is served", || serves(&proxy, 70_000));
    // Good for as long as it takes to be trusted, however slow this machine is.
    eventually("short-lived metadata is trusted", || {
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
        let soon = soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        world.repository.expire("timestamp", &soon);
        world.publish();
        proxy.send("POST", "/_admin/refresh", "");
        let version = proxy.metric("tile_proxy_tuf_version{role=\"timestamp\"}");
        version == world.repository.version as f64
    });
    // From here on, whoever is before the repository shows the same for ever.
    let larger = Arc::new(FixtureLog::with_entries(70_500));
    eventually("it is noticed", || {
        proxy.send("POST", "/_admin/refresh", "");
        failures(&proxy, "expired") >= 1.0 && is(&proxy, "stale")
    });
    assert_eq!(status(&proxy)["expired"], true);
    world.upstream.becomes(&larger, 70_500);
    let refreshed = proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 502);
    assert!(
        refreshed.text().contains("trust has expired"),
        "{}",
        refreshed.text()
    );
    let answer = proxy.get("/checkpoint");
    assert_eq!((answer.status, size_of(&answer.body)), (200, 70_000));
    assert_eq!(answer.header("tile-proxy-trust"), Some("expired"));
    // The real one is there again.
    world.repository.expire("timestamp", FAR);
    world.publish();
    assert_eq!(proxy.send("POST", "/_admin/refresh", "").status, 200);
    assert!(serves(&proxy, 70_500));
    assert!(is(&proxy, "fresh"));
}

#[test]
fn expired_trust_serves_what_was_trusted_and_believes_nothing_new() {
    let mut world = World::new();
    let proxy = world.proxy("");
    eventually("the log is served", || serves(&proxy, 70_000));
    eventually("trust is fresh", || is(&proxy, "fresh"));
    assert_eq!(proxy.stop(), Some(0));
    // As if a week had passed: everything that was kept is expired by now.
    let mut late = TufRepository::new();
    late.expire("timestamp", &hours(-1))
        .list("rekor-key-v1", world.log.pem())
        .publish();
    let kept = world.cache.path().join("cache/tuf");
    for set in ["meta", "lastgood"] {
        fs::remove_dir_all(kept.join(set)).expect("there");
        write_set(&kept.join(set), &late, &world.log.pem());
    }
    world.repository = late;
    world.server.becomes(&world.repository.files);

    let larger = Arc::new(FixtureLog::with_entries(70_500));
    world.upstream.becomes(&larger, 70_500);
    let proxy = world.proxy("");
    eventually("it is noticed", || failures(&proxy, "expired") >= 1.0);
    let answer = proxy.get("/checkpoint");
    assert_eq!((answer.status, size_of(&answer.body)), (200, 70_000));
    assert_eq!(answer.header("tile-proxy-trust"), Some("expired"));
    assert_eq!(proxy.get("/tile/0/000").status, 200);
    assert!(is(&proxy, "stale"));
    assert_eq!(status(&proxy)["expired"], true);
    let refreshed = proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 502, "{}", refreshed.text());
    assert!(
        refreshed.text().contains("trust has expired"),
        "{}",
        refreshed.text()
    );
    assert_eq!(proxy.stop(), Some(0));

    // With grace, all goes on for as long as that is.
    let proxy = world.proxy(", expiry_grace: 2h");
    eventually("the log is followed", || serves(&proxy, 70_500));
    assert!(
        proxy
            .get("/checkpoint")
            .header("tile-proxy-trust")
            .is_none()
    );
    assert!(is(&proxy, "stale"));
    assert_eq!(status(&proxy)["expired"], false);
}

/// What a proxy would have kept of a repository.
fn write_set(directory: &Path, repository: &TufRepository, key: &str) {
    let version = repository.version;
    let files = &repository.files;
    let targets = directory.join("targets");
    fs::create_dir_all(&targets).expect("made");
    fs::write(targets.join("rekor-key-v1"), key).expect("written");
    for (name, from) in [
        ("root.json", "1.root.json".to_owned()),
        ("timestamp.json", "timestamp.json".to_owned()),
        ("snapshot.json", format!("{version}.snapshot.json")),
        ("targets.json", format!("{version}.targets.json")),
    ] {
        fs::write(directory.join(name), &files[&from]).expect("written");
    }
}

#[test]
fn a_crash_half_way_through_a_refresh_is_passed_over_for_the_last_whole_one() {
    let mut world = World::new();
    let proxy = world.proxy("");
    eventually("trust is fresh", || is(&proxy, "fresh"));
    eventually("the log is served", || serves(&proxy, 70_000));
    assert_eq!(proxy.stop(), Some(0));

    // The metadata of the next version is had, and its target does not come.
    let foreign = Arc::new(FixtureLog::with_entries(70_001).signed_by(9));
    world.repository.list("rekor-key-v1", foreign.pem());
    world.publish();
    let target = world.repository.served_as("rekor-key-v1");
    world.server.lies_about(&target, Answer::Silence);
    let proxy = world.proxy("");
    let kept = world.cache.path().join("cache/tuf");
    let targets = format!("{}.targets.json", world.repository.version);
    eventually("half of it is on the disk", || {
        let stored = fs::read(kept.join("meta/targets.json")).unwrap_or_default();
        stored == world.repository.files[&targets]
    });
    proxy.kill();

    // And the next set was about to be exchanged.
    let half = kept.join("lastgood.tmp/targets");
    fs::create_dir_all(&half).expect("made");
    fs::write(half.join("rekor-key-v1"), &foreign.pem()[..20]).expect("written");
    world.server.disappears();
    world.upstream.becomes(&foreign, 70_001);
    let proxy = world.proxy("");
    eventually("the log is served", || serves(&proxy, 70_000));
    eventually("the repository is asked", || {
        failures(&proxy, "unreachable") >= 1.0
    });
    assert_eq!(failures(&proxy, "not_whole"), 1.0);
    eventually("it is said", || {
        let said = proxy.printed("stored trust is passed over");
        let words = ["\"place\":\"meta\"", "\"reason\":\"not_whole\""];
        said.iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    });
    assert_eq!(status(&proxy)["state"], "offline");
    assert_eq!(proxy.send("POST", "/_admin/refresh", "").status, 502);
    assert!(serves(&proxy, 70_000));

    // What was half there becomes whole, and is believed then.
    world.server.returns();
    eventually("trust is fresh", || is(&proxy, "fresh"));
    eventually("the new key counts", || serves(&proxy, 70_001));
    assert_eq!(proxy.stop(), Some(0));
    assert!(!kept.join("lastgood.tmp").exists());
    let stored = fs::read(kept.join("lastgood/targets/rekor-key-v1")).expect("kept");
    assert_eq!(stored, foreign.pem().as_bytes());
}

#[test]
fn a_second_process_waits_for_the_trust_of_the_first() {
    let world = World::new();
    let first = world.proxy("");
    eventually("the log is served", || serves(&first, 70_000));
    let second = world.proxy("");
    eventually("it waits", || {
        !second.printed("waiting for another process").is_empty()
    });
    assert_eq!(second.get("/_admin/ready").status, 503);
    assert_eq!(first.stop(), Some(0));
    eventually("it goes on", || serves(&second, 70_000));
}

#[test]
fn a_second_process_with_a_cache_of_its_own_waits_for_the_trust_of_the_first() {
    let (world, other) = (World::new(), World::new());
    let shared = format!(", cache_path: '{}'", world.cache.path().join("t").display());
    let first = world.proxy(&shared);
    eventually("the log is served", || serves(&first, 70_000));
    // Of another repository, even: each would move the other's versions.
    let second = other.proxy(&shared);
    eventually("it waits", || {
        let said = second.printed("waiting for another process");
        said.iter().any(|line| line.contains("t/LOCK"))
    });
    assert_eq!(second.get("/_admin/ready").status, 503);
    assert_eq!(other.server.requests("timestamp.json"), 0);
    assert_eq!(first.stop(), Some(0));
    eventually("it goes on", || serves(&second, 70_000));
}
