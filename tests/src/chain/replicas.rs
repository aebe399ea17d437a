//! Several replicas as one cache: what one of them needs, its owner among them asks the log for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{PAUSE, expect_status};
use crate::cluster::Cluster;
use crate::http;
use crate::real_log::NAMESPACE;
use crate::wait::{self, Seen};

/// Asks two new replicas, whose volumes are empty, for the first `tiles` full tiles; each of them for
/// all. Says how many of those the log was asked for.
pub(super) fn fill_each_other(cluster: &Cluster, tiles: u64) -> Result<String> {
    let (mut from_log, mut from_peers) = (0_u64, 0_u64);
    for index in 0..tiles {
        let mut asked_the_log = 0;
        for replica in NEW {
            let tile = format!("tile/0/{index:03}");
            let route = cluster.route(NAMESPACE, replica, CLIENT_PORT)?;
            let answer = http::get(cluster, &format!("{}/{tile}", route.url()))?;
            expect_status(&answer, 200, &tile)?;
            if from(cluster, replica, index)? == LOG {
                asked_the_log += 1;
            } else {
                from_peers += 1;
            }
        }
        ensure!(
            asked_the_log <= 1,
            "two replicas have asked the log for tile/0/{index:03}"
        );
        from_log += asked_the_log;
    }
    ensure!(from_peers > 0, "no replica has asked another one");
    Ok(format!(
        "{tiles} tiles each: {from_log} asked of the log, {from_peers} of each other"
    ))
}

/// Where `replica` has a tile from, as its record says once it is stored.
fn from(cluster: &Cluster, replica: &str, index: u64) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Record {
        upstream_url: Option<String>,
    }
    let path = format!("_admin/cache/tiles/0/{index:03}");
    let route = cluster.route(NAMESPACE, replica, ADMIN_PORT)?;
    wait::until("the record of a tile", STORED, PAUSE, || {
        let answer = http::get(cluster, &format!("{}/{path}", route.url()))?;
        if answer.status != 200 {
            return Ok(Seen::NotYet(answer.text()));
        }
        let record: Record = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{path} answers {}", answer.text()))?;
        Ok(Seen::Ready(record.upstream_url.unwrap_or_default()))
    })
}

/// The replicas of `examples/tileproxy.yaml` that a scale-up to three adds.
const NEW: [&str; 2] = ["tessera-replica-1", "tessera-replica-2"];
const CLIENT_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 8081;

/// The log, as `examples/tileproxy.yaml` names it.
const LOG: &str = "http://example-log.logs.svc:2025/";

/// Tiles are stored within a second or so.
const STORED: Duration = Duration::from_secs(30);
