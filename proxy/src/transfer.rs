//! Carries what a cache has proven to another one: over an air gap, or onto a file server.
//!
//! An export is proven before it is written, and an import before it is stored, each from a
//! checkpoint that a configured key signed; what lies between, a disk, a person or a network, is
//! believed in nothing.
//!
//! | format | what it is |
//! |---|---|
//! | `files` | `tiles/{origin hash}/{level}/{index}.tile` with a `.meta.json` beside each |
//! | `tlog-tiles` | a static mirror of one log, for any file server |
//! | `bundle` | one archive, tar in zstd, a mirror for each log in it |

mod archive;
mod directory;
pub mod export;
mod files;
pub mod import;
mod mirror;

use std::{fs, io, path::Path};

use bytes::Bytes;

use crate::tlog::{path::Bundle, tile::Tile};

/// How an export is laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// One archive for the air gap: tar in zstd.
    Bundle,
    /// Two files a tile: its bytes, and what is known about it as JSON.
    Files,
    /// A static mirror of one log that any file server can serve.
    TlogTiles,
}

impl Format {
    /// The format of what lies at `path`, from its shape.
    ///
    /// # Errors
    /// When it is none of the three, or cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if metadata.is_file() {
            return Ok(Self::Bundle); // whether it is one, its first bytes tell when it is read
        }
        if path.join("checkpoint").is_file() {
            return Ok(Self::TlogTiles);
        }
        if path.join("tiles").is_dir() {
            return Ok(Self::Files);
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "neither an archive nor a directory with `checkpoint` or `tiles` in it",
        ))
    }
}

/// One thing that an archive or a directory holds; nothing about it is proven.
#[derive(Clone, Debug)]
enum Member {
    /// A log's signed note. Comes before everything else of its log.
    Checkpoint(Bytes),
    /// A tile, full or partial, of the length that it must have.
    Tile(Tile, Bytes),
    /// An entry bundle.
    Bundle(Bundle, Bytes),
    /// What is not read, and why.
    Refused(String, &'static str),
}

/// Whether to go on reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Continue,
    Stop,
}

/// Why reading an archive or a directory ended before its end. What was read until then stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It ends too early, or its checksum is wrong.
    #[error("cut off or damaged: {0}")]
    CutOff(String),
    /// Not what an export looks like; reading on could cost without limit.
    #[error("{0}")]
    Hostile(String),
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
}

/// Largest note read, 1 MiB: 16 times what an upstream may send by default.
const MAX_NOTE_BYTES: usize = 1 << 20;
