//! Verifier keys: who may sign a note, and how a signature of theirs is checked.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::is_key_name;

/// The type byte of an Ed25519 key, before its 32 bytes and in its key ID.
const ED25519: u8 = 0x01;

/// A named public key, `<name>+<8 hex digits of key ID>+<base64 of type and key>`.
/// See <https://c2sp.org/signed-note>.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifierKey {
    name: String,
    id: u32, // first four bytes, big-endian, of SHA-256(name ‖ "\n" ‖ type ‖ key)
    key: VerifyingKey,
}

/// Why a text is not a verifier key that can be used.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierKeyError {
    /// Not of the form of a verifier key.
    #[error("not a verifier key of the form <name>+<key ID>+<base64>: {0}")]
    Malformed(&'static str),
    /// The key ID in the text is not that of the key: a typing error, or an altered key.
    #[error("the key ID is {given}, but this name and key have {computed:08x}")]
    WrongId {
        /// As written.
        given: String,
        /// As computed.
        computed: u32,
    },
    /// A kind of key that is not built yet.
    #[error("{0} keys are not built yet; only Ed25519 verifier keys (type 1) are")]
    Unsupported(&'static str),
}

impl VerifierKey {
    /// The verifier key of an Ed25519 public key under a name.
    pub fn ed25519(name: &str, key: VerifyingKey) -> Self {
        let digest = Sha256::new()
            .chain_update(name)
            .chain_update([b'\n', ED25519])
            .chain_update(key.as_bytes())
            .finalize();
        let id = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Self {
            name: name.to_owned(),
            id,
            key,
        }
    }

    /// The key's name; often the log's origin, but not always.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's ID, which tells keys of one name apart.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether `signature` (without the key ID) is this key's over `text`.
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else {
            return false;
        };
        // Strict: no small-order keys, no second spelling of a signature.
        self.key.verify_strict(text, &signature).is_ok()
    }
}

impl FromStr for VerifierKey {
    type Err = VerifierKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use VerifierKeyError::{Malformed, Unsupported, WrongId};
        if text.starts_with("-----BEGIN") {
            return Err(Unsupported("PEM"));
        }
        // Base64 may hold `+` as well: at most three parts.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed("it needs three parts"));
        };
        if !is_key_name(name) {
            return Err(Malformed("the name is empty or holds white space"));
        }
        let bytes = BASE64_STANDARD
            .decode(encoded)
            .map_err(|_| Malformed("the key is not base64"))?;
        let key = match bytes.split_first() {
            Some((&ED25519, key)) => key,
            Some((0x02, _)) => return Err(Unsupported("ECDSA")),
            Some((0x04 | 0x06, _)) => return Err(Unsupported("cosigner")),
            Some((0x05, _)) => return Err(Unsupported("RFC 6962")),
            _ => return Err(Malformed("of an unknown type")),
        };
        let key = <[u8; 32]>::try_from(key)
            .ok()
            .and_then(|key| VerifyingKey::from_bytes(&key).ok())
            .ok_or(Malformed("the key is not 32 bytes of Ed25519"))?;
        let key = Self::ed25519(name, key);
        if id != format!("{:08x}", key.id) {
            return Err(WrongId {
                given: id.to_owned(),
                computed: key.id,
            });
        }
        Ok(key)
    }
}

/// The text it was parsed from.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(
            f,
            "{}+{:08x}+{}",
            self.name,
            self.id,
            BASE64_STANDARD.encode(bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REKOR: &str =
        "log2025-1.rekor.sigstore.dev+cf119915+AbfK5adZJxsI323FwGD2AJJ9F4i89cfDuLdGJBIYntuO";

    #[test]
    fn published_keys_parse_and_format_to_the_same() {
        for text in [
            REKOR,
            "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", // + in base64
            "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
        ] {
            let key: VerifierKey = text.parse().expect(text);
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn a_key_that_is_not_exactly_right_is_refused() {
        for (text, want) in [
            ("", "it needs three parts"),
            ("rome", "it needs three parts"),
            ("+cf119915+AbfK", "the name is empty"),
            (
                "a b+cf119915+AbfK",
                "the name is empty or holds white space",
            ),
            ("rome+cf119915+%", "not base64"),
            ("rome+cf119915+AbfK", "not 32 bytes"),
            ("rome+cf119915+", "of an unknown type"),
            (
                "rome+c0d23d6a+AjBZMBMGByqGSM49",
                "ECDSA keys are not built yet",
            ),
            ("-----BEGIN PUBLIC KEY-----", "PEM keys are not built yet"),
            (
                &REKOR.replace("cf119915", "CF119915"),
                "the key ID is CF119915, but",
            ),
            (
                &REKOR.replace("log2025", "log2026"),
                "the key ID is cf119915, but",
            ),
        ] {
            let error = text.parse::<VerifierKey>().expect_err(text).to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
