//! The logs: one, several, or those that a TUF repository names; each with somebody to sign for it, and
//! told apart from the others.

use std::collections::BTreeSet;

use tile_proxy::{
    config::{Kind, MAX_CACHE_SHARE, MIN_DISK_BUDGET, RESERVED_LOG_NAMES, shipped},
    note::vkey::VerifierKey,
    tuf::FoundLog,
};

use super::{
    Invalid, ValidCache, ValidKey, ValidUpstream, invalid,
    keys::valid_keys,
    units::{self, is_dns_label},
    upstreams::valid_upstreams,
};
use crate::crd::{
    DANGER_RULE, DEFAULT_RULE, KEYS_RULE, LOG_KEYS_RULE, LOG_UPSTREAMS_RULE, LOGS_RULE, LogKind,
    LogSpec, MAX_LOGS, Mode, ORIGIN_RULE, ORIGINS_RULE, PASSTHROUGH_RULE, PublicKey,
    REKOR_V1_KEYS_RULE, RESERVED_RULE, SOME_LOG_RULE, TILES_RULE, UNSIGNED_LOG_RULE, Upstream,
    VALIDATE_RULE, WHOSE_RULE, WRITES_RULE,
};

/// What is served.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidLogs {
    /// The log of the resource itself, which needs no name.
    One(ValidLog),
    /// Those of the list, by name: their order in it means nothing, so that it is nobody's change.
    Several(Vec<NamedLog>),
    /// Those that the TUF repository names.
    Discovered,
}

/// One of several logs.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedLog {
    /// Its name in paths, a DNS label.
    pub name: String,
    /// Whether paths without a name mean it.
    pub default: bool,
    /// Its part of the cache, as a weight.
    pub cache_share: u32,
    /// What it is.
    pub log: ValidLog,
}

/// One log.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidLog {
    /// First line of its checkpoints; empty if it is to be learned.
    pub origin: String,
    /// What protocol it speaks.
    pub kind: LogKind,
    /// The keys that may sign its checkpoints. None: the proxy knows them, or TUF does, or nobody.
    pub keys: Vec<ValidKey>,
    /// Where it is read; at least one, unless nobody is asked.
    pub upstreams: Vec<ValidUpstream>,
}

impl ValidLogs {
    /// Checks that each log's part of the cache is worth having.
    pub(super) fn check_shares(&self, cache: &ValidCache) -> Result<(), Invalid> {
        let logs = match self {
            Self::Several(logs) if logs.len() > 1 => logs,
            _ => return Ok(()),
        };
        let all: u128 = logs.iter().map(|log| u128::from(log.cache_share)).sum();
        let share = |log: &NamedLog| {
            u128::from(cache.budget().0) * u128::from(log.cache_share) / all.max(1)
        };
        match logs.iter().find(|log| share(log) < MIN_DISK_BUDGET.into()) {
            None => Ok(()),
            Some(log) => Err(invalid(
                "spec.cache.size",
                format!(
                    "leaves {} bytes for {}; each log needs at least 16Mi: give the cache more, or the \
                     log a larger cacheShare",
                    share(log),
                    log.name
                ),
            )),
        }
    }
}

/// What the spec says of logs.
pub(super) struct Written {
    pub(super) one: WrittenLog,
    pub(super) several: Vec<LogSpec>,
    pub(super) rules: Rules,
}

/// What the spec says of one log.
pub(super) struct WrittenLog {
    pub(super) upstreams: Vec<Upstream>,
    pub(super) origin: String,
    pub(super) kind: LogKind,
    pub(super) public_keys: Vec<PublicKey>,
}

/// What holds for every log.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Whether a log without keys is believed.
    pub(super) unsigned: bool,
    pub(super) passthrough: bool,
    pub(super) mode: Mode,
    /// Whether checkpoints must be signed by who TUF says; `None` without TUF.
    pub(super) validates: Option<bool>,
}

impl Written {
    pub(super) fn valid(self) -> Result<ValidLogs, Invalid> {
        let Self {
            one,
            several,
            rules,
        } = self;
        if rules.validates == Some(false) && !rules.unsigned {
            return Err(invalid("spec", VALIDATE_RULE));
        }
        let contradicted = match rules.validates {
            Some(validates) => validates,
            None => !one.public_keys.is_empty(),
        };
        if rules.unsigned && contradicted {
            return Err(invalid("spec", DANGER_RULE));
        }
        if !several.is_empty() {
            if !one.is_unsaid() || !one.upstreams.is_empty() {
                return Err(invalid("spec", LOGS_RULE));
            }
            return valid_several(several, rules).map(ValidLogs::Several);
        }
        if !one.upstreams.is_empty() {
            return valid_one(one, rules).map(ValidLogs::One);
        }
        if rules.validates.is_none() {
            return Err(invalid("spec", SOME_LOG_RULE));
        }
        if !one.is_unsaid() || rules.unsigned {
            return Err(invalid("spec", WHOSE_RULE));
        }
        Ok(ValidLogs::Discovered)
    }
}

impl WrittenLog {
    /// Whether nothing is said of a log but where it is.
    fn is_unsaid(&self) -> bool {
        self.origin.is_empty() && self.kind == LogKind::Auto && self.public_keys.is_empty()
    }
}

fn valid_one(one: WrittenLog, rules: Rules) -> Result<ValidLog, Invalid> {
    let log = valid_log("spec", one, rules)?;
    if log.lacks_keys(rules) {
        return Err(invalid("spec", KEYS_RULE));
    }
    if rules.unsigned && log.speaks() == LogKind::RekorV1 {
        return Err(invalid("spec", REKOR_V1_KEYS_RULE));
    }
    Ok(log)
}

fn valid_several(logs: Vec<LogSpec>, rules: Rules) -> Result<Vec<NamedLog>, Invalid> {
    if logs.len() > MAX_LOGS {
        let message = format!("must hold at most {MAX_LOGS} logs");
        return Err(invalid("spec.logs", message));
    }
    if rules.unsigned && logs.iter().all(|log| !log.public_keys.is_empty()) {
        return Err(invalid("spec", DANGER_RULE));
    }
    if logs.iter().filter(|log| log.default).count() > 1 {
        return Err(invalid("spec.logs", DEFAULT_RULE));
    }
    let mut names = BTreeSet::new();
    let mut origins = BTreeSet::new();
    for (at, log) in logs.iter().enumerate() {
        let name = format!("spec.logs[{at}].name");
        check_log_name(&name, &log.name)?;
        if !names.insert(log.name.clone()) {
            return Err(invalid(name, format!("another log is called {}", log.name)));
        }
        if !log.origin.is_empty() && !origins.insert(log.origin.clone()) {
            return Err(invalid("spec.logs", ORIGINS_RULE));
        }
    }
    let valid = logs.into_iter().map(|log| valid_named(log, rules));
    let mut valid = valid.collect::<Result<Vec<_>, _>>()?;
    valid.sort_by(|one, other| one.name.cmp(&other.name));
    check_same_keys(&valid)?;
    Ok(valid)
}

fn valid_named(log: LogSpec, rules: Rules) -> Result<NamedLog, Invalid> {
    let LogSpec {
        name,
        default,
        origin,
        kind,
        public_keys,
        upstreams,
        cache_share,
    } = log;
    let field = format!("spec.logs[{name}]");
    let written = WrittenLog {
        upstreams,
        origin,
        kind,
        public_keys,
    };
    let log = valid_log(&field, written, rules)?;
    if log.upstreams.is_empty() && rules.mode == Mode::Online {
        return Err(invalid(field, LOG_UPSTREAMS_RULE));
    }
    if log.lacks_keys(rules) {
        return Err(invalid(field, LOG_KEYS_RULE));
    }
    if rules.unsigned && log.keys.is_empty() {
        // The proxy would forget what it knows.
        if rules.validates.is_none() && log.has_shipped_keys() {
            let message = "is one of Sigstore's public logs, whose keys dangerAcceptUnsigned would put \
                           aside: give it publicKeys, or a TileProxy of its own";
            return Err(invalid(field, message));
        }
        if log.origin.is_empty() || log.speaks() == LogKind::RekorV1 {
            return Err(invalid(field, UNSIGNED_LOG_RULE));
        }
    }
    let share = format!("{field}.cacheShare");
    Ok(NamedLog {
        name,
        default,
        cache_share: units::number(&share, cache_share, &(1..=MAX_CACHE_SHARE))?,
        log,
    })
}

/// What holds for each log, however many there are.
fn valid_log(field: &str, written: WrittenLog, rules: Rules) -> Result<ValidLog, Invalid> {
    let WrittenLog {
        upstreams,
        origin,
        kind,
        public_keys,
    } = written;
    if origin.contains(char::is_control) || origin.trim() != origin {
        return Err(invalid(format!("{field}.origin"), ORIGIN_RULE));
    }
    let upstreams = valid_upstreams(&format!("{field}.upstreams"), upstreams)?;
    let has_tiles = upstreams.iter().any(|u| u.tile_base_url.is_some());
    if kind == LogKind::RekorV1 && has_tiles {
        return Err(invalid(field, TILES_RULE));
    }
    let writes = upstreams.iter().any(|u| u.write_url.is_some());
    let log = ValidLog {
        keys: valid_keys(&format!("{field}.publicKeys"), public_keys)?,
        origin,
        kind,
        upstreams,
    };
    if writes && !matches!(log.speaks(), LogKind::Auto | LogKind::RekorV1) {
        return Err(invalid(field, WRITES_RULE));
    }
    if writes && !rules.passthrough {
        return Err(invalid("spec", PASSTHROUGH_RULE));
    }
    Ok(log)
}

impl ValidLog {
    /// Whether nobody can say who signs for this log.
    fn lacks_keys(&self, rules: Rules) -> bool {
        let from_elsewhere = rules.unsigned || rules.validates.is_some();
        self.keys.is_empty() && !from_elsewhere && !self.has_shipped_keys()
    }

    /// Whether this is one of Sigstore's public logs, whose keys ship with the proxy.
    fn has_shipped_keys(&self) -> bool {
        self.shipped().is_some()
    }

    /// What protocol the proxy takes it to speak before it has asked.
    fn speaks(&self) -> LogKind {
        let known = (self.kind == LogKind::Auto)
            .then(|| self.shipped())
            .flatten();
        match known.map(|log| log.kind) {
            Some(Kind::RekorV1) => LogKind::RekorV1,
            Some(Kind::RekorV2) => LogKind::RekorV2,
            Some(Kind::TlogTiles) => LogKind::TlogTiles,
            Some(Kind::Auto) | None => self.kind,
        }
    }

    fn shipped(&self) -> Option<FoundLog> {
        let urls = self.upstreams.iter();
        shipped(urls.flat_map(|u| std::iter::once(&u.url).chain(&u.tile_base_url)))
    }
}

fn check_log_name(field: &str, name: &str) -> Result<(), Invalid> {
    if RESERVED_LOG_NAMES.contains(&name) {
        return Err(invalid(field, RESERVED_RULE));
    }
    if !is_dns_label(name) {
        let message = "must be a DNS label: at most 63 of a-z, 0-9 and '-', which neither begins nor \
                       ends it";
        return Err(invalid(field, message));
    }
    Ok(())
}

/// Finds a log of which nothing says which one of those that a key signs it is. Keys by reference are
/// the proxy's to look at, which then does not start.
fn check_same_keys(logs: &[NamedLog]) -> Result<(), Invalid> {
    let keys = |log: &NamedLog| -> Vec<VerifierKey> {
        let inline = log.log.keys.iter().filter_map(|key| match key {
            ValidKey::Inline(key) => VerifierKey::parse_all(key).ok(),
            ValidKey::Mounted(_) => None,
        });
        inline.flatten().collect()
    };
    let keys: Vec<_> = logs.iter().map(|log| (log, keys(log))).collect();
    for (log, own) in keys.iter().filter(|(log, _)| log.log.origin.is_empty()) {
        let same = keys.iter().find(|(other, theirs)| {
            other.name != log.name && own.iter().any(|key| theirs.contains(key))
        });
        if let Some((other, _)) = same {
            return Err(invalid(
                format!("spec.logs[{}].origin", log.name),
                format!(
                    "is needed: {} is signed by one of the same keys, so say which log this is by the \
                     first line of its checkpoints",
                    other.name
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
