//! Signed notes: a text, and signature lines of named keys. See <https://c2sp.org/signed-note>.
//!
//! A note is only as good as the keys it is opened with. Signatures of unknown keys are ignored; a
//! bad signature of a known key refuses the whole note, because someone tampered with it.

pub mod checkpoint;
pub mod vkey;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use self::vkey::VerifierKey;

/// Most signature lines looked at. Witnessed logs carry a dozen; this bounds the work for a note
/// made to waste it.
pub const MAX_SIGNATURES: usize = 100;

/// What a signature line starts with: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Bytes of the key ID before each signature.
const KEY_ID_BYTES: usize = 4;

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
            Self::UnknownKeys { .. } => "unknown_key",
        }
    }
}

/// Opens `note` with `keys` and returns its text, with the final newline.
///
/// At least one signature is of one of the keys, and every signature that is, verifies.
///
/// # Errors
/// See [`NoteError`].
pub fn open<'a>(note: &'a [u8], keys: &[VerifierKey]) -> Result<&'a str, NoteError> {
    let (text, signatures) = split(note)?;
    if signatures.lines().count() > MAX_SIGNATURES {
        return Err(NoteError::Malformed("more than 100 signatures"));
    }
    let mut verified: Vec<(&str, u32)> = Vec::new();
    let mut signers = Vec::new();
    for line in signatures.lines() {
        let signature =
            Signature::parse(line).ok_or(NoteError::Malformed("a bad signature line"))?;
        let known = keys
            .iter()
            .find(|k| k.name() == signature.name && k.id() == signature.id);
        let Some(key) = known else {
            signers.push(format!("{}+{:08x}", signature.name, signature.id));
            continue;
        };
        // Repeats of a key say nothing new, whatever they hold.
        if verified.contains(&(signature.name, signature.id)) {
            continue;
        }
        if !key.verifies(text.as_bytes(), &signature.bytes) {
            return Err(NoteError::BadSignature {
                name: signature.name.to_owned(),
                id: signature.id,
            });
        }
        verified.push((signature.name, signature.id));
    }
    if verified.is_empty() {
        return Err(NoteError::UnknownKeys {
            signers: signers.join(", "),
        });
    }
    Ok(text)
}

/// The text of a note that nobody vouches for.
///
/// # Errors
/// [`NoteError::Malformed`], when it is not a note.
pub fn text_unverified(note: &[u8]) -> Result<&str, NoteError> {
    split(note).map(|(text, _)| text)
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

/// One line below the text: `— <key name> <base64 of key ID and signature>`.
struct Signature<'a> {
    name: &'a str,
    id: u32,
    bytes: Vec<u8>,
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
}

/// Key names are not empty and hold neither `+`, which ends them in a verifier key, nor white space.
fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '+' || c.is_whitespace())
}

#[cfg(test)]
pub(crate) mod testing {
    //! A signer, because the proxy itself only ever verifies.

    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};

    pub(crate) struct TestSigner {
        pub(crate) name: &'static str,
        secret: SigningKey,
    }

    impl TestSigner {
        /// A signer whose secret is `seed`, 32 times.
        pub(crate) fn new(name: &'static str, seed: u8) -> Self {
            Self {
                name,
                secret: SigningKey::from_bytes(&[seed; 32]),
            }
        }

        pub(crate) fn vkey(&self) -> VerifierKey {
            VerifierKey::ed25519(self.name, self.secret.verifying_key())
        }

        pub(crate) fn line(&self, text: &str) -> String {
            let mut bytes = self.vkey().id().to_be_bytes().to_vec();
            bytes.extend_from_slice(&self.secret.sign(text.as_bytes()).to_bytes());
            format!(
                "{SIGNATURE_PREFIX}{} {}\n",
                self.name,
                BASE64_STANDARD.encode(bytes)
            )
        }

        pub(crate) fn sign(&self, text: &str) -> Vec<u8> {
            format!("{text}\n{}", self.line(text)).into_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::TestSigner, *};

    /// The example of <https://pkg.go.dev/golang.org/x/mod/sumdb/note>'s format.
    const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const TEXT: &str = "This is an example message.\n";
    const SIGNATURE: &str = "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=";

    fn published() -> (Vec<u8>, Vec<VerifierKey>) {
        let note = format!("{TEXT}\n\u{2014} example.com/foo {SIGNATURE}\n");
        (
            note.into_bytes(),
            vec![VKEY.parse().expect("a verifier key")],
        )
    }

    #[test]
    fn a_published_note_opens() {
        let (note, keys) = published();
        assert_eq!(open(&note, &keys), Ok(TEXT));
    }

    #[test]
    fn a_note_with_any_bit_flipped_does_not_open() {
        let (note, keys) = published();
        for at in 0..note.len() * 8 {
            let mut bad = note.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(open(&bad, &keys).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_note_cut_short_does_not_open() {
        let (note, keys) = published();
        for end in 0..note.len() {
            assert!(open(&note[..end], &keys).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn unknown_signatures_are_ignored_and_bad_ones_of_known_keys_are_not() {
        let (rome, oslo) = (
            TestSigner::new("rome.example", 1),
            TestSigner::new("oslo.example", 2),
        );
        let impostor = TestSigner::new("rome.example", 3); // another key ID under the same name
        let text = "rome.example/2026h1\n0\n";
        let line = rome.line(text);
        for (signatures, keys, want) in [
            (
                vec![line.clone(), oslo.line(text)],
                vec![rome.vkey()],
                Ok(text),
            ),
            (
                vec![oslo.line(text), line.clone()],
                vec![rome.vkey()],
                Ok(text),
            ),
            (
                vec![line.clone(), impostor.line(text)],
                vec![rome.vkey()],
                Ok(text),
            ),
            (
                vec![line.clone(), line.clone()],
                vec![rome.vkey()],
                Ok(text),
            ), // a repeat
            (
                vec![line.clone(), oslo.line("another text\n")],
                vec![rome.vkey(), oslo.vkey()],
                Err("bad_signature"),
            ),
            (vec![oslo.line(text)], vec![rome.vkey()], Err("unknown_key")),
            (vec![line.clone()], vec![], Err("unknown_key")),
            (
                vec![line.clone(), "no signature\n".to_owned()],
                vec![rome.vkey()],
                Err("malformed"),
            ),
        ] {
            let note = format!("{text}\n{}", signatures.concat());
            let opened = open(note.as_bytes(), &keys).map_err(|error| error.reason());
            assert_eq!(opened, want, "{note}");
        }
    }

    #[test]
    fn a_hundred_signatures_are_read_and_no_more() {
        let rome = TestSigner::new("rome.example", 1);
        let text = "rome.example/2026h1\n0\n";
        for (count, opens) in [(MAX_SIGNATURES, true), (MAX_SIGNATURES + 1, false)] {
            let note = format!("{text}\n{}", rome.line(text).repeat(count));
            assert_eq!(
                open(note.as_bytes(), &[rome.vkey()]).is_ok(),
                opens,
                "{count} lines"
            );
        }
    }

    #[test]
    fn blank_lines_belong_to_the_text() {
        let rome = TestSigner::new("rome.example", 1);
        let text = "one\n\ntwo\n";
        assert_eq!(open(&rome.sign(text), &[rome.vkey()]), Ok(text));
    }
}
