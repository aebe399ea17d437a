//! `spec.sync`: the scheduled prefetch.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The scheduled prefetch of the newest entries into every replica: a CronJob that asks each
/// replica over HTTP and mounts no volume.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct SyncSpec {
    /// Whether there is a CronJob. Defaults to true.
    #[serde(default = "defaults::enabled")]
    pub enabled: bool,

    /// When it runs: five cron fields, or one of `@hourly`, `@daily`, `@weekly`, `@monthly`,
    /// `@yearly`. At most 128 characters. Defaults to every six hours.
    #[serde(default = "defaults::schedule")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("!self.contains('TZ')").message("must not set a time zone: use sync.timeZone"),
        validation = Rule::new("self.matches('^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[^ @]+( +[^ ]+){4})$')")
            .message("must be five cron fields such as '0 */6 * * *', or @hourly, @daily, @weekly, @monthly or @yearly")
    )]
    pub schedule: String,

    /// The time zone of the schedule, as the IANA database names it. At most 64 characters.
    /// Defaults to Etc/UTC.
    #[serde(default = "defaults::time_zone")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$")
    )]
    #[x_kube(validation = Rule::new("!self.matches('^[Ll][Oo][Cc][Aa][Ll]$')").message("must name a time zone such as Etc/UTC or Europe/Vienna"))]
    pub time_zone: String,

    /// How many of the newest entries are fetched, 1 to 1,000,000,000. Defaults to 10000.
    #[serde(default = "defaults::depth")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub depth: i64,

    /// Keeps the CronJob, but starts no Job. Defaults to false.
    #[serde(default)]
    pub suspend: bool,

    /// How late a sync may start, in seconds, 200 to 86400. One that is later waits for its next time.
    /// Defaults to 300.
    #[serde(default = "defaults::starting_deadline_seconds")]
    #[schemars(range(min = 200, max = 86_400))]
    pub starting_deadline_seconds: i64,

    /// How long a sync may take, in seconds, 60 to 86400. Defaults to 3000, so that an hourly one ends
    /// before the next.
    #[serde(default = "defaults::active_deadline_seconds")]
    #[schemars(range(min = 60, max = 86_400))]
    pub active_deadline_seconds: i64,

    /// How many Jobs that succeeded are kept, for a day at most, 0 to 10. Defaults to 1.
    #[serde(default = "defaults::successful_jobs_history_limit")]
    #[schemars(range(min = 0, max = 10))]
    pub successful_jobs_history_limit: i32,

    /// How many Jobs that failed are kept, for a day at most, 0 to 10. Defaults to 3.
    #[serde(default = "defaults::failed_jobs_history_limit")]
    #[schemars(range(min = 0, max = 10))]
    pub failed_jobs_history_limit: i32,

    /// CPU and memory of a sync Job, which does no more than ask and wait. Defaults to requests of 10m
    /// CPU and 32Mi memory, without limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

// A derived `Default` would put empty strings into the CRD, not the defaults of the fields.
impl Default for SyncSpec {
    fn default() -> Self {
        Self {
            enabled: defaults::enabled(),
            schedule: defaults::schedule(),
            time_zone: defaults::time_zone(),
            depth: defaults::depth(),
            suspend: false,
            starting_deadline_seconds: defaults::starting_deadline_seconds(),
            active_deadline_seconds: defaults::active_deadline_seconds(),
            successful_jobs_history_limit: defaults::successful_jobs_history_limit(),
            failed_jobs_history_limit: defaults::failed_jobs_history_limit(),
            resources: None,
        }
    }
}

mod defaults {
    pub(super) fn enabled() -> bool {
        true
    }

    pub(super) fn schedule() -> String {
        "0 */6 * * *".to_owned()
    }

    pub(super) fn time_zone() -> String {
        "Etc/UTC".to_owned()
    }

    pub(super) fn depth() -> i64 {
        10_000
    }

    // Well above 100: a controller that missed more starts than that gives up counting them.
    pub(super) fn starting_deadline_seconds() -> i64 {
        300
    }

    pub(super) fn active_deadline_seconds() -> i64 {
        3_000
    }

    pub(super) fn successful_jobs_history_limit() -> i32 {
        1
    }

    pub(super) fn failed_jobs_history_limit() -> i32 {
        3
    }
}
