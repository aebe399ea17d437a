//! Verifier keys: who may sign a note, and how a signature of theirs is checked.
//!
//! A key comes in one of two spellings:
//!
//! - A vkey line, `<name>+<8 hex digits of key ID>+<base64 of type and key>`
//!   (<https://c2sp.org/signed-note>). A signature line is this key's if its name and its key ID are
//!   both the key's.
//! - A PEM block, `-----BEGIN PUBLIC KEY-----`, as Rekor and TUF repositories publish. It holds no
//!   name, so any name will do, and the key ID alone decides. That of an ECDSA key does not depend on
//!   the name; that of an Ed25519 key does, and is computed for the name in each line.
//!
//! What a key may vouch for follows from its [`Algorithm`]: a cosigner states that it saw a
//! checkpoint, never that it is the log's.

mod ecdsa;
mod ed25519;
mod pem;

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::VerifyingKey;

use self::ecdsa::EcdsaKey;
use super::{cosignature::Cosignature, is_key_name};
use crate::tlog::Hash;

/// The type byte before the key in a vkey line, where it is also part of the key ID.
mod key_type {
    pub(super) const ED25519: u8 = 0x01;
    pub(super) const ECDSA: u8 = 0x02;
    pub(super) const COSIGNATURE_V1: u8 = 0x04;
    pub(super) const RFC6962: u8 = 0x05;
    pub(super) const ML_DSA_44: u8 = 0x06;
    pub(super) const LONG_IDENTIFIER: u8 = 0xff;
}

/// A public key that may have signed a note.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifierKey {
    name: Option<String>, // `None`: from PEM, which has no place for it
    key: PublicKey,
}

/// The key itself: one algorithm a variant.
#[derive(Clone, Debug, Eq, PartialEq)]
enum PublicKey {
    CosignatureV1(VerifyingKey),
    Ecdsa(EcdsaKey),
    Ed25519(VerifyingKey),
}

/// How a key signs, and so what its signatures mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Algorithm {
    /// A third party's statement that it saw a checkpoint at some time
    /// (<https://c2sp.org/tlog-cosignature>). Vouches for no log.
    CosignatureV1,
    /// ECDSA on P-256 over the SHA-256 of the text, in ASN.1.
    EcdsaP256,
    /// ECDSA on P-384 over the SHA-256 of the text, in ASN.1.
    EcdsaP384,
    /// Ed25519 over the text.
    Ed25519,
}

/// Why a text is not a verifier key that can be used.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierKeyError {
    /// Not of the form of a verifier key.
    #[error("not a verifier key of the form <name>+<key ID>+<base64>: {0}")]
    Malformed(&'static str),
    /// Begins as PEM, and is not a public key in it.
    #[error("not a public key in PEM: {0}")]
    Pem(&'static str),
    /// The key ID in the text is not that of the key: a typing error, or an altered key.
    #[error("the key ID is {given}, but this name and key have {computed:08x}")]
    WrongId {
        /// As written.
        given: String,
        /// As computed.
        computed: u32,
    },
    /// A kind of key whose signatures cannot be checked. Left out, it does no harm: signatures of
    /// unknown keys are ignored.
    #[error(
        "{0} keys are not built yet; give an Ed25519 or ECDSA (P-256, P-384) key of the log, and \
         leave this one out"
    )]
    Unsupported(&'static str),
    /// A key in DER that is of another kind, or broken.
    #[error("not a key that can be used: {0}")]
    Unusable(&'static str),
}

impl VerifierKey {
    /// The verifier key of an Ed25519 public key under a name.
    pub fn ed25519(name: &str, key: VerifyingKey) -> Self {
        Self {
            name: Some(name.to_owned()),
            key: PublicKey::Ed25519(key),
        }
    }

    /// A key from a DER `SubjectPublicKeyInfo`, which holds no name.
    ///
    /// # Errors
    /// When it is neither Ed25519 nor ECDSA on P-256 or P-384.
    pub fn from_spki(spki: &[u8]) -> Result<Self, VerifierKeyError> {
        let key = PublicKey::from_spki(spki)?;
        Ok(Self { name: None, key })
    }

    /// The same key, believed only under this name.
    ///
    /// # Errors
    /// When the name cannot be that of a key.
    pub fn named(self, name: &str) -> Result<Self, VerifierKeyError> {
        if !is_key_name(name) {
            let why = "the name is empty or holds white space";
            return Err(VerifierKeyError::Malformed(why));
        }
        let name = Some(name.to_owned());
        Ok(Self { name, ..self })
    }

    /// All keys in a text: vkey lines and PEM blocks, in any order, as they stand in one file while
    /// keys rotate. May be none.
    ///
    /// # Errors
    /// That of the first key that is not one.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, VerifierKeyError> {
        let mut keys = Vec::new();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            if !pem::begins(line) {
                keys.push(line.parse()?);
                continue;
            }
            let mut block = line.to_owned();
            for line in lines.by_ref() {
                block.push('\n');
                block.push_str(line);
                if pem::ends(line) {
                    break;
                }
            }
            keys.push(block.parse()?);
        }
        Ok(keys)
    }

    /// The key's name, often the log's origin, but not always; `None` if it came as PEM.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        match &self.key {
            PublicKey::CosignatureV1(_) => Algorithm::CosignatureV1,
            PublicKey::Ecdsa(key) => key.algorithm(),
            PublicKey::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The ID that this key's signatures carry under a key name: the beginning of its
    /// [`VerifierKey::long_id_under`].
    pub fn id_under(&self, name: &str) -> u32 {
        let [a, b, c, d, ..] = self.long_id_under(name);
        u32::from_be_bytes([a, b, c, d])
    }

    /// What the key ID is the first four bytes of. Sigstore calls a log by all of them (`logId`).
    pub fn long_id_under(&self, name: &str) -> [u8; 32] {
        match &self.key {
            PublicKey::CosignatureV1(key) => ed25519::id(name, key_type::COSIGNATURE_V1, key),
            PublicKey::Ecdsa(key) => key.id(),
            PublicKey::Ed25519(key) => ed25519::id(name, key_type::ED25519, key),
        }
    }

    /// The SHA-256 of its DER `SubjectPublicKeyInfo`: what Rekor v1, and RFC 6962 before it, call the ID
    /// of the log whose key it is.
    pub fn log_id(&self) -> Hash {
        Hash::of(&self.key.spki())
    }

    /// The key as PEM, which has no place for its name.
    pub fn pem(&self) -> String {
        pem::encode(&self.key.spki())
    }

    /// Whether a signature line with this name and key ID claims to be of this key.
    pub fn signs_as(&self, name: &str, id: u32) -> bool {
        let is_named = self.name.as_deref().is_none_or(|own| own == name);
        is_named && (self.id_under(name) == id || self.id_in_rekor_v1() == Some(id))
    }

    /// The ID that Rekor v1 gives an Ed25519 key: it names every key as it names those of ECDSA.
    fn id_in_rekor_v1(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.log_id().0;
        let is_ed25519 = matches!(self.key, PublicKey::Ed25519(_));
        is_ed25519.then(|| u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether `signature` (without the key ID) is this key's over `text`.
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            PublicKey::CosignatureV1(key) => {
                Cosignature::parse(signature).is_some_and(|cosigned| {
                    ed25519::verifies(key, &cosigned.message(text), cosigned.signature)
                })
            }
            PublicKey::Ecdsa(key) => key.verifies(text, signature),
            PublicKey::Ed25519(key) => ed25519::verifies(key, text, signature),
        }
    }
}

impl Algorithm {
    /// Whether a signature of this kind says that a checkpoint is the log's. A cosignature says only
    /// that somebody saw it, under whatever origin it names.
    pub fn vouches_for_logs(self) -> bool {
        match self {
            Self::CosignatureV1 => false,
            Self::EcdsaP256 | Self::EcdsaP384 | Self::Ed25519 => true,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CosignatureV1 => "cosignature/v1",
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// One key, in either spelling.
impl FromStr for VerifierKey {
    type Err = VerifierKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if pem::begins(text) {
            let key = PublicKey::from_spki(&pem::decode(text)?)?;
            return Ok(Self { name: None, key });
        }
        use VerifierKeyError::{Malformed, WrongId};
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
        let key = Self {
            name: Some(name.to_owned()),
            key: PublicKey::from_typed(&bytes)?,
        };
        let computed = key.id_under(name);
        if id != format!("{computed:08x}") {
            return Err(WrongId {
                given: id.to_owned(),
                computed,
            });
        }
        Ok(key)
    }
}

/// A vkey line, or a PEM block without a final newline; parses to the same key.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => {
                let (id, encoded) = (
                    self.id_under(name),
                    BASE64_STANDARD.encode(self.key.typed()),
                );
                write!(f, "{name}+{id:08x}+{encoded}")
            }
            None => f.write_str(&self.pem()),
        }
    }
}

impl PublicKey {
    /// From the bytes in a vkey line.
    fn from_typed(bytes: &[u8]) -> Result<Self, VerifierKeyError> {
        use VerifierKeyError::{Malformed, Unsupported};
        let ed25519 =
            |key| ed25519::parse(key).ok_or(Malformed("the key is not 32 bytes of Ed25519"));
        match bytes.split_first() {
            Some((&key_type::ED25519, key)) => ed25519(key).map(Self::Ed25519),
            Some((&key_type::ECDSA, spki)) => EcdsaKey::parse(spki).map(Self::Ecdsa),
            Some((&key_type::COSIGNATURE_V1, key)) => ed25519(key).map(Self::CosignatureV1),
            Some((&key_type::RFC6962, _)) => Err(Unsupported("RFC 6962 tree head (type 5)")),
            Some((&key_type::ML_DSA_44, _)) => Err(Unsupported("ML-DSA-44 cosigner (type 6)")),
            Some((&key_type::LONG_IDENTIFIER, _)) => Err(Unsupported("RSA and other (type 255)")),
            _ => Err(Malformed("the key is of an unknown type")),
        }
    }

    /// As [`PublicKey::from_typed`] reads it.
    fn typed(&self) -> Vec<u8> {
        let (key_type, key) = match self {
            Self::CosignatureV1(key) => (key_type::COSIGNATURE_V1, &key.as_bytes()[..]),
            Self::Ecdsa(key) => (key_type::ECDSA, key.spki()),
            Self::Ed25519(key) => (key_type::ED25519, &key.as_bytes()[..]),
        };
        [&[key_type], key].concat()
    }

    /// From a DER `SubjectPublicKeyInfo`, as PEM holds it.
    fn from_spki(spki: &[u8]) -> Result<Self, VerifierKeyError> {
        if let Some(key) = ed25519::from_spki(spki) {
            return Ok(Self::Ed25519(key));
        }
        EcdsaKey::parse(spki)
            .map(Self::Ecdsa)
            .map_err(|error| match foreign_kind(spki) {
                Some(kind) => VerifierKeyError::Unsupported(kind),
                None => error,
            })
    }

    /// As [`PublicKey::from_spki`] reads it; a cosigner's key is Ed25519, too, but never in PEM.
    fn spki(&self) -> Vec<u8> {
        match self {
            Self::CosignatureV1(key) | Self::Ed25519(key) => ed25519::spki(key),
            Self::Ecdsa(key) => key.spki().to_vec(),
        }
    }
}

/// Kinds of keys that logs were seen to have, or Rekor can be given, and that are not used here: each by
/// the object identifier in its `SubjectPublicKeyInfo`.
const FOREIGN: [(&str, &[u8]); 6] = [
    (
        "RSA",
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01],
    ),
    (
        "RSASSA-PSS",
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a],
    ),
    ("ECDSA P-521", &[0x2b, 0x81, 0x04, 0x00, 0x23]),
    ("ECDSA P-224", &[0x2b, 0x81, 0x04, 0x00, 0x21]),
    ("ECDSA secp256k1", &[0x2b, 0x81, 0x04, 0x00, 0x0a]),
    ("Ed448", &[0x2b, 0x65, 0x71]),
];

/// Bytes of a `SubjectPublicKeyInfo` that say what kind of key it is: two lengths and two object
/// identifiers.
const ALGORITHM_BYTES: usize = 32;

/// What kind of key this is, if it is one that is not used here.
fn foreign_kind(spki: &[u8]) -> Option<&'static str> {
    let head = &spki[..spki.len().min(ALGORITHM_BYTES)];
    // Tag and length before it: nothing else in there looks like that.
    let holds = |oid: &[u8]| {
        let tagged = [&[0x06, oid.len() as u8], oid].concat();
        head.windows(tagged.len()).any(|window| window == tagged)
    };
    FOREIGN
        .iter()
        .find_map(|(kind, oid)| holds(oid).then_some(*kind))
}

#[cfg(test)]
mod tests;
