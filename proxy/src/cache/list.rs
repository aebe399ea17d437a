//! What is stored for a log, by name: for those who look at all of it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{LogStore, bundles::COMPRESSED, files::Files, slots::GROUP_SLOTS};
use crate::tlog::tile::MAX_LEVEL;

/// Largest note that is read back as evidence, 1 MiB: 16 times what an upstream may send by default.
const MAX_NOTE_BYTES: usize = 1 << 20;

/// Two notes that contradict each other, as they were kept. Not opened again.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Where they are.
    pub directory: PathBuf,
    /// What was trusted; `None` if it cannot be read.
    pub trusted: Option<Bytes>,
    /// What was offered; `None` if it cannot be read.
    pub offered: Option<Bytes>,
}

impl LogStore {
    /// Numbers of the groups of full tiles at `level`, ascending.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn stored_groups(&self, level: u8) -> io::Result<Vec<u64>> {
        let mut groups = Vec::new();
        for name in names_in(&self.groups.level_directory(level))? {
            groups.extend(name.strip_suffix(".meta").and_then(parse_decimal));
        }
        groups.sort_unstable();
        Ok(groups)
    }

    /// Makes a full tile's slot vacant, durably. For a cache without other writers.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn forget_tile(&self, level: u8, index: u64) -> io::Result<()> {
        if let Some((group, slot)) = self.groups.find(level, index)? {
            group.forget(slot)?;
            group.sync()?;
        }
        Ok(())
    }

    /// Files and directories that are none of ours, and what a crash left half-written.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn strays(&self) -> io::Result<Vec<PathBuf>> {
        let mut strays = Vec::new();
        for name in names_in(&self.directory)? {
            let path = self.directory.join(&name);
            match name.as_str() {
                "origin" | "evidence" | "index" | "uuid" => {}
                "entries" => stray_entries(&path, &mut strays)?,
                "checkpoints" => strays_among(&path, &mut strays, |name| {
                    let stored = |size| path.join(format!("{size}.checkpoint")).exists();
                    match name.rsplit_once('.') {
                        Some((size, "checkpoint")) => parse_decimal(size).is_some(),
                        Some((size, "edge")) => parse_decimal(size).is_some_and(stored),
                        _ => false,
                    }
                })?,
                level if parse_decimal(level).is_some_and(|l| l <= u64::from(MAX_LEVEL)) => {
                    strays_among(&path, &mut strays, |name| {
                        let number = name
                            .strip_suffix(".tiles")
                            .or_else(|| name.strip_suffix(".meta"));
                        number.and_then(parse_decimal).is_some()
                    })?;
                }
                _ => strays.push(path),
            }
        }
        strays.sort();
        Ok(strays)
    }
}

impl Files {
    /// Numbers of the groups of 1,024 neighbouring indices at which bundles are stored.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn bundle_groups(&self) -> io::Result<BTreeSet<u64>> {
        let mut groups = BTreeSet::new();
        visit_bundles(&self.entries_directory(), 0, &mut |index| {
            groups.insert(index / GROUP_SLOTS);
        })?;
        Ok(groups)
    }

    /// Whether a contradiction is kept.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn has_evidence(&self) -> io::Result<bool> {
        let evidence = self.evidence_directory();
        // The offered note is written last; without it, there is nothing yet.
        let is_whole = |name: &String| evidence.join(name).join("offered.checkpoint").exists();
        Ok(names_in(&evidence)?.iter().any(is_whole))
    }

    /// The kept contradictions.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn evidence(&self) -> io::Result<Vec<Evidence>> {
        let evidence = self.evidence_directory();
        let mut names = names_in(&evidence)?;
        names.sort();
        Ok(names
            .into_iter()
            .map(|name| {
                let directory = evidence.join(name);
                let read = |name: &str| {
                    super::files::read_at_most(&directory.join(name), MAX_NOTE_BYTES).ok()
                };
                Evidence {
                    trusted: read("trusted.checkpoint"),
                    offered: read("offered.checkpoint"),
                    directory,
                }
            })
            .collect())
    }
}

/// Names in a directory, in no order; none if it does not exist. What is not UTF-8 is not ours,
/// and shows with replacement characters.
fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Calls `visit` with the index of each bundle below `directory`, whose names continue `prefix`.
fn visit_bundles(directory: &Path, prefix: u64, visit: &mut impl FnMut(u64)) -> io::Result<()> {
    for name in names_in(directory)? {
        let (digits, inner) = match name.strip_prefix('x') {
            Some(digits) => (digits, true),
            None => (name.as_str(), false),
        };
        let number = digits
            .get(..3)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u64>().ok());
        let index = number.and_then(|number| prefix.checked_mul(1_000)?.checked_add(number));
        match index {
            Some(index) if inner => visit_bundles(&directory.join(&name), index, visit)?,
            Some(index) => visit(index),
            None => {}
        }
    }
    Ok(())
}

fn strays_among(
    directory: &Path,
    strays: &mut Vec<PathBuf>,
    ours: impl Fn(&str) -> bool,
) -> io::Result<()> {
    let names = names_in(directory)?;
    let others = names.iter().filter(|name| !ours(name));
    strays.extend(others.map(|name| directory.join(name)));
    Ok(())
}

/// As bundles are named: `x001/x234/067`, and `067.p/{width}`; compressed, with a suffix.
fn stray_entries(directory: &Path, strays: &mut Vec<PathBuf>) -> io::Result<()> {
    let three_digits = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    for name in names_in(directory)? {
        let path = directory.join(&name);
        if name.strip_prefix('x').is_some_and(three_digits) {
            stray_entries(&path, strays)?;
        } else if name.strip_suffix(".p").is_some_and(three_digits) {
            strays_among(&path, strays, |width| {
                let width = width.strip_suffix(COMPRESSED).unwrap_or(width);
                parse_decimal(width).is_some_and(|width| (1..256).contains(&width))
            })?;
        } else if !three_digits(name.strip_suffix(COMPRESSED).unwrap_or(&name)) {
            strays.push(path);
        }
    }
    Ok(())
}

/// A decimal in its one spelling.
fn parse_decimal(text: &str) -> Option<u64> {
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::View, tlog::path::Bundle};

    fn store() -> (tempfile::TempDir, std::sync::Arc<LogStore>) {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("FORMAT"), "1\n").expect("written");
        let store = View::of(directory.path()).expect("a cache").log("rome");
        (directory, store)
    }

    #[test]
    fn bundles_are_found_however_deep_they_lie() {
        let (_directory, store) = store();
        assert!(store.files.bundle_groups().expect("readable").is_empty());
        for (index, width) in [
            (0, 256),
            (7, 20),
            (1_023, 256),
            (1_024, 1),
            (1_234_067, 256),
        ] {
            let bundle = Bundle::new(index, width).expect("in range");
            store
                .files
                .write_bundle(bundle, b"entries")
                .expect("written");
        }
        let groups: Vec<u64> = store
            .files
            .bundle_groups()
            .expect("readable")
            .into_iter()
            .collect();
        assert_eq!(groups, [0, 1, 1_234_067 / 1_024]);
    }

    #[test]
    fn what_is_not_of_the_layout_is_a_stray_and_nothing_else_is() {
        let (_directory, store) = store();
        for path in [
            "origin",
            "0/0.tiles",
            "0/0.meta",
            "7/12.meta",
            "entries/067",
            "entries/067.p/1",
            "entries/067.p/2.zst",
            "entries/068.zst",
            "entries/x001/x234/067",
            "checkpoints/300.checkpoint",
            "checkpoints/300.edge",
            "evidence/00ff/offered.checkpoint",
        ] {
            let path = store.directory.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, "").expect("written");
        }
        assert!(store.strays().expect("readable").is_empty());
        let wrong = [
            "0/0.meta.tmp",
            "0/00.meta",
            "8/0.tiles",
            "checkpoints/300.checkpoint.tmp",
            "checkpoints/301.edge", // without its note it means nothing
            "core",
            "entries/067.p/256",
            "entries/67",
            "entries/x1/067",
        ];
        for path in wrong {
            let path = store.directory.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, "").expect("written");
        }
        let strays = store.strays().expect("readable");
        let strays: Vec<String> = strays
            .iter()
            .filter_map(|path| path.strip_prefix(&store.directory).ok())
            .map(|path| path.display().to_string())
            .collect();
        let want = wrong.map(|path| match path {
            "8/0.tiles" => "8",
            "entries/x1/067" => "entries/x1",
            path => path,
        });
        assert_eq!(strays, want);
    }
}
