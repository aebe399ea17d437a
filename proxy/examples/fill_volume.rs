//! How many full tiles fit on a volume, as two files each or in groups: the measurement in
//! docs/storage.md. Writes until the volume is full, and prints how far it came.
//!
//! ```text
//! fill_volume files DIRECTORY     {index}.tile and {index}.meta.json, a directory for each 1,024
//! fill_volume groups DIRECTORY    {group}.tiles and {group}.meta, 1,024 tiles each
//! ```

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    process::ExitCode,
};

/// Bytes of a full tile.
const TILE_BYTES: u64 = 8_192;

/// Bytes of a record in a group.
const RECORD_BYTES: u64 = 64;

/// Tiles of a group, and files of a directory.
const TOGETHER: u64 = 1_024;

/// A record as the layout with two files has it: a few hundred bytes of JSON.
const RECORD_JSON: &str = r#"{"cachedAt":"2026-01-01T00:00:00Z","treeSize":70000,"isPartial":false,"contentHash":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","upstreamUrl":"https://log.example/"}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let (store, directory): (fn(&Path, u64) -> io::Result<()>, _) = match &arguments[..] {
        [_, layout, directory] if layout == "files" => (store_as_files, directory),
        [_, layout, directory] if layout == "groups" => (store_in_group, directory),
        _ => {
            eprintln!("usage: fill_volume files|groups DIRECTORY");
            return ExitCode::FAILURE;
        }
    };
    let mut tiles = 0;
    loop {
        match store(Path::new(directory), tiles) {
            Ok(()) => tiles += 1,
            Err(error) => {
                println!(
                    "{tiles} tiles, {} MiB of them; then: {error}",
                    (tiles * TILE_BYTES) >> 20
                );
                return ExitCode::SUCCESS;
            }
        }
    }
}

fn store_as_files(directory: &Path, index: u64) -> io::Result<()> {
    let directory = directory.join((index / TOGETHER).to_string());
    if index.is_multiple_of(TOGETHER) {
        fs::create_dir(&directory)?;
    }
    fs::write(directory.join(format!("{index}.tile")), tile(index))?;
    fs::write(directory.join(format!("{index}.meta.json")), RECORD_JSON)
}

fn store_in_group(directory: &Path, index: u64) -> io::Result<()> {
    let (group, slot) = (index / TOGETHER, index % TOGETHER);
    let open = |extension: &str| {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(format!("{group}.{extension}")))
    };
    open("tiles")?.write_all_at(&tile(index), slot * TILE_BYTES)?;
    open("meta")?.write_all_at(&[1; RECORD_BYTES as usize], slot * RECORD_BYTES)
}

/// Bytes that differ from tile to tile.
fn tile(index: u64) -> Vec<u8> {
    index.to_le_bytes().repeat(TILE_BYTES as usize / 8)
}
