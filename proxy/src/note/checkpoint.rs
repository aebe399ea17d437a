//! Checkpoints: what a log signed about its tree. See <https://c2sp.org/tlog-checkpoint>.

use crate::tlog::{Hash, empty_root};

/// The first three lines of a checkpoint. Extension lines below them are kept in the note, and
/// mean nothing to us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// First line; the identity of the log.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Merkle tree hash over all of them.
    pub root: Hash,
}

/// Why a note's text is not a checkpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a checkpoint: {0}")]
pub struct CheckpointFormatError(&'static str);

impl Checkpoint {
    /// Parses the text of a note, final newline included.
    ///
    /// # Errors
    /// A message that says which line is wrong.
    pub fn parse(text: &str) -> Result<Self, CheckpointFormatError> {
        let wrong = |what| Err(CheckpointFormatError(what));
        let Some(text) = text.strip_suffix('\n') else {
            return wrong("does not end with a newline");
        };
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return wrong("fewer than three lines");
        };
        if origin.is_empty() {
            return wrong("the origin is empty");
        }
        let canonical =
            size.bytes().all(|b| b.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
        let Some(size) = size
            .parse::<u64>()
            .ok()
            .filter(|size| canonical && *size <= MAX_SIZE)
        else {
            return wrong("the tree size is not a decimal up to 2^63");
        };
        let Some(root) = Hash::from_base64(root) else {
            return wrong("the root is not the base64 of 32 bytes");
        };
        if size == 0 && root != empty_root() {
            return wrong("the root of the empty tree must be SHA-256 of nothing");
        }
        if lines.any(str::is_empty) {
            return wrong("an extension line is empty");
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }
}

/// Largest tree size followed; what is above would overflow tile arithmetic somewhere.
pub const MAX_SIZE: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn a_checkpoint_has_one_spelling() {
        let other = "KIUV0DPBnYyQHzfsy4rtkZZncDSG+NL/8c9wQDIcXbE=";
        for (text, want) in [
            (format!("rome.example/2026h1\n0\n{ROOT}\n"), Ok(0)),
            (
                format!("rome.example - 1306857420698977664\n256\n{other}\n"),
                Ok(256),
            ), // as Rekor v1
            (format!("rome\n256\n{other}\nextension\n"), Ok(256)),
            (format!("rome\n{}\n{other}\n", 1_u64 << 63), Ok(1 << 63)),
            (
                format!("rome\n{}\n{other}\n", (1_u64 << 63) + 1),
                Err("the tree size"),
            ),
            (format!("rome\n256\n{other}"), Err("does not end")),
            (
                format!("rome\n256\n{other}\n\n"),
                Err("an extension line is empty"),
            ),
            (format!("\n256\n{other}\n"), Err("the origin is empty")),
            (format!("rome\n0256\n{other}\n"), Err("the tree size")),
            (format!("rome\n+256\n{other}\n"), Err("the tree size")),
            (format!("rome\n\n{other}\n"), Err("the tree size")),
            (
                format!("rome\n0\n{other}\n"),
                Err("the root of the empty tree"),
            ),
            ("rome\n256\n\n".to_owned(), Err("the root is not")),
            (
                format!("rome\n256\n{}\n", &ROOT[1..]),
                Err("the root is not"),
            ),
            ("rome\n256\n".to_owned(), Err("fewer than three")),
            (String::new(), Err("does not end")),
        ] {
            match (Checkpoint::parse(&text), want) {
                (Ok(checkpoint), Ok(size)) => assert_eq!(checkpoint.size, size, "{text:?}"),
                (Err(error), Err(want)) => {
                    assert!(error.to_string().contains(want), "{text:?}: {error}");
                }
                (got, want) => panic!("{text:?}: got {got:?}, want {want:?}"),
            }
        }
    }
}
