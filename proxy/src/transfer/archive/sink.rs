//! Writes an archive: to a file that gets its name at the end, or to standard output.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Cursor, Read, Seek, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    cache::slots::Record,
    log::verify::{VerifiedBundle, VerifiedTile},
    transfer::{
        directory::partial_name,
        export::{Head, Sink},
    },
};

/// Compression: zstd's own default. Tiles are hashes and do not shrink; entries do by half or more.
const LEVEL: i32 = 3;

/// Modification time of every member, 1980-01-01: the first that no format finds implausible.
const MTIME: u64 = 315_532_800;

/// An archive that is being written.
pub(in crate::transfer) struct ArchiveSink {
    tar: tar::Builder<zstd::Encoder<'static, BufWriter<Box<dyn Write>>>>,
    /// The lines of `SHA256SUMS`: there is one for each tile.
    sums: BufWriter<Box<dyn Scratch>>,
    members: u64,
    bytes: u64,
    /// `None` for standard output.
    place: Option<Place>,
}

/// What is written first and read afterwards.
trait Scratch: Read + Seek + Write {}

impl<T: Read + Seek + Write> Scratch for T {}

impl ArchiveSink {
    /// An archive that gets the name `out` once it is whole and on the disk.
    pub(in crate::transfer) fn create(out: &Path) -> io::Result<Self> {
        if out.is_dir() {
            let message = "is a directory; an archive is one file";
            return Err(io::Error::new(io::ErrorKind::IsADirectory, message));
        }
        let (place, sums) = Place::create(out)?;
        let file = place.file.try_clone()?;
        Self::new(Box::new(file), Box::new(sums), Some(place))
    }

    /// An archive on standard output. That it was cut off, whoever reads it sees by its missing end.
    ///
    /// Keeps the sums in memory, some 150 bytes for each tile and bundle, because there may be no
    /// directory to write to: a pod has none.
    pub(in crate::transfer) fn stdout() -> io::Result<Self> {
        let sums = Cursor::new(Vec::new());
        Self::new(Box::new(io::stdout()), Box::new(sums), None)
    }

    fn new(
        output: Box<dyn Write>,
        sums: Box<dyn Scratch>,
        place: Option<Place>,
    ) -> io::Result<Self> {
        let mut encoder = zstd::Encoder::new(BufWriter::new(output), LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self {
            tar: tar::Builder::new(encoder),
            sums: BufWriter::new(sums),
            members: 0,
            bytes: 0,
            place,
        })
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let header = header(path, bytes.len() as u64)?;
        self.tar.append(&header, bytes)?;
        let digest = hex::encode(Sha256::digest(bytes));
        writeln!(self.sums, "{digest}  {path}")?;
        self.members += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn header(path: &str, length: u64) -> io::Result<tar::Header> {
    // The plain format: no extensions, which hold times and owners.
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(length);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

impl Sink for ArchiveSink {
    fn head(&mut self, head: &Head<'_>) -> io::Result<()> {
        self.put(&format!("{}/checkpoint", head.hash), &head.tree.note)?;
        for (tile, bytes) in head.tree.edge.tiles() {
            self.put(&format!("{}/{tile}", head.hash), bytes)?;
        }
        Ok(())
    }

    fn tile(&mut self, head: &Head<'_>, tile: &VerifiedTile, _: &Record) -> io::Result<()> {
        self.put(&format!("{}/{}", head.hash, tile.tile()), tile.bytes())
    }

    fn bundle(&mut self, head: &Head<'_>, bundle: &VerifiedBundle) -> io::Result<()> {
        self.put(
            &format!("{}/{}", head.hash, bundle.bundle()),
            bundle.bytes(),
        )
    }

    fn finish(mut self: Box<Self>, heads: &[Head<'_>]) -> io::Result<()> {
        self.sums.flush()?;
        let sums = self.sums.get_mut();
        let length = sums.stream_position()?;
        sums.rewind()?;
        self.tar.append(&header("SHA256SUMS", length)?, sums)?;
        let logs: Vec<serde_json::Value> = heads
            .iter()
            .map(|head| {
                serde_json::json!({
                    "directory": head.hash,
                    "origin": head.tree.checkpoint.origin,
                    "size": head.tree.checkpoint.size,
                    "root": head.tree.checkpoint.root.to_string(),
                })
            })
            .collect();
        let mut manifest = serde_json::to_vec_pretty(&serde_json::json!({
            "version": 1,
            "logs": logs,
            "members": self.members,
            "bytes": self.bytes,
        }))?;
        manifest.push(b'\n');
        let header = header("manifest.json", manifest.len() as u64)?;
        self.tar.append(&header, manifest.as_slice())?;
        self.tar.finish()?;
        self.tar.get_mut().do_finish()?;
        self.tar.get_mut().get_mut().flush()?;
        self.place.as_ref().map_or(Ok(()), Place::complete)
    }
}

/// A file under a name that is not its own yet; what was not completed goes when it is dropped.
struct Place {
    out: PathBuf,
    partial: PathBuf,
    sums: PathBuf,
    file: File,
}

impl Place {
    /// With it, a file for the sums.
    fn create(out: &Path) -> io::Result<(Self, File)> {
        let partial = partial_name(out);
        let sums_path = partial.with_added_extension("sums");
        let file = File::create(&partial)?;
        let mut sums = File::options();
        let sums = sums.read(true).write(true).create(true).truncate(true);
        let sums = sums.open(&sums_path)?;
        let place = Self {
            out: out.to_owned(),
            partial,
            sums: sums_path,
            file,
        };
        Ok((place, sums))
    }

    fn complete(&self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.partial, &self.out)?;
        let parent = self
            .out
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The archive was renamed already if it was completed.
        let _ = fs::remove_file(&self.partial);
        let _ = fs::remove_file(&self.sums);
    }
}
