//! A Rekor v1 log, which has no tiles: entries by UUID and by index, each with its proof.
//!
//! A log is a row of shards, each a tree with an origin of its own, `<hostname> - <tree ID>`, and one key
//! signs for all. What is believed: [`verify`] for entries.

pub mod api;
pub mod verify;

/// The origin of a shard's checkpoints.
pub fn origin_of(hostname: &str, tree: api::TreeId) -> String {
    format!("{hostname} - {tree}")
}

#[cfg(test)]
pub(crate) mod testing {
    /// An entry of the public log: the provenance of sigstore-js 2.0.0, as it was published.
    pub(crate) const REAL_ENTRY: &[u8] =
        include_bytes!("../../fuzz/corpus/rekor_entry/real-sigstore-js-2.0.0");

    /// The key of the public log.
    pub(crate) const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----";
}
