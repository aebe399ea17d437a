//! What befalls a TileProxy in its life, up to its removal, on the cluster that [`chain`] leaves.
//!
//! One module a topic, one step a line. Steps share the cluster and build on each other: what one
//! has broken it mends, or the next one needs it broken. Nothing here knows where nodes come from; a
//! step that needs nodes of our own says that it was not run, and why.
//!
//! [`chain`]: crate::chain

mod cache;
mod changes;
mod examples;
mod losses;
mod neighbours;
mod nodes;
mod removal;
mod start;

use std::env;

use anyhow::Result;

use crate::chain::{self, tessera};
use crate::cluster::Cluster;
use crate::image::Archive;
use crate::progress::{Progress, Step};
use crate::real_log::{NAMESPACE, RealLog};
use crate::tile_proxy::TileProxy;

/// What happens before there is a cluster: nothing of a start that was killed is left.
pub fn before(cluster: &Cluster, progress: &Progress) -> Result<()> {
    progress.say("Start");
    start::killed(cluster, progress)
}

/// Everything that happens, in order. `image` is ours, and the operator was installed by an older
/// chart and with another image ([`chain::Options::older`]).
pub fn run(cluster: &Cluster, image: &Archive, progress: &Progress) -> Result<()> {
    let scene = Scene {
        cluster,
        image,
        log: RealLog::installed(cluster),
        tessera: tessera(cluster),
        oslo: TileProxy {
            cluster,
            namespace: NAMESPACE,
            name: "oslo",
        },
        full: env::var_os("TILE_PROXY_TEST_FULL").is_some(),
        progress,
    };
    progress.say("\nChanges under load");
    changes::run(&scene)?;
    progress.say("\nLosses");
    losses::run(&scene)?;
    progress.say("\nCaches");
    cache::run(&scene)?;
    progress.say("\nNeighbours");
    neighbours::run(&scene)?;
    progress.say("\nNodes");
    nodes::run(&scene)?;
    progress.say("\nRemoval");
    removal::run(&scene)
}

/// Who and what is there.
struct Scene<'a> {
    cluster: &'a Cluster,
    /// Our image.
    image: &'a Archive,
    /// The log that both TileProxies follow.
    log: RealLog<'a>,
    /// The TileProxy of `examples/tileproxy.yaml`.
    tessera: TileProxy<'a>,
    /// A second one, beside it.
    oslo: TileProxy<'a>,
    /// Whether sweeps are to be run whole.
    full: bool,
    progress: &'a Progress,
}

impl Scene<'_> {
    /// One step that returns its own outcome line.
    fn step(&self, name: &str, work: impl FnOnce(&Step<'_>) -> Result<String>) -> Result<()> {
        chain::step(self.progress, name, work)
    }

    /// As [`Scene::step`], for what needs nodes that we may break.
    fn node_step(&self, name: &str, work: impl FnOnce(&Step<'_>) -> Result<String>) -> Result<()> {
        match self.cluster.nodes_are_not_ours() {
            None => self.step(name, work),
            Some(reason) => {
                self.progress.step(name).not_run(reason);
                Ok(())
            }
        }
    }
}
