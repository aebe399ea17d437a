//! Paths, tiles, proofs and notes, held against implementations that nobody here wrote.
//!
//! `tlog_tiles` and `signed_note` are ports of the Go checksum database's code; `ct-merkle` is
//! RFC 6962 from scratch.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use ct_merkle::{RootHash, mem_backed_tree::MemoryBackedTree};
use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use sha2::Sha256;
use signed_note::{StandardVerifier, VerifierList};
use tile_proxy::{
    note::{self, vkey::VerifierKey},
    tlog::{
        Hash,
        consistency::{prefix_root, spine},
        edge::{edge_tiles, fold},
        inclusion::{proof_tiles, prove, proven_root},
        leaf_hash,
        path::{PathError, Resource, parse},
        tile::Tile,
    },
};

/// What the oracle stores of a log: its own order, its own indexes.
struct Stored(Vec<tlog_tiles::Hash>);

impl tlog_tiles::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
    }
}

fn entry(i: u64) -> Vec<u8> {
    i.to_string().into_bytes()
}

/// The log of entries "0", "1", … as the oracle keeps it.
fn stored(size: u64) -> Stored {
    let mut stored = Stored(Vec::new());
    for i in 0..size {
        let more = tlog_tiles::stored_hashes(i, &entry(i), &stored).expect("all there");
        stored.0.extend(more);
    }
    stored
}

/// The oracle's contents of our tiles.
fn contents(stored: &Stored, tiles: Vec<Tile>) -> Vec<(Tile, Bytes)> {
    let read = |tile: Tile| {
        let (level, width) = (tile.level(), u32::from(tile.width()));
        let theirs = tlog_tiles::Tile::new(8, level, tile.index(), width, false);
        (
            tile,
            Bytes::from(theirs.read_data(stored).expect("all there")),
        )
    };
    tiles.into_iter().map(read).collect()
}

/// A tree so large that only its perfect subtrees are known: the hash of one follows from its place.
/// No tree has such hashes, but the oracle's proofs say which of them go where.
struct Imagined;

impl Imagined {
    fn at(height: u8, index: u64) -> Hash {
        Hash::of(format!("{height}/{index}").as_bytes())
    }
}

impl tlog_tiles::HashReader for Imagined {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let place = |i: &u64| tlog_tiles::split_stored_hash_index(*i);
        let hash = |i| {
            let (height, index) = place(i);
            imagined(height, index)
        };
        Ok(indexes.iter().map(hash).collect())
    }
}

/// Levels of tiles are imagined; what is between them is computed.
fn imagined(height: u8, index: u64) -> tlog_tiles::Hash {
    if height.is_multiple_of(8) {
        return tlog_tiles::Hash(Imagined::at(height, index).0);
    }
    let (left, right) = (
        imagined(height - 1, 2 * index),
        imagined(height - 1, 2 * index + 1),
    );
    tlog_tiles::node_hash(left, right)
}

fn imagined_contents(tiles: Vec<Tile>) -> Vec<(Tile, Bytes)> {
    let content = |tile: Tile| {
        let first = tile.index() * 256;
        let hashes = first..first + u64::from(tile.width());
        let hashes = hashes.flat_map(|at| Imagined::at(8 * tile.level(), at).0);
        (tile, hashes.collect())
    };
    tiles.into_iter().map(content).collect()
}

/// Sizes of all magnitudes, more of them around powers of 256. The oracle counts its stored hashes in
/// 64 bits, two an entry: it ends before 2^62.
fn sizes() -> impl Strategy<Value = u64> {
    let near_power = (1..=7_u32, -2..=2_i64);
    prop_oneof![
        (1..(1_u64 << 61), 0..60_u32).prop_map(|(size, shift)| (size >> shift).max(1)),
        near_power.prop_map(|(level, off)| (1_u64 << (8 * level)).saturating_add_signed(off)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn edges_prefixes_and_inclusion_agree_on_small_logs(size in 1..1_500_u64, part in 0.0..1.0_f64) {
        let stored = stored(size);
        let root = tlog_tiles::tree_hash(size, &stored).expect("all there");
        let edge = contents(&stored, edge_tiles(size));
        let folded = fold(edge.iter().map(|(tile, bytes)| (*tile, &bytes[..])));
        prop_assert_eq!(folded.map(|h| h.0), Some(root.0));

        let old = 1 + (part * (size - 1) as f64) as u64;
        let prefix = prefix_root(old, &contents(&stored, spine(old, size)));
        let want = tlog_tiles::tree_hash(old, &stored).expect("all there");
        prop_assert_eq!(prefix.map(|h| h.0), Some(want.0));

        let index = old - 1;
        let proof = prove(index, size, &contents(&stored, proof_tiles(index, size)));
        let want = tlog_tiles::prove_record(size, index, &stored).expect("in the tree");
        let proof = proof.expect("all tiles");
        prop_assert_eq!(proof.iter().map(|h| h.0).collect::<Vec<_>>(), want.iter().map(|h| h.0).collect::<Vec<_>>());
        prop_assert_eq!(proven_root(leaf_hash(&entry(index)), index, size, &proof).map(|h| h.0), Some(root.0));
    }

    #[test]
    fn rfc_6962_from_scratch_agrees(size in 1..400_u64, part in 0.0..1.0_f64) {
        let tree = |size| {
            let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
            (0..size).for_each(|i| tree.push(entry(i)));
            tree
        };
        let stored = stored(size);
        let edge = contents(&stored, edge_tiles(size));
        let root = fold(edge.iter().map(|(tile, bytes)| (*tile, &bytes[..]))).expect("folds");
        let whole = tree(size);
        let want: [u8; 32] = (*whole.root().as_bytes()).into();
        prop_assert_eq!(root.0, want);

        let old = 1 + (part * (size - 1) as f64) as u64;
        let index = old - 1;
        let proof = prove(index, size, &contents(&stored, proof_tiles(index, size))).expect("all tiles");
        let want = whole.prove_inclusion(index as usize);
        prop_assert_eq!(proof.iter().flat_map(|h| h.0).collect::<Vec<_>>(), want.as_bytes());

        // What we call a prefix, its consistency proof proves.
        let prefix = prefix_root(old, &contents(&stored, spine(old, size))).expect("proven");
        let old_root = RootHash::<Sha256>::new(prefix.0.into(), old);
        let consistency = whole.prove_consistency((size - old) as usize);
        prop_assert!(whole.root().verify_consistency(&old_root, &consistency).is_ok());
        let other = RootHash::<Sha256>::new(leaf_hash(b"another").0.into(), old);
        prop_assert!(whole.root().verify_consistency(&other, &consistency).is_err());
    }

    #[test]
    fn edges_and_proofs_agree_at_any_size(size in sizes(), part in 0.0..1.0_f64) {
        let root = tlog_tiles::tree_hash(size, &Imagined).expect("imagined");
        let edge = imagined_contents(edge_tiles(size));
        let folded = fold(edge.iter().map(|(tile, bytes)| (*tile, &bytes[..])));
        prop_assert_eq!(folded.map(|h| h.0), Some(root.0));

        let index = ((part * size as f64) as u64).min(size - 1);
        let proof = prove(index, size, &imagined_contents(proof_tiles(index, size))).expect("all tiles");
        let want = tlog_tiles::prove_record(size, index, &Imagined).expect("in the tree");
        prop_assert_eq!(proof.iter().map(|h| h.0).collect::<Vec<_>>(), want.iter().map(|h| h.0).collect::<Vec<_>>());
        // Whatever root the proof leads to, it must be the same for both.
        let leaf = Imagined::at(0, index);
        let reached = proven_root(leaf, index, size, &proof).expect("of the right length");
        let (reached, leaf) = (tlog_tiles::Hash(reached.0), tlog_tiles::Hash(leaf.0));
        prop_assert!(tlog_tiles::check_record(&want, size, reached, index, leaf).is_ok());
    }

    #[test]
    fn tiles_of_a_log_are_those_the_oracle_publishes(old in 0..70_000_u64, more in 0..3_000_u64) {
        // Growing by `more` publishes the new edge, and whatever has become full.
        let size = old + more;
        let published: Vec<String> = tlog_tiles::Tile::new_tiles(8, old, size)
            .into_iter()
            .map(|tile| tile.path().replacen("tile/8/", "tile/", 1))
            .collect();
        for path in &published {
            let Ok(Resource::Tile(tile)) = parse(path) else {
                panic!("{path} is a tile's path");
            };
            let has = tile_proxy::tlog::tile::width_in(tile.level(), tile.index(), size);
            prop_assert_eq!(has, tile.width(), "{}", path);
        }
        for tile in edge_tiles(size) {
            let before = tile_proxy::tlog::tile::width_in(tile.level(), tile.index(), old);
            prop_assert_eq!(before != tile.width(), published.contains(&tile.to_string()));
        }
    }
}

proptest! {
    #[test]
    fn a_path_means_the_same_to_the_oracle(
        path in "tile/(entries|[0-9]{1,2}|0[0-9])/(x?[0-9]{1,4}/){0,3}[0-9]{2,4}(\\.p/[0-9]{1,3})?/?"
    ) {
        // Where it panics: a width of 0, and levels above 63.
        let level = path.split('/').nth(1).and_then(|level| level.parse::<u8>().ok());
        prop_assume!(!path.ends_with(".p/0") && !path.ends_with(".p/00") && !path.ends_with(".p/000"));
        prop_assume!(level.is_none_or(|level| level < 64));
        let theirs = path.replacen("tile/", "tile/8/", 1).replace("/entries/", "/data/");
        let theirs = tlog_tiles::Tile::from_path(&theirs).ok();
        match parse(&path) {
            Ok(resource) => {
                let (level, index, width, is_data) = match resource {
                    Resource::Bundle(b) => (0, b.index(), b.width(), true),
                    Resource::Tile(t) => (t.level(), t.index(), t.width(), false),
                };
                let want = tlog_tiles::Tile::new(8, level, index, u32::from(width), is_data);
                prop_assert_eq!(theirs, Some(want));
            }
            // Well-formed for both; but no tree has it.
            Err(PathError::OutOfReach) => prop_assert!(theirs.is_some_and(|t| t.level() > 7)),
            Err(_) => prop_assert_eq!(theirs, None),
        }
    }

    #[test]
    fn a_note_opens_for_both_or_for_neither(
        text in "[a-z \\n]{0,20}\\n",
        signers in proptest::collection::vec(0..4_u8, 0..5),
        known in proptest::collection::vec(0..4_u8, 0..3),
        mutation in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let secret = |who: u8| SigningKey::from_bytes(&[who + 1; 32]);
        let name = |who: u8| format!("signer-{}.example", who / 2); // two keys a name
        let vkey = |who: u8| VerifierKey::ed25519(&name(who), secret(who).verifying_key());
        let mut bytes = format!("{text}\n").into_bytes();
        for who in signers {
            let mut line = vkey(who).id_under(&name(who)).to_be_bytes().to_vec();
            line.extend(secret(who).sign(text.as_bytes()).to_bytes());
            let line = format!("\u{2014} {} {}\n", name(who), BASE64_STANDARD.encode(line));
            bytes.extend(line.into_bytes());
        }
        if let Some((at, byte)) = mutation {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut known = known;
        known.sort_unstable();
        known.dedup(); // a key given twice is ambiguous to the oracle
        let keys: Vec<VerifierKey> = known.iter().map(|who| vkey(*who)).collect();
        let verifiers = keys.iter().map(|key| {
            let verifier = StandardVerifier::new(&key.to_string()).expect("a key of theirs, too");
            Box::new(verifier) as Box<dyn signed_note::Verifier>
        });
        let verifiers = VerifierList::new(verifiers.collect());
        let theirs = signed_note::Note::from_bytes(&bytes)
            .and_then(|note| note.verify(&verifiers).map(|_| note.text().to_vec()));
        let ours = note::open(&bytes, &keys).map(|text| text.as_bytes().to_vec());
        prop_assert_eq!(ours.ok(), theirs.ok());
    }
}
