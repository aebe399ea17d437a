//! The logs to follow: the one of the short form, or those of `logs`, as [`LogSettings`].

use url::Url;

use super::{
    Config, DEFAULT_UPSTREAM, Kind, LogConfig, Mode, Source, Upstream,
    check::Problem,
    tuf::shipped,
    upstreams::{Place, Spoken, UpstreamSettings, upstreams},
};
use crate::tuf::{FoundIn, FoundLog, Material};

/// One log to follow.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct LogSettings {
    /// Name in paths and metrics.
    pub name: String,
    /// Whether paths without a prefix mean this log.
    pub default: bool,
    /// What protocol its upstreams speak.
    pub kind: Kind,
    /// First line of its checkpoints; `None` is learned from the first verified one.
    pub origin: Option<String>,
    /// Whether requests that are not answered here are handed on, if it is a Rekor v1 log.
    pub passthrough: bool,
    /// Who may sign its checkpoints.
    pub signers: Signers,
    /// Path of the key in the configuration that says so.
    pub signers_key: String,
    /// Where its bytes come from; empty when offline.
    pub upstreams: Vec<UpstreamSettings>,
    /// Its part of the disk budget, as a weight beside those of the others.
    pub cache_share: u32,
}

/// Who may sign a log's checkpoints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Signers {
    /// The keys that are there; never empty.
    Keys(Vec<Source>),
    /// Anybody: nothing but the consistency of what is served is proven.
    Anyone,
    /// Whoever the TUF repository says.
    Tuf(KeysOf),
}

/// Which log's keys are meant, among those that a TUF repository has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeysOf {
    /// First line of its checkpoints, if that is known; it decides.
    pub origin: Option<String>,
    /// Where it is.
    pub urls: Vec<Url>,
}

/// The key that lets a log be followed without any key of its own.
const DANGER: &str = "danger_accept_unsigned";

/// The name of the log of the short form.
const DEFAULT_LOG: &str = "default";

/// Most logs in one proxy: each polls its own upstreams.
pub const MAX_LOGS: usize = 100;

/// Largest `cache_share`: a thousandth is the finest part that is worth a division.
pub const MAX_CACHE_SHARE: u32 = 1_000;

/// What no log is called: first segments of paths that mean something else, now or in the protocols
/// around.
pub const RESERVED_LOG_NAMES: [&str; 6] = ["api", "checkpoint", "proof", "sumdb", "tile", "tuf"];

/// Longest DNS label, in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// The logs of a configuration; each problem with its key.
pub(super) fn logs(
    config: &Config,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Vec<LogSettings> {
    if !config.tuf.validate_checkpoint_signature && !config.danger_accept_unsigned {
        let message = format!(
            "`false` would serve what nobody signed; if that is meant, say `{DANGER}: true`"
        );
        problems.push(Problem::new("tuf.validate_checkpoint_signature", message));
    }
    if discovers(config) {
        return Vec::new();
    }
    let mut all = match config.logs.as_slice() {
        [] => {
            let log = the_one(config, problems, warnings);
            of_rekor_v1(config, std::slice::from_ref(&log), "", problems, warnings);
            vec![log]
        }
        _ => several(config, problems, warnings),
    };
    for upstream in all.iter_mut().flat_map(|log| &mut log.upstreams) {
        upstream.trusted_ca.clone_from(&config.trusted_ca);
    }
    all
}

/// The logs of the list.
fn several(
    config: &Config,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Vec<LogSettings> {
    for (key, given) in [
        ("upstream_url", config.upstream_url.is_some()),
        ("tile_base_url", config.tile_base_url.is_some()),
        ("origin", !config.origin.is_empty()),
        ("kind", config.kind != Kind::Auto),
        ("public_keys", !config.public_keys.is_empty()),
        ("upstreams", !config.upstreams.is_empty()),
    ] {
        if given {
            let message = "is of a single log; beside `logs`, give it there";
            problems.push(Problem::new(key, message));
        }
    }
    if config.logs.len() > MAX_LOGS {
        let message = format!("are {}; at most {MAX_LOGS}", config.logs.len());
        problems.push(Problem::new("logs", message));
    }
    let keyed = config.logs.iter().all(|log| !log.public_keys.is_empty());
    if config.danger_accept_unsigned && keyed {
        problems.push(Problem::new(
            DANGER,
            "has nothing to do: each of the `logs` has keys; remove it",
        ));
    }
    let mut all: Vec<LogSettings> = Vec::new();
    for (i, log) in config.logs.iter().enumerate() {
        let settings = one_of_several(config, i, log, problems, warnings);
        told_apart(&all, i, &settings, problems);
        all.push(settings);
    }
    if let [only] = all.as_mut_slice() {
        only.default = true;
    }
    of_rekor_v1(config, &all, "logs", problems, warnings);
    all
}

/// Finds what only a Rekor v1 log can have, and what it cannot.
fn of_rekor_v1(
    config: &Config,
    logs: &[LogSettings],
    list: &str,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    for (i, log) in logs.iter().enumerate() {
        let key = |key: &str| match list {
            "" => key.to_owned(),
            list => format!("{list}[{i}].{key}"),
        };
        if log.kind == Kind::RekorV1 && log.signers == Signers::Anyone {
            let message = "`rekor-v1` needs `public_keys`: when an entry was logged, and where, is \
                           vouched for by a key and by nothing else";
            problems.push(Problem::new(&key("kind"), message));
        }
    }
    let may_be = |log: &LogSettings| matches!(log.kind, Kind::Auto | Kind::RekorV1);
    if config.passthrough && !logs.iter().any(may_be) {
        let message = "has no effect: only requests to a Rekor v1 log are handed on";
        warnings.push(Problem::new("passthrough", message));
    }
    let mut upstreams = logs.iter().flat_map(|log| &log.upstreams);
    if !config.passthrough && upstreams.any(|upstream| upstream.write_url.is_some()) {
        let message = "is missing: without it, nothing is handed on to a `write_url`";
        warnings.push(Problem::new("passthrough", message));
    }
}

/// The log of the short form, which has no name of its own.
fn the_one(
    config: &Config,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> LogSettings {
    let urls = urls(config.upstream_url.iter(), &config.upstreams);
    let urls = match urls.is_empty() {
        true => DEFAULT_UPSTREAM.parse().into_iter().collect(),
        false => urls,
    };
    let spoken = Spoken::of(config.kind, &urls);
    let signers = signers_of_the_one(config, urls, problems, warnings);
    LogSettings {
        name: DEFAULT_LOG.to_owned(),
        default: true,
        kind: spoken.kind,
        origin: given(&config.origin),
        passthrough: config.passthrough,
        signers,
        signers_key: key_of("public_keys"),
        upstreams: upstreams_of_the_one(config, spoken, problems, warnings),
        cache_share: 1,
    }
}

fn signers_of_the_one(
    config: &Config,
    urls: Vec<Url>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Signers {
    let (keys, unsigned) = (&config.public_keys, config.danger_accept_unsigned);
    match (unsigned, keys.is_empty()) {
        (true, false) if config.tuf.validate_checkpoint_signature => problems.push(Problem::new(
            DANGER,
            "contradicts `public_keys`: with keys, what they did not sign is not accepted; \
             remove one of the two",
        )),
        (true, _) => {
            warnings.push(Problem::new(
                DANGER,
                "checkpoints are accepted whoever signed them: what is served is consistent with \
                 itself and with what was served before, and proves nothing more",
            ));
            return Signers::Anyone;
        }
        (false, true) => match signers_without_keys(config, &config.origin, urls) {
            Some(signers) => return signers,
            None => problems.push(Problem::new(
                "public_keys",
                "the log has no key, so nothing it serves could be proven; \
                 give its verifier key (`name+id+base64`, PEM, or `file:PATH`), or trust from TUF \
                 (`tuf.enabled: true`)",
            )),
        },
        (false, false) => {}
    }
    Signers::Keys(keys.clone())
}

/// The upstreams of the one log, from either of their two forms.
fn upstreams_of_the_one(
    config: &Config,
    spoken: Spoken,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Vec<UpstreamSettings> {
    if config.tile_base_url.is_some() && !config.upstreams.is_empty() {
        problems.push(Problem::new(
            "tile_base_url",
            "belongs to `upstream_url`; beside `upstreams`, give it there",
        ));
    }
    if config.upstream_url.is_some() && !config.upstreams.is_empty() {
        problems.push(Problem::new(
            "upstreams",
            "`upstream_url` is the short form of one upstream: give one of the two",
        ));
    }
    if config.mode == Mode::Offline {
        return Vec::new();
    }
    if !config.upstreams.is_empty() {
        return upstreams("", &config.upstreams, spoken, problems, warnings);
    }
    let short = Upstream {
        url: config
            .upstream_url
            .clone()
            .or_else(|| DEFAULT_UPSTREAM.parse().ok()),
        tile_base_url: config.tile_base_url.clone(),
        ..Upstream::default()
    };
    let settings = Place::short().settings(&short, spoken, problems, warnings);
    settings.into_iter().collect()
}

fn one_of_several(
    config: &Config,
    i: usize,
    log: &LogConfig,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> LogSettings {
    // Destructured without `..`: a new key does not compile until it has a meaning here.
    let LogConfig {
        name,
        default,
        origin,
        kind,
        public_keys,
        upstreams: written,
        cache_share,
    } = log;
    let prefix = format!("logs[{i}].");
    let key = |key: &str| format!("{prefix}{key}");
    if let Some(message) = wrong_name(name) {
        problems.push(Problem::new(&key("name"), message));
    }
    if !(1..=MAX_CACHE_SHARE).contains(cache_share) {
        let message = format!("is {cache_share}; must be between 1 and {MAX_CACHE_SHARE}");
        problems.push(Problem::new(&key("cache_share"), message));
    }
    if written.is_empty() && config.mode == Mode::Online {
        let message = "needs at least one, with the log's `url`";
        problems.push(Problem::new(&key("upstreams"), message));
    }
    let urls = urls([].iter(), written);
    let spoken = Spoken::of(*kind, &urls);
    let upstreams = match config.mode {
        Mode::Offline => Vec::new(),
        Mode::Online => upstreams(&prefix, written, spoken, problems, warnings),
    };
    let signers = match (public_keys.is_empty(), config.danger_accept_unsigned) {
        (true, true) => {
            let message = "is missing, and `danger_accept_unsigned` is set: this log's checkpoints \
                           are accepted whoever signed them";
            warnings.push(Problem::new(&key("public_keys"), message));
            Signers::Anyone
        }
        (true, false) => signers_without_keys(config, origin, urls).unwrap_or_else(|| {
            let message = "is missing: without the log's key, nothing it serves could be proven; \
                               give its verifier key (`name+id+base64`, PEM, or `file:PATH`)";
            problems.push(Problem::new(&key("public_keys"), message));
            Signers::Keys(Vec::new())
        }),
        (false, _) => Signers::Keys(public_keys.clone()),
    };
    LogSettings {
        name: name.clone(),
        default: *default,
        kind: spoken.kind,
        origin: given(origin),
        passthrough: config.passthrough,
        signers,
        signers_key: key_of(&key("public_keys")),
        upstreams,
        cache_share: *cache_share,
    }
}

/// Whether the logs are those that a TUF repository names: the configuration names none, and nothing
/// of one.
pub(super) fn discovers(config: &Config) -> bool {
    config.tuf.enabled
        && config.logs.is_empty()
        && config.upstreams.is_empty()
        && config.upstream_url.is_none()
        && config.tile_base_url.is_none()
        && config.origin.is_empty()
        && config.public_keys.is_empty()
        && !config.danger_accept_unsigned
}

/// Who signs for a log that the configuration has no key of: whoever TUF says, or, for Sigstore's
/// public logs, the keys that ship with the program.
fn signers_without_keys(config: &Config, origin: &str, urls: Vec<Url>) -> Option<Signers> {
    if config.tuf.enabled {
        let origin = given(origin);
        return Some(Signers::Tuf(KeysOf { origin, urls }));
    }
    let keys = shipped(&urls)?.keys.into_iter();
    let sources = keys.map(|found| Source::Inline(found.key.to_string()));
    Some(Signers::Keys(sources.collect()))
}

/// Where a log is, in whatever form that is written.
fn urls<'a>(short: impl Iterator<Item = &'a Url>, list: &'a [Upstream]) -> Vec<Url> {
    let list = list
        .iter()
        .flat_map(|upstream| upstream.url.iter().chain(&upstream.tile_base_url));
    short.chain(list).cloned().collect()
}

/// The logs that a TUF repository names, and what to tell of those that cannot be followed. `kept`
/// says of which there is something in the cache: an old shard stays readable when the service map
/// has gone on to the next.
pub fn discovered(
    config: &Config,
    material: &Material,
    kept: impl Fn(&FoundLog) -> bool,
) -> (Vec<LogSettings>, Vec<Problem>) {
    let (mut all, mut problems) = (Vec::<LogSettings>::new(), Vec::new());
    let first = material.to_follow().len();
    let wanted = material.logs.iter().enumerate();
    for (i, found) in wanted.filter(|(i, found)| *i < first || kept(found)) {
        let log = discovered_log(config, found, i == 0 && material.mapped, &mut problems);
        all.extend(log.filter(|log| all.iter().all(|other| other.name != log.name)));
    }
    if let [only] = all.as_mut_slice() {
        only.default = true;
    }
    (all, problems)
}

fn discovered_log(
    config: &Config,
    found: &FoundLog,
    default: bool,
    problems: &mut Vec<Problem>,
) -> Option<LogSettings> {
    let origin = found
        .origin
        .clone()
        .or_else(|| found.url.clone()?.host_str().map(str::to_owned))?;
    let (url, tiles) = (found.url.clone(), found.tile_base_url.clone());
    let url = match found.kind {
        // Who has tiles somewhere has the checkpoint there as well; Rekor's server has neither.
        Kind::Auto => tiles.or(url),
        _ => url.or(tiles),
    };
    let upstream = Upstream {
        url,
        tile_base_url: found.tile_base_url.clone(),
        ..Upstream::default()
    };
    let (before, mut warnings) = (problems.len(), Vec::new());
    // The others who say where a log is are refused for it: a name alone is none to be refused for.
    if found.url_from == FoundIn::TrustedRoot
        && found.url.as_ref().is_some_and(|url| url.scheme() == "http")
        && !config.tuf.allow_http
    {
        let message =
            format!("must be `true` to read {origin} at `http://`, as its `baseUrl` says");
        problems.push(Problem::new("tuf.allow_http", message));
    }
    let spoken = Spoken::told(found.kind);
    let upstreams = match config.mode {
        Mode::Offline => Vec::new(),
        Mode::Online => upstreams("tuf.", &[upstream], spoken, problems, &mut warnings),
    };
    let upstreams = upstreams.into_iter().map(|upstream| UpstreamSettings {
        trusted_ca: config.trusted_ca.clone(),
        ..upstream
    });
    let upstreams = upstreams.collect();
    (problems.len() == before).then(|| LogSettings {
        name: label_of(&origin),
        default,
        kind: found.kind,
        passthrough: config.passthrough,
        // Rekor v1 adds its shard to it, which is learned.
        origin: found.origin.clone().filter(|_| found.kind == Kind::RekorV2),
        signers: Signers::Tuf(KeysOf {
            origin: found.origin.clone(),
            urls: found.url.iter().cloned().collect(),
        }),
        signers_key: key_of("tuf"),
        upstreams,
        cache_share: 1,
    })
}

/// An origin as the first segment of paths: `rekor.example.com` is `rekor-example-com`.
fn label_of(origin: &str) -> String {
    let label = origin.to_ascii_lowercase();
    let label = label.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let label: String = label.chars().take(MAX_LABEL_BYTES).collect();
    match label.trim_matches('-') {
        "" => DEFAULT_LOG.to_owned(),
        reserved if RESERVED_LOG_NAMES.contains(&reserved) => format!("{reserved}-log"),
        label => label.to_owned(),
    }
}

/// Finds what makes a log be taken for one before it.
fn told_apart(before: &[LogSettings], i: usize, log: &LogSettings, problems: &mut Vec<Problem>) {
    for (key, message) in [
        (
            "name",
            before
                .iter()
                .any(|other| other.name == log.name)
                .then(|| format!("another log is called `{}` already", log.name)),
        ),
        (
            "default",
            before
                .iter()
                .find(|other| other.default && log.default)
                .map(|other| format!("`{}` is the default already", other.name)),
        ),
        (
            "origin",
            (log.origin.is_none() && log.signers == Signers::Anyone).then(|| {
                "is missing: without a key, nothing else says which of what is stored is this log's"
                    .to_owned()
            }),
        ),
        (
            "origin",
            before
                .iter()
                .find(|other| log.origin.is_some() && other.origin == log.origin)
                .map(|other| {
                    format!(
                        "`{}` has the same: it is one log, so list it once",
                        other.name
                    )
                }),
        ),
    ] {
        if let Some(message) = message {
            problems.push(Problem::new(&format!("logs[{i}].{key}"), message));
        }
    }
}

/// What keeps a name from being the first segment of a log's paths.
fn wrong_name(name: &str) -> Option<String> {
    if RESERVED_LOG_NAMES.contains(&name) {
        let reserved = RESERVED_LOG_NAMES.join(", ");
        return Some(format!(
            "`{name}` has another meaning in paths, as have all of {reserved}"
        ));
    }
    let is_label = (1..=MAX_LABEL_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    (!is_label).then(|| {
        format!(
            "`{name}` is not a DNS label: up to {MAX_LABEL_BYTES} of a-z, 0-9 and `-`, which neither \
             begins nor ends it"
        )
    })
}

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The path of a key, as people write it.
fn key_of(key: &str) -> String {
    format!("tile_proxy.{key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::tests::check;

    /// A configuration with these logs, and these keys beside them.
    fn several(logs: &[&str], beside: &str) -> Result<crate::config::Settings, Vec<String>> {
        let logs = logs.join("}, {");
        check(&format!("tile_proxy: {{logs: [{{{logs}}}], {beside}}}"))
    }

    const ROME: &str = "name: rome, public_keys: [k], upstreams: [{url: 'http://rome/'}]";
    const OSLO: &str = "name: oslo, public_keys: [k], upstreams: [{url: 'http://oslo/'}]";

    #[test]
    fn each_log_has_its_own() {
        let oslo = format!("{OSLO}, origin: o, default: true, kind: rekor-v2, cache_share: 3");
        let settings = several(&[ROME, &oslo], "").expect("valid");
        let [rome, oslo] = settings.logs.as_slice() else {
            panic!("two logs: {:?}", settings.logs);
        };
        assert_eq!((rome.name.as_str(), rome.default), ("rome", false));
        assert_eq!((rome.origin.as_deref(), rome.cache_share), (None, 1));
        assert_eq!(rome.signers_key, "tile_proxy.logs[0].public_keys");
        assert_eq!(rome.upstreams[0].tile_base_url.as_str(), "http://rome/");
        assert_eq!((oslo.name.as_str(), oslo.default), ("oslo", true));
        assert_eq!((oslo.origin.as_deref(), oslo.cache_share), (Some("o"), 3));
        assert_eq!(
            oslo.upstreams[0].tile_base_url.as_str(),
            "http://oslo/api/v2/"
        );
    }

    #[test]
    fn one_in_the_list_is_the_default_and_of_several_none_is() {
        let defaults = |logs: &[&str]| {
            let settings = several(logs, "").expect("valid");
            settings.logs.iter().filter(|log| log.default).count()
        };
        assert_eq!(defaults(&[ROME]), 1);
        assert_eq!(defaults(&[ROME, OSLO]), 0);
    }

    #[test]
    fn offline_logs_need_no_upstream() {
        let settings = several(&["name: rome, public_keys: [k]"], "mode: offline");
        assert!(settings.expect("valid").logs[0].upstreams.is_empty());
    }

    #[test]
    fn impossible_lists_are_refused_with_what_would_be_right() {
        let named = |name: &str| ROME.replace("rome,", &format!("{name},"));
        let long = "a".repeat(64);
        for (logs, beside, want) in [
            (vec![named("tile")], "", "logs[0].name: `tile` has another"),
            (vec![named("Rome")], "", "logs[0].name: `Rome` is not a DNS"),
            (vec![named("-a")], "", "logs[0].name: `-a` is not a DNS"),
            (vec![named("a-")], "", "logs[0].name: `a-` is not a DNS"),
            (vec![named("a.b")], "", "logs[0].name: `a.b` is not a DNS"),
            (vec![named("''")], "", "logs[0].name: `` is not a DNS"),
            (vec![named(&long)], "", "logs[0].name: `aaa"),
            (
                vec![ROME.to_owned(), ROME.to_owned()],
                "",
                "logs[1].name: another log is called `rome`",
            ),
            (
                vec![
                    format!("{ROME}, default: true"),
                    format!("{OSLO}, default: true"),
                ],
                "",
                "logs[1].default: `rome` is the default",
            ),
            (
                vec![format!("{ROME}, origin: o"), format!("{OSLO}, origin: o")],
                "",
                "logs[1].origin: `rome` has the same",
            ),
            (
                vec![format!("{ROME}, cache_share: 0")],
                "",
                "logs[0].cache_share: is 0; must be",
            ),
            (
                vec![format!("{ROME}, cache_share: 1001")],
                "",
                "logs[0].cache_share: is 1001; must be",
            ),
            (
                vec!["name: rome, public_keys: [k]".to_owned()],
                "",
                "logs[0].upstreams: needs at least one",
            ),
            (
                vec!["name: rome, upstreams: [{url: 'http://rome/'}]".to_owned()],
                "",
                "logs[0].public_keys: is missing",
            ),
            (
                vec!["name: rome, public_keys: [k], upstreams: [{url: 'ftp://a/'}]".to_owned()],
                "",
                "logs[0].upstreams[0].url: must start",
            ),
            (
                vec![ROME.to_owned()],
                "public_keys: [k]",
                "public_keys: is of a single log",
            ),
            (
                vec![ROME.to_owned()],
                "origin: o",
                "origin: is of a single log",
            ),
            (
                vec![ROME.to_owned()],
                "kind: rekor-v2",
                "kind: is of a single log",
            ),
            (
                vec![ROME.to_owned()],
                "upstream_url: 'http://a/'",
                "upstream_url: is of a single log",
            ),
            (
                vec![ROME.to_owned()],
                "danger_accept_unsigned: true",
                "danger_accept_unsigned: has nothing to do",
            ),
            // When an entry was logged is vouched for by a key alone.
            (
                vec![
                    "name: rome, kind: rekor-v1, origin: o, upstreams: [{url: 'http://rome/'}]"
                        .to_owned(),
                ],
                "danger_accept_unsigned: true",
                "logs[0].kind: `rekor-v1` needs `public_keys`",
            ),
            (
                vec![
                    "name: rome, origin: o, upstreams: [{url: 'https://rekor.sigstore.dev'}]"
                        .to_owned(),
                ],
                "danger_accept_unsigned: true",
                "logs[0].kind: `rekor-v1` needs `public_keys`",
            ),
        ] {
            let logs: Vec<&str> = logs.iter().map(String::as_str).collect();
            let problems = several(&logs, beside).expect_err(want);
            let want = format!("tile_proxy.{want}");
            assert!(
                problems.iter().any(|problem| problem.starts_with(&want)),
                "{want}: {problems:?}"
            );
        }
        let oslo = format!("{OSLO}, cache_share: 2");
        assert!(several(&[ROME, &oslo], "cache: {max_size: 48Mi}").is_ok());
        let longest = named(&"a".repeat(MAX_LABEL_BYTES));
        assert!(several(&[&longest], "").is_ok());
        assert!(several(&[&format!("{ROME}, cache_share: {MAX_CACHE_SHARE}")], "").is_ok());
    }

    #[test]
    fn there_is_a_most_of_logs() {
        let logs = |count: usize| {
            let logs: Vec<String> = (0..count)
                .map(|i| ROME.replace("rome", &format!("log-{i}")))
                .collect();
            let logs: Vec<&str> = logs.iter().map(String::as_str).collect();
            several(&logs, "")
        };
        assert!(logs(MAX_LOGS).is_ok());
        let problems = logs(MAX_LOGS + 1).expect_err("too many");
        assert!(
            problems[0].starts_with("tile_proxy.logs: are 101"),
            "{problems:?}"
        );
    }

    #[test]
    fn only_a_log_without_keys_is_believed_unsigned() {
        let bare = "name: oslo, origin: o, upstreams: [{url: 'http://oslo/'}]";
        let settings = several(&[ROME, bare], "danger_accept_unsigned: true").expect("valid");
        assert_ne!(settings.logs[0].signers, Signers::Anyone);
        assert_eq!(settings.logs[1].signers, Signers::Anyone);
        let told = |warning: &Problem| warning.key == "tile_proxy.logs[1].public_keys";
        assert!(
            settings.warnings.iter().any(told),
            "{:?}",
            settings.warnings
        );
    }
}
