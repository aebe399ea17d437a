//! The client against a repository with real keys, in a directory; time is what the test says.

use std::{fs, path::Path};

use jiff::{SignedDuration, ToSpan as _};

use super::*;
use crate::{
    fixture_log::FixtureLog,
    tuf_repository::{Files, TufRepository},
};

/// A repository on this machine, and who follows it.
struct World {
    directory: tempfile::TempDir,
    tuf: Arc<Tuf>,
    root: String,
    grace: Duration,
}

impl World {
    fn new(repository: &TufRepository) -> Self {
        Self::with_grace(repository, Duration::ZERO)
    }

    fn with_grace(repository: &TufRepository, grace: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        serve(directory.path(), &repository.files);
        let root = repository.root();
        let tuf = open(directory.path(), &root, grace);
        Self {
            directory,
            tuf,
            root,
            grace,
        }
    }

    fn serve(&self, files: &Files) {
        serve(self.directory.path(), files);
    }

    /// The next process, on the same disk.
    fn restart(&mut self) {
        self.tuf = open(self.directory.path(), &self.root, self.grace);
    }

    /// One refresh at this time.
    fn refresh_at(&self, now: Timestamp) -> Result<(), TufError> {
        let remote = self.tuf.remote.clone().expect("online");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .expect("a runtime")
            .block_on(self.tuf.refresh_from(remote, now))
    }

    fn refresh(&self) -> Result<(), TufError> {
        self.refresh_at(Timestamp::now())
    }

    /// Refreshes, which must fail with this word.
    fn refused(&self, reason: &str) {
        let error = self.refresh().expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
    }

    /// How many keys there are for Rome's log.
    fn keys(&self) -> usize {
        self.tuf.keys_for(None, &[]).map_or(0, |keys| keys.len())
    }

    fn version(&self, role: &str) -> u64 {
        let loaded = self.tuf.material().expect("trusted");
        let found = loaded.roles.iter().find(|state| state.role == role);
        found.expect("loaded").version
    }

    fn kept(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join("tuf").join(path)
    }
}

fn serve(directory: &Path, files: &Files) {
    let repository = directory.join("repository");
    let _ = fs::remove_dir_all(&repository); // not there the first time
    for (name, bytes) in files {
        let path = repository.join(name);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

fn settings(directory: &Path, root: &str, grace: Duration) -> TufSettings {
    TufSettings {
        url: Url::from_file_path(directory.join("repository")).ok(),
        root: Some(Source::Inline(root.to_owned())),
        ca: None,
        trusted_ca: None,
        directory: directory.join("tuf"),
        service_map: "sigstore-services-v1".to_owned(),
        environment: String::new(),
        allow_http: false,
        refresh_interval: Duration::from_secs(3_600),
        expiry_grace: grace,
    }
}

fn open(directory: &Path, root: &str, grace: Duration) -> Arc<Tuf> {
    let metrics = Arc::new(Metrics::new().expect("registered"));
    Arc::new(Tuf::open(settings(directory, root, grace), metrics).expect("a root"))
}

/// A repository that vouches for the key of a fixture log.
fn honest() -> TufRepository {
    let mut repository = TufRepository::new();
    repository
        .list("rekor-key-v1", FixtureLog::with_entries(1).pem())
        .publish();
    repository
}

fn second_key() -> String {
    FixtureLog::with_entries(1).signed_by(9).pem()
}

#[test]
fn what_was_trusted_is_there_after_a_restart_without_the_repository() {
    let mut world = World::new(&honest());
    assert_eq!(world.keys(), 0);
    let error = world.tuf.keys_for(None, &[]).expect_err("nothing yet");
    assert!(error.contains("has not answered yet"), "{error}");
    world.refresh().expect("honest");
    assert_eq!(world.keys(), 1);

    world.serve(&Files::new());
    world.restart();
    assert_eq!(world.keys(), 1);
    assert_eq!(world.tuf.status().state, State::Offline);
    world.refused("missing");
    assert_eq!(world.keys(), 1);
}

#[test]
fn names_without_versions_are_read_as_well() {
    let mut repository = TufRepository::unversioned();
    repository
        .list("rekor-key-v2.pub", FixtureLog::with_entries(1).vkey())
        .publish();
    let mut world = World::new(&repository);
    world.refresh().expect("honest");
    repository.list("rekor-key-v1", second_key()).publish();
    world.serve(&repository.files);
    world.refresh().expect("honest");
    assert_eq!(world.keys(), 2);
    world.restart();
    assert_eq!(world.keys(), 2);
}

#[test]
fn delegated_roles_are_followed_and_there_after_a_restart() {
    for (mut repository, role) in [
        (TufRepository::new(), "log-keys"),
        (TufRepository::new(), "2026/keys"),
        (TufRepository::unversioned(), "2026"),
    ] {
        let key = FixtureLog::with_entries(1).pem();
        repository.delegate(role, "rekor-key-v1", key).publish();
        let mut world = World::new(&repository);
        world.refresh().expect("honest");
        repository
            .delegate(role, "rekor-key-v2", second_key())
            .publish();
        world.serve(&repository.files);
        world.refresh().expect("honest");
        assert_eq!((world.keys(), world.version(role)), (2, 2), "{role}");
        world.serve(&Files::new());
        world.restart();
        assert_eq!((world.keys(), world.version(role)), (2, 2), "{role}");
        for set in ["meta", "lastgood"] {
            let file = format!("{}.json", role.replace('/', "%2F"));
            assert!(world.kept(set).join(&file).is_file(), "{set}/{file}");
        }
    }
}

#[test]
fn roots_and_keys_rotate_and_a_restart_still_begins_at_the_pinned_root() {
    let mut repository = honest();
    let mut world = World::new(&repository);
    world.refresh().expect("honest");
    for _ in 0..3 {
        repository
            .rotate()
            .list("rekor-key-v1", second_key())
            .publish();
    }
    world.serve(&repository.files);
    world.refresh().expect("rotated");
    assert_eq!(world.version("root"), 4);
    let trusted = world.tuf.keys_for(None, &[]).expect("a key");
    world.serve(&Files::new());
    world.restart();
    assert_eq!(world.version("root"), 4);
    assert_eq!(world.tuf.keys_for(None, &[]).expect("a key"), trusted);
}

#[test]
fn each_lie_has_its_own_word_and_changes_nothing() {
    type Lie = fn(&mut TufRepository);
    let lies: [(&str, &str, Lie); 17] = [
        ("an older version", "rollback", |it| {
            it.publish_as(1);
        }),
        ("a root of somebody else", "threshold", |it| {
            *it = it.rogue();
            it.list("rekor-key-v2", second_key()).publish();
        }),
        ("a root that skips a version", "bad_root", |it| {
            it.renew_root().renew_root().publish();
            let skipped = it.files["3.root.json"].clone();
            it.files.insert("2.root.json".to_owned(), skipped);
        }),
        ("keys of somebody else below the root", "threshold", |it| {
            let (root, mut rogue) = (it.files.clone(), it.rogue());
            rogue.list("rekor-key-v2", second_key()).publish();
            rogue.files.retain(|name, _| !name.ends_with("root.json"));
            it.files = root;
            it.files.append(&mut rogue.files);
        }),
        ("a target of other bytes", "integrity", |it| {
            it.list("rekor-key-v2", second_key()).publish();
            change(it, "rekor-key-v2", |bytes| bytes[40] ^= 1);
        }),
        ("a target that is cut", "length", |it| {
            it.list("rekor-key-v2", second_key()).publish();
            change(it, "rekor-key-v2", |bytes| bytes.truncate(bytes.len() - 1));
        }),
        ("a target that is longer", "length", |it| {
            it.list("rekor-key-v2", second_key()).publish();
            change(it, "rekor-key-v2", |bytes| bytes.push(b'\n'));
        }),
        ("a target that is not there", "missing", |it| {
            it.list("rekor-key-v2", second_key()).publish();
            it.files.retain(|name, _| !name.ends_with("rekor-key-v2"));
        }),
        ("the snapshot of another version", "mix_and_match", |it| {
            it.publish().publish();
            let other = it.files[&format!("{}.snapshot.json", it.version - 1)].clone();
            it.files
                .insert(format!("{}.snapshot.json", it.version), other);
        }),
        ("an older snapshot", "rollback", |it| {
            it.point("snapshot.json", 1).publish();
        }),
        ("older targets", "rollback", |it| {
            it.point("targets.json", 1).publish();
        }),
        ("the targets of another version", "mix_and_match", |it| {
            it.publish().publish();
            let other = it.files[&format!("{}.targets.json", it.version - 1)].clone();
            it.files
                .insert(format!("{}.targets.json", it.version), other);
        }),
        ("a snapshot of another length", "length", |it| {
            it.pin().publish();
            change(it, "snapshot.json", |bytes| bytes.push(b'\n'));
        }),
        ("a snapshot of other bytes", "integrity", |it| {
            it.pin().publish();
            change(it, "snapshot.json", |bytes| {
                let text = String::from_utf8_lossy(bytes);
                *bytes = text.replace("_type", "_typo").into_bytes();
            });
        }),
        ("metadata without an end", "too_large", |it| {
            it.files
                .insert("timestamp.json".to_owned(), vec![b' '; 16_385]);
        }),
        ("no metadata at all", "malformed", |it| {
            it.files
                .insert("timestamp.json".to_owned(), b"<html>".to_vec());
        }),
        ("nothing about logs", "no_targets", |it| {
            it.targets.clear();
            it.list("something", "else").publish();
        }),
    ];
    for (what, reason, lie) in lies {
        let mut repository = honest();
        repository.publish();
        let mut world = World::new(&repository);
        world.refresh().expect("honest");
        let (trusted, root) = (
            world.tuf.keys_for(None, &[]).expect("a key"),
            world.root.clone(),
        );
        lie(&mut repository);
        world.serve(&repository.files);
        let error = world.refresh().expect_err(what);
        assert_eq!(error.reason(), reason, "{what}: {error}");
        assert!(REASONS.contains(&reason));
        assert_eq!(
            world.tuf.keys_for(None, &[]).expect("a key"),
            trusted,
            "{what}"
        );
        // Nor after a restart, with the liar still there.
        world.root = root;
        world.restart();
        assert_eq!(
            world.tuf.keys_for(None, &[]).expect("a key"),
            trusted,
            "{what}"
        );
        assert!(world.refresh().is_err(), "{what}");
        assert_eq!(
            world.tuf.keys_for(None, &[]).expect("a key"),
            trusted,
            "{what}"
        );
    }
}

fn change(repository: &mut TufRepository, target: &str, change: impl Fn(&mut Vec<u8>)) {
    let name = format!(".{target}");
    let files = repository.files.iter_mut();
    for (_, bytes) in files.filter(|(file, _)| file.ends_with(&name)) {
        change(bytes);
    }
}

#[test]
fn a_target_is_read_up_to_its_limit_and_not_fetched_beyond() {
    // At the limit it is read, and is no key.
    for (more, reason) in [(0, "target"), (1, "too_large")] {
        let mut repository = honest();
        repository
            .list("rekor-key-v2", vec![b'k'; (1 << 20) + more])
            .publish();
        World::new(&repository).refused(reason);
    }
}

#[test]
fn what_a_snapshot_listed_is_the_floor_until_the_online_keys_change() {
    type Step = fn(&mut TufRepository);
    let steps: [(&str, Result<(), &str>, Step); 6] = [
        ("older targets", Err("rollback"), |it| {
            it.point("targets.json", 1).publish();
        }),
        // The timestamp of that one is stored, and pins a snapshot that nobody has.
        ("older targets again", Err("rollback"), |_| {}),
        ("older targets, higher", Err("rollback"), |it| {
            it.point("targets.json", 2).publish();
        }),
        ("what was trusted", Ok(()), |it| {
            it.point("targets.json", 3).publish();
        }),
        ("a snapshot that does not come", Err("missing"), |it| {
            it.publish();
            it.files.remove(&format!("{}.snapshot.json", it.version));
        }),
        ("older versions under other keys", Ok(()), |it| {
            it.rotate().publish_as(1);
        }),
    ];
    let mut repository = honest();
    repository.publish().publish();
    let world = World::new(&repository);
    world.refresh().expect("honest");
    assert_eq!(world.version("targets"), 3);
    for (what, want, step) in steps {
        step(&mut repository);
        world.serve(&repository.files);
        let refreshed = world.refresh().map_err(|error| error.reason());
        assert_eq!(refreshed, want, "{what}");
    }
    assert_eq!(world.version("targets"), 1);
}

#[test]
fn a_target_of_no_use_is_refused_by_its_name() {
    for (target, text, reason, says) in [
        (
            "sigstore-services-v1",
            r#"{"version": 2}"#,
            "map_version",
            "its version is 2",
        ),
        (
            "sigstore-services-v1.json",
            r#"{"version": 1, "rekor": {"url": "http://rekor.example"}}"#,
            "plain_http",
            "tuf.allow_http",
        ),
        (
            "monitor_config.json",
            r#"{"rekorLogs": [{"readUrl": "http://a.example", "logOrigin": "a"}]}"#,
            "plain_http",
            "`readUrl` is `http://a.example`",
        ),
        ("trusted_root.json", "{}", "target", "missing field"),
        (
            "signing_config.v0.2.json",
            "[]",
            "target",
            "signing_config.v0.2.json",
        ),
        ("rekor-key-v2", "key", "target", "not a verifier key"),
        ("rekor.pub", "", "target", "no key of a log"),
    ] {
        let mut repository = honest();
        let world = World::new(&repository);
        world.refresh().expect("honest");
        repository.list(target, text).publish();
        world.serve(&repository.files);
        let error = world.refresh().expect_err(target);
        assert_eq!(error.reason(), reason, "{target}: {error}");
        assert!(REASONS.contains(&reason));
        assert!(error.to_string().contains(says), "{target}: {error}");
        assert_eq!(world.keys(), 1, "{target}");
    }
}

#[test]
fn each_role_that_expires_ends_trust_at_that_time_and_grace_prolongs_it() {
    let day = Duration::from_secs(86_400);
    let hour = |hours: i64| Timestamp::now() + SignedDuration::from_hours(hours);
    for role in ["root", "timestamp", "snapshot", "targets", "log-keys"] {
        for grace in [Duration::ZERO, day] {
            let mut repository = TufRepository::new();
            let expires = hour(1);
            repository.expire(role, &expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            if role == "root" {
                repository.renew_root();
            }
            match role {
                "log-keys" => repository.delegate(role, "rekor-key-v1", second_key()),
                _ => repository.list("rekor-key-v1", second_key()),
            };
            repository.publish();
            let mut world = World::with_grace(&repository, grace);
            world.refresh().expect("not expired yet");
            assert_eq!(world.tuf.standing(hour(0)), Standing::Valid, "{role}");
            let after = match grace.is_zero() {
                true => Standing::Expired,
                false => Standing::InGrace,
            };
            assert_eq!(world.tuf.standing(hour(2)), after, "{role}");
            assert_eq!(world.tuf.standing(hour(26)), Standing::Expired, "{role}");
            let refreshed = world.refresh_at(hour(2)).map_err(|error| error.reason());
            match grace.is_zero() {
                true => assert_eq!(refreshed, Err("expired"), "{role}"),
                false => assert_eq!(refreshed, Ok(()), "{role}"),
            }
            let late = world.refresh_at(hour(26)).map_err(|error| error.reason());
            assert_eq!(late, Err("expired"), "{role}");
            assert_eq!(world.tuf.status_at(hour(2)).state, State::Stale, "{role}");
            // The keys are there after a restart at any time, for what was proven with them.
            world.restart();
            world.tuf.take_up(hour(26));
            assert_eq!(world.keys(), 1, "{role}");
            assert_eq!(world.tuf.standing(hour(26)), Standing::Expired, "{role}");
        }
    }
}

#[test]
fn a_repository_frozen_in_time_is_noticed_when_its_timestamp_expires() {
    let mut repository = honest();
    let now = Timestamp::now();
    let soon = now + 2.hours();
    repository
        .expire(
            "timestamp",
            &soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )
        .publish();
    let world = World::new(&repository);
    world.refresh().expect("honest");
    world
        .refresh_at(now + 1.hour())
        .expect("the same, and still good");
    let frozen = world
        .refresh_at(now + 3.hours())
        .expect_err("the same for too long");
    assert_eq!(frozen.reason(), "expired");
    assert_eq!(world.keys(), 1);
}

#[test]
fn a_clock_that_was_set_back_is_refused_and_makes_nothing_look_good_again() {
    let mut repository = honest();
    repository
        .expire("timestamp", "2020-01-02T00:00:00Z")
        .publish();
    let world = World::new(&repository);
    let back: Timestamp = "2020-01-01T00:00:00Z".parse().expect("a time");
    let error = world.refresh_at(back).expect_err("before the build");
    assert_eq!(error.reason(), "clock");
    assert_eq!(world.keys(), 0);
    world.refused("expired");

    let world = World::new(&honest());
    world.refresh().expect("honest");
    let refused = world.tuf.report(world.refresh_at(back));
    assert!(
        refused
            .expect_err("before the build")
            .contains("set the clock")
    );
    let counted = world.tuf.metrics.tuf_failures.with_label_values(&["clock"]);
    assert_eq!(counted.get(), 1);
    assert_eq!(world.keys(), 1, "the last good trust is kept");
    assert_eq!(world.tuf.status().state, State::Failed);
}

#[test]
fn half_of_a_new_version_on_the_disk_is_passed_over_for_the_whole_one_before_it() {
    let mut repository = honest();
    let mut world = World::new(&repository);
    world.refresh().expect("honest");
    // Everything but the target that was new.
    repository.list("rekor-key-v2", second_key()).publish();
    let mut half = repository.files.clone();
    half.retain(|name, _| !name.ends_with("rekor-key-v2"));
    world.serve(&half);
    world.refused("missing");
    assert_eq!(world.keys(), 1);
    world.serve(&Files::new());
    world.restart();
    assert_eq!(world.keys(), 1, "from lastgood");
    // The version that was seen is the floor all the same.
    let whole = repository.files.clone();
    repository.publish_as(1);
    world.serve(&repository.files);
    world.refused("rollback");
    world.serve(&whole);
    world.refresh().expect("whole now");
    assert_eq!(world.keys(), 2);
}

#[test]
fn damage_on_the_disk_is_noticed_and_healed_by_the_next_refresh() {
    let mut world = World::new(&honest());
    world.refresh().expect("honest");
    for damaged in ["meta", "lastgood"] {
        for file in [
            "timestamp.json",
            "snapshot.json",
            "targets.json",
            "targets/rekor-key-v1",
        ] {
            let path = world.kept(damaged).join(file);
            let bytes = fs::read(&path).expect("kept");
            fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
            world.restart();
            assert_eq!(world.keys(), 1, "{damaged}/{file}: the other set is whole");
            let counted = world
                .tuf
                .metrics
                .tuf_failures
                .with_label_values(&["not_whole"]);
            // Of the snapshot, `meta` has another copy.
            let whole = (damaged, file) == ("meta", "snapshot.json");
            assert_eq!(counted.get(), u64::from(!whole), "{damaged}/{file}");
            world.refresh().expect("honest");
            assert_eq!(fs::read(&path).expect("kept"), bytes, "{damaged}/{file}");
        }
    }
}

#[test]
fn a_cache_is_worth_nothing_under_another_root() {
    let mut world = World::new(&honest());
    world.refresh().expect("honest");
    world.root = honest().root();
    world.serve(&Files::new());
    world.restart();
    assert_eq!(
        world.keys(),
        0,
        "the root is pinned, not what the disk says it is"
    );
}

#[test]
fn a_disk_that_takes_nothing_costs_the_next_start_alone() {
    let world = World::new(&honest());
    fs::write(world.directory.path().join("tuf"), "not a directory").expect("written");
    world.refused("store");
    assert_eq!(world.keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_trust_is_one_processs_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = honest().root();
    let alone = |settings: TufSettings| {
        let metrics = Arc::new(Metrics::new().expect("registered"));
        Tuf::open_alone(settings, metrics, Duration::from_secs(9))
    };
    let of = |directory| settings(directory, &root, Duration::ZERO);
    let first = alone(of(directory.path())).await.expect("free");
    let refused = alone(of(directory.path())).await.expect_err("taken");
    assert!(matches!(
        refused.downcast_ref(),
        Some(LockError::Busy { .. })
    ));
    let mut reader = of(directory.path());
    reader.url = None;
    assert!(
        alone(reader).await.is_ok(),
        "who only reads waits for nobody"
    );
    drop(first);
    assert!(alone(of(directory.path())).await.is_ok());
    // Where nothing can be written, there is nothing to guard.
    let barred = tempfile::tempdir().expect("a directory");
    fs::write(barred.path().join("tuf"), "not a directory").expect("written");
    assert!(alone(of(barred.path())).await.is_ok());
}

#[test]
fn what_is_not_a_root_is_refused_at_the_start() {
    for (root, says) in [("{}", "not a TUF root"), ("", "not a TUF root")] {
        let error = Pinned::read(Some(&Source::Inline(root.to_owned())));
        let error = error.expect_err("no root").to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut root = honest().root();
    root = root.replacen("\"sig\":\"", "\"sig\":\"00", 2);
    assert!(load::check_root(&root).is_err(), "nobody signed it");
}

#[test]
fn the_shipped_root_and_logs_are_those_of_sigstores_own_client() {
    let theirs: serde_json::Value =
        serde_json::from_str(sigstore_trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT).expect("JSON");
    let ours: serde_json::Value = serde_json::from_slice(sigstore::TRUSTED_ROOT).expect("JSON");
    assert_eq!(
        ours, theirs,
        "copy the newer file to proxy/src/tuf/sigstore/"
    );
    let root = std::str::from_utf8(sigstore::ROOT).expect("JSON");
    load::check_root(root).expect("signed by itself");
}
