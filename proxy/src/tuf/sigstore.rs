//! Trust for Sigstore's public instance, which ships with the program.
//!
//! Both files are Sigstore's own, as its clients carry them (repository `sigstore/root-signing`,
//! Apache License 2.0): the TUF root, version 16, with which everything newer is verified, and the
//! trusted root of that time, with which its public logs are verified when nobody sets up TUF. A test
//! holds them against the ones in the crate `sigstore-trust-root`, so that an update is not missed.

use url::Url;

use super::{discover::FoundLog, trusted_root};

/// Where Sigstore serves its TUF repository.
pub const TUF_URL: &str = "https://tuf-repo-cdn.sigstore.dev";

/// Hosts of that repository, and of its mirror by the same people.
const TUF_HOSTS: [&str; 2] = ["tuf-repo-cdn.sigstore.dev", "sigstore.github.io"];

/// The TUF root of Sigstore's public instance.
pub const ROOT: &[u8] = include_bytes!("sigstore/root.json");

/// The logs of Sigstore's public instance, with their keys.
pub(super) const TRUSTED_ROOT: &[u8] = include_bytes!("sigstore/trusted_root.json");

/// The root that a repository at this URL is verified with, if that is known.
pub fn root_of(repository: &Url) -> Option<&'static [u8]> {
    let host = repository.host_str()?;
    (repository.scheme() == "https" && TUF_HOSTS.contains(&host)).then_some(ROOT)
}

/// The public log that is served at this URL, if that is one.
pub fn log_at(url: &Url) -> Option<FoundLog> {
    let read = trusted_root::parse(TRUSTED_ROOT).ok()?;
    let logs = read.logs.iter().map(FoundLog::of_root);
    logs.into_iter().find(|log| log.is_at(url))
}
