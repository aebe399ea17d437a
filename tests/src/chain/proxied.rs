//! What clients of the proxy see: while the log is there, when it is gone, and after an accident.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::expect_status;
use crate::cluster::Cluster;
use crate::http::{self, Answer};
use crate::progress::Step;
use crate::real_log::{self, NAMESPACE, RealLog};
use crate::tiles::{self, WIDTH};
use crate::wait::{self, Seen};

/// The proxy and the log it follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proxied<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) log: RealLog<'a>,
}

impl Proxied<'_> {
    /// The checkpoint, a full tile and an entry bundle come through the Service, byte for byte as
    /// the log has them.
    pub(super) fn serves_what_the_log_has(&self) -> Result<String> {
        let size = self.size()?;
        for path in [FULL_TILE, FULL_BUNDLE] {
            let (ours, theirs) = (self.get(path)?, self.log.get(path)?);
            expect_status(&ours, 200, path)?;
            ensure!(
                ours.body == theirs.body,
                "{path}: the proxy's bytes differ from the log's"
            );
        }
        Ok(format!(
            "size {size}; {FULL_TILE} and {FULL_BUNDLE} as the log has them"
        ))
    }

    /// A client that is not our code reads everything through the Service and proves it.
    pub(super) fn is_proven_by_others(&self, step: &Step<'_>) -> Result<String> {
        let route = self.cluster.route(NAMESPACE, TILE_PROXY, CLIENT_PORT)?;
        real_log::fsck(self.cluster, route.url(), step)
            .with_context(|| self.cluster.diagnosis(&[NAMESPACE]))
    }

    /// A tile fetched again is counted as a hit and causes no miss.
    pub(super) fn second_fetch_is_a_hit(&self) -> Result<String> {
        let before = self.counts()?;
        expect_status(&self.get(FULL_TILE)?, 200, FULL_TILE)?;
        let after = self.counts()?;
        ensure!(
            after.hits > before.hits && after.misses == before.misses,
            "{FULL_TILE} fetched again: hits went from {} to {}, misses from {} to {}",
            before.hits,
            after.hits,
            before.misses,
            after.misses
        );
        Ok(format!(
            "hits {} → {}, misses still {}",
            before.hits, after.hits, after.misses
        ))
    }

    /// The log grows, and the checkpoint served follows. Nobody has asked for the new entries yet.
    pub(super) fn follows_the_log(&self, step: &Step<'_>) -> Result<Growth> {
        let before = self.size()?;
        let grown = self.log.add_entries(GROWTH, step)?;
        let size = wait::until(
            "the proxy's checkpoint to follow the log",
            FOLLOW,
            PAUSE,
            || {
                let size = self.size()?;
                let seen = format!("size {size}, the log has {grown}");
                Ok(if size >= grown {
                    Seen::Ready(size)
                } else {
                    Seen::NotYet(seen)
                })
            },
        )?;
        Ok(Growth {
            before,
            after: size,
        })
    }

    /// With the log gone, what was fetched is served as before, and what was not is 503: never 404,
    /// which would say that it does not exist.
    pub(super) fn outlives_the_log(&self, growth: &Growth) -> Result<String> {
        let kept = self.get(FULL_TILE)?;
        self.log.stop()?;
        let again = self.get(FULL_TILE)?;
        expect_status(&again, 200, FULL_TILE)?;
        ensure!(
            kept == again,
            "{FULL_TILE} is another one with the log stopped"
        );
        let unknown = growth.unseen_bundle();
        expect_status(&self.get(&unknown)?, 503, &unknown)?;
        Ok(format!(
            "{FULL_TILE} as before; {unknown}, never fetched: 503"
        ))
    }

    /// The replica's pod is deleted; the next one serves the tile from the volume. The log is gone
    /// all the while.
    pub(super) fn outlives_its_pod(&self) -> Result<String> {
        let kept = self.get(FULL_TILE)?;
        let pod = self.pod()?;
        self.cluster
            .kubectl([
                "delete",
                "pod",
                &pod,
                "--namespace",
                NAMESPACE,
                "--timeout=90s",
            ])
            .deadline(Duration::from_secs(100))
            .stdout()?;
        self.cluster
            .await_deployment(NAMESPACE, REPLICA, REPLACED)?;
        let next = self.pod()?;
        ensure!(next != pod, "the pod {pod} is still there");
        // A ready pod is not yet one the Service leads to.
        let again = wait::until("the new pod behind the Service", FOLLOW, PAUSE, || {
            Ok(match self.get(FULL_TILE) {
                Ok(answer) => Seen::Ready(answer),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })?;
        expect_status(&again, 200, FULL_TILE)?;
        ensure!(
            kept == again,
            "{FULL_TILE} is another one after the pod was replaced"
        );
        Ok(format!("{next} serves {FULL_TILE} from the volume"))
    }

    fn get(&self, path: &str) -> Result<Answer> {
        let route = self.cluster.route(NAMESPACE, TILE_PROXY, CLIENT_PORT)?;
        http::get(self.cluster, &format!("{}/{path}", route.url()))
    }

    /// The tree size of the checkpoint the proxy serves.
    fn size(&self) -> Result<u64> {
        let checkpoint = self.get("checkpoint")?;
        expect_status(&checkpoint, 200, "checkpoint")?;
        real_log::tree_size(&checkpoint.text())
    }

    /// The statistics of the replica, over all its logs.
    fn counts(&self) -> Result<Counts> {
        #[derive(Deserialize)]
        struct Statistics {
            logs: Vec<Counts>,
        }
        let route = self.cluster.route(NAMESPACE, REPLICA, ADMIN_PORT)?;
        let answer = http::get(self.cluster, &format!("{}/{STATISTICS}", route.url()))?;
        expect_status(&answer, 200, STATISTICS)?;
        let statistics: Statistics = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{STATISTICS} answers {}", answer.text()))?;
        let sum = |count: fn(&Counts) -> u64| statistics.logs.iter().map(count).sum();
        Ok(Counts {
            hits: sum(|log| log.hits),
            misses: sum(|log| log.misses),
        })
    }

    /// The name of the replica's pod: the one its Deployment selects.
    fn pod(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Deployment {
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Spec {
            selector: Selector,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Selector {
            match_labels: std::collections::BTreeMap<String, String>,
        }
        let of = ["deployment", REPLICA, "--namespace", NAMESPACE];
        let deployment = self.cluster.get::<Deployment>(&of)?;
        let deployment = deployment.with_context(|| format!("there is no Deployment {REPLICA}"))?;
        let labels = deployment.spec.selector.match_labels;
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let names = self
            .cluster
            .kubectl([
                "get",
                "pods",
                "--namespace",
                NAMESPACE,
                "--selector",
                &labels.join(","),
            ])
            .arg("--output=jsonpath={.items[*].metadata.name}")
            .stdout()?;
        let mut names = names.split_whitespace();
        match (names.next(), names.next()) {
            (Some(pod), None) => Ok(pod.to_owned()),
            (None, _) => bail!("{REPLICA} has no pod"),
            (Some(one), Some(other)) => bail!("{REPLICA} has two pods, {one} and {other}"),
        }
    }
}

/// How a log has grown under a proxy that has fetched all of what was there before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    before: u64,
    after: u64,
}

impl Growth {
    /// The path of an entry bundle that is in the tree now but was not, at this width, before: the
    /// last one, which grew or is new.
    fn unseen_bundle(&self) -> String {
        tiles::bundle_path((self.after - 1) / WIDTH, self.after)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size {} → {}", self.before, self.after)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Counts {
    hits: u64,
    misses: u64,
}

/// The resource of `examples/tileproxy.yaml`, which is also the name of its client Service.
const TILE_PROXY: &str = "tessera";
/// Deployment and Service of its only replica.
const REPLICA: &str = "tessera-replica-0";
const CLIENT_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 8081;
const STATISTICS: &str = "_admin/cache/stats";
const FULL_TILE: &str = "tile/0/000";
const FULL_BUNDLE: &str = "tile/entries/000";

/// More than one bundle, so that a new one begins.
const GROWTH: u64 = WIDTH + 44;

const FOLLOW: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// A drained pod, a new one, and the check of its volume.
const REPLACED: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bundle_of_a_grown_log_is_unseen() {
        let path = |after| Growth { before: 0, after }.unseen_bundle();
        assert_eq!(path(3_300), "tile/entries/012.p/228");
        assert_eq!(path(512), "tile/entries/001"); // full, so without a width
        assert_eq!(path(256_000 + 1), "tile/entries/x001/000.p/1");
    }
}
