//! A log of hash tiles in memory: as large as asked, the same bytes every run, and no entries.

use std::{collections::HashMap, fmt::Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use tile_proxy::{
    note::vkey::VerifierKey,
    tlog::{
        Hash,
        edge::{edge_tiles, fold},
        path::{Resource, parse},
        perfect_root,
        tile::{FULL_TILE_BYTES, FULL_WIDTH, Tile},
    },
};

const ORIGIN: &str = "bench.example/2026h1";

/// A signed log whose leaf hashes are those of a counter.
pub(crate) struct BenchLog {
    secret: SigningKey,
    /// Content by level: the hashes of that level, one after the other.
    levels: Vec<Bytes>,
    checkpoint: Bytes,
}

impl BenchLog {
    /// A log with this many full tiles at level 0.
    pub(crate) fn with_full_tiles(count: u64) -> Self {
        let entries = count * u64::from(FULL_WIDTH);
        let leaves = (0..entries).flat_map(|i| Hash::of(&i.to_le_bytes()).0);
        let mut levels = vec![leaves.collect::<Bytes>()];
        while let Some(last) = levels.last().filter(|last| last.len() >= FULL_TILE_BYTES) {
            let tiles = last.chunks_exact(FULL_TILE_BYTES);
            let roots = tiles.filter_map(|tile| perfect_root(Hash::chunks(tile)));
            levels.push(roots.flat_map(|root| root.0).collect());
        }
        let mut log = Self {
            secret: SigningKey::from_bytes(&[7; 32]),
            levels,
            checkpoint: Bytes::new(),
        };
        log.checkpoint = log.sign(entries);
        log
    }

    /// The verifier key of its checkpoints.
    pub(crate) fn vkey(&self) -> String {
        VerifierKey::ed25519(ORIGIN, self.secret.verifying_key()).to_string()
    }

    /// What it has at `path`.
    pub(crate) fn get(&self, path: &str) -> Option<Bytes> {
        if path == "checkpoint" {
            return Some(self.checkpoint.clone());
        }
        match parse(path).ok()? {
            Resource::Tile(tile) => self.tile(tile),
            Resource::Bundle(_) => None,
        }
    }

    fn tile(&self, tile: Tile) -> Option<Bytes> {
        let level = self.levels.get(usize::from(tile.level()))?;
        let start = usize::try_from(tile.index())
            .ok()?
            .checked_mul(FULL_TILE_BYTES)?;
        let end = start.checked_add(tile.bytes())?;
        (end <= level.len()).then(|| level.slice(start..end))
    }

    fn sign(&self, size: u64) -> Bytes {
        let tiles: HashMap<Tile, Bytes> = edge_tiles(size)
            .into_iter()
            .filter_map(|tile| Some((tile, self.tile(tile)?)))
            .collect();
        let edge = edge_tiles(size);
        let root = fold(edge.iter().map(|tile| (*tile, &tiles[tile][..]))).expect("edge tiles");
        let text = format!("{ORIGIN}\n{size}\n{root}\n");
        let key = VerifierKey::ed25519(ORIGIN, self.secret.verifying_key());
        let mut line = key.id_under(ORIGIN).to_be_bytes().to_vec();
        line.extend(self.secret.sign(text.as_bytes()).to_bytes());
        let mut note = text;
        writeln!(note, "\n\u{2014} {ORIGIN} {}", BASE64_STANDARD.encode(line)).expect("memory");
        note.into()
    }
}
