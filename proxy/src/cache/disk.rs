//! Every change that the cache makes to the disk goes through here.
//!
//! One small seam: in a test it also records what was written, renamed and removed, and what was
//! synced in between, so that the durability tests can lose whatever a power loss may take. In the
//! program it is the system calls and nothing else.

#[cfg(test)]
pub(super) mod record;

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, IoSliceMut},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, ReadWriteFlags, preadv2},
};

/// Suffix of a file that is still being written.
pub(super) const TEMPORARY: &str = "tmp";

/// Bytes that a unit of `st_blocks` stands for, on every file system.
const STAT_BLOCK_BYTES: u64 = 512;

/// Bytes that a file takes on the disk; holes take none.
pub(super) fn allocated(metadata: &Metadata) -> u64 {
    metadata.blocks() * STAT_BLOCK_BYTES
}

/// Bytes that the file at `path` takes; 0 if there is none.
fn allocated_at(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| allocated(&metadata))
}

/// A file of the cache that is open for reading and writing.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    #[cfg(test)]
    recorded: record::Handle,
}

/// What reading without waiting gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ReadNow {
    /// All of it.
    Done,
    /// Not all of it is in memory: it takes the disk.
    WouldWait,
    /// This file system cannot say.
    Unsupported,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    /// Writing; created if it is not there.
    Create,
    /// Reading beside a process that may write.
    Read,
    /// Writing, if it is there.
    Write,
}

impl DiskFile {
    /// Opens a file.
    pub(super) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(access != Access::Read);
        let file = options
            .create(access == Access::Create)
            .truncate(false)
            .open(path)?;
        Ok(Self {
            file,
            #[cfg(test)]
            recorded: record::opened(path, false),
        })
    }

    /// Creates an empty file; one that is there becomes empty.
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(path)?,
            #[cfg(test)]
            recorded: record::opened(path, true),
        })
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Gives the file this length, without blocks for what is new.
    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        #[cfg(test)]
        self.recorded.set_len(length);
        Ok(())
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        #[cfg(test)]
        self.recorded.write(offset, bytes);
        Ok(())
    }

    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Reads what is in the page cache, on a thread that must not wait for a disk.
    pub(super) fn read_now(&self, buffer: &mut [u8], offset: u64) -> ReadNow {
        let wanted = buffer.len();
        let mut buffers = [IoSliceMut::new(buffer)];
        match preadv2(&self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == wanted => ReadNow::Done,
            // tmpfs, and kernels before 4.14.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => ReadNow::Unsupported,
            // Nothing or the beginning of it in memory; and an error will show again to whoever
            // reads in the ordinary way.
            Ok(_) | Err(_) => ReadNow::WouldWait,
        }
    }

    /// Gives back the blocks of a range, which reads as zeros from then on. A file system that
    /// cannot do this keeps them; they are used again when the range is written again.
    pub(super) fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, length) {
            Ok(()) => {
                #[cfg(test)]
                self.recorded.punch(offset, length);
                Ok(())
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// On return, what was written, and the length, survive a power loss; names may not.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        #[cfg(test)]
        self.recorded.sync_data();
        Ok(())
    }
}

/// Notes that a file was used, in its modification time.
pub(super) fn touch(path: &Path, used: SystemTime) -> io::Result<()> {
    // Not recorded: times are hints, and a lost one is an older hint.
    File::open(path)?.set_modified(used)
}

/// Removes a file. Returns the bytes it took.
pub(super) fn remove(path: &Path) -> io::Result<u64> {
    let bytes = allocated_at(path);
    fs::remove_file(path)?;
    #[cfg(test)]
    record::removed(path);
    Ok(bytes)
}

/// Gives a file a second name, which must not be taken.
pub(super) fn link(path: &Path, second: &Path) -> io::Result<()> {
    // Not recorded: what is found by a second name is found by the first as well.
    fs::hard_link(path, second)
}

/// Removes a directory if it is empty.
pub(super) fn remove_empty_directory(path: &Path) -> io::Result<()> {
    fs::remove_dir(path)?;
    #[cfg(test)]
    record::removed(path);
    Ok(())
}

/// Creates a directory and those above it.
pub(super) fn create_directories(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    #[cfg(test)]
    record::created_directories(path);
    Ok(())
}

/// Writes next to `path` and renames, so that readers see all of it or nothing, whatever happens.
/// The name is durable once the directory is synced. Returns by how many bytes more the disk is
/// used, which is negative where something larger was replaced.
pub(crate) fn write_and_rename(path: &Path, bytes: &[u8]) -> io::Result<i64> {
    create_directories(path.parent().unwrap_or(path))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".");
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    let file = DiskFile::create(&temporary)?;
    let written = file.write_all_at(bytes, 0).and_then(|()| {
        // Before the rename: a name must never point at bytes that a power loss can take back.
        file.sync_data()?;
        let (new, old) = (allocated(&file.metadata()?), allocated_at(path));
        fs::rename(&temporary, path)?;
        #[cfg(test)]
        record::renamed(&temporary, path);
        Ok(new.cast_signed() - old.cast_signed())
    });
    if written.is_err() {
        let _ = remove(&temporary); // leaves no rubbish on a full disk
    }
    written
}

/// Syncs `directory` and its ancestors up to and including `top`'s parent: a new file is only found
/// again if every name on the way to it is durable.
pub(crate) fn sync_directories(directory: &Path, top: &Path) -> io::Result<()> {
    let end = top.parent().unwrap_or(top);
    for ancestor in directory.ancestors() {
        match File::open(ancestor) {
            Ok(directory) => {
                directory.sync_all()?;
                #[cfg(test)]
                record::synced_directory(ancestor);
            }
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

    #[test]
    fn replacing_a_file_is_accounted_by_the_difference() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        let large = write_and_rename(&path, &[7; 65_536]).expect("written");
        assert_eq!(large, 65_536);
        let smaller = write_and_rename(&path, &[7; 4_096]).expect("written");
        assert_eq!(smaller, 4_096 - 65_536);
        assert_eq!(remove(&path).expect("there"), 4_096);
        assert_eq!(
            fs::read_dir(directory.path().join("a"))
                .expect("there")
                .count(),
            0
        );
    }

    #[test]
    fn a_punched_range_is_zeros_and_takes_no_blocks() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = DiskFile::open(&directory.path().join("f"), Access::Create).expect("created");
        file.write_all_at(&[7; 16_384], 0).expect("written");
        file.sync_data().expect("synced");
        file.punch(0, 8_192).expect("punched");
        let mut bytes = [1; 16_384];
        file.read_exact_at(&mut bytes, 0)
            .expect("as long as before");
        assert_eq!(bytes[..8_192], [0; 8_192]);
        assert_eq!(bytes[8_192..], [7; 8_192]);
        assert_eq!(allocated(&file.metadata().expect("there")), 8_192);
    }

    #[test]
    fn what_was_just_written_is_read_without_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = DiskFile::open(&directory.path().join("f"), Access::Create).expect("created");
        file.write_all_at(b"here", 0).expect("written");
        let mut bytes = [0; 4];
        // A file system that cannot tell says so, and is asked in the ordinary way.
        if file.read_now(&mut bytes, 0) == ReadNow::Done {
            assert_eq!(&bytes, b"here");
        }
        assert_ne!(
            file.read_now(&mut [0; 8], 0),
            ReadNow::Done,
            "half of it is not there"
        );
    }
}
