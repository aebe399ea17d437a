//! A log nobody here wrote: Tessera's conformance server as a pod.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};

use crate::cluster::Cluster;
use crate::http::{self, Answer};
use crate::image::helpers;
use crate::progress::Step;
use crate::toolchain::TESSERA_FSCK;
use crate::wait::{self, Seen};
use crate::{fsck, interrupt, lock};

/// The namespace of the log and of those who follow it.
pub const NAMESPACE: &str = "logs";
/// The log's Deployment, volume claim and Service. Not `tessera`: a TileProxy of that name wants
/// the Service for itself.
pub const NAME: &str = "example-log";
/// Where the log listens.
pub const PORT: u16 = 2025;
/// The verifier key: name, key ID, Ed25519 public key.
pub const VERIFIER_KEY: &str =
    "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx";

/// The running log.
#[derive(Clone, Copy, Debug)]
pub struct RealLog<'a> {
    cluster: &'a Cluster,
}

impl<'a> RealLog<'a> {
    /// Installs the log, or finds it installed, and waits until it runs.
    pub fn install(cluster: &'a Cluster, step: &Step<'_>) -> Result<Self> {
        let image = helpers::tessera_log(cluster.toolchain())?;
        step.note("loading its image");
        cluster.load_image(&image.archive)?;
        cluster.apply(
            &include_str!("real_log.yaml")
                .replace("@IMAGE@", &image.reference)
                .replace("@PRIVATE_KEY@", PRIVATE_KEY),
        )?;
        let log = Self { cluster };
        step.note("waiting for its pod");
        log.start()?;
        Ok(log)
    }

    /// The log that was installed before.
    pub fn installed(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// Starts the log after [`RealLog::stop`]; it goes on where it stopped.
    pub fn start(&self) -> Result<()> {
        self.scale(1)?;
        self.cluster.await_deployment(NAMESPACE, NAME, START)?;
        // A ready pod is not yet one the Service leads to.
        wait::until("the log to answer", START, PAUSE, || {
            Ok(match self.get("checkpoint") {
                // An empty log has published nothing yet.
                Ok(answer) if matches!(answer.status, 200 | 404) => Seen::Ready(()),
                Ok(answer) => Seen::NotYet(format!("status {}", answer.status)),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Stops the log and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        self.scale(0)?;
        self.cluster
            .kubectl(["wait", "pod", "--namespace", NAMESPACE, "--for=delete"])
            .args([&format!("--selector=app={NAME}"), "--timeout=60s"])
            .deadline(Duration::from_secs(70))
            .stdout()
            .context("the log does not stop")
            .map(drop)
    }

    /// `GET` of a path of the log itself.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let route = self.cluster.route(NAMESPACE, NAME, PORT)?;
        http::get(self.cluster, &format!("{}/{path}", route.url()))
    }

    /// The number of entries the log's checkpoint vouches for; 0 before the first.
    pub fn size(&self) -> Result<u64> {
        let answer = self.get("checkpoint")?;
        match answer.status {
            200 => tree_size(&answer.text()),
            404 => Ok(0),
            status => bail!("the log answers status {status} for its checkpoint"),
        }
    }

    /// Adds `count` entries and waits until the log vouches for all of them; returns its size.
    pub fn add_entries(&self, count: u64, step: &Step<'_>) -> Result<u64> {
        let before = self.size()?;
        let route = self.cluster.route(NAMESPACE, NAME, PORT)?;
        let entries = before..before + count;
        add_entries(
            route.url(),
            &entries,
            &|| self.cluster.enter_network(),
            step,
        )?;
        wait::until("the log's checkpoint", PUBLISH, PAUSE, || {
            let size = self.size()?;
            let seen = format!("size {size}, wanted {}", entries.end);
            Ok(if size >= entries.end {
                Seen::Ready(size)
            } else {
                Seen::NotYet(seen)
            })
        })
    }

    fn scale(&self, replicas: u8) -> Result<()> {
        self.cluster
            .kubectl(["scale", "deployment", NAME, "--namespace", NAMESPACE])
            .arg(format!("--replicas={replicas}"))
            .stdout()
            .map(drop)
    }
}

/// Adds the entries `entry N` of all numbers in `entries` to the log at `url`, from many threads;
/// each calls `enter` before it connects.
///
/// The log has taken them in when this returns; its checkpoint follows within a second or so.
pub fn add_entries(
    url: &str,
    entries: &Range<u64>,
    enter: &(dyn Fn() -> Result<()> + Sync),
    step: &Step<'_>,
) -> Result<()> {
    let (url, count) = (format!("{url}/add"), entries.end - entries.start);
    let (next, added) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    // The log integrates a batch when it has 256 entries or is a second old, and answers only
    // then: fewer clients than that would wait for the second every time.
    thread::scope(|scope| {
        for _ in 0..CLIENTS.min(count) {
            scope.spawn(|| {
                let outcome = enter().and_then(|()| {
                    let agent = http::agent();
                    loop {
                        interrupt::check()?;
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        add(&agent, &url, &entry(entries.start + number))?;
                        added.fetch_add(1, Ordering::Relaxed);
                    }
                });
                if let (Err(error), Ok(mut failure)) = (outcome, failure.lock()) {
                    next.store(count, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            });
        }
        while added.load(Ordering::Relaxed) < count && next.load(Ordering::Relaxed) < count {
            step.count(added.load(Ordering::Relaxed), count);
            thread::sleep(PAUSE);
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_default() {
        return Err(error.context("cannot add entries to the log"));
    }
    step.count(count, count);
    Ok(())
}

fn entry(number: u64) -> String {
    format!("entry {number}")
}

/// Adds one entry. The log pushes back (503) while it integrates more than it can; then again.
fn add(agent: &ureq::Agent, url: &str, entry: &str) -> Result<()> {
    let end = Instant::now() + PUBLISH;
    loop {
        let answer = http::post(agent, url, entry)?;
        match answer.status {
            200 => return Ok(()),
            500 | 503 if Instant::now() < end => interrupt::sleep(PAUSE)?,
            status => bail!("status {status} for an entry: {}", answer.text()),
        }
    }
}

/// Reads everything below `url` from within the cluster and proves it; see [`fsck::prove`].
pub fn fsck(cluster: &Cluster, url: &str, step: &Step<'_>) -> Result<String> {
    let program = cluster.command(cluster.toolchain().path(TESSERA_FSCK));
    let key = cluster.toolchain().derived("example-log.vkey");
    lock::write_atomically(&key, format!("{VERIFIER_KEY}\n").as_bytes())?;
    fsck::prove(program, url, &key, None, step)
}

/// The tree size of a checkpoint: its second line. Who needs to trust it verifies it elsewhere.
pub fn tree_size(checkpoint: &str) -> Result<u64> {
    let size = checkpoint.lines().nth(1).and_then(|line| line.parse().ok());
    size.with_context(|| format!("this is not a checkpoint: {checkpoint:?}"))
}

/// The signing key that belongs to [`VERIFIER_KEY`]: Tessera's own, published for tests.
pub const PRIVATE_KEY: &str =
    "PRIVATE+KEY+example.com/log/testdata+33d7b496+AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg";

const CLIENTS: u64 = 256;
const PAUSE: Duration = Duration::from_millis(200);
const PUBLISH: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_checkpoint_is_its_second_line() {
        assert_eq!(
            tree_size("example.com/log\n3000\nAAAA=\n\n— x\n").unwrap(),
            3000
        );
        tree_size("<html>\n<body>\n").unwrap_err();
    }
}
