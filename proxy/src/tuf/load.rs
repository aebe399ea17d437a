//! One pass of the client over a repository or over what was kept of it: metadata, then all targets
//! that are about logs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::FutureExt as _;
use jiff::Timestamp;
use sigstore_tuf::{MetadataStore, StoreRepository, TrustedMetadataSet, Updater, UpdaterConfig};

use super::{
    discover::{KEY_TARGETS, Material, Published, keys_in},
    error::TufError,
    floor::Guarded,
    monitor,
    policy::{RoleState, earlier},
    repository::Remote,
    service_map, signing_config, sigstore,
    store::{Files, Meta},
    trusted_root,
};
use crate::{config::Source, upstream::reread::Reread};

/// Largest target that is read: the trusted root is some 10 KB, and grows by 500 bytes a year.
const MAX_TARGET_BYTES: u64 = 1 << 20;

/// Most roots between the pinned one and the newest: Sigstore signs two a year.
const MAX_ROOT_ROTATIONS: u32 = 256;

/// Most targets that are read because they are marked as Rekor's.
const MAX_LEGACY: usize = 8;

/// The one target that held Rekor's key before there was a trusted root.
const LEGACY: &str = "rekor.pub";

/// Metadata that verifies from the pinned root, and what its targets say.
#[derive(Debug)]
pub struct Loaded {
    /// Versions and expiry.
    pub roles: Vec<RoleState>,
    /// What is known of logs.
    pub material: Material,
    /// The targets that this was read from.
    pub(super) targets: Vec<String>,
}

/// The root that everything is verified from.
#[derive(Debug)]
pub(super) enum Pinned {
    /// As configured; a file is read again when it changes.
    Given(Reread),
    /// That of Sigstore's public instance.
    Shipped(&'static [u8]),
}

impl Pinned {
    /// The root that is configured, or the shipped one.
    ///
    /// # Errors
    /// When it cannot be read, or is no root.
    pub(super) fn read(source: Option<&Source>) -> anyhow::Result<Self> {
        Ok(match source {
            Some(source) => {
                let root = Reread::new("tile_proxy.tuf.root", source.clone(), check_root)?;
                Self::Given(root)
            }
            None => Self::Shipped(sigstore::ROOT),
        })
    }

    pub(super) fn current(&self) -> Vec<u8> {
        match self {
            Self::Given(root) => root.current(check_root).as_bytes().to_vec(),
            Self::Shipped(root) => root.to_vec(),
        }
    }
}

/// Whether this is a root that is signed by itself.
pub(super) fn check_root(text: &str) -> Result<(), String> {
    let root = TrustedMetadataSet::from_root(text.as_bytes());
    root.map(drop).map_err(|error| {
        let error = TufError::from(error);
        format!("not a TUF root (`root.json`, signed by itself): {error}")
    })
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) service_map: String,
    pub(super) environment: String,
    pub(super) allow_http: bool,
}

/// Asks a repository. Each file goes to `meta` once it is verified. At a time, with a grace period
/// that begins when metadata expires.
///
/// # Errors
/// The first thing that is wrong.
pub(super) async fn online(
    pinned: &[u8],
    remote: Arc<Remote>,
    meta: &Arc<Meta>,
    wanted: &Wanted,
    (now, grace): (Timestamp, Duration),
) -> Result<Loaded, TufError> {
    let guarded = Guarded::new(remote, Arc::<Meta>::clone(meta));
    let mut updater = updater(guarded, pinned, Arc::clone(meta))?;
    match ask(&mut updater, wanted, (now, now)).await {
        // The client knows no grace: it is told an earlier time.
        Err(TufError::Expired { .. }) if !grace.is_zero() => {
            ask(&mut updater, wanted, (earlier(now, grace), now)).await
        }
        outcome => outcome,
    }
}

/// Metadata first, then targets, whose roles may have expired by themselves.
async fn ask(
    updater: &mut Updater,
    wanted: &Wanted,
    (at, now): (Timestamp, Timestamp),
) -> Result<Loaded, TufError> {
    updater.refresh(at).await?;
    read(updater, wanted, (at, now)).await
}

/// Reads what was kept, whether or not it has expired: the caller judges by [`Loaded::roles`].
///
/// # Errors
/// When it does not verify from the pinned root, or is not whole.
pub(super) fn offline(
    pinned: &[u8],
    files: Files,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Loaded, TufError> {
    let files = Arc::new(files);
    let mut updater = updater(StoreRepository::new(Arc::clone(&files)), pinned, files)?;
    // Before anything can have expired.
    let at = Timestamp::UNIX_EPOCH;
    let read = ask(&mut updater, wanted, (at, now));
    // Everything is in memory, so there is nothing to wait for.
    let wait = || TufError::Store("reading stored trust did not end".to_owned());
    read.now_or_never().ok_or_else(wait)?
}

fn updater(
    repository: impl sigstore_tuf::Repository + 'static,
    pinned: &[u8],
    store: impl MetadataStore + 'static,
) -> Result<Updater, TufError> {
    let mut config = UpdaterConfig::default();
    config.target_max_length = MAX_TARGET_BYTES;
    config.max_root_rotations = MAX_ROOT_ROTATIONS;
    let updater = Updater::new(repository, pinned)?.with_config(config);
    Ok(updater.with_store(store))
}

/// Reads all targets that are about logs.
async fn read(
    updater: &mut Updater,
    wanted: &Wanted,
    (at, now): (Timestamp, Timestamp),
) -> Result<Loaded, TufError> {
    let mut targets = Targets {
        updater,
        at,
        read: Vec::new(),
    };
    let published = targets.published(wanted).await?;
    let read = targets.read;
    let material = published.resolve(now);
    if material.logs.iter().all(|log| log.keys.is_empty()) && material.loose.is_empty() {
        return Err(TufError::NoTargets);
    }
    Ok(Loaded {
        roles: roles(updater.trusted()),
        material,
        targets: read,
    })
}

/// Targets of a repository, one after the other.
struct Targets<'a> {
    updater: &'a mut Updater,
    at: Timestamp,
    /// Names of those that were there.
    read: Vec<String>,
}

impl Targets<'_> {
    async fn published(&mut self, wanted: &Wanted) -> Result<Published, TufError> {
        let mut published = Published::default();
        let map = [
            wanted.service_map.clone(),
            format!("{}.json", wanted.service_map),
        ];
        if let Some((name, bytes)) = self.first(map).await? {
            let rules = service_map::Rules {
                name: &name,
                environment: &wanted.environment,
                allow_http: wanted.allow_http,
            };
            let (log, notes) = service_map::parse(&bytes, &rules)?;
            published.service_map = log;
            published.notes.extend(notes);
        }
        let named = published
            .service_map
            .as_ref()
            .map(|map| &map.public_key_targets);
        let (names, must) = match named {
            Some(names) if !names.is_empty() => (names.clone(), true),
            _ => (KEY_TARGETS.map(str::to_owned).to_vec(), false),
        };
        for name in names {
            match self.first([name.clone(), format!("{name}.pub")]).await? {
                Some((name, bytes)) => {
                    let keys = keys_in(&name, &bytes)?;
                    published.key_targets.push((name, keys));
                }
                None if must => published.notes.push(format!(
                    "the service map names the target `{name}`, which the repository does not have"
                )),
                None => {}
            }
        }
        if let Some(bytes) = self.get(trusted_root::TARGET).await? {
            published.trusted_root = trusted_root::parse(&bytes)?;
        }
        for name in signing_config::TARGETS {
            if let Some(bytes) = self.get(name).await? {
                published
                    .signing
                    .extend(signing_config::parse(name, &bytes)?);
            }
        }
        if let Some((name, bytes)) = self.first(monitor::TARGETS.map(str::to_owned)).await? {
            published.monitored = monitor::parse(&name, &bytes, wanted.allow_http)?;
        }
        for name in self.legacy() {
            if let Some(bytes) = self.get(&name).await? {
                published
                    .legacy
                    .push((name.clone(), keys_in(&name, &bytes)?));
            }
        }
        Ok(published)
    }

    /// The first of these that there is.
    async fn first<const N: usize>(
        &mut self,
        names: [String; N],
    ) -> Result<Option<(String, Vec<u8>)>, TufError> {
        for name in names {
            if let Some(bytes) = self.get(&name).await? {
                return Ok(Some((name, bytes)));
            }
        }
        Ok(None)
    }

    /// A target's bytes; `None` if no role lists it.
    async fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, TufError> {
        let Some(info) = self.updater.get_target_info(name, self.at).await? else {
            return Ok(None);
        };
        let bytes = match self.updater.find_cached_target(&info, name) {
            Some(bytes) => bytes,
            None => self.updater.download_target(&info, name).await?,
        };
        self.read.push(name.to_owned());
        Ok(Some(bytes))
    }

    /// Targets that are marked as Rekor's, and the one that always was.
    fn legacy(&self) -> Vec<String> {
        let Some(targets) = self.updater.trusted().targets_role("targets") else {
            return Vec::new();
        };
        let marked = targets.targets.iter().filter(|(name, info)| {
            let custom = info.custom.as_ref();
            let usage = custom.and_then(|custom| custom["sigstore"]["usage"].as_str());
            usage == Some("Rekor") || *name == LEGACY
        });
        let names = marked.map(|(name, _)| name.clone());
        names.take(MAX_LEGACY).collect()
    }
}

/// The state of every role that was loaded, delegated ones included.
fn roles(trusted: &TrustedMetadataSet) -> Vec<RoleState> {
    let state = |role: &str, version, expires| RoleState {
        role: role.to_owned(),
        version,
        expires,
    };
    let root = trusted.root();
    let mut roles = vec![state("root", root.version, root.expires)];
    roles.extend(
        trusted
            .timestamp()
            .map(|role| state("timestamp", role.version, role.expires)),
    );
    roles.extend(
        trusted
            .snapshot()
            .map(|role| state("snapshot", role.version, role.expires)),
    );
    let mut seen = BTreeSet::new();
    let mut open = vec!["targets".to_owned()];
    while let Some(name) = open.pop() {
        let Some(role) = trusted
            .targets_role(&name)
            .filter(|_| seen.insert(name.clone()))
        else {
            continue;
        };
        roles.push(state(&name, role.version, role.expires));
        let delegated = role.delegations.iter().flat_map(|all| &all.roles);
        open.extend(delegated.map(|role| role.name.clone()));
    }
    roles
}
