//! Which replicas may change now. Pure: decided anew every time from what is observed, so that a
//! restart of the operator forgets nothing.
//!
//! 1. A missing replica is created.
//! 2. A replica that does not serve changes if another one runs the new template and serves, or if
//!    nobody has tried it yet; then only the first one does.
//! 3. A replica that serves changes only while every other one exists and serves.
//! 4. One that runs the new template serves once its logs work too: see [`judge`](super::logs::judge).
//!
//! The configuration is part of this: a replica that is held keeps the file it was started with.
//!
//! So a template that never becomes ready stops at the first replica, and taking it back reaches
//! that replica at once, because the others still run what is asked for.

use std::{collections::BTreeSet, marker::PhantomData};

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;

use super::{
    build::{Allowed, Prepared, Resources, keep_files_in_use},
    logs::{Trial, Trials},
    names::TEMPLATE_ANNOTATION,
    observe::{Existing, find},
};

/// What may be applied now, and who has to wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What may be applied.
    pub resources: Resources<Allowed>,
    /// Names of Deployments that must stay as they are for now.
    pub held: BTreeSet<String>,
}

/// Where one replica stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Missing,
    Outdated { ready: bool },
    Updated { ready: bool },
}

impl Standing {
    fn of(desired: &Deployment, existing: Option<&Deployment>, trials: &Trials) -> Self {
        match existing {
            None => Self::Missing,
            Some(existing) if same_template(desired, existing) => Self::Updated {
                ready: is_ready(existing) && has_passed(desired, trials),
            },
            Some(existing) => Self::Outdated {
                ready: is_ready(existing),
            },
        }
    }

    fn serves(self) -> bool {
        matches!(
            self,
            Self::Outdated { ready: true } | Self::Updated { ready: true }
        )
    }
}

/// Holds back the replicas of `desired` that may not change yet, and keeps the configuration they
/// run with.
pub fn next_step(
    desired: Resources<Prepared>,
    existing: &Resources<Existing>,
    trials: &Trials,
) -> Step {
    let Resources {
        claims,
        mut config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        network_policies,
        service_accounts,
        service_monitors,
        services,
        state: PhantomData,
    } = desired;
    for config_map in &mut config_maps {
        if let Some(found) = find(&existing.config_maps, &config_map.name_any()) {
            keep_files_in_use(config_map, found, &existing.deployments);
        }
    }

    let standings: Vec<Standing> = deployments
        .iter()
        .map(|desired| {
            let existing = find(&existing.deployments, &desired.name_any());
            Standing::of(desired, existing, trials)
        })
        .collect();
    let may_change = may_change(&standings);
    let mut held = BTreeSet::new();
    let mut allowed = Vec::new();
    for (deployment, may_change) in deployments.into_iter().zip(may_change) {
        if may_change {
            allowed.push(deployment);
        } else {
            held.insert(deployment.name_any());
        }
    }
    Step {
        resources: Resources {
            claims,
            config_maps,
            cron_jobs,
            deployments: allowed,
            disruption_budgets,
            network_policies,
            service_accounts,
            service_monitors,
            services,
            state: PhantomData,
        },
        held,
    }
}

/// Whether nothing is against what `desired` has become, as far as it was tried.
fn has_passed(desired: &Deployment, trials: &Trials) -> bool {
    let trial = trials.get(&desired.name_any());
    trial.is_none_or(Trial::is_over)
}

/// For each replica, whether it may be applied now: the rules of the module's header. One that
/// is up to date always may, which repairs what others changed on it.
fn may_change(standings: &[Standing]) -> Vec<bool> {
    let proven = standings.contains(&Standing::Updated { ready: true });
    let tried = standings.contains(&Standing::Updated { ready: false })
        || standings.contains(&Standing::Missing);
    // Spent by the first replica that takes it.
    let mut untried = !tried;
    let mut turn = standings.iter().all(|standing| standing.serves());
    standings
        .iter()
        .map(|standing| match standing {
            Standing::Missing | Standing::Updated { .. } => true,
            Standing::Outdated { ready: false } => proven || std::mem::take(&mut untried),
            Standing::Outdated { ready: true } => std::mem::take(&mut turn),
        })
        .collect()
}

/// Takes those out of `deployments` that `lacks` what their pods need, by name: with an object of
/// someone else in its place a pod would start all the same, and run with the wrong one. Those that
/// are thereby kept from the spec are added to `held`.
pub fn withhold(
    deployments: Vec<Deployment>,
    existing: &[Deployment],
    held: &mut BTreeSet<String>,
    lacks: impl Fn(&str) -> bool,
) -> Vec<Deployment> {
    let (withheld, allowed): (Vec<_>, Vec<_>) = deployments
        .into_iter()
        .partition(|deployment| lacks(&deployment.name_any()));
    for deployment in withheld {
        if !runs(existing, &deployment) {
            held.insert(deployment.name_any());
        }
    }
    allowed
}

/// Whether one of `existing` is `desired` with the same pod template.
pub fn runs(existing: &[Deployment], desired: &Deployment) -> bool {
    find(existing, &desired.name_any()).is_some_and(|found| same_template(desired, found))
}

/// Whether `existing` was last given the pod template of `desired`.
pub fn same_template(desired: &Deployment, existing: &Deployment) -> bool {
    let digest =
        |deployment: &Deployment| deployment.annotations().get(TEMPLATE_ANNOTATION).cloned();
    digest(desired) == digest(existing)
}

/// Whether the Deployment's pod serves, and is of its newest template.
pub fn is_ready(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    // Available is ready for as long as the spec asks.
    let serving = if deployment.spec.min_ready_seconds.unwrap_or(0) > 0 {
        status.available_replicas
    } else {
        status.ready_replicas
    };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= 1
        && serving.unwrap_or(0) >= 1
}

/// Why Kubernetes gave up waiting for the Deployment's pod, if it did; what it says of an earlier
/// template is not about this one.
pub fn stalled(deployment: &Deployment) -> Option<&str> {
    let status = deployment.status.as_ref()?;
    if status.observed_generation < deployment.metadata.generation {
        return None;
    }
    let conditions = status.conditions.as_ref()?;
    let progressing = conditions
        .iter()
        .find(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"))?;
    Some(
        progressing
            .message
            .as_deref()
            .unwrap_or("it exceeded its progress deadline"),
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

    use super::*;
    use crate::controller::{build::build, fixture::valid};

    fn found(resources: Resources<Prepared>) -> Resources<Existing> {
        let Resources {
            claims,
            config_maps,
            cron_jobs,
            deployments,
            disruption_budgets,
            network_policies,
            service_accounts,
            service_monitors,
            services,
            state: PhantomData,
        } = resources;
        Resources {
            claims,
            config_maps,
            cron_jobs,
            deployments,
            disruption_budgets,
            network_policies,
            service_accounts,
            service_monitors,
            services,
            state: PhantomData,
        }
    }

    #[test]
    fn a_held_replica_keeps_the_configuration_it_was_started_with() {
        let files = |resources: &Resources<Allowed>| {
            let data = resources.config_maps[0].data.clone();
            data.unwrap_or_default().into_values().collect::<Vec<_>>()
        };
        let old = build(&valid(|_| {}));
        let old_file = old.config_maps[0].data.clone().unwrap_or_default();
        let old_file: Vec<String> = old_file.into_values().collect();
        let new = || {
            build(&valid(|p| {
                p.spec.origin = "rome.example.net/2026h2".to_owned();
            }))
        };

        let mut existing = found(old);
        let step = next_step(new(), &existing, &Trials::new());
        assert_eq!(files(&step.resources).len(), 2);
        assert!(files(&step.resources).contains(&old_file[0]));
        // Taken back: nothing remembers the new one any more.
        let back = next_step(build(&valid(|_| {})), &existing, &Trials::new());
        assert_eq!(files(&back.resources), old_file);

        // Everyone runs the new one: the old file goes.
        existing.config_maps = step.resources.config_maps;
        existing.deployments = new().deployments;
        let step = next_step(new(), &existing, &Trials::new());
        assert_eq!(files(&step.resources).len(), 1);
        assert!(!files(&step.resources).contains(&old_file[0]));
    }

    #[test]
    fn a_replica_without_its_own_volume_is_not_written() {
        let desired = build(&valid(|_| {})).deployments;
        let mut held = BTreeSet::new();
        let lacks = |name: &str| name == "rome2026h1-replica-1";
        let allowed = withhold(desired.clone(), &[], &mut held, lacks);
        assert_eq!(allowed, desired[..1]);
        assert_eq!(held, BTreeSet::from(["rome2026h1-replica-1".to_owned()]));

        // One that runs the spec already is only not repaired.
        held.clear();
        withhold(desired.clone(), &desired, &mut held, lacks);
        assert!(held.is_empty());
    }

    #[test]
    fn with_a_delay_a_replica_counts_once_it_has_been_ready_that_long() {
        let seen = |delay_seconds, available| {
            let mut built = build(&valid(|p| {
                p.spec.update_strategy.delay_seconds = delay_seconds;
            }));
            let mut replica = built.deployments.remove(0);
            replica.status = Some(DeploymentStatus {
                available_replicas: available,
                ready_replicas: Some(1),
                updated_replicas: Some(1),
                ..DeploymentStatus::default()
            });
            is_ready(&replica)
        };
        assert!(seen(0, None));
        assert!(!seen(60, None));
        assert!(seen(60, Some(1)));
    }

    #[test]
    fn what_kubernetes_said_of_an_earlier_template_is_not_about_this_one() {
        let seen = |observed| {
            let mut replica = build(&valid(|_| {})).deployments.remove(0);
            replica.metadata.generation = Some(2);
            replica.status = Some(DeploymentStatus {
                conditions: Some(vec![DeploymentCondition {
                    reason: Some("ProgressDeadlineExceeded".to_owned()),
                    message: Some("it has timed out".to_owned()),
                    ..DeploymentCondition::default()
                }]),
                observed_generation: Some(observed),
                ..DeploymentStatus::default()
            });
            stalled(&replica).map(str::to_owned)
        };
        assert_eq!(seen(1), None);
        assert_eq!(seen(2).as_deref(), Some("it has timed out"));
    }

    /// The ordinals of three replicas that may be written, of which those in `updated` run the spec;
    /// all are ready, and `trials` says how those stand that were changed.
    fn may_be_written(updated: &[usize], trials: &[(usize, Trial)]) -> Vec<usize> {
        let spec = |image: &str| {
            build(&valid(|p| {
                p.spec.replicas = 3;
                p.spec.image.tag = image.to_owned();
            }))
        };
        let mut existing = found(spec("old"));
        for ordinal in updated {
            existing.deployments[*ordinal] = spec("new").deployments.remove(*ordinal);
        }
        for deployment in &mut existing.deployments {
            deployment.status = Some(DeploymentStatus {
                ready_replicas: Some(1),
                updated_replicas: Some(1),
                ..DeploymentStatus::default()
            });
        }
        let name = |ordinal: usize| format!("rome2026h1-replica-{ordinal}");
        let trials = trials.iter().cloned();
        let trials: Trials = trials.map(|(at, trial)| (name(at), trial)).collect();
        let step = next_step(spec("new"), &existing, &trials);
        let held = |ordinal: &usize| step.held.contains(&name(*ordinal));
        (0..3).filter(|ordinal| !held(ordinal)).collect()
    }

    #[test]
    fn the_next_replica_waits_until_the_logs_of_the_one_before_it_work() {
        let lacks = |stalled| Trial::Lacks {
            logs: vec!["default".to_owned()],
            stalled,
        };
        for (updated, trials, want) in [
            (vec![], vec![], vec![0]),
            (vec![0], vec![(0, Trial::Unheard)], vec![0]),
            (vec![0], vec![(0, lacks(false))], vec![0]),
            (vec![0], vec![(0, lacks(true))], vec![0]), // however long it takes
            (vec![0], vec![(0, Trial::Passed)], vec![0, 1]),
            // Nobody can be asked: being ready has to do.
            (vec![0], vec![(0, Trial::Unreachable)], vec![0, 1]),
            (
                vec![0, 1],
                vec![(0, Trial::Passed), (1, Trial::Unheard)],
                vec![0, 1],
            ),
            (
                vec![0, 1],
                vec![(0, Trial::Passed), (1, Trial::Passed)],
                vec![0, 1, 2],
            ),
            // Taken back after the first one: it is written at once, whatever its logs did.
            (
                vec![1, 2],
                vec![(1, Trial::Passed), (2, Trial::Passed)],
                vec![0, 1, 2],
            ),
            (vec![0, 1, 2], vec![], vec![0, 1, 2]),
        ] {
            assert_eq!(may_be_written(&updated, &trials), want, "{trials:?}");
        }
    }

    const MISSING: Standing = Standing::Missing;
    const OLD: Standing = Standing::Outdated { ready: true };
    const OLD_DOWN: Standing = Standing::Outdated { ready: false };
    const NEW: Standing = Standing::Updated { ready: true };
    const NEW_DOWN: Standing = Standing::Updated { ready: false };

    #[test]
    fn one_serving_replica_changes_at_a_time() {
        for (standings, want) in [
            (vec![MISSING, MISSING, MISSING], vec![true, true, true]), // all at once: nobody serves
            (vec![OLD, OLD, OLD], vec![true, false, false]),
            (vec![NEW_DOWN, OLD, OLD], vec![true, false, false]), // wait for the first
            (vec![NEW, OLD, OLD], vec![true, true, false]),
            (vec![NEW, NEW, OLD], vec![true, true, true]),
            (vec![NEW, NEW, NEW], vec![true, true, true]),
            (vec![OLD, MISSING], vec![false, true]), // scaled and changed: first the new one
            (vec![OLD, OLD_DOWN, OLD], vec![false, true, false]), // the one that is down anyway
        ] {
            assert_eq!(may_change(&standings), want, "{standings:?}");
        }
    }

    #[test]
    fn a_bad_template_stops_at_the_first_replica() {
        // Even if another one goes down meanwhile, for instance because its node is drained.
        assert_eq!(may_change(&[NEW_DOWN, OLD_DOWN, OLD]), [true, false, false]);
    }

    #[test]
    fn taking_a_bad_template_back_reaches_the_broken_replica_at_once() {
        assert_eq!(may_change(&[OLD_DOWN, NEW, NEW]), [true, true, true]);
        // Also while another one is down for a reason of its own.
        assert_eq!(may_change(&[OLD_DOWN, NEW_DOWN, NEW]), [true, true, true]);
    }

    #[test]
    fn a_first_template_that_was_bad_everywhere_is_replaced_carefully() {
        assert_eq!(
            may_change(&[OLD_DOWN, OLD_DOWN, OLD_DOWN]),
            [true, false, false]
        );
        assert_eq!(
            may_change(&[NEW_DOWN, OLD_DOWN, OLD_DOWN]),
            [true, false, false]
        );
        assert_eq!(may_change(&[NEW, OLD_DOWN, OLD_DOWN]), [true, true, true]);
    }
}
