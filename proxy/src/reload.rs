//! The configuration, read again while the process runs.
//!
//! The file given with `--config` and what `tls` names are looked at every few seconds, by content:
//! that sees a ConfigMap's links being swapped as well as an editor's rename. On SIGHUP they are read
//! at once. All of a new configuration is read and checked before any of it is used: a wrong one
//! changes nothing and is reported once. What cannot change under a running process is named.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::signal::unix::Signal;
use tracing::{info, warn};

use crate::{
    app::{self, Running},
    config::{Config, LogSettings, Settings, Signers, Source, Tls},
    http::TlsServer,
    trust::{Trust, TrustedKeys},
};

/// How often the files are looked at. Kubernetes itself takes up to a minute to bring a change.
const INTERVAL: Duration = Duration::from_secs(2);

/// Keys that take effect without a restart, with everything below them. `docs/configuration.md` says
/// the same; a test holds it against this list.
pub const LIVE: [&str; 25] = [
    "admin",
    "audit",
    "cache.checkpoint_ttl_minutes",
    "checkpoint.refresh_interval",
    "danger_accept_unsigned",
    "kind",
    "limits.connections",
    "limits.header_bytes",
    "limits.header_timeout",
    "limits.idle_timeout",
    "log.level",
    "logs",
    "mode",
    "origin",
    "public_keys",
    "rate_limit",
    "shutdown.drain",
    "sync.depth",
    "sync.enabled",
    "sync.schedule",
    "tile_base_url",
    "tls",
    "trusted_ca",
    "upstream_url",
    "upstreams",
];

/// What a process was started from, and how to change it.
pub struct Reload {
    /// The configuration file.
    pub file: PathBuf,
    /// SIGHUP, listened for since before it could come.
    pub hangup: Signal,
    /// Changes what is printed, to what `log.level` says.
    pub set_level: SetLevel,
}

/// Changes what is printed, to what a `log.level` says.
pub type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// A configuration that has been read and checked, with what it names.
#[derive(Debug)]
pub struct Loaded {
    /// Its settings.
    pub settings: Settings,
    /// What listeners speak TLS with.
    pub tls: Option<TlsServer>,
}

/// Reads a configuration and everything that it names.
///
/// # Errors
/// Every problem that was found, each with its key.
pub fn load(file: &Path) -> Result<Loaded, Vec<String>> {
    let settings = settings(file);
    let tls = match &settings {
        Ok(settings) => TlsServer::read(&settings.config.tls).map_err(|error| vec![error]),
        Err(_) => Ok(None),
    };
    Ok(Loaded {
        settings: settings?,
        tls: tls?,
    })
}

/// As [`load`], for those who serve nobody and need not be able to read the key of TLS.
///
/// # Errors
/// As [`load`].
pub fn settings(file: &Path) -> Result<Settings, Vec<String>> {
    let config = Config::load(file, environment()).map_err(|error| vec![error.to_string()])?;
    let settings = config.check();
    let settings =
        settings.map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let mut problems = Vec::new();
    let mut trusted: Vec<(&LogSettings, Arc<Trust>)> = Vec::new();
    if let Some(tuf) = &settings.tuf
        && let Err(error) = tuf.check()
    {
        problems.push(format!("{error:#}"));
    }
    let own = |log: &&LogSettings| !matches!(log.signers, Signers::Tuf(_));
    for log in settings.logs.iter().filter(own) {
        match TrustedKeys::read(&log.signers_key, &log.signers) {
            Ok(keys) => trusted.push((log, keys.current())),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    problems.extend(same_keys(&trusted));
    if let Err(error) = app::tracing_filter(&settings.config.log.level) {
        problems.push(error);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(settings)
}

/// Logs of which nothing says which one of those that a key signs they are. While one is followed, its
/// answers say so; after a restart, only the cache is there to ask.
fn same_keys(trusted: &[(&LogSettings, Arc<Trust>)]) -> Vec<String> {
    let unnamed = trusted.iter().filter(|(log, _)| log.origin.is_none());
    let shares_a_key = |log: &LogSettings, keys: &Trust| {
        let others = trusted.iter().filter(|(other, _)| other.name != log.name);
        let mut others = others.filter(|(_, trust)| {
            let mut keys = keys.keys().iter();
            keys.any(|key| trust.keys().contains(key))
        });
        others.next().map(|(other, _)| other.name.clone())
    };
    unnamed
        .filter_map(|(log, keys)| {
            let other = shares_a_key(log, keys)?;
            let key = log.signers_key.replace("public_keys", "origin");
            Some(format!(
                "{key}: is missing: `{other}` is signed by one of the same keys, so say which log \
                 this is by the first line of its checkpoints"
            ))
        })
        .collect()
}

/// Variables that are UTF-8; others cannot be keys of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Follows the configuration of a running process, for ever.
pub(crate) async fn follow(mut reload: Reload, running: Running, loaded: Loaded) {
    let mut state = State {
        in_effect: tree(&loaded.settings.config),
        // The first look reads everything again: much may have changed while the cache was opened.
        seen: None,
        told: None,
        current: loaded,
    };
    loop {
        let asked = tokio::select! {
            hangup = reload.hangup.recv() => hangup.is_some(),
            () = tokio::time::sleep(INTERVAL) => false,
        };
        let seen = look(&reload.file, &state.current.settings.config.tls).await;
        if asked {
            info!("SIGHUP: reading the configuration");
            running.reopen();
        } else if seen == state.seen {
            continue;
        }
        state.seen = seen;
        state.read_again(&reload, &running, asked).await;
    }
}

/// Where following the configuration is.
struct State {
    /// What the process does, as the tree of a configuration.
    in_effect: Value,
    /// What the files held when they were last looked at.
    seen: Option<Seen>,
    /// The last complaint, so that it is made once.
    told: Option<Vec<String>>,
    current: Loaded,
}

impl State {
    async fn read_again(&mut self, reload: &Reload, running: &Running, asked: bool) {
        let file = reload.file.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&file)).await;
        let loaded = match loaded {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(problems)) => return self.refuse(running, problems, asked),
            Err(error) => return self.refuse(running, vec![error.to_string()], asked),
        };
        let wanted = tree(&loaded.settings.config);
        let changed = differences(&self.in_effect, &wanted);
        let tls_changed = loaded.tls != self.current.tls;
        let repaired = self.told.take().is_some();
        if changed.is_empty() && !tls_changed && !asked && !repaired {
            return; // another spelling of the same
        }
        let (live, restart): (Vec<String>, Vec<String>) =
            changed.into_iter().partition(|key| is_live(key));
        if live.iter().any(|key| key == "log.level")
            && let Err(error) = (reload.set_level)(&loaded.settings.config.log.level)
        {
            warn!(error, "log level not changed");
        }
        let errors = running.apply(&loaded).await;
        for key in LIVE {
            let at = format!("/{}", key.replace('.', "/"));
            if let (Some(old), Some(new)) = (self.in_effect.pointer_mut(&at), wanted.pointer(&at)) {
                old.clone_from(new);
            }
        }
        for warning in &loaded.settings.warnings {
            if !self.current.settings.warnings.contains(warning) {
                warn!(key = warning.key, "{}", warning.message);
            }
        }
        let (changed, certificates) = (live.join(", "), tls_changed);
        info!(changed, certificates, "configuration read again");
        if !restart.is_empty() {
            let keys = restart.join(", ");
            warn!(
                keys,
                "these keys have changed and need a restart to take effect"
            );
        }
        running.reloaded(Ok((restart, errors)));
        if loaded.settings.config.tls != self.current.settings.config.tls {
            // Other files than those that were looked at: look again.
            self.seen = None;
        }
        self.current = loaded;
    }

    /// Keeps what is in effect, and says why, once.
    fn refuse(&mut self, running: &Running, problems: Vec<String>, asked: bool) {
        if asked || self.told.as_ref() != Some(&problems) {
            let error = problems.join("; ");
            warn!(
                error,
                "new configuration refused; the one before stays in effect"
            );
            running.reloaded(Err(error));
        }
        self.told = Some(problems);
    }
}

/// What the files hold: the configuration, then what `tls` names.
#[derive(Debug, Eq, PartialEq)]
struct Seen(Vec<Result<Vec<u8>, std::io::ErrorKind>>);

/// Looks at the files; `None` if that was not possible at all.
async fn look(file: &Path, tls: &Tls) -> Option<Seen> {
    let named = [&tls.cert, &tls.key, &tls.client_ca].into_iter().flatten();
    let named = named.filter_map(|source| match source {
        Source::File(path) => Some(path.clone()),
        Source::Inline(_) => None,
    });
    let files: Vec<PathBuf> = [file.to_owned()].into_iter().chain(named).collect();
    let look = move || {
        let contents = files
            .iter()
            .map(|file| std::fs::read(file).map_err(|error| error.kind()));
        Seen(contents.collect())
    };
    tokio::task::spawn_blocking(look).await.ok()
}

/// A configuration as a tree; never fails, because all keys are text.
fn tree(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// Paths of the keys whose values differ. Lists are compared as a whole.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    fn walk(path: &str, old: &Value, new: &Value, found: &mut BTreeSet<String>) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                for key in old.keys().chain(new.keys()) {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    let (old, new) = (old.get(key), new.get(key));
                    let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                    walk(&path, old, new, found);
                }
            }
            (old, new) if old == new => {}
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk("", old, new, &mut found);
    found.into_iter().collect()
}

fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| {
        key.strip_prefix(live)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_live_key_is_a_key_and_is_documented() {
        let defaults = tree(&Config::default());
        let page = include_str!("../../docs/configuration.md");
        let list = page
            .lines()
            .find(|line| line.starts_with("Without a restart: "));
        let list = list.expect("docs/configuration.md lists them in one line");
        let listed: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(listed, LIVE, "docs/configuration.md");
        for key in LIVE {
            let at = format!("/{}", key.replace('.', "/"));
            assert!(defaults.pointer(&at).is_some(), "{key}");
        }
    }

    #[test]
    fn differences_are_named_by_their_keys() {
        let parse = |text: &str| {
            let text = format!("tile_proxy: {{{text}}}");
            tree(&Config::parse("config.yaml", &text, []).expect("well-formed"))
        };
        let old = parse("public_keys: [a], cache: {memory_mb: 7}");
        for (text, want) in [
            ("public_keys: [a], cache: {memory_mb: 7}", &[][..]),
            (
                "cache: {memory_mb: 7}, public_keys: [a, b]",
                &["public_keys"],
            ),
            ("public_keys: [a]", &["cache.memory_mb"]),
            (
                "public_keys: [a], cache: {memory_mb: 7}, tls: {cert: c}, listen: '[::]:1'",
                &["listen", "tls.cert"],
            ),
        ] {
            assert_eq!(differences(&old, &parse(text)), want, "{text}");
        }
        assert!(is_live("tls.cert") && is_live("public_keys") && is_live("log.level"));
        assert!(!is_live("log.format") && !is_live("cache.memory_mb") && !is_live("admin_listen"));
    }
}
