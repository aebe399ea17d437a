//! ECDSA: keys as DER, their IDs, and verification over the SHA-256 of the text.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, EcdsaVerificationAlgorithm, ParsedPublicKey,
    UnparsedPublicKey,
};
use sha2::{Digest as _, Sha256};

use super::{Algorithm, VerifierKeyError};

/// A public key on one of the two curves that logs use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EcdsaKey {
    curve: Curve,
    spki: Box<[u8]>, // prefix of the curve, then an uncompressed point on it
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Curve {
    P256,
    P384,
}

/// What stands before the point in a `SubjectPublicKeyInfo` of P-256 (RFC 5480): lengths are fixed,
/// and points are uncompressed, so there is one encoding. The key ID is over it: it must be.
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, // SubjectPublicKeyInfo of 89 bytes
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, // id-ecPublicKey
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, // secp256r1
    0x03, 0x42, 0x00, // bit string of 65 bytes: 1 + 2 × 32
];

/// The same of P-384.
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, // SubjectPublicKeyInfo of 118 bytes
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, // id-ecPublicKey
    0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, // secp384r1
    0x03, 0x62, 0x00, // bit string of 97 bytes: 1 + 2 × 48
];

impl EcdsaKey {
    /// Reads a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// When it is another kind of key, or its point is not on the curve.
    pub(super) fn parse(spki: &[u8]) -> Result<Self, VerifierKeyError> {
        let curve = [Curve::P256, Curve::P384]
            .into_iter()
            .find(|curve| spki.starts_with(curve.prefix()))
            .ok_or(VerifierKeyError::Unusable(
                "its DER is neither Ed25519 nor ECDSA with an uncompressed point on P-256 or P-384",
            ))?;
        let key = Self {
            curve,
            spki: spki.into(),
        };
        let on_curve = key.point().len() == curve.point_bytes()
            && ParsedPublicKey::new(curve.algorithm(), key.point()).is_ok();
        let wrong = VerifierKeyError::Unusable("its point is not on its curve");
        on_curve.then_some(key).ok_or(wrong)
    }

    pub(super) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256(`SubjectPublicKeyInfo`), whose first four bytes are the key ID: no name is in it.
    pub(super) fn id(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self.curve {
            Curve::P256 => Algorithm::EcdsaP256,
            Curve::P384 => Algorithm::EcdsaP384,
        }
    }

    /// There are many good signatures of one text: two notes are never compared by their bytes.
    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.curve.algorithm(), self.point())
            .verify(text, signature)
            .is_ok()
    }

    fn point(&self) -> &[u8] {
        &self.spki[self.curve.prefix().len()..]
    }
}

impl Curve {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => P256_PREFIX,
            Self::P384 => P384_PREFIX,
        }
    }

    /// Bytes of an uncompressed point: 0x04 and two coordinates.
    fn point_bytes(self) -> usize {
        match self {
            Self::P256 => 1 + 2 * 32,
            Self::P384 => 1 + 2 * 48,
        }
    }

    /// SHA-256 on either curve, as signed-note says, although P-384 is used with SHA-384 elsewhere.
    fn algorithm(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA256_ASN1,
        }
    }
}
