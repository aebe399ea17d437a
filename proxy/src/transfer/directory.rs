//! Directories that are written so that they never look complete before they are, and read without
//! following what others have put there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// Suffix of what is not complete.
pub(super) const PARTIAL: &str = ".partial";

/// The name under which something is written before it has its own.
pub(super) fn partial_name(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    partial.into()
}

/// Creates `directory`; refuses one that holds anything but `ours`, which would be mixed up with
/// what is written there.
pub(super) fn prepare(directory: &Path, ours: &[&str]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let known = name.strip_suffix(PARTIAL).unwrap_or(&name);
        if !ours.contains(&known) {
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                format!("`{name}` in it is no export of this format; give an empty directory"),
            ));
        }
    }
    Ok(())
}

/// Writes a file, all of it or nothing, unless it is there with the same content.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if read(path, bytes.len()).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let partial = partial_name(path);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial); // leaves no rubbish on a full disk
    }
    written
}

/// Writes the file that makes an export complete: after this call it and everything written below
/// `top` before survives a power loss; before it, an earlier export is still whole.
pub(super) fn write_last(top: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One call for the whole file system: a sync of each of a million files takes hours.
    rustix::fs::syncfs(File::open(top)?)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let partial = partial_name(path);
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    rustix::fs::syncfs(File::open(top)?)?;
    Ok(())
}

/// Reads a regular file of at most `limit` bytes. A link is not followed, and a pipe not waited for.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Bytes> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                io::Error::new(ErrorKind::InvalidData, "a symbolic link")
            }
            _ => error,
        })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more tells that there is more; the length announced is not believed.
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "larger than it can be",
        ));
    }
    Ok(bytes.into())
}

/// Names in a directory, sorted, each with whether it is a directory itself; none if there is none.
/// A link to a directory is not one.
pub(super) fn names(directory: &Path) -> io::Result<Vec<(String, bool)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push((name, entry.file_type()?.is_dir()));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_their_limit_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("eight"), [7; 8]).expect("written");
        assert_eq!(read(&path("eight"), 8).expect("readable"), vec![7; 8]);
        std::os::unix::fs::symlink(path("eight"), path("link")).expect("linked");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("made");
        for (name, limit, want) in [
            ("eight", 7, "larger than it can be"),
            ("link", 8, "a symbolic link"),
            ("pipe", 8, "not a regular file"), // and nobody waits for a writer
            (".", 8, "not a regular file"),
        ] {
            let error = read(&path(name), limit).expect_err(name).to_string();
            assert!(error.contains(want), "{name}: {error}");
        }
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let top = directory.path().join("new");
        prepare(&top, &["tile"]).expect("created");
        fs::create_dir(top.join("tile")).expect("made");
        fs::write(top.join("tile.partial"), "").expect("written");
        prepare(&top, &["tile"]).expect("an earlier export");
        fs::write(top.join("thesis.tex"), "").expect("written");
        let error = prepare(&top, &["tile"]).expect_err("not ours").to_string();
        assert!(error.contains("`thesis.tex` in it"), "{error}");
    }
}
