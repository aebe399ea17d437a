//! A caching reverse proxy for transparency logs that proves every tile.
//!
//! What this crate guarantees: nothing is stored or served as a tile, an entry bundle or a
//! checkpoint unless it was proven against a checkpoint that a known key signed; the tree size
//! served for a log never goes down, restarts included; and what is cached is served whether the
//! log can be reached or not.
//!
//! Start reading at [`log`], the read path. Below it, [`tlog`] and [`note`] do no I/O.
//!
//! | module | what it is for |
//! |---|---|
//! | [`app`] | wiring: settings to cache, log and servers; the order of stopping |
//! | [`audit`] | a line for each event that somebody may have to account for |
//! | [`cache`] | verified resources: a set in memory over group files on the disk |
//! | [`cli`] | one file a subcommand |
//! | [`config`] | every key, its unit, default and reason |
//! | [`fsck`] | proving everything in a cache again |
//! | [`http`] | routes, headers and limits |
//! | [`log`] | the read path of one log, and how its checkpoints are followed |
//! | [`logs`] | all logs of a process: by the beginning of a path, replaced one by one |
//! | [`metrics`] | every metric |
//! | [`note`] | signed notes, verifier keys, checkpoints |
//! | [`rekor_v1`] | logs without tiles: proven entries, and what is passed through |
//! | [`reload`] | the configuration, read again while the process runs |
//! | [`sync`] | scheduled prefetch |
//! | [`tlog`] | hashes, tiles, paths, bundles, edge tiles, consistency |
//! | [`transfer`] | export and import; everything is proven on the way |
//! | [`trust`] | which keys may sign, and reading them again |
//! | [`tuf`] | which logs there are and their keys, from a TUF repository |
//! | [`upstream`] | bytes from a log, within limits; unverified |

pub mod app;
pub mod audit;
mod bearer;
pub mod cache;
pub mod cli;
pub mod config;
pub mod fsck;
pub mod http;
pub mod log;
pub mod logs;
pub mod metrics;
pub mod note;
pub mod peers;
pub mod rekor_v1;
pub mod reload;
pub mod sync;
pub mod tlog;
pub mod transfer;
pub mod trust;
pub mod tuf;
pub mod upstream;

/// The tests' own log, which the tests of the real binary have as well, under the name they know
/// this crate by.
#[cfg(test)]
extern crate self as tile_proxy;
#[cfg(test)]
#[allow(dead_code)] // each kind of test uses a part of it
#[path = "../tests/serve/world/fixture_log.rs"]
pub(crate) mod fixture_log;
#[cfg(test)]
#[allow(dead_code)] // as above
#[path = "../tests/serve/world/rekor_log.rs"]
pub(crate) mod rekor_log;
#[cfg(test)]
#[allow(dead_code)] // as above
#[path = "../tests/serve/world/tuf_repository.rs"]
pub(crate) mod tuf_repository;
