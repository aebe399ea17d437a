//! Public keys: those that the proxy will start with.

use tile_proxy::note::vkey::VerifierKey;

use super::{Invalid, Mounted, invalid};
use crate::crd::PublicKey;

/// Where a public key comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidKey {
    /// The spec itself.
    Inline(String),
    /// An entry of another object.
    Mounted(Mounted),
}

/// The keys of the list at `field`.
pub(super) fn valid_keys(field: &str, keys: Vec<PublicKey>) -> Result<Vec<ValidKey>, Invalid> {
    let keys = keys.into_iter().enumerate();
    keys.map(|(at, key)| valid_key(&format!("{field}[{at}]"), key))
        .collect()
}

fn valid_key(field: &str, key: PublicKey) -> Result<ValidKey, Invalid> {
    match key {
        PublicKey {
            inline: Some(key),
            secret_key_ref: None,
            config_map_key_ref: None,
        } => {
            let key = key.trim();
            check_key(key).map_err(|why| invalid(format!("{field}.inline"), why))?;
            Ok(ValidKey::Inline(key.to_owned()))
        }
        PublicKey {
            inline: None,
            secret_key_ref: Some(key),
            config_map_key_ref: None,
        } => Ok(ValidKey::Mounted(Mounted::Secret(key))),
        PublicKey {
            inline: None,
            secret_key_ref: None,
            config_map_key_ref: Some(key),
        } => Ok(ValidKey::Mounted(Mounted::ConfigMap(key))),
        PublicKey { .. } => Err(invalid(
            field,
            "set exactly one of inline, secretKeyRef and configMapKeyRef",
        )),
    }
}

/// Checks that the proxy will start with `text`: verifier keys, one a line, or PEM.
fn check_key(text: &str) -> Result<(), String> {
    const RULE: &str =
        "must be a verifier key such as example.com/log+33d7b496+AeHTu4Q3hEIM…, or PEM";
    // The proxy would take it for the path of a file in its pod.
    if text.is_empty() || text.starts_with("file:") {
        return Err(RULE.to_owned());
    }
    let keys = VerifierKey::parse_all(text).map_err(|why| format!("{RULE}: {why}"))?;
    if keys.is_empty() {
        return Err(RULE.to_owned());
    }
    Ok(())
}
