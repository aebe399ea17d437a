//! What makes an entry believed. No I/O: the caller brings keys, the trusted tree and the log's proof.
//!
//! Two steps, because the second may need a question to the log:
//!
//! 1. [`SignedEntry`]: the body has the hash that its UUID says, the inclusion proof leads to the root of
//!    a checkpoint that a known key signed for this shard, and the signed entry timestamp is a known
//!    key's. The timestamp is needed because nothing else says when the log took the entry, nor where in
//!    the whole log it stands.
//! 2. [`VerifiedEntry`]: that checkpoint's tree is a prefix of the trusted one, or the same.

use bytes::Bytes;

use super::{
    api::{Entry, TreeId, Uuid},
    origin_of,
};
use crate::{
    note::{
        NoteError,
        checkpoint::{Checkpoint, CheckpointFormatError},
    },
    tlog::{Hash, inclusion::proven_root, leaf_hash, proof::shown_roots},
    trust::Trust,
};

/// What an entry is not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// Its body is another one's.
    #[error("its body has the hash {got}, and not that of its UUID, {want}")]
    Body {
        /// The leaf hash in the UUID.
        want: Hash,
        /// That of the body.
        got: Hash,
    },
    /// Its checkpoint is no checkpoint.
    #[error(transparent)]
    Format(#[from] CheckpointFormatError),
    /// The inclusion proof does not lead to the root that was signed.
    #[error("it is not in the tree of its checkpoint: the proof does not lead to the signed root")]
    Inclusion,
    /// No known key signed its checkpoint.
    #[error("its checkpoint is refused: {0}")]
    Note(#[from] NoteError),
    /// Its checkpoint is of another log or shard.
    #[error("its checkpoint is of `{got}`, not of `{want}`")]
    Origin {
        /// That of the shard in its UUID.
        want: String,
        /// First line of the checkpoint.
        got: String,
    },
    /// Its checkpoint is not the one that its proof is for.
    #[error("its checkpoint has another size or root than its proof is for")]
    OtherTree,
    /// Its checkpoint's tree is not shown to be the beginning of the trusted one.
    #[error(
        "its checkpoint of size {size} is not proven to be consistent with the trusted {trusted}"
    )]
    Inconsistent {
        /// Size of the entry's tree.
        size: u64,
        /// Size of the trusted one.
        trusted: u64,
    },
    /// The signed entry timestamp is no known key's, so that time and index are anybody's.
    #[error(
        "its signed entry timestamp is of no known key: time, log and index are not vouched for"
    )]
    Timestamp,
}

/// An entry that the log signed. Whether it did so in the history that we follow is not known.
#[derive(Clone, Debug)]
pub struct SignedEntry {
    entry: Entry,
    checkpoint: Checkpoint,
}

impl SignedEntry {
    /// Proves an entry by itself, for the log of this host name.
    ///
    /// Costs two signatures, the hash of the body, and one hash for each of the proof.
    ///
    /// # Errors
    /// See [`Unproven`].
    pub fn open(entry: Entry, trust: &Trust, hostname: Option<&str>) -> Result<Self, Unproven> {
        let leaf = leaf_hash(&entry.body);
        if leaf != entry.uuid.leaf {
            let want = entry.uuid.leaf;
            return Err(Unproven::Body { want, got: leaf });
        }
        let proof = &entry.proof;
        let checkpoint = Checkpoint::parse(trust.open(proof.checkpoint.as_bytes())?)?;
        let Some(shard) = ShardOrigin::of(&checkpoint.origin)
            .filter(|shard| Some(shard.tree) == entry.uuid.tree)
            .filter(|shard| hostname.is_none_or(|hostname| hostname == shard.hostname))
        else {
            let tree = entry.uuid.tree.unwrap_or(TreeId(0)); // `Entry::parse` takes none without
            return Err(Unproven::Origin {
                want: origin_of(hostname.unwrap_or("…"), tree),
                got: checkpoint.origin,
            });
        };
        debug_assert_eq!(origin_of(shard.hostname, shard.tree), checkpoint.origin);
        if (proof.tree_size, proof.root_hash) != (checkpoint.size, checkpoint.root) {
            return Err(Unproven::OtherTree);
        }
        if proven_root(leaf, proof.log_index, proof.tree_size, &proof.hashes)
            != Some(proof.root_hash)
        {
            return Err(Unproven::Inclusion);
        }
        let signed = entry.signed_json();
        let timestamp = &entry.signed_entry_timestamp;
        let is_known = trust
            .keys()
            .iter()
            .filter(|key| key.algorithm().vouches_for_logs() && key.log_id() == entry.log_id)
            .any(|key| key.verifies(signed.as_bytes(), timestamp));
        if !is_known {
            return Err(Unproven::Timestamp);
        }
        Ok(Self { entry, checkpoint })
    }

    /// What was signed about the tree that it is in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note that says so.
    pub fn note(&self) -> &str {
        &self.entry.proof.checkpoint
    }

    /// Its UUID, in the long form.
    pub fn uuid(&self) -> Uuid {
        self.entry.uuid
    }

    /// Its position in the whole log.
    pub fn log_index(&self) -> u64 {
        self.entry.log_index
    }
}

/// An entry in the history of a log that we follow, as it is served.
///
/// Only [`VerifiedEntry::prove`] and [`VerifiedEntry::kept`] make one, so a function that takes it cannot
/// be handed what came straight from the network.
#[derive(Clone, Debug)]
pub struct VerifiedEntry {
    uuid: Uuid,
    log_index: u64,
    json: Bytes,
}

impl VerifiedEntry {
    /// Proves that the entry's tree is the beginning of the trusted one, or the same. `proof` is the log's
    /// for these two sizes; it is not looked at where the sizes are the same.
    ///
    /// # Errors
    /// [`Unproven::Inconsistent`]. Whether log or upstream is to blame is for the caller to find out.
    pub fn prove(
        signed: SignedEntry,
        trusted: &Checkpoint,
        proof: &[Hash],
    ) -> Result<Self, Unproven> {
        let ours = &signed.checkpoint;
        let consistent = if ours.size == trusted.size {
            ours.root == trusted.root
        } else {
            shown_roots(ours.size, trusted.size, ours.root, proof)
                .is_some_and(|shown| (shown.old, shown.new) == (ours.root, trusted.root))
        };
        if consistent {
            Ok(Self::new(&signed))
        } else {
            Err(Unproven::Inconsistent {
                size: ours.size,
                trusted: trusted.size,
            })
        }
    }

    /// An entry that was proven before it was stored, read back and opened again. The log's signature
    /// vouches for its tree as it does for the trusted one, which comes from the same disk; that one is
    /// the beginning of the other was shown by the log then, and cannot be shown again without it.
    ///
    /// # Errors
    /// [`Unproven::Inconsistent`], where both cannot be of one history.
    pub fn kept(signed: SignedEntry, trusted: &Checkpoint) -> Result<Self, Unproven> {
        if signed.checkpoint.size < trusted.size {
            return Ok(Self::new(&signed));
        }
        // As large, or larger than anything that was trusted when it was stored.
        Self::prove(signed, trusted, &[])
    }

    fn new(signed: &SignedEntry) -> Self {
        Self {
            uuid: signed.entry.uuid,
            log_index: signed.entry.log_index,
            json: signed.entry.to_json().into(),
        }
    }

    /// Its UUID, in the long form.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its position in the whole log.
    pub fn log_index(&self) -> u64 {
        self.log_index
    }

    /// The answer to whoever asks for it.
    pub fn json(&self) -> &Bytes {
        &self.json
    }
}

/// The origin of a shard's checkpoints, taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShardOrigin<'a> {
    /// Name of the log, which is often also the name of its key.
    pub hostname: &'a str,
    /// Which shard.
    pub tree: TreeId,
}

impl<'a> ShardOrigin<'a> {
    /// The parts of `<hostname> - <tree ID>`; `None` for any other origin.
    pub fn of(origin: &'a str) -> Option<Self> {
        let (hostname, tree) = origin.rsplit_once(" - ")?;
        let tree = TreeId::parse(tree)?;
        (!hostname.is_empty()).then_some(Self { hostname, tree })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rekor_log::{RekorLog, consistency_proof},
        rekor_v1::testing::{PUBLIC_KEY, REAL_ENTRY},
    };

    fn public_key() -> Trust {
        Trust::Keys(vec![PUBLIC_KEY.parse().expect("a key")])
    }

    #[test]
    fn an_entry_of_the_public_log_is_proven() {
        let entry = Entry::parse(REAL_ENTRY).expect("as it was published");
        for hostname in [None, Some("rekor.sigstore.dev")] {
            let signed = SignedEntry::open(entry.clone(), &public_key(), hostname).expect("proven");
            assert_eq!(signed.checkpoint().size, 27_657_875);
            let trusted = signed.checkpoint().clone();
            let proven = VerifiedEntry::prove(signed, &trusted, &[]).expect("the same tree");
            assert_eq!(proven.log_index(), 31_821_305);
        }
        let other = SignedEntry::open(entry, &public_key(), Some("rekor.example"));
        assert!(matches!(other, Err(Unproven::Origin { .. })), "{other:?}");
    }

    /// Something done to an entry, and how it is found out.
    type Lie = (fn(&mut Entry), fn(&Unproven) -> bool);

    #[test]
    fn every_lie_about_an_entry_is_found_out() {
        let log = RekorLog::with_entries(20);
        let lies: [Lie; 18] = [
            (|e| e.body[0] ^= 1, |u| matches!(u, Unproven::Body { .. })),
            (
                |e| e.body.push(b' '),
                |u| matches!(u, Unproven::Body { .. }),
            ),
            (|e| e.body.clear(), |u| matches!(u, Unproven::Body { .. })),
            (
                |e| e.uuid.leaf.0[31] ^= 1,
                |u| matches!(u, Unproven::Body { .. }),
            ),
            (
                |e| e.uuid.tree = Some(TreeId(8)),
                |u| matches!(u, Unproven::Origin { .. }),
            ),
            (|e| e.integrated_time += 1, |u| *u == Unproven::Timestamp),
            (|e| e.log_index += 1, |u| *u == Unproven::Timestamp),
            (|e| e.log_id.0[0] ^= 1, |u| *u == Unproven::Timestamp),
            (
                |e| e.signed_entry_timestamp[9] ^= 1,
                |u| *u == Unproven::Timestamp,
            ),
            (
                |e| e.signed_entry_timestamp.clear(),
                |u| *u == Unproven::Timestamp,
            ),
            (|e| e.proof.log_index += 1, |u| *u == Unproven::Inclusion),
            (
                |e| e.proof.hashes[0].0[0] ^= 1,
                |u| *u == Unproven::Inclusion,
            ),
            (
                |e| e.proof.hashes.truncate(1),
                |u| *u == Unproven::Inclusion,
            ),
            (
                |e| e.proof.hashes.push(e.proof.hashes[0]),
                |u| *u == Unproven::Inclusion,
            ),
            (|e| e.proof.tree_size += 1, |u| *u == Unproven::OtherTree),
            (
                |e| e.proof.root_hash.0[0] ^= 1,
                |u| *u == Unproven::OtherTree,
            ),
            (
                |e| e.proof.checkpoint = e.proof.checkpoint.replace("\n20\n", "\n21\n"),
                |u| matches!(u, Unproven::Note(NoteError::BadSignature { .. })),
            ),
            (
                |e| e.proof.checkpoint = "<html>".to_owned(),
                |u| matches!(u, Unproven::Note(NoteError::Malformed(_))),
            ),
        ];
        let trust = log.trust();
        assert!(SignedEntry::open(log.entry(3, 20), &trust, Some(log.hostname())).is_ok());
        for (number, (lie, found_out)) in lies.iter().enumerate() {
            let mut entry = log.entry(3, 20);
            lie(&mut entry);
            let error = SignedEntry::open(entry, &trust, Some(log.hostname())).expect_err("a lie");
            assert!(found_out(&error), "lie {number}: {error}");
        }
    }

    #[test]
    fn another_logs_signatures_vouch_for_nothing() {
        let (log, other) = (
            RekorLog::with_entries(5),
            RekorLog::with_entries(5).signed_by(1),
        );
        let mut foreign_note = log.entry(1, 5);
        foreign_note.proof.checkpoint = other.entry(1, 5).proof.checkpoint;
        let mut foreign_timestamp = log.entry(1, 5);
        foreign_timestamp.log_id = other.entry(1, 5).log_id;
        foreign_timestamp.signed_entry_timestamp = other.entry(1, 5).signed_entry_timestamp;
        for (entry, want) in [
            (foreign_note, "checkpoint is refused"),
            (foreign_timestamp, "timestamp is of no known key"),
            (other.entry(1, 5), "checkpoint is refused"),
        ] {
            let error = SignedEntry::open(entry, &log.trust(), None)
                .expect_err(want)
                .to_string();
            assert!(error.contains(want), "{error}");
        }
        // Whoever accepts any checkpoint still knows no key for the timestamp.
        let anyone = SignedEntry::open(log.entry(1, 5), &Trust::Anyone, None);
        assert_eq!(anyone.map(drop), Err(Unproven::Timestamp));
    }

    #[test]
    fn an_entry_is_served_only_from_the_history_that_is_followed() {
        let log = RekorLog::with_entries(40);
        let fork = RekorLog::forked(10, 40);
        let open = |log: &RekorLog, size| {
            SignedEntry::open(log.entry(3, size), &log.trust(), None).expect("signed")
        };
        let (ours, theirs) = (log.checkpoint(40), fork.checkpoint(40));
        let proof = consistency_proof(log.leaves(), 20);
        let of_fork = consistency_proof(fork.leaves(), 20);
        for (entry, trusted, proof, consistent) in [
            (open(&log, 20), &ours, &proof[..], true),
            (open(&log, 40), &ours, &[], true),
            (open(&log, 20), &ours, &[], false),
            (open(&log, 20), &ours, &of_fork, false),
            (open(&log, 20), &theirs, &proof, false),
            (open(&log, 20), &theirs, &of_fork, false),
            (open(&fork, 20), &ours, &of_fork, false),
            (open(&fork, 40), &ours, &[], false),
            (open(&log, 40), &log.checkpoint(20), &proof, false), // not trusted yet
        ] {
            let size = entry.checkpoint().size;
            let proven = VerifiedEntry::prove(entry, trusted, proof);
            assert_eq!(
                proven.is_ok(),
                consistent,
                "{size} in {}: {proven:?}",
                trusted.size
            );
        }
    }

    #[test]
    fn a_stored_entry_needs_no_proof_unless_it_contradicts_what_is_trusted() {
        let (log, fork) = (RekorLog::with_entries(40), RekorLog::forked(10, 40));
        let open = |log: &RekorLog, size| {
            SignedEntry::open(log.entry(3, size), &log.trust(), None).expect("signed")
        };
        for (entry, believed) in [
            (open(&log, 20), true),
            (open(&log, 30), true),
            (open(&fork, 30), false),
            (open(&log, 40), false), // nothing as large was trusted when anything was stored
        ] {
            let size = entry.checkpoint().size;
            let kept = VerifiedEntry::kept(entry, &log.checkpoint(30));
            assert_eq!(kept.is_ok(), believed, "{size}: {kept:?}");
        }
    }

    #[test]
    fn an_origin_names_host_and_shard() {
        for (origin, want) in [
            ("rekor.example - 7", Some(("rekor.example", 7))),
            ("a - b - 7", Some(("a - b", 7))), // the last one is the shard's
            ("rekor.example", None),
            ("rekor.example - 07", None),
            ("rekor.example - x", None),
            ("rekor.example -7", None),
            (" - 7", None),
        ] {
            let got = ShardOrigin::of(origin).map(|shard| (shard.hostname, shard.tree.0));
            assert_eq!(got, want, "{origin}");
        }
    }
}
