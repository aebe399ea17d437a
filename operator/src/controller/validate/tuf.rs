//! The TUF repository: one that can be asked, and something to verify it from.

use tile_proxy::{
    config::Interval,
    tuf::{repository_name, sigstore},
};
use url::Url;

use super::{Invalid, Mounted, invalid, units, upstreams::valid_url};
use crate::crd::{
    CA_RULE, ENVIRONMENT_RULE, KeyRef, Mode, ONE_ROOT_RULE, TUF_ROOT_RULE, TUF_URL_RULE, TufSpec,
};

/// A TUF repository.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidTuf {
    /// Where it is; there unless nobody is asked.
    pub url: Option<Url>,
    /// Its root, mounted; none is the one that ships with the proxy.
    pub root: Option<Mounted>,
    /// The only authorities that may vouch for its server, mounted.
    pub ca: Option<KeyRef>,
    /// Whose overrides in the service map count; empty is nobody's.
    pub environment: String,
    /// The target that is the service map.
    pub service_map: String,
    /// Whether the service map may name a log at `http://`.
    pub allow_http: bool,
    /// How often it is asked.
    pub refresh_interval: Interval,
    /// How long it is followed after it has expired.
    pub expiry_grace: Interval,
    /// Whether checkpoints must be signed.
    pub validate_checkpoint_signature: bool,
}

/// Most seconds that metadata is followed after it has expired: a year.
const MAX_GRACE_SECONDS: u64 = 8_760 * 3_600;

pub(super) fn valid_tuf(tuf: TufSpec, mode: Mode) -> Result<ValidTuf, Invalid> {
    let TufSpec {
        url,
        root_config_map_key_ref,
        root_secret_key_ref,
        ca_config_map_key_ref: ca,
        environment,
        service_map,
        allow_http,
        refresh_interval,
        expiry_grace,
        validate_checkpoint_signature,
    } = tuf;
    let url = match url.as_str() {
        "" if mode == Mode::Offline => None,
        "" => return Err(invalid("spec", TUF_URL_RULE)),
        text => Some(valid_url("spec.tuf.url", text)?),
    };
    let root = match (root_config_map_key_ref, root_secret_key_ref) {
        (Some(_), Some(_)) => return Err(invalid("spec.tuf", ONE_ROOT_RULE)),
        (Some(root), None) => Some(Mounted::ConfigMap(root)),
        (None, Some(root)) => Some(Mounted::Secret(root)),
        (None, None) => {
            let shipped = url.as_ref().and_then(sigstore::root_of);
            shipped.ok_or_else(|| invalid("spec.tuf", TUF_ROOT_RULE))?;
            None
        }
    };
    if ca.is_some() && url.as_ref().is_none_or(|url| url.scheme() != "https") {
        return Err(invalid("spec.tuf", CA_RULE));
    }
    if environment.contains(char::is_control) || environment.trim() != environment {
        return Err(invalid("spec.tuf.environment", ENVIRONMENT_RULE));
    }
    if !repository_name(&service_map) {
        let message = format!("{service_map} is not the name of a target");
        return Err(invalid("spec.tuf.serviceMap", message));
    }
    let (refresh, grace) = ("spec.tuf.refreshInterval", "spec.tuf.expiryGrace");
    Ok(ValidTuf {
        url,
        root,
        ca,
        environment,
        service_map,
        allow_http,
        refresh_interval: units::interval(refresh, &refresh_interval, 1..=24 * 3600)?,
        expiry_grace: units::interval(grace, &expiry_grace, 0..=MAX_GRACE_SECONDS)?,
        validate_checkpoint_signature,
    })
}
