//! `FORMAT`: which layout a cache has. A newer one is refused, an older one is migrated.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use tracing::info;

use super::{
    CacheError,
    disk::{sync_directories, write_and_rename},
    files::read_at_most,
};

/// The layout read and written here.
pub(super) const FORMAT: u32 = 1;

/// Longest content of the file: the digits of a number.
const MAX_FORMAT_BYTES: usize = 64;

/// One step from a layout to the next. It may be cut off by a crash anywhere, and is then done
/// again from the beginning.
type Migration = fn(&Path) -> io::Result<()>;

/// The step from layout `n + 1` to the next is at `n`. Layout 1 is the first.
const MIGRATIONS: [Migration; FORMAT as usize - 1] = [];

/// Takes a cache at `base` to the layout that is written here, and says so in `FORMAT`.
pub(super) fn settle(base: &Path) -> Result<(), CacheError> {
    migrate(base, FORMAT, &MIGRATIONS)
}

/// Whether a cache at `base` has the layout that is read here; `false` where there is none.
///
/// # Errors
/// When it has another one, older ones included: only who has the lock may migrate.
pub(super) fn is_current(base: &Path) -> Result<bool, CacheError> {
    match found(base)? {
        None => Ok(false),
        Some(FORMAT) => Ok(true),
        Some(other) => Err(CacheError::Format {
            path: base.join("FORMAT"),
            found: other.to_string(),
        }),
    }
}

/// The layout that `FORMAT` names; `None` where there is none.
fn found(base: &Path) -> Result<Option<u32>, CacheError> {
    let path = base.join("FORMAT");
    let found = match read_at_most(&path, MAX_FORMAT_BYTES) {
        Ok(found) => String::from_utf8_lossy(&found).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => "something long".to_owned(),
        Err(source) => return Err(CacheError::Io { path, source }),
    };
    match found.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(CacheError::Format { path, found }),
    }
}

fn migrate(base: &Path, format: u32, migrations: &[Migration]) -> Result<(), CacheError> {
    let path = base.join("FORMAT");
    let failed = |source| CacheError::Io {
        path: path.clone(),
        source,
    };
    let say = |format: u32| {
        write_and_rename(&path, format!("{format}\n").as_bytes())
            .and_then(|_| sync_directories(base, base))
            .map_err(failed)
    };
    let Some(number) = found(base)? else {
        return say(format);
    };
    if !(1..=format).contains(&number) {
        return Err(CacheError::Format {
            path: path.clone(),
            found: number.to_string(),
        });
    }
    for (from, step) in (1..).zip(migrations).skip(number as usize - 1) {
        info!(from, to = from + 1, "cache is taken to a newer layout");
        step(base).map_err(failed)?;
        // Said after each, so that a crash repeats one step and no other.
        say(from + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn step(base: &Path, name: &str) -> io::Result<()> {
        let done = fs::read_to_string(base.join("steps")).unwrap_or_default();
        fs::write(base.join("steps"), format!("{done}{name}"))
    }

    #[test]
    fn an_older_layout_is_migrated_step_by_step_and_a_newer_one_refused() {
        let steps: [Migration; 2] = [|base| step(base, "a"), |base| step(base, "b")];
        for (found, done) in [
            (None, Some("")), // a new cache is of today's layout
            (Some("1\n"), Some("ab")),
            (Some("2"), Some("b")),
            (Some("3\n"), Some("")),
            (Some("4\n"), None),
            (Some("0\n"), None), // never was one
            (Some("\n"), None),
            (Some("3 or so"), None),
            (Some("\u{1f4a5}"), None),
        ] {
            let base = tempfile::tempdir().expect("a directory");
            let path = base.path().join("FORMAT");
            if let Some(found) = found {
                fs::write(&path, found).expect("written");
            }
            let outcome = migrate(base.path(), 3, &steps);
            assert_eq!(outcome.is_ok(), done.is_some(), "{found:?}: {outcome:?}");
            if let Some(done) = done {
                let steps = fs::read_to_string(base.path().join("steps")).unwrap_or_default();
                assert_eq!(steps, done, "{found:?}");
                assert_eq!(fs::read_to_string(&path).expect("there"), "3\n");
            } else {
                assert_eq!(
                    fs::read_to_string(&path).ok().as_deref(),
                    found,
                    "left alone"
                );
            }
        }
    }

    #[test]
    fn a_step_that_fails_is_done_again_next_time() {
        let base = tempfile::tempdir().expect("a directory");
        fs::write(base.path().join("FORMAT"), "1\n").expect("written");
        let fails: [Migration; 2] = [
            |base| step(base, "a"),
            |_| Err(io::Error::from(ErrorKind::StorageFull)),
        ];
        assert!(migrate(base.path(), 3, &fails).is_err());
        let works: [Migration; 2] = [|base| step(base, "a"), |base| step(base, "b")];
        assert!(migrate(base.path(), 3, &works).is_ok());
        let steps = fs::read_to_string(base.path().join("steps")).expect("there");
        assert_eq!(steps, "ab", "each once");
    }
}
