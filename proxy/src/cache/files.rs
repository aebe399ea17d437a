//! What is kept as one file each, for one log: checkpoints with their edge tiles, and evidence.
//! Entry bundles are in [`super::bundles`].

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use tracing::warn;

use super::disk::{create_directories, remove, sync_directories, write_and_rename};
use crate::{
    note::checkpoint::Checkpoint,
    tlog::{
        edge::edge_tiles,
        tile::{FULL_TILE_BYTES, MAX_LEVEL},
    },
};

/// Checkpoints kept; the newest is the one that counts, the others are for people.
const KEPT_CHECKPOINTS: usize = 4;

/// Contradictions kept. One proves that a log shows two histories; a log that signs a new one every
/// second must not fill the disk with them.
const MAX_EVIDENCE: usize = 64;

/// Longest note that is read back. Nobody configures `limits.checkpoint_bytes` beyond it.
const MAX_NOTE_BYTES: usize = 16 << 20;

/// Longest edge: a tile a level, none of them full.
const MAX_EDGE_BYTES: usize = (MAX_LEVEL as usize + 1) * FULL_TILE_BYTES;

/// The directory of one log.
#[derive(Clone, Debug)]
pub struct Files {
    pub(super) directory: PathBuf,
}

/// A checkpoint as it was stored; nothing in it is proven.
#[derive(Clone, Debug)]
pub struct StoredCheckpoint {
    /// The signed note, byte for byte.
    pub note: Bytes,
    /// Its edge tiles one after the other, from level 0 upwards; empty if they are not there.
    pub edge: Bytes,
    /// When it was stored; `None` before it is.
    pub stored_at: Option<SystemTime>,
}

impl StoredCheckpoint {
    /// Splits the edge into the tiles that a tree of this size has; `None` if the length is wrong.
    pub fn edge_of(&self, checkpoint: &Checkpoint) -> Option<Vec<Bytes>> {
        let mut rest = self.edge.clone();
        let tiles = edge_tiles(checkpoint.size)
            .into_iter()
            .map(|tile| (rest.len() >= tile.bytes()).then(|| rest.split_to(tile.bytes())))
            .collect();
        if rest.is_empty() { tiles } else { None }
    }
}

impl Files {
    /// The files below a log's directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The stored checkpoints, largest first. Nothing about them is proven.
    pub fn read_checkpoints(&self) -> io::Result<Vec<StoredCheckpoint>> {
        let sizes = self.checkpoint_sizes()?;
        Ok(sizes
            .into_iter()
            .rev()
            .map(|size| self.read_checkpoint(size))
            .collect())
    }

    /// The checkpoint that is stored under a size. What cannot be read comes back empty: that it
    /// is there counts, even if nothing else does.
    pub fn read_checkpoint(&self, size: u64) -> StoredCheckpoint {
        let [note, edge] = self.checkpoint_paths(size);
        let stored_at = fs::metadata(&note)
            .and_then(|metadata| metadata.modified())
            .ok();
        let read = |path: &Path, limit| {
            read_at_most(path, limit).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "part of a stored checkpoint is not readable");
                Bytes::new()
            })
        };
        StoredCheckpoint {
            note: read(&note, MAX_NOTE_BYTES),
            edge: read(&edge, MAX_EDGE_BYTES),
            stored_at,
        }
    }

    /// Removes what is stored under this tree size and turned out to be no checkpoint.
    pub fn remove_checkpoint(&self, size: u64) -> io::Result<()> {
        let [note, edge] = self.checkpoint_paths(size);
        remove(&note)?;
        // A stray edge means nothing.
        let _ = remove(&edge);
        sync_directories(&self.checkpoint_directory(), &self.directory)
    }

    /// Stores a checkpoint. On return it survives a power loss, and so does everything it needs, if
    /// that was durable before. Returns by how many bytes more the disk is used.
    pub(super) fn write_checkpoint(
        &self,
        origin: &str,
        size: u64,
        stored: &StoredCheckpoint,
    ) -> io::Result<i64> {
        let directory = self.checkpoint_directory();
        create_directories(&directory)?;
        let origin_file = self.directory.join("origin");
        let mut change = 0;
        if !origin_file.exists() {
            change += write_and_rename(&origin_file, format!("{origin}\n").as_bytes())?;
        }
        let [note, edge] = self.checkpoint_paths(size);
        // The edge first, name included: were the power to go in between, a stray edge means
        // nothing, while a note without its edge could not be served, and nothing older could be
        // either. Two renames need not become durable in their order.
        change += write_and_rename(&edge, &stored.edge)?;
        sync_directories(&directory, &self.directory)?;
        change += write_and_rename(&note, &stored.note)?;
        sync_directories(&directory, &directory)?;
        let sizes = self.checkpoint_sizes()?;
        for old in sizes
            .iter()
            .rev()
            .skip(KEPT_CHECKPOINTS)
            .filter(|old| **old != size)
        {
            for path in self.checkpoint_paths(*old) {
                // Tidiness only: what cannot be removed now is removed next time.
                change -= remove(&path).unwrap_or_default().cast_signed();
            }
        }
        Ok(change)
    }

    /// Keeps two contradicting notes, named by the offered one. Durable on return.
    ///
    /// Returns where they are, or `None` if they are there already, or if there is evidence enough.
    pub fn write_evidence(&self, trusted: &[u8], offered: &[u8]) -> io::Result<Option<PathBuf>> {
        let digest = hex::encode(&crate::tlog::Hash::of(offered).0[..8]);
        let evidence = self.evidence_directory();
        let directory = evidence.join(digest);
        create_directories(&evidence)?;
        let last = directory.join("offered.checkpoint");
        if last.exists() || fs::read_dir(&evidence)?.count() >= MAX_EVIDENCE {
            return Ok(None);
        }
        write_and_rename(&directory.join("trusted.checkpoint"), trusted)?;
        // Its name before the other one's: where the offered note is, the trusted one is.
        sync_directories(&directory, &self.directory)?;
        write_and_rename(&last, offered)?;
        sync_directories(&directory, &self.directory)?;
        Ok(Some(directory))
    }

    /// Where the bundles are.
    pub(super) fn entries_directory(&self) -> PathBuf {
        self.directory.join("entries")
    }

    /// Where contradictions are kept.
    pub(super) fn evidence_directory(&self) -> PathBuf {
        self.directory.join("evidence")
    }

    fn checkpoint_directory(&self) -> PathBuf {
        self.directory.join("checkpoints")
    }

    fn checkpoint_paths(&self, size: u64) -> [PathBuf; 2] {
        ["checkpoint", "edge"]
            .map(|kind| self.checkpoint_directory().join(format!("{size}.{kind}")))
    }

    /// Sizes for which a note is stored, ascending.
    pub fn checkpoint_sizes(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(self.checkpoint_directory()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut sizes = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let size = name
                .to_str()
                .and_then(|name| name.strip_suffix(".checkpoint")?.parse::<u64>().ok());
            sizes.extend(size);
        }
        sizes.sort_unstable();
        Ok(sizes)
    }
}

/// Reads a file that must not be larger than `limit` bytes.
pub(super) fn read_at_most(path: &Path, limit: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    // One more than allowed, so that what is too long shows.
    let read = File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)?;
    if read > limit {
        let message = format!("larger than {limit} bytes, which nothing stored here is");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(bytes.into())
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The files of a log that has none yet.
    pub(in crate::cache) fn files() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files::new(directory.path().join("log"));
        (directory, files)
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::files, *};

    #[test]
    fn checkpoints_come_back_largest_first_and_old_ones_go() {
        let (directory, files) = files();
        for size in [9, 10, 100, 101, 99, 1_000] {
            let stored = StoredCheckpoint {
                note: Bytes::from(size.to_string()),
                edge: Bytes::from_static(b"e"),
                stored_at: None,
            };
            files
                .write_checkpoint("rome.example/2026h1", size, &stored)
                .expect("written");
        }
        let notes: Vec<Bytes> = files
            .read_checkpoints()
            .expect("readable")
            .into_iter()
            .map(|c| c.note)
            .collect();
        assert_eq!(notes, ["1000", "101", "100", "99"]);
        let origin = fs::read_to_string(directory.path().join("log/origin")).expect("readable");
        assert_eq!(origin, "rome.example/2026h1\n");
    }

    #[test]
    fn evidence_is_kept_once_and_not_without_limit() {
        let (directory, files) = files();
        let keep = |i: usize| files.write_evidence(b"trusted", i.to_string().as_bytes());
        assert!(keep(0).expect("written").is_some());
        assert!(keep(0).expect("readable").is_none());
        for i in 1..MAX_EVIDENCE {
            assert!(keep(i).expect("written").is_some(), "evidence {i}");
        }
        assert!(keep(MAX_EVIDENCE).expect("readable").is_none());
        let kept = fs::read_dir(directory.path().join("log/evidence"))
            .expect("readable")
            .count();
        assert_eq!(kept, MAX_EVIDENCE);
    }

    #[test]
    fn a_note_without_its_edge_comes_back_without_it() {
        let (directory, files) = files();
        for size in [1, 2] {
            let stored = StoredCheckpoint {
                note: vec![size].into(),
                edge: Bytes::from_static(b"edge"),
                stored_at: None,
            };
            files
                .write_checkpoint("rome", u64::from(size), &stored)
                .expect("written");
        }
        fs::remove_file(directory.path().join("log/checkpoints/2.edge")).expect("there");
        let stored = files.read_checkpoints().expect("readable");
        let edges: Vec<usize> = stored.iter().map(|stored| stored.edge.len()).collect();
        assert_eq!(edges, [0, 4], "largest first");
    }
}
