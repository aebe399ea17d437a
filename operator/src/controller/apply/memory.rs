//! What was last written to each child, so that a settled TileProxy costs no write.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kube::{Resource, ResourceExt as _};

/// Version of each child after we last applied to it, and what that was.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<String, (String, String)>>);

impl Memory {
    pub(super) fn is<K: Resource>(&self, key: &str, found: &K, digest: &str) -> bool {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(key).is_some_and(|(version, applied)| {
            found.resource_version().as_deref() == Some(version) && applied == digest
        })
    }

    pub(super) fn remember<K: Resource>(&self, key: String, applied: &K, digest: String) {
        let version = applied.resource_version().unwrap_or_default();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, (version, digest));
    }
}
