//! A certificate or a credential that is read again while the process runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::config::Source;

/// How long what was read from a file is used before the file is looked at again.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Text from the configuration or a file. What cannot be read later changes nothing and is said
/// once: a file is missing for a moment while it is replaced.
pub(crate) struct Reread {
    /// Key in the configuration, for messages.
    key: &'static str,
    source: Source,
    state: Mutex<State>,
}

struct State {
    text: Arc<str>,
    read_at: Instant,
    /// The last complaint.
    complaint: Option<String>,
}

/// Shows where it is from, never what it is.
impl std::fmt::Debug for Reread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.key, self.source)
    }
}

impl Reread {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// When it cannot be read, or `check` says what is wrong with it.
    pub(crate) fn new(
        key: &'static str,
        source: Source,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> anyhow::Result<Self> {
        let text = source.read().and_then(|text| check(&text).map(|()| text));
        let text = text.map_err(|error| anyhow::anyhow!("{key} ({source:?}): {error}"))?;
        Ok(Self {
            key,
            source,
            state: Mutex::new(State {
                text: text.into(),
                read_at: Instant::now(),
                complaint: None,
            }),
        })
    }

    /// What it is now; costs a read of the file at most once a second. What `check` refuses is as
    /// good as unreadable.
    pub(crate) fn current(&self, check: impl Fn(&str) -> Result<(), String>) -> Arc<str> {
        // Each write replaces whole fields, so a poisoned state is still a sound one.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(self.source, Source::Inline(_)) || state.read_at.elapsed() < READ_EVERY {
            return Arc::clone(&state.text);
        }
        state.read_at = Instant::now();
        let read = self.source.read();
        let changed = read.and_then(|text| match *text == *state.text {
            true => Ok(None),
            false => check(&text).map(|()| Some(text)),
        });
        match changed {
            Ok(text) => {
                state.complaint = None;
                state.text = text.map_or_else(|| Arc::clone(&state.text), Arc::from);
            }
            Err(error) if state.complaint.as_ref() != Some(&error) => {
                let key = self.key;
                warn!(key, error, "not read again; what was read before stays");
                state.complaint = Some(error);
            }
            Err(_) => {}
        }
        Arc::clone(&state.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replaced_file_is_read_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        let check = |text: &str| match text {
            "" => Err("empty".to_owned()),
            _ => Ok(()),
        };
        write("first\n");
        let token = Reread::new("token", Source::File(file.clone()), check).expect("readable");
        let current = || token.current(check).to_string();
        write("second");
        assert_eq!(current(), "first", "just read");
        tokio::time::advance(READ_EVERY).await;
        assert_eq!(current(), "second");
        for gone in [false, true] {
            write("");
            if gone {
                std::fs::remove_file(&file).expect("there");
            }
            tokio::time::advance(READ_EVERY).await;
            assert_eq!(current(), "second");
        }
        write("third");
        tokio::time::advance(READ_EVERY).await;
        assert_eq!(current(), "third");
        assert!(!format!("{token:?}").contains("third"));
    }

    #[test]
    fn what_cannot_be_read_at_the_start_is_an_error() {
        let missing = Source::File("/nonexistent/token".into());
        let error = Reread::new("token", missing, |_| Ok(())).expect_err("not there");
        assert!(
            error.to_string().starts_with("token (file:/nonexistent"),
            "{error}"
        );
    }
}
