//! The upstreams: URLs that are ones, and names that tell them apart.

use tile_proxy::config::Interval;
use url::Url;

use super::{Invalid, Mounted, invalid, units};
use crate::crd::{
    CA_RULE, KeyRef, MAX_UPSTREAMS, NAMES_RULE, TRUSTED_CA_RULE, TrustedCa, URL_RULE, Upstream,
};

/// One upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidUpstream {
    /// Name in metrics; empty is the host of `url`.
    pub name: String,
    /// Base URL.
    pub url: Url,
    /// Base URL of the tiles, where it is another one.
    pub tile_base_url: Option<Url>,
    /// Lower is asked first.
    pub priority: u32,
    /// Longest request.
    pub timeout: Interval,
    /// Where writes go, where that is another place.
    pub write_url: Option<Url>,
    /// The only authorities that may vouch for it, mounted.
    pub ca: Option<KeyRef>,
    /// Value of its `Authorization` header, mounted.
    pub authorization: Option<KeyRef>,
}

impl ValidUpstream {
    /// What metrics call it.
    fn effective_name(&self) -> &str {
        match self.name.as_str() {
            "" => self.url.host_str().unwrap_or_default(),
            name => name,
        }
    }
}

/// The upstreams of the list at `field`.
pub(super) fn valid_upstreams(
    field: &str,
    upstreams: Vec<Upstream>,
) -> Result<Vec<ValidUpstream>, Invalid> {
    if upstreams.len() > MAX_UPSTREAMS {
        let message = format!("must hold at most {MAX_UPSTREAMS} upstreams");
        return Err(invalid(field, message));
    }
    let mut valid: Vec<ValidUpstream> = Vec::with_capacity(upstreams.len());
    for (at, upstream) in upstreams.into_iter().enumerate() {
        let upstream = valid_upstream(&format!("{field}[{at}]"), upstream)?;
        let name = upstream.effective_name();
        if valid.iter().any(|other| other.effective_name() == name) {
            return Err(invalid(
                format!("{field}[{at}].name"),
                format!("{NAMES_RULE}: {name}; give this one another name"),
            ));
        }
        valid.push(upstream);
    }
    Ok(valid)
}

/// Where the authorities beside those the image trusts are.
pub(super) fn valid_trusted_ca(trusted: TrustedCa) -> Result<Mounted, Invalid> {
    let TrustedCa {
        config_map_key_ref,
        secret_key_ref,
    } = trusted;
    match (config_map_key_ref, secret_key_ref) {
        (Some(from), None) => Ok(Mounted::ConfigMap(from)),
        (None, Some(from)) => Ok(Mounted::Secret(from)),
        _ => Err(invalid("spec.trustedCA", TRUSTED_CA_RULE)),
    }
}

fn valid_upstream(at: &str, upstream: Upstream) -> Result<ValidUpstream, Invalid> {
    let Upstream {
        name,
        url,
        priority,
        timeout,
        tile_base_url,
        ca_config_map_key_ref: ca,
        write_url,
        auth_secret_ref: authorization,
    } = upstream;
    let optional = |field: &str, text: &str| match text {
        "" => Ok(None),
        text => valid_url(&format!("{at}.{field}"), text).map(Some),
    };
    if !units::is_label_value(&name) {
        return Err(invalid(
            format!("{at}.name"),
            "must be a name of at most 63 letters, digits, '-', '_' and '.', such as mirror",
        ));
    }
    let url = valid_url(&format!("{at}.url"), &url)?;
    if ca.is_some() && url.scheme() != "https" {
        return Err(invalid(at, CA_RULE));
    }
    Ok(ValidUpstream {
        name,
        url,
        tile_base_url: optional("tileBaseURL", &tile_base_url)?,
        write_url: optional("writeURL", &write_url)?,
        priority: units::number(&format!("{at}.priority"), priority, &(0..=1000))?,
        timeout: units::interval(&format!("{at}.timeout"), &timeout, 1..=600)?,
        ca,
        authorization,
    })
}

/// A URL of a server, without anything that does not belong into the base of others.
pub(super) fn valid_url(field: &str, text: &str) -> Result<Url, Invalid> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .filter(|url| url.query().is_none() && url.fragment().is_none())
        .ok_or_else(|| invalid(field, URL_RULE))
}
