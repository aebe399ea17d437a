//! The chart on a real cluster: install, serve, prove; then whatever can happen to it, up to its
//! removal.
//!
//! Needs root, and takes minutes; `cargo xtask test` runs it and removes the cluster afterwards.
//! By hand: `cargo test -p tile-proxy-tests --features cluster --test e2e -- --nocapture`.
//! With Docker and kind instead of the built-in cluster: `TILE_PROXY_CLUSTER=kind`.

use tile_proxy_tests::accidents;
use tile_proxy_tests::chain::{self, Options};
use tile_proxy_tests::cluster::Cluster;
use tile_proxy_tests::progress::Progress;

#[test]
fn the_whole_chain_holds_whatever_happens() -> anyhow::Result<()> {
    let cluster = Cluster::from_env()?;
    let progress = Progress::new();
    let options = Options {
        older: true,
        ..Options::default()
    };
    accidents::before(&cluster, &progress)?;
    let image = chain::run(&cluster, options, &progress)?;
    accidents::run(&cluster, &image, &progress)
}
