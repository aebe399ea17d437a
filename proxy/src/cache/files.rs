//! What is kept as one file each, for one log: entry bundles, checkpoints with their edge tiles,
//! and evidence.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;

use crate::{
    note::checkpoint::Checkpoint,
    tlog::{bundle::MAX_BUNDLE_BYTES, edge::edge_tiles, path::Bundle, tile::FULL_WIDTH},
};

/// Checkpoints kept; the newest is the one that counts, the others are for people.
const KEPT_CHECKPOINTS: usize = 4;

/// Contradictions kept. One proves that a log shows two histories; a log that signs a new one every
/// second must not fill the disk with them.
const MAX_EVIDENCE: usize = 64;

/// Suffix of a file that is still being written.
const TEMPORARY: &str = "tmp";

/// The directory of one log.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
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

    /// The narrowest stored bundle at `index` with at least `width` entries. Not proven.
    pub fn read_bundle(&self, wanted: Bundle) -> io::Result<Option<(Bundle, Bytes)>> {
        for width in self.stored_widths(wanted)? {
            let Some(bundle) = wanted.with_width(width) else {
                continue;
            };
            match read_at_most(&self.bundle_path(bundle), MAX_BUNDLE_BYTES) {
                Ok(bytes) => return Ok(Some((bundle, bytes))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Stores a bundle; its narrower ones go once it is full. Its name is not durable before the
    /// directory returned is synced.
    pub(super) fn write_bundle(&self, bundle: Bundle, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.bundle_path(bundle);
        write_and_rename(&path, bytes)?;
        for width in self.stored_widths_below(bundle)? {
            // Any narrower bundle is a prefix of this one.
            if let Some(narrower) = bundle.with_width(width) {
                fs::remove_file(self.bundle_path(narrower))?;
            }
        }
        Ok(path.parent().unwrap_or(&self.directory).to_owned())
    }

    /// Removes a bundle that turned out to be wrong.
    pub fn remove_bundle(&self, bundle: Bundle) -> io::Result<()> {
        fs::remove_file(self.bundle_path(bundle))
    }

    /// The stored checkpoints, largest first. Nothing about them is proven.
    pub fn read_checkpoints(&self) -> io::Result<Vec<StoredCheckpoint>> {
        let sizes = self.checkpoint_sizes()?;
        sizes
            .into_iter()
            .rev()
            .map(|size| self.read_checkpoint(size))
            .collect()
    }

    /// The checkpoint stored under this tree size. Nothing about it is proven, not even the size.
    pub fn read_checkpoint(&self, size: u64) -> io::Result<StoredCheckpoint> {
        let [note, edge] = self.checkpoint_paths(size);
        let stored_at = fs::metadata(&note)
            .and_then(|metadata| metadata.modified())
            .ok();
        let edge = match fs::read(edge) {
            // Not what a crash leaves; but the note is still the floor.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            edge => edge?,
        };
        Ok(StoredCheckpoint {
            note: fs::read(note)?.into(),
            edge: edge.into(),
            stored_at,
        })
    }

    /// Removes what is stored under this tree size and turned out to be no checkpoint.
    pub fn remove_checkpoint(&self, size: u64) -> io::Result<()> {
        let [note, edge] = self.checkpoint_paths(size);
        fs::remove_file(note)?;
        // A stray edge means nothing.
        let _ = fs::remove_file(edge);
        sync_directories(&self.checkpoint_directory(), &self.directory)
    }

    /// Stores a checkpoint. On return it survives a power loss, and so does everything it needs, if
    /// that was durable before.
    pub(super) fn write_checkpoint(
        &self,
        origin: &str,
        size: u64,
        stored: &StoredCheckpoint,
    ) -> io::Result<()> {
        let directory = self.checkpoint_directory();
        fs::create_dir_all(&directory)?;
        let origin_file = self.directory.join("origin");
        if !origin_file.exists() {
            write_and_rename(&origin_file, format!("{origin}\n").as_bytes())?;
        }
        let [note, edge] = self.checkpoint_paths(size);
        // The edge first: were we to crash in between, a stray edge means nothing, while a note
        // without its edge could not be served.
        write_and_rename(&edge, &stored.edge)?;
        write_and_rename(&note, &stored.note)?;
        sync_directories(&directory, &self.directory)?;
        let sizes = self.checkpoint_sizes()?;
        for old in sizes
            .iter()
            .rev()
            .skip(KEPT_CHECKPOINTS)
            .filter(|old| **old != size)
        {
            for path in self.checkpoint_paths(*old) {
                // Tidiness only: what cannot be removed now is removed next time.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Keeps two contradicting notes, named by the offered one. Durable on return.
    ///
    /// Returns where they are, or `None` if they are there already, or if there is evidence enough.
    pub fn write_evidence(&self, trusted: &[u8], offered: &[u8]) -> io::Result<Option<PathBuf>> {
        let digest = hex::encode(&crate::tlog::Hash::of(offered).0[..8]);
        let evidence = self.evidence_directory();
        let directory = evidence.join(digest);
        fs::create_dir_all(&evidence)?;
        let last = directory.join("offered.checkpoint");
        if last.exists() || fs::read_dir(&evidence)?.count() >= MAX_EVIDENCE {
            return Ok(None);
        }
        write_and_rename(&directory.join("trusted.checkpoint"), trusted)?;
        write_and_rename(&last, offered)?; // last: where it is, the other one is
        sync_directories(&directory, &self.directory)?;
        Ok(Some(directory))
    }

    fn bundle_path(&self, bundle: Bundle) -> PathBuf {
        // `tile/entries/…` on the wire is `entries/…` in the log's directory.
        let path = bundle.to_string();
        self.directory
            .join(path.strip_prefix("tile/").unwrap_or(&path))
    }

    fn partials_directory(&self, bundle: Bundle) -> PathBuf {
        let mut path = bundle.with_width(FULL_WIDTH).unwrap_or(bundle).to_string();
        path.push_str(".p");
        self.directory
            .join(path.strip_prefix("tile/").unwrap_or(&path))
    }

    /// Widths at least as large as the wanted one, narrowest first; the full one always among them.
    fn stored_widths(&self, wanted: Bundle) -> io::Result<Vec<u16>> {
        let mut widths = self.stored_partials(wanted)?;
        widths.retain(|width| *width >= wanted.width());
        widths.push(FULL_WIDTH);
        Ok(widths)
    }

    /// Widths of stored partial bundles at this index that are below this one's.
    fn stored_widths_below(&self, bundle: Bundle) -> io::Result<Vec<u16>> {
        let mut widths = self.stored_partials(bundle)?;
        widths.retain(|width| *width < bundle.width());
        Ok(widths)
    }

    /// Widths of the stored partial bundles at this index, ascending.
    fn stored_partials(&self, bundle: Bundle) -> io::Result<Vec<u16>> {
        let entries = match fs::read_dir(self.partials_directory(bundle)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut widths = Vec::new();
        for entry in entries {
            let width = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u16>().ok());
            widths.extend(width.filter(|width| (1..FULL_WIDTH).contains(width)));
        }
        widths.sort_unstable();
        Ok(widths)
    }

    /// Widths of the bundles stored at an index, ascending.
    pub fn bundle_widths(&self, index: u64) -> io::Result<Vec<u16>> {
        let Some(full) = Bundle::new(index, FULL_WIDTH) else {
            return Ok(Vec::new());
        };
        let mut widths = self.stored_partials(full)?;
        if self.bundle_path(full).try_exists()? {
            widths.push(FULL_WIDTH);
        }
        Ok(widths)
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
    if fs::metadata(path)?.len() > limit as u64 {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "larger than what it should be",
        ));
    }
    fs::read(path).map(Bytes::from)
}

/// Writes next to `path` and renames, so that readers see all of it or nothing, whatever happens.
pub(super) fn write_and_rename(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".");
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| {
        // Before the rename: a name must never point at bytes that a power loss can take back.
        file.sync_data()?;
        fs::rename(&temporary, path)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary); // leaves no rubbish on a full disk
        return Err(error);
    }
    Ok(())
}

/// Syncs `directory` and its ancestors up to and including `top`'s parent: a new file is only found
/// again if every name on the way to it is durable.
pub(super) fn sync_directories(directory: &Path, top: &Path) -> io::Result<()> {
    let end = top.parent().unwrap_or(top);
    for ancestor in directory.ancestors() {
        match File::open(ancestor) {
            Ok(directory) => directory.sync_all()?,
            // Removed since; that it is gone is up to the ones above.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if ancestor == end {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files::new(directory.path().join("log"));
        (directory, files)
    }

    fn bundle(width: u16) -> Bundle {
        Bundle::new(1_234_067, width).expect("in range")
    }

    #[test]
    fn the_narrowest_sufficient_bundle_is_read_and_the_widest_kept() {
        let (_directory, files) = files();
        assert!(files.read_bundle(bundle(1)).expect("readable").is_none());
        files.write_bundle(bundle(20), b"twenty").expect("written");
        files.write_bundle(bundle(10), b"ten").expect("written");
        for (wanted, want) in [
            (5, Some(10)),
            (10, Some(10)),
            (11, Some(20)),
            (21, None),
            (256, None),
        ] {
            let got = files.read_bundle(bundle(wanted)).expect("readable");
            assert_eq!(got.map(|(b, _)| b.width()), want, "width {wanted}");
        }
        files.write_bundle(bundle(256), b"all").expect("written");
        let (got, bytes) = files
            .read_bundle(bundle(5))
            .expect("readable")
            .expect("stored");
        assert_eq!((got.width(), bytes.as_ref()), (256, &b"all"[..]));
    }

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
