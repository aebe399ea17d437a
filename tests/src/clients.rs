//! Clients under way while something happens: a pod that asks a Service for the same few resources
//! over and over, each time over a connection of its own, and tells every request that failed.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::image::helpers;
use crate::wait::{self, Seen};

/// Clients of one Service; they go with the value.
#[derive(Debug)]
pub struct Clients<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl<'a> Clients<'a> {
    /// Starts them, and waits until they have been served.
    pub fn of(cluster: &'a Cluster, namespace: &'a str, service: &str) -> Result<Self> {
        let image = helpers::client(cluster.toolchain())?;
        cluster.load_image(&image.archive)?;
        // Ended clients of an earlier run would be taken for these.
        let clients = Self { cluster, namespace };
        clients.remove()?;
        cluster.apply(
            &include_str!("clients.yaml")
                .replace("@NAMESPACE@", namespace)
                .replace("@IMAGE@", &image.reference)
                .replace("@SERVICE@", service),
        )?;
        wait::until("clients to be served", START, PAUSE, || {
            Ok(match clients.told() {
                Ok(told) if told.asked > 0 => Seen::Ready(()),
                Ok(_) => Seen::NotYet("none has asked yet".to_owned()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })?;
        Ok(clients)
    }

    /// Waits until all clients have asked once more after now; fails if one was ever refused.
    pub fn were_all_served(&self) -> Result<Told> {
        let before = self.told()?.asked;
        let told = wait::until("clients to go on", START, PAUSE, || {
            let told = self.told()?;
            Ok(if told.asked > before {
                Seen::Ready(told)
            } else {
                Seen::NotYet(format!("{before} requests, as before"))
            })
        })?;
        ensure!(
            told.failed.is_empty(),
            "{} of {} requests failed: {}",
            told.failed.len(),
            told.asked,
            told.failed[..told.failed.len().min(SHOWN)].join("; ")
        );
        Ok(told)
    }

    fn told(&self) -> Result<Told> {
        let log = self
            .cluster
            .kubectl(["logs", POD, "--namespace", self.namespace])
            .stdout()?;
        Ok(Told::read(&log))
    }

    fn remove(&self) -> Result<()> {
        self.cluster
            .kubectl(["delete", "pod", POD, "--namespace", self.namespace])
            .args(["--ignore-not-found", "--grace-period=1", "--timeout=60s"])
            .deadline(Duration::from_secs(70))
            .stdout()
            .map(drop)
    }
}

impl Drop for Clients<'_> {
    fn drop(&mut self) {
        // Whoever fails reports something better than this.
        drop(self.remove());
    }
}

/// What clients have to tell.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// Requests that are over.
    pub asked: u64,
    /// One line for each that failed.
    pub failed: Vec<String>,
}

impl Told {
    fn read(log: &str) -> Self {
        let mut told = Self::default();
        for line in log.lines() {
            if let Some(count) = line.strip_prefix("asked ") {
                told.asked = count.parse().unwrap_or(told.asked);
            } else if let Some(failure) = line.strip_prefix("failed ") {
                told.failed.push(failure.to_owned());
            }
        }
        told
    }
}

/// Failures that an error names.
const SHOWN: usize = 8;
const POD: &str = "clients";
const PAUSE: Duration = Duration::from_millis(500);
const START: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn every_failure_is_told_and_the_last_count_counts() {
        let log = "size 3300\nasked 40\nfailed 12:00:00 checkpoint: 503\nasked 80\n";
        let told = Told::read(log);
        assert_eq!(told.asked, 80);
        assert_eq!(told.failed, ["12:00:00 checkpoint: 503"]);
    }
}
