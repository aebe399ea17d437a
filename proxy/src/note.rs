//! Signed notes: a text, and signature lines of named keys. See <https://c2sp.org/signed-note>.
//!
//! A note is only as good as the keys it is opened with. Signatures of unknown keys are ignored; a
//! bad signature of a known key refuses the whole note, because someone tampered with it.

pub mod checkpoint;
pub mod cosignature;
pub mod vkey;

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use self::vkey::VerifierKey;

/// Most signature lines looked at. Witnessed logs carry a dozen; this bounds the work for a note
/// made to waste it.
pub const MAX_SIGNATURES: usize = 100;

/// What a signature line starts with: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Bytes of the key ID before each signature.
const KEY_ID_BYTES: usize = 4;

/// A signed note, taken apart; unverified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note<'a> {
    text: &'a str, // with its final newline
    signatures: Vec<Signature<'a>>,
}

/// One line below the text: `— <key name> <base64 of key ID and signature>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature<'a> {
    name: &'a str,
    id: u32,
    bytes: Vec<u8>, // behind the key ID; never empty
}

/// What known keys say about one signature line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signed<'k> {
    /// It claims to be of a known key, and is not.
    Bad,
    /// It is this key's.
    By(&'k VerifierKey),
    /// Of a key that is not known: it says nothing.
    Unknown,
}

/// Why a note was not opened. Nothing in it may be believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Not a note at all.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// A known key's signature does not verify: the text was changed, or the key is another.
    #[error("the signature of {name}+{id:08x} does not verify")]
    BadSignature {
        /// Name of the key.
        name: String,
        /// Its ID.
        id: u32,
    },
    /// Known cosigners saw it, but no key of the log is among those who signed it.
    #[error("cosigned, but not signed by a known key of the log; signed by: {signers}")]
    OnlyCosigned {
        /// Names and IDs of those who signed.
        signers: String,
    },
    /// No key is known, as long as trust cannot be established.
    #[error("{0}")]
    NoTrust(String),
    /// No signature is of a known key.
    #[error("not signed by a known key; signed by: {signers}")]
    UnknownKeys {
        /// Names and IDs of those who signed.
        signers: String,
    },
}

impl NoteError {
    /// The fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::BadSignature { .. } => "bad_signature",
            Self::NoTrust(_) => "no_trust",
            Self::OnlyCosigned { .. } => "only_cosigned",
            Self::UnknownKeys { .. } => "unknown_key",
        }
    }
}

/// Opens `note` with `keys` and returns its text: [`Note::parse`], then [`Note::open`].
///
/// # Errors
/// See [`NoteError`].
pub fn open<'a>(note: &'a [u8], keys: &[VerifierKey]) -> Result<&'a str, NoteError> {
    Note::parse(note)?.open(keys)
}

/// The text of a note that nobody vouches for.
///
/// # Errors
/// [`NoteError::Malformed`], when it is not a note.
pub fn text_unverified(note: &[u8]) -> Result<&str, NoteError> {
    split(note).map(|(text, _)| text)
}

impl<'a> Note<'a> {
    /// Takes a note apart. It has one spelling: what parses, formats to the same bytes.
    ///
    /// # Errors
    /// [`NoteError::Malformed`], when it is not a note.
    pub fn parse(note: &'a [u8]) -> Result<Self, NoteError> {
        let (text, lines) = split(note)?;
        if lines.lines().count() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("more than 100 signatures"));
        }
        let signatures: Option<Vec<_>> = lines.lines().map(Signature::parse).collect();
        Ok(Self {
            text,
            signatures: signatures.ok_or(NoteError::Malformed("a bad signature line"))?,
        })
    }

    /// Its text, with the final newline; unverified.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Its signature lines, in order; at least one.
    pub fn signatures(&self) -> &[Signature<'a>] {
        &self.signatures
    }

    /// Returns its text if `keys` vouch for it: at least one signature is of a key that may vouch for
    /// a log, and every signature of any of the keys verifies.
    ///
    /// A cosigner's key counts only against a note. That somebody saw a checkpoint does not make it
    /// the log's, however many they are.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open(&self, keys: &[VerifierKey]) -> Result<&'a str, NoteError> {
        let mut seen: Vec<(&str, u32)> = Vec::new();
        let (mut signed, mut cosigned) = (false, false);
        for signature in &self.signatures {
            // Repeats of a key say nothing new, whatever they hold.
            if seen.contains(&(signature.name, signature.id)) {
                continue;
            }
            match signature.check(self.text, keys) {
                Signed::Bad => {
                    return Err(NoteError::BadSignature {
                        name: signature.name.to_owned(),
                        id: signature.id,
                    });
                }
                Signed::By(key) if key.algorithm().vouches_for_logs() => signed = true,
                Signed::By(_) => cosigned = true,
                Signed::Unknown => continue,
            }
            seen.push((signature.name, signature.id));
        }
        let signers = || {
            let names: Vec<String> = self.signatures.iter().map(Signature::key).collect();
            names.join(", ")
        };
        match (signed, cosigned) {
            (true, _) => Ok(self.text),
            (false, true) => Err(NoteError::OnlyCosigned { signers: signers() }),
            (false, false) => Err(NoteError::UnknownKeys { signers: signers() }),
        }
    }
}

/// The bytes it was parsed from.
impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl<'a> Signature<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        let decoded = BASE64_STANDARD.decode(encoded).ok()?;
        let (id, bytes) = decoded.split_first_chunk::<KEY_ID_BYTES>()?;
        (is_key_name(name) && !bytes.is_empty()).then(|| Self {
            name,
            id: u32::from_be_bytes(*id),
            bytes: bytes.to_vec(),
        })
    }

    /// Name of the key that it claims to be of.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// ID of that key.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The signature proper, in whatever form its kind has.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Name and ID, as a verifier key begins.
    pub fn key(&self) -> String {
        format!("{}+{:08x}", self.name, self.id)
    }

    /// What `keys` say about it as a signature of `text`. Where several are meant, because IDs are
    /// short, any of them will do.
    pub fn check<'k>(&self, text: &str, keys: &'k [VerifierKey]) -> Signed<'k> {
        let mut claimed = keys
            .iter()
            .filter(|key| key.signs_as(self.name, self.id))
            .peekable();
        if claimed.peek().is_none() {
            return Signed::Unknown;
        }
        claimed
            .find(|key| key.verifies(text.as_bytes(), &self.bytes))
            .map_or(Signed::Bad, Signed::By)
    }
}

/// The line it was parsed from, without its newline.
impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.to_be_bytes()[..], &self.bytes].concat();
        let encoded = BASE64_STANDARD.encode(bytes);
        write!(f, "{SIGNATURE_PREFIX}{} {encoded}", self.name)
    }
}

/// The text with its final newline, and the signature lines.
fn split(note: &[u8]) -> Result<(&str, &str), NoteError> {
    let note = std::str::from_utf8(note).map_err(|_| NoteError::Malformed("not UTF-8"))?;
    if note.chars().any(|c| c < ' ' && c != '\n') {
        return Err(NoteError::Malformed("holds control characters"));
    }
    // The text may hold blank lines itself; the signatures follow the last one.
    let split = note
        .rfind("\n\n")
        .ok_or(NoteError::Malformed("no blank line before signatures"))?;
    let (text, signatures) = (&note[..=split], &note[split + 2..]);
    if !signatures.ends_with('\n') {
        return Err(NoteError::Malformed("does not end with a signature line"));
    }
    Ok((text, signatures))
}

/// Key names are not empty and hold neither `+`, which ends them in a verifier key, nor white space.
fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '+' || c.is_whitespace())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
