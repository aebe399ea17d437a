//! What a Rekor v1 server says of the logs of the tests, when it tells the truth.

use std::collections::HashMap;

use super::rekor_log::{RekorLog, consistency_proof};
use tile_proxy::rekor_v1::api::Uuid;

/// The shards of a log, of which the last one grows.
#[derive(Clone)]
pub(crate) struct RekorServer {
    shards: Vec<RekorLog>,
    /// Entries of the last one that there are by now.
    size: usize,
}

impl RekorServer {
    /// A log of one shard, whole.
    pub(crate) fn of(log: &RekorLog) -> Self {
        Self::of_shards(vec![log.clone()])
    }

    /// A log of several shards, the oldest first.
    pub(crate) fn of_shards(shards: Vec<RekorLog>) -> Self {
        let size = shards.last().map_or(0, RekorLog::size);
        Self { shards, size }
    }

    /// The same log when its last shard had this size.
    pub(crate) fn when_it_had(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// The answer to a `GET`; `None` if there is none.
    pub(super) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.strip_prefix("api/v1/log")?;
        let (active, inactive) = self.shards.split_last()?;
        if path.is_empty() {
            return Some(active.info(self.size, inactive).to_json());
        }
        if let Some(uuid) = path.strip_prefix("/entries/") {
            let wanted = Uuid::parse(uuid)?;
            return self.entry(|shard| {
                let mut indexes = 0..shard.size();
                indexes.find(|index| wanted.admits(shard.uuid(*index)))
            });
        }
        if let Some(index) = path.strip_prefix("/entries?logIndex=") {
            let index = index.parse().ok()?;
            return self.entry(|shard| shard.position(index));
        }
        if let Some(query) = path.strip_prefix("/proof?") {
            let query: HashMap<&str, &str> = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .collect();
            let size = |name| query.get(name)?.parse::<usize>().ok();
            let (old, new) = (size("firstSize")?, size("lastSize")?);
            let tree = query.get("treeID")?;
            let mut shards = self.shards.iter();
            let shard = shards.find(|shard| shard.tree().to_string() == **tree)?;
            if old == 0 || old > new || new > self.size_of(shard) {
                return None;
            }
            let proof = consistency_proof(&shard.leaves()[..new], old);
            let hashes: Vec<String> = proof.iter().map(|hash| hex::encode(hash.0)).collect();
            let root = "00".repeat(32); // that of some newer tree, which nobody asked for
            return Some(
                serde_json::json!({"hashes": hashes, "rootHash": root})
                    .to_string()
                    .into(),
            );
        }
        (path == "/publicKey").then(|| active.pem().into())
    }

    fn entry(&self, find: impl Fn(&RekorLog) -> Option<usize>) -> Option<Vec<u8>> {
        self.shards.iter().find_map(|shard| {
            let size = self.size_of(shard);
            let index = find(shard).filter(|index| *index < size)?;
            Some(shard.entry(index, size).to_json())
        })
    }

    fn size_of(&self, shard: &RekorLog) -> usize {
        let is_active = self
            .shards
            .last()
            .is_some_and(|last| last.tree() == shard.tree());
        if is_active { self.size } else { shard.size() }
    }
}
