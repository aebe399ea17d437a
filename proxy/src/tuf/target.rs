//! One target about logs by itself, as anybody may have written it: each kind is a parser of ours.

use jiff::Timestamp;

use super::{
    discover::{Material, Published, keys_in},
    error::TufError,
    monitor, service_map, signing_config, trusted_root,
};

/// What a target is read as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// Keys and nothing else.
    Keys,
    /// Where logs are read.
    MonitorConfig,
    /// Where the services of a deployment are.
    ServiceMap,
    /// Where logs are written to.
    SigningConfig,
    /// Logs with their keys.
    TrustedRoot,
}

impl Target {
    /// What would be known of logs by a target of this kind alone, in this environment.
    ///
    /// # Errors
    /// When it is of no use, as it would be with the rest of a repository.
    pub fn read(
        self,
        bytes: &[u8],
        environment: &str,
        allow_http: bool,
    ) -> Result<Material, TufError> {
        let name = "target";
        let mut published = Published::default();
        match self {
            Self::Keys => published.key_targets = vec![(name.to_owned(), keys_in(name, bytes)?)],
            Self::MonitorConfig => published.monitored = monitor::parse(name, bytes, allow_http)?,
            Self::ServiceMap => {
                let rules = service_map::Rules {
                    name,
                    environment,
                    allow_http,
                };
                (published.service_map, published.notes) = service_map::parse(bytes, &rules)?;
            }
            Self::SigningConfig => published.signing = signing_config::parse(name, bytes)?,
            Self::TrustedRoot => published.trusted_root = trusted_root::parse(bytes)?,
        }
        // Whatever begins to count ever, counts.
        Ok(published.resolve(Timestamp::MAX))
    }
}
