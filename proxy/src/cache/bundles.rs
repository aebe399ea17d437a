//! Entry bundles, one file each: `entries/x001/x234/067[.p/W]`, with `.zst` where it is compressed.
//!
//! A bundle is compressed at rest if that saves a block, which JSON and certificates do by half and
//! random bytes never. The name tells and not the first bytes: a bundle may begin with anything. A
//! file without the suffix is read as it is, whoever wrote it.

use std::{
    fs,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{
    disk::{self, sync_directories, write_and_rename},
    files::{Files, read_at_most},
};
use crate::tlog::{
    bundle::MAX_BUNDLE_BYTES,
    path::{Bundle, Resource, parse},
    tile::FULL_WIDTH,
};

/// Suffix of a compressed bundle.
pub(super) const COMPRESSED: &str = ".zst";

/// What a bundle takes on a disk is a multiple of this, on almost every file system.
const BLOCK_BYTES: usize = 4_096;

/// Effort of compression, 1 to 22; 3 is the library's own choice, some 100 MB a second.
const LEVEL: i32 = 3;

/// Log2 of the largest window that is decompressed with: 16 MiB, as much as the largest bundle.
const MAX_WINDOW_LOG: u32 = 24;

/// How exactly the last use of a bundle is noted. A write an hour for what is read all the time.
const USED_WITHIN: Duration = Duration::from_secs(60 * 60);

/// What storing a bundle did.
pub(super) struct WrittenBundle {
    /// Its name is durable once this directory is synced.
    pub(super) directory: PathBuf,
    /// By how many bytes more the disk is used.
    pub(super) change: i64,
}

impl Files {
    /// The narrowest stored bundle at this index with at least as many entries. Not proven.
    pub fn read_bundle(&self, wanted: Bundle) -> io::Result<Option<(Bundle, Bytes)>> {
        let mut widths = self.stored_partials(wanted)?;
        widths.retain(|width| *width >= wanted.width());
        widths.push(FULL_WIDTH);
        for bundle in widths
            .into_iter()
            .filter_map(|width| wanted.with_width(width))
        {
            for (path, compressed) in self.bundle_paths(bundle) {
                match read_at_most(&path, MAX_BUNDLE_BYTES) {
                    Ok(bytes) => {
                        note_use(&path);
                        let bytes = if compressed {
                            decompress(&bytes)?
                        } else {
                            bytes
                        };
                        return Ok(Some((bundle, bytes)));
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    /// Stores a bundle; its narrower ones go, since each is its beginning.
    pub(super) fn write_bundle(&self, bundle: Bundle, bytes: &[u8]) -> io::Result<WrittenBundle> {
        let [(zstd, _), (plain, _)] = self.bundle_paths(bundle);
        // Its bytes are durable before it has its name.
        let (path, other, mut change) = match compressed(bytes)? {
            Some(small) => {
                let change = write_and_rename(&zstd, &small)?;
                (zstd, plain, change)
            }
            None => {
                let change = write_and_rename(&plain, bytes)?;
                (plain, zstd, change)
            }
        };
        let directory = path.parent().unwrap_or(&self.directory).to_owned();
        let mut widths = self.stored_partials(bundle)?;
        widths.retain(|width| *width < bundle.width());
        if !widths.is_empty() || other.try_exists()? {
            // Its name before the others go: what was durable must not be lost for what is not yet.
            sync_directories(&directory, &self.directory)?;
        }
        change -= removed(&other)?.cast_signed();
        for narrower in widths
            .into_iter()
            .filter_map(|width| bundle.with_width(width))
        {
            change -= self.remove_bundle(narrower)?.cast_signed();
        }
        Ok(WrittenBundle { directory, change })
    }

    /// Removes a bundle, and its directories if they are empty then. Returns the bytes it took.
    pub fn remove_bundle(&self, bundle: Bundle) -> io::Result<u64> {
        let mut bytes = 0;
        let entries = self.entries_directory();
        for (path, _) in self.bundle_paths(bundle) {
            bytes += removed(&path)?;
            let above = path
                .ancestors()
                .skip(1)
                .take_while(|above| *above != entries);
            for directory in above {
                if disk::remove_empty_directory(directory).is_err() {
                    break; // something else is in it
                }
            }
        }
        Ok(bytes)
    }

    /// Widths of the bundles stored at an index, ascending.
    pub fn bundle_widths(&self, index: u64) -> io::Result<Vec<u16>> {
        let Some(full) = Bundle::new(index, FULL_WIDTH) else {
            return Ok(Vec::new());
        };
        let mut widths = self.stored_partials(full)?;
        for (path, _) in self.bundle_paths(full) {
            if path.try_exists()? {
                widths.push(FULL_WIDTH);
                break;
            }
        }
        Ok(widths)
    }

    /// When a stored bundle was last used, as far as that is noted; `None` if it is not stored.
    pub(super) fn bundle_used(&self, bundle: Bundle) -> Option<SystemTime> {
        let paths = self.bundle_paths(bundle);
        let times = paths.iter().map(|(path, _)| fs::metadata(path)?.modified());
        times.flat_map(Result::ok).max()
    }

    /// The bundle that a file is, by its path below the log's directory; `None` for anything else.
    pub(super) fn bundle_of(&self, path: &Path) -> Option<Bundle> {
        let name = path.strip_prefix(&self.directory).ok()?.to_str()?;
        let name = name.strip_suffix(COMPRESSED).unwrap_or(name);
        match parse(&format!("tile/{name}")) {
            Ok(Resource::Bundle(bundle)) => Some(bundle),
            Ok(Resource::Tile(_)) | Err(_) => None,
        }
    }

    /// Where a bundle may be, and whether it is compressed there.
    fn bundle_paths(&self, bundle: Bundle) -> [(PathBuf, bool); 2] {
        // `tile/entries/…` on the wire is `entries/…` in the log's directory.
        let name = bundle.to_string();
        let name = name.strip_prefix("tile/").unwrap_or(&name);
        [
            (self.directory.join(format!("{name}{COMPRESSED}")), true),
            (self.directory.join(name), false),
        ]
    }

    /// Widths of the stored partial bundles at this index, ascending.
    fn stored_partials(&self, bundle: Bundle) -> io::Result<Vec<u16>> {
        let full = bundle.with_width(FULL_WIDTH).unwrap_or(bundle).to_string();
        let full = full.strip_prefix("tile/").unwrap_or(&full);
        let entries = match fs::read_dir(self.directory.join(format!("{full}.p"))) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut widths = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let width = name.to_str().and_then(|name| {
                let name = name.strip_suffix(COMPRESSED).unwrap_or(name);
                name.parse::<u16>().ok()
            });
            widths.extend(width.filter(|width| (1..FULL_WIDTH).contains(width)));
        }
        widths.sort_unstable();
        widths.dedup();
        Ok(widths)
    }
}

/// Removes a file that may not be there.
fn removed(path: &Path) -> io::Result<u64> {
    match disk::remove(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        outcome => outcome,
    }
}

/// Notes that a file was used, unless that was noted a moment ago. A disk that is read-only keeps
/// no note, which costs the file its place in the order and no client anything.
pub(super) fn note_use(path: &Path) {
    let now = SystemTime::now();
    let noted = fs::metadata(path).and_then(|metadata| metadata.modified());
    let recent = noted.is_ok_and(|noted| {
        now.duration_since(noted).is_ok_and(|age| age < USED_WITHIN) || noted > now
    });
    if !recent {
        let _ = disk::touch(path, now);
    }
}

/// The bytes compressed; `None` if that saves no block.
fn compressed(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let small = zstd::encode_all(bytes, LEVEL)?;
    let saves = small.len().div_ceil(BLOCK_BYTES) < bytes.len().div_ceil(BLOCK_BYTES);
    Ok(saves.then_some(small))
}

/// What was compressed, as long as it is no longer than a bundle can be.
fn decompress(bytes: &[u8]) -> io::Result<Bytes> {
    let mut decoder = zstd::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    let mut plain = Vec::new();
    // One more than allowed, so that what is too long shows.
    let read = decoder
        .take(MAX_BUNDLE_BYTES as u64 + 1)
        .read_to_end(&mut plain)?;
    if read > MAX_BUNDLE_BYTES {
        let message = "expands beyond the largest bundle";
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::files::testing::files;

    fn bundle(width: u16) -> Bundle {
        Bundle::new(1_234_067, width).expect("in range")
    }

    /// Bytes that no compression makes smaller.
    fn noise(length: usize) -> Vec<u8> {
        let digests = (0_u64..).flat_map(|i| crate::tlog::Hash::of(&i.to_le_bytes()).0);
        digests.take(length).collect()
    }

    #[test]
    fn the_narrowest_sufficient_bundle_is_read_and_the_widest_kept() {
        let (directory, files) = files();
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
        let partials = directory.path().join("log/entries/x001/x234/067.p");
        assert!(!partials.exists(), "an empty directory takes a block, too");
    }

    #[test]
    fn a_bundle_is_compressed_where_that_saves_a_block() {
        for (bytes, suffix) in [
            (vec![7; 4_096], ""), // one block either way
            (vec![7; 4_097], COMPRESSED),
            (noise(20_000), ""),
            (Vec::new(), ""),
        ] {
            let (directory, files) = files();
            let written = files.write_bundle(bundle(256), &bytes).expect("written");
            let path = directory
                .path()
                .join(format!("log/entries/x001/x234/067{suffix}"));
            let metadata = fs::metadata(&path).expect("under this name");
            assert_eq!(written.change, disk::allocated(&metadata).cast_signed());
            assert_eq!(files.bundle_of(&path), Some(bundle(256)));
            let read = files.read_bundle(bundle(256)).expect("readable");
            assert_eq!(read, Some((bundle(256), Bytes::from(bytes))));
            let freed = files.remove_bundle(bundle(256)).expect("removed");
            assert_eq!(freed, written.change.cast_unsigned());
            assert!(files.read_bundle(bundle(256)).expect("readable").is_none());
        }
    }

    #[test]
    fn a_bundle_stored_plain_by_an_older_version_is_read_and_replaced() {
        let (directory, files) = files();
        let plain = directory.path().join("log/entries/x001/x234/067");
        write_and_rename(&plain, &[7; 9_000]).expect("written");
        let read = files.read_bundle(bundle(256)).expect("readable");
        assert_eq!(
            read.map(|(_, bytes)| bytes),
            Some(Bytes::from(vec![7; 9_000]))
        );
        let written = files
            .write_bundle(bundle(256), &[7; 9_000])
            .expect("written");
        assert!(!plain.exists());
        assert_eq!(written.change, 4_096 - 12_288);
    }

    #[test]
    fn nothing_expands_beyond_the_largest_bundle() {
        for (length, fits) in [(MAX_BUNDLE_BYTES, true), (MAX_BUNDLE_BYTES + 1, false)] {
            let small = zstd::encode_all(&vec![0; length][..], LEVEL).expect("memory");
            assert!(small.len() < 10_000);
            assert_eq!(decompress(&small).is_ok(), fits, "{length} bytes");
        }
        // A gigabyte in a few kilobytes, and what is no compressed file at all.
        let bomb = zstd::encode_all(io::repeat(0).take(1 << 30), LEVEL).expect("memory");
        assert!(decompress(&bomb).is_err());
        assert!(decompress(b"entries").is_err());
        let good = zstd::encode_all(&[7; 9_000][..], LEVEL).expect("memory");
        assert!(decompress(&good[..good.len() / 2]).is_err(), "cut off");
    }

    #[test]
    fn reading_notes_the_use_at_most_once_an_hour() {
        let (directory, files) = files();
        files.write_bundle(bundle(256), b"all").expect("written");
        let path = directory.path().join("log/entries/x001/x234/067");
        let modified = || {
            fs::metadata(&path)
                .and_then(|m| m.modified())
                .expect("there")
        };
        for (age, noted) in [(USED_WITHIN / 2, false), (USED_WITHIN * 2, true)] {
            let before = SystemTime::now() - age;
            disk::touch(&path, before).expect("there");
            assert!(files.read_bundle(bundle(3)).expect("readable").is_some());
            assert_eq!(modified() > before + age / 2, noted, "used {age:?} ago");
        }
    }
}
