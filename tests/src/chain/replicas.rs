//! Several replicas as one cache: what one of them needs, its owner among them asks the log for.

use anyhow::{Result, ensure};

use crate::tile_proxy::TileProxy;

/// Asks two new replicas, whose volumes are empty, for the first `tiles` full tiles; each of them for
/// all. Says how many of those the log was asked for.
pub(super) fn fill_each_other(proxy: &TileProxy<'_>, tiles: u64) -> Result<String> {
    for replica in NEW {
        proxy.read_tiles_from(replica, 0..tiles)?;
    }
    came_from_the_log_once(proxy, &NEW, 0..tiles)
}

/// Fails if more than one of `replicas` has a full tile of `tiles` from the log, or if none of them
/// has anything from another one.
pub(crate) fn came_from_the_log_once(
    proxy: &TileProxy<'_>,
    replicas: &[u16],
    tiles: std::ops::Range<u64>,
) -> Result<String> {
    let sources: Vec<Vec<String>> = replicas
        .iter()
        .map(|&replica| proxy.sources(replica, tiles.clone()))
        .collect::<Result<_>>()?;
    let (mut from_log, mut from_peers) = (0, 0);
    for (place, index) in tiles.clone().enumerate() {
        let asked = sources.iter().filter(|tiles| tiles[place] == LOG).count();
        ensure!(
            asked <= 1,
            "{asked} replicas have asked the log for tile/0/{index:03}"
        );
        from_log += asked;
        from_peers += replicas.len() - asked;
    }
    let count = tiles.end - tiles.start;
    ensure!(from_peers > 0, "no replica has asked another one");
    Ok(format!(
        "{count} tiles each: {from_log} asked of the log, {from_peers} of each other"
    ))
}

/// The replicas of `examples/tileproxy.yaml` that a scale-up to three adds.
const NEW: [u16; 2] = [1, 2];

/// The log, as `examples/tileproxy.yaml` names it.
pub(crate) const LOG: &str = "http://example-log.logs.svc:2025/";
