//! A log that exists only in memory: the same bytes every run.

use std::fmt::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use tile_proxy::{
    note::vkey::VerifierKey,
    tlog::{
        Hash,
        edge::{edge_tiles, fold},
        leaf_hash,
        path::{Bundle, Resource, parse},
        perfect_root,
        tile::{FULL_WIDTH, Tile, width_in},
    },
};

const ORIGIN: &str = "rome.example/2026h1";

/// A log whose entry `i` is `"entry {i}"`, or from `common` on `"{seed} {i}"`.
pub(crate) struct FixtureLog {
    seed: String,
    common: u64,
    secret: SigningKey,
    origin: String,
    /// Name of the key, which need not be the origin.
    signer: String,
    /// Hashes by level; level 0 are the leaf hashes.
    levels: Vec<Vec<Hash>>,
}

impl FixtureLog {
    pub(crate) fn with_entries(count: usize) -> Self {
        let leaves = (0..count)
            .map(|i| leaf_hash(format!("entry {i}").as_bytes()))
            .collect();
        let mut log = Self {
            seed: "entry".to_owned(),
            common: 0,
            secret: SigningKey::from_bytes(&[7; 32]),
            origin: ORIGIN.to_owned(),
            signer: ORIGIN.to_owned(),
            levels: vec![leaves],
        };
        log.hash_upwards();
        log
    }

    /// The same log up to `common` entries, and others after that: the same key, another history.
    pub(crate) fn forked(common: usize, count: usize) -> Self {
        let mut fork = Self::with_entries(count);
        fork.seed = format!("fork after {common}");
        fork.common = common as u64;
        for i in common..count {
            fork.levels[0][i] = leaf_hash(fork.entry(i as u64).as_bytes());
        }
        fork.hash_upwards();
        fork
    }

    /// The same log under another key.
    pub(crate) fn signed_by(mut self, secret: u8) -> Self {
        self.secret = SigningKey::from_bytes(&[secret; 32]);
        self
    }

    /// The same log under another origin, signed by a key of another name.
    pub(crate) fn called(mut self, origin: &str, signer: &str) -> Self {
        origin.clone_into(&mut self.origin);
        signer.clone_into(&mut self.signer);
        self
    }

    fn hash_upwards(&mut self) {
        self.levels.truncate(1);
        while let Some(last) = self.levels.last().filter(|last| last.len() >= 256) {
            let next = last.as_chunks::<256>().0.iter();
            let next = next
                .map(|c| perfect_root(c.iter().copied()).expect("256 hashes"))
                .collect();
            self.levels.push(next);
        }
    }

    fn entry(&self, i: u64) -> String {
        let seed = if i < self.common { "entry" } else { &self.seed };
        format!("{seed} {i}")
    }

    pub(crate) fn size(&self) -> u64 {
        self.levels[0].len() as u64
    }

    pub(crate) fn vkey(&self) -> String {
        VerifierKey::ed25519(&self.signer, self.secret.verifying_key()).to_string()
    }

    /// The same key in the other spelling, which holds no name.
    pub(crate) fn pem(&self) -> String {
        let mut der = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
        der.extend(self.secret.verifying_key().as_bytes());
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64_STANDARD.encode(der)
        )
    }

    pub(crate) fn tile_bytes(&self, tile: Tile) -> Vec<u8> {
        let first = tile.index() as usize * 256;
        let hashes = &self.levels[usize::from(tile.level())][first..];
        hashes[..usize::from(tile.width())]
            .iter()
            .flat_map(|hash| hash.0)
            .collect()
    }

    fn bundle_bytes(&self, bundle: Bundle) -> Vec<u8> {
        let first = bundle.index() * 256;
        (first..first + u64::from(bundle.width()))
            .flat_map(|i| {
                let entry = self.entry(i);
                [&(entry.len() as u16).to_be_bytes()[..], entry.as_bytes()].concat()
            })
            .collect()
    }

    /// The signed checkpoint of the first `size` entries.
    pub(crate) fn checkpoint(&self, size: u64) -> Vec<u8> {
        let tiles: Vec<(Tile, Vec<u8>)> = edge_tiles(size)
            .into_iter()
            .map(|tile| (tile, self.tile_bytes(tile)))
            .collect();
        let root = fold(tiles.iter().map(|(tile, bytes)| (*tile, &bytes[..]))).expect("a root");
        self.sign(&format!("{}\n{size}\n{root}\n", self.origin))
    }

    pub(crate) fn sign(&self, text: &str) -> Vec<u8> {
        let key = VerifierKey::ed25519(&self.signer, self.secret.verifying_key());
        let mut line = key.id_under(&self.signer).to_be_bytes().to_vec();
        line.extend(self.secret.sign(text.as_bytes()).to_bytes());
        let mut note = text.to_owned();
        writeln!(
            note,
            "\n\u{2014} {} {}",
            self.signer,
            BASE64_STANDARD.encode(line)
        )
        .expect("memory");
        note.into_bytes()
    }

    /// What an honest log of `size` entries has at `path`. With `partials_gone`, it has deleted the
    /// partial resources that are full by now.
    pub(crate) fn get(&self, path: &str, size: u64, partials_gone: bool) -> Option<Vec<u8>> {
        if path == "checkpoint" {
            return Some(self.checkpoint(size));
        }
        let resource = parse(path).ok()?;
        let (level, index, width) = match resource {
            Resource::Bundle(bundle) => (0, bundle.index(), bundle.width()),
            Resource::Tile(tile) => (tile.level(), tile.index(), tile.width()),
        };
        let has = width_in(level, index, size);
        if width > has || (partials_gone && has == FULL_WIDTH && width < has) {
            return None;
        }
        Some(match resource {
            Resource::Bundle(bundle) => self.bundle_bytes(bundle),
            Resource::Tile(tile) => self.tile_bytes(tile),
        })
    }
}
