//! Checks what is stored of a shard of a Rekor v1 log: its tree heads, and each entry by itself.
//!
//! What is proven is what is proven of an entry that is read to be served: all but that its tree is the
//! beginning of the trusted one, which only the log can show.

use std::{io, sync::Arc};

use super::{Options, Part, Report, on_all_cores, tally};
use crate::{
    cache::LogStore,
    log::stored::Found,
    note::NoteError,
    rekor_v1::{
        api::{Entry, TreeId, Uuid},
        shard::{Signed, is_of_shard, reopen},
        verify::{ShardOrigin, SignedEntry, Unproven, VerifiedEntry},
    },
    tlog::Hash,
};

/// A shard, by what its origin says.
pub(super) struct ShardOf {
    hostname: String,
    tree: TreeId,
}

/// The shard that is stored here, if it is one: its origin looks like it, and what is there is what
/// only a shard has.
pub(super) fn of(store: &LogStore) -> io::Result<Option<ShardOf>> {
    let Some(origin) = ShardOrigin::of(store.origin()) else {
        return Ok(None);
    };
    let stored = store.files.read_checkpoints()?;
    let is_one = stored.iter().any(is_of_shard) || !store.files.entry_leaves().is_empty();
    Ok(is_one.then(|| ShardOf {
        hostname: origin.hostname.to_owned(),
        tree: origin.tree,
    }))
}

pub(super) fn check(
    store: &Arc<LogStore>,
    shard: ShardOf,
    options: &Options<'_>,
    report: &mut Report,
) -> io::Result<()> {
    let trusted = check_heads(store, options, report)?;
    report.size = trusted.as_ref().map(|trusted| trusted.checkpoint.size);
    let leaves = store.files.entry_leaves();
    let parts = on_all_cores(leaves.len(), options, |turn, part| {
        let leaf = leaves[turn];
        let found = look(store, &shard, leaf, options, trusted.as_ref());
        let name = format!("entry {}", hex::encode(leaf.0));
        if tally(&mut part.entries, &mut part.findings, &name, &found) && options.repair {
            part.removed(&name, store.files.forget_entry(leaf));
        }
    });
    parts.into_iter().for_each(|part: Part| report.add(part));
    Ok(())
}

/// Checks every stored tree head. Gives the largest, if a known key signed it: nothing smaller takes its
/// place.
fn check_heads(
    store: &LogStore,
    options: &Options<'_>,
    report: &mut Report,
) -> io::Result<Option<Signed>> {
    let sizes = store.files.checkpoint_sizes()?;
    let largest = sizes.last().copied();
    let mut trusted = None;
    for size in sizes.into_iter().rev() {
        let stored = store.files.read_checkpoint(size);
        let opened = reopen(&stored, store.origin(), size, options.trust);
        let found = match opened {
            Some((signed, true)) => Found::Proven(signed),
            Some((_, false)) => Found::Unprovable,
            None => Found::Damaged(
                "not a tree head of this shard and size, as it was written".to_owned(),
            ),
        };
        let name = format!("checkpoint {size}");
        let damaged = tally(&mut report.checkpoints, &mut report.findings, &name, &found);
        match found {
            Found::Proven(signed) if Some(size) == largest => trusted = Some(signed),
            _ if !damaged || !options.repair => {}
            _ if Some(size) == largest => report
                .findings
                .push(format!("{name}: kept; an online proxy mends it")),
            _ => match store.files.remove_checkpoint(size) {
                Ok(()) => report.removed += 1,
                Err(error) => report
                    .findings
                    .push(format!("{name}: not removed: {error}")),
            },
        }
    }
    Ok(trusted)
}

/// Proves an entry again.
fn look(
    store: &LogStore,
    shard: &ShardOf,
    leaf: Hash,
    options: &Options<'_>,
    trusted: Option<&Signed>,
) -> Found<()> {
    let json = match store.files.read_entry(leaf) {
        Ok(Some(json)) => json,
        Ok(None) => return Found::Absent, // evicted meanwhile
        Err(error) => return Found::Damaged(error.to_string()),
    };
    let entry = match Entry::parse(&json) {
        Ok(entry) => entry,
        Err(error) => return Found::Damaged(error.to_string()),
    };
    let name = Uuid {
        tree: Some(shard.tree),
        leaf,
    };
    if entry.uuid != name {
        return Found::Damaged(format!("it is entry {}", entry.uuid));
    }
    let signed = match SignedEntry::open(entry, options.trust, Some(&shard.hostname)) {
        Ok(signed) => signed,
        // Its key is not known here, or no longer.
        Err(Unproven::Note(NoteError::UnknownKeys { .. } | NoteError::NoTrust(_))) => {
            return Found::Unprovable;
        }
        Err(Unproven::Timestamp) if options.trust.keys().is_empty() => return Found::Unprovable,
        Err(error) => return Found::Damaged(error.to_string()),
    };
    match trusted.map(|trusted| VerifiedEntry::kept(signed, &trusted.checkpoint)) {
        None => Found::Unprovable,
        Some(Ok(_)) => Found::Proven(()),
        Some(Err(error)) => Found::Damaged(error.to_string()),
    }
}
