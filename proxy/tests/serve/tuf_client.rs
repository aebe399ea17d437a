//! `tile-proxy tuf-client` with the command line of tuf-conformance, and cases like those that it
//! tests: what ends up on the disk is what was served, byte for byte, or what was there before.

use std::{fs, path::PathBuf};

use crate::world::{Outcome, TufRepository, TufServer, tile_proxy};

/// A repository, and a client's directories.
struct World {
    repository: TufRepository,
    server: TufServer,
    directory: tempfile::TempDir,
}

impl World {
    /// After `init`, with a repository that has published once.
    fn new(mut repository: TufRepository) -> Self {
        repository.publish();
        let world = Self {
            server: TufServer::serving(&repository.files),
            repository,
            directory: tempfile::tempdir().expect("a directory"),
        };
        let root = world.directory.path().join("trusted.json");
        fs::write(&root, world.repository.root()).expect("written");
        let initialised = world.client(&["init", &root.display().to_string()]);
        assert_eq!(initialised.code, Some(0), "{initialised:?}");
        assert_eq!(
            world.server.requests("timestamp.json"),
            0,
            "`init` asks nobody"
        );
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self, arguments: &[&str]) -> Outcome {
        let metadata = self.path("metadata").display().to_string();
        let all = ["tuf-client", "--metadata-dir", &metadata]
            .into_iter()
            .chain(arguments.iter().copied());
        tile_proxy(all.map(str::to_owned))
    }

    fn refresh(&self) -> Option<i32> {
        let refreshed = self.client(&["--metadata-url", &self.server.url(), "refresh"]);
        assert!(
            refreshed.code != Some(1) || !refreshed.stderr.is_empty(),
            "it says why"
        );
        refreshed.code
    }

    fn download(&self, name: &str) -> Outcome {
        let (url, targets) = (self.server.url(), format!("{}targets/", self.server.url()));
        let into = self.path("targets").display().to_string();
        self.client(&[
            "--metadata-url",
            &url,
            "--target-name",
            name,
            "--target-base-url",
            &targets,
            "--target-dir",
            &into,
            "download",
        ])
    }

    fn serve(&self) {
        self.server.becomes(&self.repository.files);
    }

    /// Names of the files that are trusted.
    fn trusted(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("metadata")).expect("there");
        let mut names: Vec<String> = names
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    fn trusted_file(&self, name: &str) -> Vec<u8> {
        fs::read(self.path("metadata").join(name)).expect("trusted")
    }
}

#[test]
fn metadata_is_kept_byte_for_byte_under_names_without_versions() {
    for repository in [TufRepository::new(), TufRepository::unversioned()] {
        let mut world = World::new(repository);
        assert_eq!(world.trusted(), ["root.json"]);
        for rotate in [false, true, true] {
            if rotate {
                world.repository.rotate();
            }
            world.repository.publish();
            world.serve();
            assert_eq!(world.refresh(), Some(0));
            assert_eq!(
                world.trusted(),
                [
                    "root.json",
                    "snapshot.json",
                    "targets.json",
                    "timestamp.json"
                ]
            );
            let files = &world.repository.files;
            let prefix = match world.repository.consistent {
                true => format!("{}.", world.repository.version),
                false => String::new(),
            };
            let newest = (1..)
                .take_while(|n| files.contains_key(&format!("{n}.root.json")))
                .last();
            for (kept, served) in [
                ("root.json", format!("{}.root.json", newest.expect("one"))),
                ("timestamp.json", "timestamp.json".to_owned()),
                ("snapshot.json", format!("{prefix}snapshot.json")),
                ("targets.json", format!("{prefix}targets.json")),
            ] {
                assert_eq!(world.trusted_file(kept), files[&served], "{kept}");
            }
        }
    }
}

#[test]
fn what_is_refused_leaves_the_trusted_files_as_they_were() {
    type Lie = fn(&mut TufRepository);
    let lies: [(&str, Lie); 6] = [
        ("an older version", |it| {
            it.publish_as(1);
        }),
        ("somebody else's root", |it| {
            *it = it.rogue();
            it.publish();
        }),
        ("an expired timestamp", |it| {
            it.expire("timestamp", "2020-01-01T00:00:00Z").publish();
        }),
        ("an expired root", |it| {
            it.expire("root", "2020-01-01T00:00:00Z")
                .renew_root()
                .publish();
        }),
        ("a timestamp that is not signed", |it| {
            let text = String::from_utf8(it.files["timestamp.json"].clone()).expect("JSON");
            let text = text.replacen("\"version\":2", "\"version\":3", 1);
            it.files
                .insert("timestamp.json".to_owned(), text.into_bytes());
        }),
        ("no timestamp", |it| {
            it.files.remove("timestamp.json");
        }),
    ];
    for (what, lie) in lies {
        let mut world = World::new(TufRepository::new());
        world.repository.publish();
        world.serve();
        assert_eq!(world.refresh(), Some(0), "{what}");
        let before = world.trusted_file("timestamp.json");
        lie(&mut world.repository);
        world.serve();
        assert_eq!(world.refresh(), Some(1), "{what}");
        assert_eq!(world.trusted_file("timestamp.json"), before, "{what}");
    }
}

#[test]
fn targets_are_fetched_once_and_only_if_they_are_what_is_listed() {
    let mut repository = TufRepository::new();
    repository
        .list("dir/key with space", "bytes")
        .list("tampered", "bytes");
    let world = World::new(repository);
    let downloaded = world.download("dir/key with space");
    assert_eq!(downloaded.code, Some(0), "{downloaded:?}");
    let file = world.path("targets/dir/key with space");
    assert_eq!(fs::read(&file).expect("there"), b"bytes");
    let served = world
        .repository
        .files
        .keys()
        .find(|name| name.ends_with("key with space"));
    let served = served.expect("served").replace(' ', "%20");
    let asked = world.server.requests(&served);
    assert_eq!(world.download("dir/key with space").code, Some(0));
    assert_eq!(world.server.requests(&served), asked, "it was there");
    fs::write(&file, b"bite!").expect("written");
    assert_eq!(world.download("dir/key with space").code, Some(0));
    assert_eq!(fs::read(&file).expect("there"), b"bytes", "and is repaired");

    let mut files = world.repository.files.clone();
    let tampered = files
        .keys()
        .find(|name| name.ends_with("tampered"))
        .cloned();
    files.insert(tampered.expect("served"), b"bites".to_vec());
    world.server.becomes(&files);
    assert_eq!(world.download("tampered").code, Some(1));
    assert!(!world.path("targets/tampered").exists());
    let unlisted = world.download("nobody-lists-this");
    assert_eq!(unlisted.code, Some(1));
    assert!(unlisted.stderr.contains("no role lists"), "{unlisted:?}");
}

#[test]
fn a_root_that_is_none_is_not_trusted() {
    let directory = tempfile::tempdir().expect("a directory");
    let (root, metadata) = (
        directory.path().join("root.json"),
        directory.path().join("metadata"),
    );
    fs::write(&root, "{}").expect("written");
    let arguments = [
        "tuf-client",
        "--metadata-dir",
        &metadata.display().to_string(),
        "init",
        &root.display().to_string(),
    ]
    .map(str::to_owned);
    assert_eq!(tile_proxy(arguments).code, Some(1));
    assert!(!metadata.join("root.json").exists());
}
