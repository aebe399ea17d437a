//! A Rekor v1 log that exists only in memory. Trees are computed from their definition, signatures are
//! real, and keys are made once a process: a log and its fork have the same.

use std::{fmt::Write as _, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use tile_proxy::{
    note::checkpoint::Checkpoint,
    rekor_v1::api::{Entry, InclusionProof, LogInfo, TreeHead, TreeId, Uuid},
    tlog::{Hash, empty_root, leaf_hash, node_hash},
    trust::Trust,
};

/// Number of the key that is Ed25519; the others are ECDSA.
pub(crate) const ED25519: usize = 2;

static KEYS: LazyLock<[KeyPair; 3]> = LazyLock::new(|| {
    [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ED25519,
    ]
    .map(|algorithm| KeyPair::generate_for(algorithm).expect("random numbers"))
});

/// A shard whose entry `i` says `"entry {i}"`, or from some index on something else.
#[derive(Clone)]
pub(crate) struct RekorLog {
    bodies: Vec<Vec<u8>>,
    leaves: Vec<Hash>,
    key: &'static KeyPair,
    hostname: &'static str,
    tree: TreeId,
    /// Entries of the shards before this one.
    before: u64,
}

impl RekorLog {
    pub(crate) fn with_entries(count: usize) -> Self {
        Self::forked(count, count)
    }

    /// The same log up to `common` entries, and others after that: the same key, another history.
    pub(crate) fn forked(common: usize, count: usize) -> Self {
        let body = |i| {
            let seed = if i < common { "entry" } else { "fork" };
            format!(r#"{{"apiVersion":"0.0.1","kind":"hashedrekord","spec":"{seed} {i}"}}"#).into()
        };
        Self::of((0..count).map(body).collect())
    }

    /// A log of these entries.
    pub(crate) fn of(bodies: Vec<Vec<u8>>) -> Self {
        Self {
            leaves: bodies.iter().map(|body| leaf_hash(body)).collect(),
            bodies,
            key: &KEYS[0],
            hostname: "rekor.example",
            tree: TreeId(0x1234_5678_9abc_def0),
            before: 0,
        }
    }

    /// The same log under another key.
    pub(crate) fn signed_by(mut self, key: usize) -> Self {
        self.key = &KEYS[key];
        self
    }

    /// The same log with another name.
    pub(crate) fn called(mut self, hostname: &'static str) -> Self {
        self.hostname = hostname;
        self
    }

    /// Another shard of the log, which begins after `before` entries.
    pub(crate) fn shard(mut self, tree: u64, before: u64) -> Self {
        self.tree = TreeId(tree);
        self.before = before;
        self
    }

    pub(crate) fn hostname(&self) -> &'static str {
        self.hostname
    }

    pub(crate) fn tree(&self) -> TreeId {
        self.tree
    }

    pub(crate) fn size(&self) -> usize {
        self.leaves.len()
    }

    pub(crate) fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    pub(crate) fn pem(&self) -> String {
        self.key.public_key_pem()
    }

    /// The key as DER (SPKI).
    pub(crate) fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Keys(vec![self.pem().parse().expect("a key")])
    }

    /// What was signed of the first `size` entries.
    pub(crate) fn checkpoint(&self, size: usize) -> Checkpoint {
        Checkpoint {
            origin: format!("{} - {}", self.hostname, self.tree),
            size: size as u64,
            root: tree_hash(&self.leaves[..size]),
        }
    }

    /// The signed note of that; other bytes each time.
    pub(crate) fn note(&self, size: usize) -> String {
        let Checkpoint { origin, size, root } = self.checkpoint(size);
        let mut note = format!("{origin}\n{size}\n{root}\n");
        let mut signature = self.log_id().0[..4].to_vec();
        signature.extend(self.sign(&note));
        let signature = BASE64_STANDARD.encode(signature);
        writeln!(note, "\n\u{2014} {} {signature}", self.hostname).expect("memory");
        note
    }

    pub(crate) fn uuid(&self, index: usize) -> Uuid {
        Uuid {
            tree: Some(self.tree),
            leaf: self.leaves[index],
        }
    }

    /// The entry at an index of this shard, proven in the tree of `size` entries.
    pub(crate) fn entry(&self, index: usize, size: usize) -> Entry {
        let mut entry = Entry {
            uuid: self.uuid(index),
            body: self.bodies[index].clone(),
            integrated_time: 1_795_437_213 + index as u64,
            log_id: self.log_id(),
            log_index: self.before + index as u64,
            proof: InclusionProof {
                checkpoint: self.note(size),
                hashes: inclusion_proof(&self.leaves[..size], index),
                log_index: index as u64,
                root_hash: tree_hash(&self.leaves[..size]),
                tree_size: size as u64,
            },
            signed_entry_timestamp: Vec::new(),
        };
        entry.signed_entry_timestamp = self.sign(&entry.signed_json());
        entry
    }

    pub(crate) fn head(&self, size: usize) -> TreeHead {
        TreeHead {
            root_hash: tree_hash(&self.leaves[..size]),
            signed_tree_head: self.note(size),
            tree_id: self.tree,
            tree_size: size as u64,
        }
    }

    /// What a log says of itself whose last shard this one is.
    pub(crate) fn info(&self, size: usize, inactive: &[Self]) -> LogInfo {
        LogInfo {
            inactive_shards: inactive
                .iter()
                .map(|shard| shard.head(shard.size()))
                .collect(),
            active: self.head(size),
        }
    }

    /// The position of an entry in this shard, by its index in the whole log.
    pub(crate) fn position(&self, log_index: u64) -> Option<usize> {
        let index = usize::try_from(log_index.checked_sub(self.before)?).ok()?;
        (index < self.size()).then_some(index)
    }

    fn log_id(&self) -> Hash {
        Hash::of(&self.key.subject_public_key_info())
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        self.key.sign(text.as_bytes()).expect("random numbers")
    }
}

/// RFC 6962, section 2.1, word for word.
pub(crate) fn tree_hash(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = split(leaves);
            node_hash(tree_hash(left), tree_hash(right))
        }
    }
}

/// RFC 6962, section 2.1.1: from the hash beside the leaf upwards.
pub(crate) fn inclusion_proof(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = split(leaves);
    let (mut proof, beside) = match index.checked_sub(left.len()) {
        None => (inclusion_proof(left, index), tree_hash(right)),
        Some(index) => (inclusion_proof(right, index), tree_hash(left)),
    };
    proof.push(beside);
    proof
}

/// RFC 6962, section 2.1.2: that the first `old` leaves were a tree once.
pub(crate) fn consistency_proof(leaves: &[Hash], old: usize) -> Vec<Hash> {
    fn subproof(leaves: &[Hash], old: usize, whole: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if whole {
                Vec::new()
            } else {
                vec![tree_hash(leaves)]
            };
        }
        let (left, right) = split(leaves);
        let (mut proof, beside) = match old.checked_sub(left.len()) {
            None | Some(0) => (subproof(left, old, whole), tree_hash(right)),
            Some(old) => (subproof(right, old, false), tree_hash(left)),
        };
        proof.push(beside);
        proof
    }
    subproof(leaves, old, true)
}

/// At the largest power of two below their number.
fn split(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}
