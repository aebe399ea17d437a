//! The cache: sizes, and volumes that can exist.

use tile_proxy::config::Size;

use super::{Invalid, invalid, units};
use crate::crd::{ALONE_RULE, AccessMode, CLASS_RULE, Cache, Retention};

/// What each replica keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidCache {
    /// Size of the volume.
    pub size: Size,
    /// As the spec spells it, for the claim.
    pub size_text: String,
    /// Verified bytes in memory, in whole mebibytes.
    pub memory_mb: u64,
    /// StorageClass; `None` is the cluster's default.
    pub storage_class: Option<String>,
    /// How the volume is mounted.
    pub access_modes: Vec<AccessMode>,
    /// Whether there is no volume: the cache goes with its pod.
    pub ephemeral: bool,
    /// Age at which a checkpoint is called stale, in whole minutes.
    pub checkpoint_ttl_minutes: u64,
    /// What becomes of volumes that are no longer used.
    pub retention: Retention,
}

impl ValidCache {
    /// What the proxy may fill: 90 % of the volume, in whole mebibytes. The rest is for the file system,
    /// for what is not flushed yet, and for the checkpoint that must still fit when the cache is full.
    pub fn budget(&self) -> Size {
        const MIB: u64 = 1 << 20;
        Size(self.size.0 / 10 * 9 / MIB * MIB)
    }
}

pub(super) fn valid_cache(cache: Cache) -> Result<ValidCache, Invalid> {
    let Cache {
        size: size_text,
        memory,
        storage_class_name,
        access_modes,
        ephemeral,
        checkpoint_ttl,
        retention,
    } = cache;
    let size = units::size(
        "spec.cache.size",
        &size_text,
        Size(64 << 20)..=Size(u64::MAX),
    )?;
    let memory = units::size("spec.cache.memory", &memory, Size(1 << 20)..=Size(64 << 30))?;
    let checkpoint_ttl_minutes =
        units::minutes("spec.cache.checkpointTTL", &checkpoint_ttl, 60..=168 * 3600)?;
    let invalid_modes = |message| Err(invalid("spec.cache.accessModes", message));
    if access_modes.is_empty() {
        return invalid_modes("must hold at least one, ReadWriteOnce");
    }
    if access_modes.contains(&AccessMode::ReadWriteOncePod) && access_modes.len() > 1 {
        return invalid_modes(ALONE_RULE);
    }
    if !storage_class_name.is_empty() && !units::is_subdomain(&storage_class_name) {
        return Err(invalid("spec.cache.storageClassName", CLASS_RULE));
    }
    Ok(ValidCache {
        size,
        size_text,
        memory_mb: memory.0 >> 20,
        storage_class: (!storage_class_name.is_empty()).then_some(storage_class_name),
        access_modes,
        ephemeral,
        checkpoint_ttl_minutes,
        retention,
    })
}
