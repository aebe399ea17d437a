//! What is kept of a TUF repository on the disk, so that a restart needs nobody.
//!
//! - `meta/`: each verified file as soon as it was verified. No file in it is newer than what was
//!   seen, so its versions are floors against rollback; but as a whole it may be half of a new
//!   version, whose targets could not be fetched any more.
//! - `lastgood/`: all files of one refresh that succeeded to its end, exchanged as a whole.
//!
//! Nothing in either is believed: what is read is verified again from the pinned root.
//!
//! A crash leaves `lastgood` whole, at each step of [`Store::promote`]: the new directory is complete
//! and durable before the old one gets out of its way, and until then the old one is found under one
//! of two names.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sigstore_tuf::{Error, MetadataStore};

use super::{floor::is_snapshot, repository::is_plain};
use crate::cache::disk::{sync_directories, write_and_rename};

/// Most bytes of one stored file: as many as targets metadata may have.
const MAX_FILE_BYTES: u64 = 5_000_000;

/// Most files read from a directory: a root a version, and a handful of others.
const MAX_FILES: usize = 4_096;

/// Versioned roots, from the pinned one on, each signed by the keys of the one before.
const ROOT_HISTORY: &str = "root_history";

/// Verified targets, below their paths.
pub(super) const TARGETS: &str = "targets";

/// The only role that is stored with its version before the name as well.
pub(super) const SNAPSHOT: &str = "snapshot.json";

/// The names of the set that counts: while it is written, when it is whole, and while it makes room
/// for the next.
const NEW: &str = "lastgood.tmp";
const LAST_GOOD: &str = "lastgood";
const OLD: &str = "lastgood.old";

/// The directory of trust: `tuf/` below the cache, unless it is elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

/// Stored files by name, in memory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Files(pub(super) BTreeMap<String, Vec<u8>>);

impl Store {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where verified files are written to as they come.
    pub(super) fn meta(&self) -> Arc<Meta> {
        Self::flat(self.directory.join("meta"))
    }

    /// A directory of verified files and nothing else, as other clients have one.
    pub(super) fn flat(directory: PathBuf) -> Arc<Meta> {
        Arc::new(Meta {
            directory,
            failure: Mutex::default(),
        })
    }

    /// All that is in `meta/`; empty if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read_meta(&self) -> io::Result<Files> {
        Files::read(&self.directory.join("meta")).map(Option::unwrap_or_default)
    }

    /// The last set that was whole; `None` if there was none yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn last_good(&self) -> io::Result<Option<Files>> {
        match Files::read(&self.directory.join(LAST_GOOD))? {
            None => Files::read(&self.directory.join(OLD)),
            found => Ok(found),
        }
    }

    /// Makes `files` the last good set. On return, it is durable. Writes nothing if it is already.
    ///
    /// # Errors
    /// When it cannot be written; the set before stays.
    pub(super) fn promote(&self, files: &Files) -> io::Result<()> {
        self.promote_with(files, || Ok(()))
    }

    /// As [`Store::promote`], with something to do between any two steps, which may fail.
    fn promote_with(
        &self,
        files: &Files,
        mut between: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let at = |name| self.directory.join(name);
        let (new, good, old) = (at(NEW), at(LAST_GOOD), at(OLD));
        if Files::read(&good)?.as_ref() == Some(files) {
            return Ok(());
        }
        remove_directory(&new)?; // what a crash left half written
        between()?;
        for (name, bytes) in &files.0 {
            let path = new.join(name);
            write_and_rename(&path, bytes)?;
            between()?;
            // Its name, and those of the directories it is in, which may be new as well.
            sync_directories(path.parent().unwrap_or(&new), &new)?;
        }
        between()?;
        if good.exists() {
            // One that is left there is older than `good`, which is whole.
            remove_directory(&old)?;
            between()?;
            fs::rename(&good, &old)?;
            between()?;
        }
        // From here on, whether or not this rename happens: `old` is found until `good` is there.
        fs::rename(&new, &good)?;
        between()?;
        File::open(&self.directory)?.sync_all()?;
        between()?;
        remove_directory(&old)
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

impl Files {
    /// The files in a directory of ours; `None` if there is no such directory.
    fn read(directory: &Path) -> io::Result<Option<Self>> {
        let mut files = Self::default();
        match files.add(directory, "") {
            Ok(()) => Ok(Some(files)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add(&mut self, directory: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue; // none of ours
            };
            let name = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add(&entry.path(), &format!("{name}/"))?;
            } else if kind.is_file() && !name.ends_with(".tmp") {
                if self.0.len() >= MAX_FILES {
                    return Err(io::Error::other(format!(
                        "more than {MAX_FILES} files in it"
                    )));
                }
                // Too large is none of ours, either.
                if let Some(bytes) = read(&entry.path())? {
                    self.0.insert(name, bytes);
                }
            }
        }
        Ok(())
    }

    /// What of them one successful refresh needs: all metadata and these targets, without what former
    /// versions left there.
    pub(super) fn needed(mut self, targets: &[String]) -> Self {
        self.0.retain(|name, _| match name.split_once('/') {
            Some((TARGETS, path)) => targets.iter().any(|target| target == path),
            Some((ROOT_HISTORY, _)) => true,
            Some(_) => false,
            // `165.snapshot.json` is `snapshot.json` as well.
            None => name.ends_with(".json") && (name == SNAPSHOT || !is_snapshot(name)),
        });
        self
    }
}

/// Reads only: what is verified from them is there already.
impl MetadataStore for Files {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        // A role is asked for by its version where the repository has versions in names, and stored
        // without. Which version it is stands in it, and is held against the snapshot. A root's next
        // version is another file.
        let unversioned = || {
            let (version, rest) = name.split_once('.')?;
            let is_version = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
            let rest = Some(rest).filter(|rest| is_version && *rest != "root.json");
            self.0.get(rest?)
        };
        Ok(self.0.get(name).or_else(unversioned).cloned())
    }

    fn store(&self, _name: &str, _bytes: &[u8]) -> sigstore_tuf::Result<()> {
        Ok(())
    }
}

/// `meta/`: the client writes each file here once it has verified it, and takes its version floors
/// from here.
#[derive(Debug)]
pub(super) struct Meta {
    directory: PathBuf,
    /// Why the last write failed: the client goes on without, and does not say.
    failure: Mutex<Option<String>>,
}

impl Meta {
    /// Why something was not written, if it was not.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn path(&self, name: &str) -> sigstore_tuf::Result<PathBuf> {
        match is_plain(name) {
            true => Ok(self.directory.join(name)),
            false => Err(Error::Malformed(format!("`{name}` is no name of a file"))),
        }
    }
}

impl MetadataStore for Meta {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        match read(&self.path(name)?) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("cannot read {name}"), error)),
        }
    }

    fn store(&self, name: &str, bytes: &[u8]) -> sigstore_tuf::Result<()> {
        let path = self.path(name)?;
        if matches!(read(&path), Ok(Some(stored)) if stored == bytes) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.directory);
        // The floor must not be forgotten once anything above it was believed.
        let written =
            write_and_rename(&path, bytes).and_then(|_| sync_directories(parent, &self.directory));
        written.map_err(|error| {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            *failure = Some(format!("cannot write {}: {error}", path.display()));
            Error::io(format!("cannot write {name}"), error)
        })
    }
}

/// The content of a file; `None` if it is larger than any of ours.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<const N: usize>(files: [(&str, &str); N]) -> Files {
        let owned = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        Files(owned.into())
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_set_or_the_new_one_and_both_whole() {
        let old = files([
            ("root.json", "1"),
            ("targets/dir/key", "old"),
            ("targets/gone", "x"),
        ]);
        let new = files([("root.json", "2"), ("targets/dir/key", "new")]);
        let mut steps = 0;
        for crash_after in 0.. {
            let directory = tempfile::tempdir().expect("a directory");
            let store = Store::new(directory.path().to_owned());
            store.promote(&old).expect("written");
            let mut left = crash_after;
            let promoted = store.promote_with(&new, || match left {
                0 => Err(io::Error::other("crash")),
                _ => {
                    left -= 1;
                    Ok(())
                }
            });
            let found = store.last_good().expect("readable").expect("there");
            assert!(
                found == old || found == new,
                "after step {crash_after}: {found:?}"
            );
            // The next process ends what this one began.
            store.promote(&new).expect("written");
            assert_eq!(store.last_good().expect("readable"), Some(new.clone()));
            assert!(!directory.path().join(NEW).exists());
            if promoted.is_ok() {
                steps = crash_after;
                break;
            }
        }
        assert_eq!(steps, 8, "each step was the last one once");
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::new(directory.path().to_owned());
        assert_eq!(store.last_good().expect("readable"), None);
        let set = files([("root.json", "1")]);
        store.promote(&set).expect("written");
        let again = store.promote_with(&set, || Err(io::Error::other("touched")));
        assert!(again.is_ok(), "{again:?}");
    }

    #[test]
    fn one_refresh_needs_neither_old_versions_nor_other_targets() {
        let all = files([
            ("root.json", ""),
            ("root_history/2.root.json", ""),
            ("2026.json", ""), // delegated roles
            ("7.keys.json", ""),
            ("7.snapshot.json", ""),
            ("snapshot.json", ""),
            ("targets/trusted_root.json", ""),
            ("targets/old", ""),
            ("else/where.json", ""),
        ]);
        let needed = all.needed(&["trusted_root.json".to_owned()]);
        let names: Vec<&str> = needed.0.keys().map(String::as_str).collect();
        let want = [
            "2026.json",
            "7.keys.json",
            "root.json",
            "root_history/2.root.json",
            "snapshot.json",
            "targets/trusted_root.json",
        ];
        assert_eq!(names, want);
    }

    #[test]
    fn a_role_is_found_with_its_version_and_a_root_is_not() {
        let files = files([("keys.json", "k"), ("7.odd.json", "o"), ("root.json", "r")]);
        for (name, want) in [
            ("keys.json", Some("k")),
            ("3.keys.json", Some("k")),
            ("7.odd.json", Some("o")),
            ("3.7.odd.json", Some("o")),
            ("root.json", Some("r")),
            ("3.root.json", None),
            (".keys.json", None),
            ("v3.keys.json", None),
        ] {
            let found = files.load(name).expect("in memory");
            assert_eq!(found.as_deref(), want.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn a_file_is_stored_below_the_directory_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let meta = Store::new(directory.path().to_owned()).meta();
        meta.store("root_history/1.root.json", b"root")
            .expect("written");
        let stored = meta.load("root_history/1.root.json").expect("readable");
        assert_eq!(stored.as_deref(), Some(&b"root"[..]));
        assert!(meta.store("../outside", b"x").is_err());
        assert!(meta.load("../outside").is_err());
        assert_eq!(meta.failure(), None);
        std::fs::create_dir(directory.path().join("meta/taken")).expect("made");
        assert!(meta.store("taken", b"x").is_err());
        assert!(
            meta.failure()
                .is_some_and(|failure| failure.contains("meta/taken"))
        );
    }

    #[test]
    fn a_file_larger_than_any_of_ours_is_none_of_ours() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("targets.json");
        for (bytes, there) in [(MAX_FILE_BYTES, true), (MAX_FILE_BYTES + 1, false)] {
            let bytes = usize::try_from(bytes).expect("a size");
            std::fs::write(&file, vec![b' '; bytes]).expect("written");
            let files = Files::read(directory.path())
                .expect("readable")
                .expect("there");
            assert_eq!(files.0.contains_key("targets.json"), there);
        }
    }
}
