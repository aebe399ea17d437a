//! Signers, because the proxy itself only ever verifies.

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;

/// A log or a witness, with an Ed25519 key.
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

    /// The same key as PEM, without a name.
    pub(crate) fn pem(&self) -> VerifierKey {
        let spki = [
            &hex::decode("302a300506032b6570032100").expect("hex")[..],
            self.secret.verifying_key().as_bytes(),
        ]
        .concat();
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----",
            BASE64_STANDARD.encode(spki)
        );
        pem.parse().expect("a key")
    }

    /// The key as a cosigner's: the same bytes, another type, so another ID.
    pub(crate) fn cosigner_vkey(&self) -> VerifierKey {
        let typed = [&[4], &self.secret.verifying_key().as_bytes()[..]].concat();
        let hashed = [self.name.as_bytes(), b"\n", &typed].concat();
        let id = &crate::tlog::Hash::of(&hashed).0[..4];
        format!(
            "{}+{}+{}",
            self.name,
            hex::encode(id),
            BASE64_STANDARD.encode(typed)
        )
        .parse()
        .expect("a cosigner's key")
    }

    pub(crate) fn line(&self, text: &str) -> String {
        self.line_of(&self.vkey(), &self.secret.sign(text.as_bytes()).to_bytes())
    }

    /// The line of this cosigner, at `time`.
    pub(crate) fn cosign(&self, text: &str, time: u64) -> String {
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let signature = self.secret.sign(message.as_bytes()).to_bytes();
        self.line_of(
            &self.cosigner_vkey(),
            &[&time.to_be_bytes()[..], &signature].concat(),
        )
    }

    fn line_of(&self, key: &VerifierKey, bytes: &[u8]) -> String {
        let id = key.id_under(self.name).to_be_bytes();
        let encoded = BASE64_STANDARD.encode([&id[..], bytes].concat());
        format!("{SIGNATURE_PREFIX}{} {encoded}\n", self.name)
    }

    pub(crate) fn sign(&self, text: &str) -> Vec<u8> {
        format!("{text}\n{}", self.line(text)).into_bytes()
    }
}
