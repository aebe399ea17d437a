//! Which of several operators works: the one that holds a `coordination.k8s.io` Lease.
//!
//! Every write carries the version that was read, so two candidates never both believe that they
//! took the same Lease. Whether a holder is gone is judged by how long *this* process has seen its
//! record unchanged, never by comparing clocks of two machines. That is how client-go does it, whose
//! times these are.
//!
//! It spares work and nothing else: two operators of one version do each other no harm, and a holder
//! that is cut off may finish a call after another one has begun.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::controller::names::MANAGER;

/// How long a record that does not change keeps others from taking the Lease.
const DURATION: Duration = Duration::from_secs(15);

/// How long a holder tries to renew before it gives up: less than others wait, so that it has
/// stopped when they begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two looks at the Lease, and longest wait for one answer about it.
const RETRY: Duration = Duration::from_secs(2);

/// Takes part in the election of one Lease under one identity.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Seen>,
}

/// A record as last read.
struct Seen {
    lease: Lease,
    /// When this process first saw it like this.
    since: Instant,
}

/// Why a Lease is not held any more.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Lost {
    /// Another candidate has it.
    #[error("the lease was taken by {0}")]
    Taken(String),
    /// The API server did not confirm it in time.
    #[error("the lease could not be renewed for {after} s: {reason}", after = RENEW_DEADLINE.as_secs())]
    NotRenewed {
        /// What became of the last attempt.
        reason: String,
    },
}

/// What a record means for a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// It is this candidate's.
    Held,
    /// Nobody has it, or whoever had it has not been heard of for its time.
    Free,
    /// Another one's.
    Others,
}

impl Candidate {
    /// A candidate for the Lease `name` that has not looked at it yet. `identity` must be no other
    /// process's.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            seen: None,
        }
    }

    /// Waits until the Lease is held. Never gives up: without an API server there is nothing to do.
    pub async fn acquire(&mut self) {
        info!(
            lease = self.name,
            identity = self.identity,
            "waiting for the lease"
        );
        loop {
            match self.attempt().await {
                Ok(Standing::Held) => break,
                Ok(_) => {}
                Err(error) => debug!(error, "lease not read or written"),
            }
            tokio::time::sleep(RETRY).await;
        }
        info!(
            lease = self.name,
            identity = self.identity,
            "lease acquired"
        );
    }

    /// Renews the Lease for as long as that works.
    pub async fn keep(&mut self) -> Lost {
        let mut confirmed = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            let begin = Instant::now();
            match self.attempt().await {
                Ok(Standing::Held) => confirmed = begin,
                Ok(Standing::Free | Standing::Others) => return Lost::Taken(self.holder()),
                Err(reason) if confirmed.elapsed() >= RENEW_DEADLINE => {
                    return Lost::NotRenewed { reason };
                }
                Err(error) => debug!(error, "lease not renewed"),
            }
        }
    }

    /// Gives the Lease up, so that the next one need not wait. Failing costs that wait.
    pub async fn release(mut self) {
        let Some(Seen { lease, .. }) = self.seen.take() else {
            return;
        };
        let spec = lease.spec.unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return;
        }
        let spec = LeaseSpec {
            holder_identity: None,
            ..spec
        };
        match self.write(lease.metadata, spec).await {
            Ok(_) => info!(lease = self.name, "lease released"),
            Err(error) => debug!(error, "lease not released"),
        }
    }

    /// Looks at the Lease once, and takes or renews it where that may be. An error is no answer: who
    /// holds it is not known.
    async fn attempt(&mut self) -> Result<Standing, String> {
        let read = within(self.api.get_opt(&self.name)).await?;
        let Some(lease) = read else {
            return self.take(ObjectMeta::default(), None).await;
        };
        self.observe(lease);
        let Some(seen) = &self.seen else {
            return Ok(Standing::Others); // just observed
        };
        let spec = seen.lease.spec.clone().unwrap_or_default();
        match standing(&spec, &self.identity, seen.since.elapsed()) {
            Standing::Others => Ok(Standing::Others),
            Standing::Held | Standing::Free => {
                let meta = seen.lease.metadata.clone();
                self.take(meta, Some(spec)).await
            }
        }
    }

    /// Writes our name into a record of this version; a conflict means that somebody else was there
    /// first.
    async fn take(
        &mut self,
        meta: ObjectMeta,
        before: Option<LeaseSpec>,
    ) -> Result<Standing, String> {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        let spec = LeaseSpec {
            acquire_time: before
                .acquire_time
                .clone()
                .filter(|_| ours)
                .or_else(|| Some(now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(transitions.saturating_add(i32::from(!ours))),
            renew_time: Some(now),
            ..before
        };
        let lease = self.write(meta, spec).await?;
        self.observe(lease);
        Ok(Standing::Held)
    }

    /// Creates the Lease, or replaces the version in `meta`.
    async fn write(&self, meta: ObjectMeta, spec: LeaseSpec) -> Result<Lease, String> {
        let exists = meta.resource_version.is_some();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..meta
            },
            spec: Some(spec),
        };
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        if exists {
            within(self.api.replace(&self.name, &params, &lease)).await
        } else {
            within(self.api.create(&params, &lease)).await
        }
    }

    /// Remembers a record, and since when it has been like this.
    fn observe(&mut self, lease: Lease) {
        let same = |seen: &&Seen| seen.lease.spec == lease.spec;
        let since = self.seen.as_ref().filter(same).map(|seen| seen.since);
        self.seen = Some(Seen {
            lease,
            since: since.unwrap_or_else(Instant::now),
        });
    }

    fn holder(&self) -> String {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.clone());
        holder.unwrap_or_else(|| "somebody who gave it up".to_owned())
    }
}

/// What a record means for `identity`, which has seen it unchanged for `unchanged`.
fn standing(record: &LeaseSpec, identity: &str, unchanged: Duration) -> Standing {
    let holder = record.holder_identity.as_deref().unwrap_or_default();
    let duration = record.lease_duration_seconds.unwrap_or_default();
    let duration = u64::try_from(duration).map_or(DURATION, Duration::from_secs);
    if holder == identity {
        Standing::Held
    } else if holder.is_empty() || unchanged > duration {
        Standing::Free
    } else {
        Standing::Others
    }
}

/// A call that may not take longer than the pause between two: a client that waits for minutes would
/// not notice that its time is over.
async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(RETRY, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", RETRY.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_gone_when_its_record_has_not_changed_for_its_time() {
        let record = |holder: Option<&str>, seconds| LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        };
        let ms = Duration::from_millis;
        for (holder, seconds, unchanged, want) in [
            (None, Some(15), ms(0), Standing::Free),
            (Some(""), Some(15), ms(0), Standing::Free),
            (Some("rome"), Some(15), ms(60_000), Standing::Held), // slow, but nobody took it
            (Some("oslo"), Some(15), ms(15_000), Standing::Others),
            (Some("oslo"), Some(15), ms(15_001), Standing::Free),
            (Some("oslo"), Some(60), ms(59_000), Standing::Others), // it asked for more time
            (Some("oslo"), Some(-1), ms(15_000), Standing::Others),
            (Some("oslo"), Some(-1), ms(15_001), Standing::Free),
        ] {
            let standing = standing(&record(holder, seconds), "rome", unchanged);
            assert_eq!(standing, want, "{holder:?} {seconds:?} {unchanged:?}");
        }
    }

    #[test]
    fn a_holder_gives_up_before_others_take_over() {
        assert!(RENEW_DEADLINE + RETRY < DURATION);
    }
}
