//! PEM blocks of public keys (RFC 7468), one at a time.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls_pki_types::pem::{PemObject as _, SectionKind};

use super::VerifierKeyError;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// Characters in a line of base64, as RFC 7468 has it.
const LINE: usize = 64;

/// Whether a block, of whatever kind, begins here.
pub(super) fn begins(text: &str) -> bool {
    text.starts_with("-----BEGIN ")
}

/// Whether a block ends with this line.
pub(super) fn ends(line: &str) -> bool {
    line.starts_with("-----END ")
}

/// The DER in the one block that `text` is.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, VerifierKeyError> {
    let wrong = |what| Err(VerifierKeyError::Pem(what));
    if text.matches("-----BEGIN ").count() > 1 {
        return wrong("a block begins before the one before it ends");
    }
    match <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()).next() {
        Some(Ok((SectionKind::PublicKey, der))) => Ok(der),
        Some(Ok((
            SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey,
            _,
        ))) => wrong("it is a private key, which nobody but the log should have"),
        Some(Ok((SectionKind::Certificate, _))) => wrong("it is a certificate"),
        Some(Ok(_)) | None => wrong("there is no whole `PUBLIC KEY` block"),
        Some(Err(_)) => wrong("the block is cut or not base64"),
    }
}

pub(super) fn encode(der: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(der);
    let mut text = BEGIN.to_owned();
    for (i, character) in encoded.chars().enumerate() {
        if i.is_multiple_of(LINE) {
            text.push('\n');
        }
        text.push(character);
    }
    text.push('\n');
    text.push_str(END);
    text
}
