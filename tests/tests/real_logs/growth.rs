//! A Tessera log that grows while it is read through the proxy; then the log is gone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tile_proxy_tests::local::World;
use tile_proxy_tests::local::front::Front;
use tile_proxy_tests::local::full;
use tile_proxy_tests::local::hammer::Hammer;
use tile_proxy_tests::local::proxy::Followed;
use tile_proxy_tests::local::tessera::TesseraLog;
use tile_proxy_tests::real_log::VERIFIER_KEY;
use tile_proxy_tests::tiles;
use tile_proxy_tests::toolchain::{TESSERA_FSCK, TESSERA_HAMMER, TESSERA_LOG};

#[test]
fn a_growing_log_is_read_through_the_proxy_and_outlived_by_it() -> Result<()> {
    // With more than 65,536 entries the tree has a full tile at level 1.
    let (before, growth) = if full() {
        (64_000, 16_000)
    } else {
        (3_000, 3_000)
    };
    let world = World::new("growth", &[TESSERA_LOG, TESSERA_FSCK, TESSERA_HAMMER])?;
    let mut log = TesseraLog::start(&world)?;
    log.add(0..before, &world)?;
    let front = Front::before(log.url())?;
    let followed = Followed {
        url: &front.url(),
        tiles: None,
        key: VERIFIER_KEY,
        more: "",
    };
    let mut proxy = world.proxy("proxy", &followed)?;
    proxy.follows_to(before)?;

    // fsck proves a tree that is no longer the newest while the hammer makes the log grow.
    let step = world.progress().step("hammer");
    let mut hammer = Hammer::start(&world, &[&proxy.url()], &log.url(), growth)?;
    while hammer.works_until(|| Ok(proxy.size()? >= log.size()?))? {
        world.fsck(&proxy.url(), VERIFIER_KEY, None)?;
        let size = proxy.size()?;
        hammer.works_until(|| Ok(proxy.size()? > size))?;
    }
    let complaints = hammer.reaches_its_goal()?;
    ensure!(complaints.is_empty(), "hammer: {complaints:#?}");
    let size = log.settles()?;
    step.done(format_args!("size {size}"));
    proxy.follows_to(size)?;

    proxy.sync(size)?;
    world.fsck(&proxy.url(), VERIFIER_KEY, None)?;
    proxy.expect_nothing_false()?;
    expect_once_each(&front.requests(), size)?;

    // Nobody answers upstream from here on.
    log.stop()?;
    drop(front);
    world.fsck(&proxy.url(), VERIFIER_KEY, None)?;
    proxy.stop()?;
    proxy.restart()?;
    world.fsck(&proxy.url(), VERIFIER_KEY, None)?;
    ensure!(proxy.size()? == size, "the size served went down");
    proxy.expect_nothing_false()?;
    world.end((log, proxy))
}

/// Every full tile and bundle of a tree of `size` entries was asked for, and none of them twice.
fn expect_once_each(requests: &BTreeMap<String, u64>, size: u64) -> Result<()> {
    let wrong: Vec<String> = tiles::full_paths(size)
        .into_iter()
        .map(|path| (requests.get(&path).copied().unwrap_or_default(), path))
        .filter(|(count, _)| *count != 1)
        .map(|(count, path)| format!("{path}: {count} times"))
        .collect();
    ensure!(wrong.is_empty(), "not asked for once: {wrong:#?}");
    Ok(())
}
