//! Ed25519: keys, their IDs, and strict verification.

use ed25519_dalek::{PUBLIC_KEY_LENGTH, Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// What stands before the 32 bytes in a `SubjectPublicKeyInfo` (RFC 8410, section 4): lengths are
/// fixed, so there is one encoding.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, // SubjectPublicKeyInfo of 42 bytes
    0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, // id-Ed25519, without parameters
    0x03, 0x21, 0x00, // bit string of 32 bytes
];

pub(super) fn parse(key: &[u8]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(key.as_array::<PUBLIC_KEY_LENGTH>()?).ok()
}

pub(super) fn from_spki(spki: &[u8]) -> Option<VerifyingKey> {
    parse(spki.strip_prefix(&SPKI_PREFIX)?)
}

pub(super) fn spki(key: &VerifyingKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// SHA-256(name ‖ "\n" ‖ type ‖ key), whose first four bytes are the key ID.
pub(super) fn id(name: &str, key_type: u8, key: &VerifyingKey) -> [u8; 32] {
    Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', key_type])
        .chain_update(key.as_bytes())
        .finalize()
        .into()
}

/// Strict: no small-order keys, no second spelling of a signature.
pub(super) fn verifies(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|s| key.verify_strict(message, &s).is_ok())
}
