//! A snapshot never takes back what an earlier one listed (TUF specification, 5.5.5), also where the
//! client has forgotten the earlier one.
//!
//! The client holds a new snapshot against the stored one only if the stored *timestamp* pins that. A
//! refresh that ends between the two, for any reason, leaves a timestamp that pins the next snapshot,
//! and then the one after it is held against nothing: whoever has the online keys would be refused
//! once, and roll targets back at the second try. So it is done here, as the snapshot comes in.

use std::sync::Arc;

use sigstore_tuf::{
    Error, Metadata, MetadataStore, Repository, Role, Snapshot, Timestamp, TrustedMetadataSet,
    transport::FetchFuture,
};

use super::{repository::Remote, store::SNAPSHOT};

/// A repository whose snapshots are held against the stored one; for one client.
pub(super) struct Guarded {
    remote: Arc<Remote>,
    floor: Floor,
}

/// What was stored before a refresh.
struct Floor {
    /// Where the root is stored as soon as it is verified, and a snapshot once it was let through.
    store: Arc<dyn MetadataStore>,
    /// The timestamp, which will be another one when the snapshot comes.
    timestamp: Option<Vec<u8>>,
}

impl Guarded {
    /// `store` is the one that the client is given as well.
    pub(super) fn new(remote: Arc<Remote>, store: Arc<dyn MetadataStore>) -> Self {
        let timestamp = stored(&*store, "timestamp.json");
        Self {
            remote,
            floor: Floor { store, timestamp },
        }
    }
}

impl Repository for Guarded {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(async move {
            let fetched = self.remote.fetch_metadata(name, max_length).await?;
            if let Some(bytes) = fetched.as_deref().filter(|_| is_snapshot(name)) {
                self.floor.holds(bytes)?;
            }
            Ok(fetched)
        })
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.remote.fetch_target(path, max_length))
    }
}

impl Floor {
    /// Whether an offered snapshot, which nobody has verified yet, lists nothing older than the stored
    /// one, and all that it lists.
    fn holds(&self, offered: &[u8]) -> sigstore_tuf::Result<()> {
        let Some(before) = self.snapshot() else {
            return Ok(());
        };
        let Ok(offered) = Metadata::<Snapshot>::from_slice(offered) else {
            return Ok(()); // the client says what is wrong with it
        };
        for (name, listed) in &before.meta {
            match offered.signed().meta.get(name) {
                None => {
                    return Err(Error::IntegrityMismatch(format!(
                        "snapshot removes {name}, which the trusted snapshot pins"
                    )));
                }
                Some(new) if new.version < listed.version => {
                    return Err(Error::Rollback {
                        role: format!("{name} (via snapshot)"),
                        trusted: listed.version,
                        new: new.version,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The stored snapshot; `None` if there is none, or if the root has other keys for it or for the
    /// timestamp by now. That ends what was listed (5.3.11), so that somebody who had the keys for a
    /// while cannot have used up all versions.
    fn snapshot(&self) -> Option<Snapshot> {
        let root = stored(&*self.store, "root.json")?;
        let root = TrustedMetadataSet::from_root(&root).ok()?;
        verified::<Timestamp>(self.timestamp.as_deref()?, &root)?;
        verified::<Snapshot>(&stored(&*self.store, SNAPSHOT)?, &root)
    }
}

/// Metadata that the keys of this root have signed.
fn verified<T: Role>(bytes: &[u8], root: &TrustedMetadataSet) -> Option<T> {
    let metadata = Metadata::<T>::from_slice(bytes).ok()?;
    let root = root.root();
    let signers = root.role(T::TYPE)?;
    let outcome = metadata.verify_threshold(&root.keys, signers, T::TYPE);
    outcome.ok().map(|()| metadata.into_signed())
}

/// What cannot be read is no floor: the next start would not have it either.
fn stored(store: &dyn MetadataStore, name: &str) -> Option<Vec<u8>> {
    store.load(name).ok().flatten()
}

/// Whether this is how a snapshot is called, with a version before it or without.
pub(super) fn is_snapshot(name: &str) -> bool {
    let version = match name.strip_suffix(SNAPSHOT) {
        Some(version) => version.strip_suffix('.').unwrap_or(version),
        None => return false,
    };
    version.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_its_name() {
        for (name, is) in [
            ("snapshot.json", true),
            ("7.snapshot.json", true),
            ("165.snapshot.json", true),
            ("7.targets.json", false),
            ("a.snapshot.json", false), // of a role called `a.snapshot`
            ("7.a.snapshot.json", false),
            ("mysnapshot.json", false),
        ] {
            assert_eq!(is_snapshot(name), is, "{name}");
        }
    }
}
