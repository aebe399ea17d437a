//! The chart on a real cluster: install, serve, prove, and lose log and pod on the way.
//!
//! Needs root, and takes minutes; `cargo xtask test` runs it and removes the cluster afterwards.
//! By hand: `cargo test -p tile-proxy-tests --features cluster --test e2e -- --nocapture`.

use tile_proxy_tests::chain::{self, Options};
use tile_proxy_tests::cluster::Cluster;
use tile_proxy_tests::progress::Progress;

#[test]
fn the_whole_chain_holds() -> anyhow::Result<()> {
    chain::run(&Cluster::builtin()?, Options::default(), &Progress::new())
}
