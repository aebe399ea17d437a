//! What replicas read from Secrets and ConfigMaps of others: mounted, and never copied.
//!
//! Each is a directory of its own, because only a directory follows the object when it changes.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, KeyToPath, SecretVolumeSource, Volume, VolumeMount,
};
use tile_proxy::config::Source;

use super::pod;
use crate::{
    controller::validate::{
        Mounted, NamedLog, ValidKey, ValidLog, ValidLogs, ValidProxy, ValidTuf,
    },
    crd::KeyRef,
};

/// Below this, every reference is mounted.
const ROOT: &str = "/etc/tile-proxy";

/// Where public keys are mounted, each below its position in the list.
const KEYS: &str = "keys";

/// Where what belongs to an upstream is mounted, each below its position in the list.
const UPSTREAMS: &str = "upstreams";

/// Where, of several logs, each has its own of these, below its name.
const LOGS: &str = "logs";

/// Where a log stands, and where what belongs to it is mounted.
pub(super) struct Place<'a> {
    /// What it is called, if it is one of several.
    pub(super) named: Option<&'a NamedLog>,
    /// Where the spec has it.
    field: String,
    /// What its directories and volumes begin with. A volume's name has no room for that of a log.
    directory: String,
    volume: String,
}

impl<'a> Place<'a> {
    /// That of a log that is alone.
    fn alone() -> Self {
        Self {
            named: None,
            field: "spec".to_owned(),
            directory: String::new(),
            volume: String::new(),
        }
    }

    /// That of one of several, the one at this position.
    fn among(at: usize, named: &'a NamedLog) -> Self {
        let name = &named.name;
        Self {
            named: Some(named),
            field: format!("spec.logs[{name}]"),
            directory: format!("{LOGS}/{name}/"),
            volume: format!("log-{at}-"),
        }
    }
}

/// Every log of the spec, with its place.
pub(super) fn placed(logs: &ValidLogs) -> Vec<(Place<'_>, &ValidLog)> {
    match logs {
        ValidLogs::One(log) => vec![(Place::alone(), log)],
        ValidLogs::Several(logs) => {
            let logs = logs.iter().enumerate();
            logs.map(|(at, named)| (Place::among(at, named), &named.log))
                .collect()
        }
        ValidLogs::Discovered => Vec::new(),
    }
}

/// What kind of object is referred to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A ConfigMap, which the operator may read.
    ConfigMap,
    /// A Secret, which it may not.
    Secret,
}

/// One object of others that a replica cannot start without.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    /// Where the spec names it.
    pub field: String,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The entries that are needed, each with its file in `path`.
    entries: Vec<(String, &'static str)>,
    /// Name of the volume.
    volume: String,
    /// The directory, below [`ROOT`].
    path: String,
}

impl Reference {
    /// The entries of its `data` that are needed.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// One entry of an object of either kind.
    fn mounts(field: &str, from: &Mounted, volume: String, file: File) -> Self {
        let (kind, key, from) = match from {
            Mounted::ConfigMap(from) => (Kind::ConfigMap, "configMapKeyRef", from),
            Mounted::Secret(from) => (Kind::Secret, "secretKeyRef", from),
        };
        Self::one(format!("{field}.{key}"), kind, from, volume, file)
    }

    fn one(field: String, kind: Kind, from: &KeyRef, volume: String, file: File) -> Self {
        Self {
            field,
            kind,
            name: from.name.clone(),
            entries: vec![(from.key.clone(), file.name)],
            volume,
            path: file.directory,
        }
    }

    /// The volume, and where it is mounted.
    pub(super) fn mounted(&self) -> (Volume, VolumeMount) {
        let items = self.entries.iter().map(|(key, file)| KeyToPath {
            key: key.clone(),
            path: (*file).to_owned(),
            ..KeyToPath::default()
        });
        let items = Some(items.collect());
        let mut volume = Volume {
            name: self.volume.clone(),
            ..Volume::default()
        };
        match self.kind {
            Kind::ConfigMap => {
                volume.config_map = Some(ConfigMapVolumeSource {
                    name: self.name.clone(),
                    items,
                    ..ConfigMapVolumeSource::default()
                });
            }
            Kind::Secret => {
                volume.secret = Some(SecretVolumeSource {
                    secret_name: Some(self.name.clone()),
                    items,
                    ..SecretVolumeSource::default()
                });
            }
        }
        let mount = pod::mount(&self.volume, &format!("{ROOT}/{}", self.path), true);
        (volume, mount)
    }
}

/// A file that is read from a reference: its directory below [`ROOT`], and its name whatever the entry
/// is called.
pub(super) struct File {
    directory: String,
    name: &'static str,
}

impl File {
    /// The public key at this position.
    pub(super) fn key(log: &Place<'_>, at: usize) -> Self {
        Self {
            directory: format!("{}{KEYS}/{at}", log.directory),
            name: "key",
        }
    }

    /// The authorities of the upstream at this position.
    pub(super) fn ca(log: &Place<'_>, at: usize) -> Self {
        Self {
            directory: format!("{}{UPSTREAMS}/{at}/ca", log.directory),
            name: "ca.pem",
        }
    }

    /// The credentials for the upstream at this position.
    pub(super) fn authorization(log: &Place<'_>, at: usize) -> Self {
        Self {
            directory: format!("{}{UPSTREAMS}/{at}/authorization", log.directory),
            name: "value",
        }
    }

    /// What the TUF repository is verified from.
    pub(super) fn tuf_root() -> Self {
        Self {
            directory: "tuf/root".to_owned(),
            name: "root.json",
        }
    }

    /// The authorities of the TUF repository.
    pub(super) fn tuf_ca() -> Self {
        Self {
            directory: "tuf/ca".to_owned(),
            name: "ca.pem",
        }
    }

    /// The authorities beside those the image trusts.
    pub(super) fn trusted_ca() -> Self {
        Self {
            directory: "trusted-ca".to_owned(),
            name: "ca.pem",
        }
    }

    /// The certificate chain shown to clients.
    pub(super) fn certificate() -> Self {
        Self {
            directory: "tls".to_owned(),
            name: "tls.crt",
        }
    }

    /// Its private key.
    pub(super) fn private_key() -> Self {
        Self {
            name: "tls.key",
            ..Self::certificate()
        }
    }

    /// The authorities of clients.
    pub(super) fn client_ca() -> Self {
        Self {
            directory: "client-ca".to_owned(),
            name: "ca.pem",
        }
    }

    /// As the proxy is told of it.
    pub(super) fn source(&self) -> Source {
        Source::File(format!("{ROOT}/{}/{}", self.directory, self.name).into())
    }
}

/// The Secrets of others that replicas of `proxy` do not start without, each once.
pub fn secrets(proxy: &ValidProxy) -> Vec<String> {
    let mounted = references(proxy).into_iter().filter_map(|reference| {
        (reference.kind == Kind::Secret).then_some((reference.name, reference.field))
    });
    let read = proxy.pods.env.iter().filter_map(|var| {
        let from = var.value_from.as_ref()?.secret_key_ref.as_ref()?;
        let needed = from.optional != Some(true);
        needed.then(|| (from.name.clone(), format!("spec.extraEnv of {}", var.name)))
    });
    let mut secrets: Vec<(String, String)> = Vec::new();
    for (name, field) in mounted.chain(read) {
        if secrets.iter().all(|(other, _)| *other != name) {
            secrets.push((name, field));
        }
    }
    secrets
        .into_iter()
        .map(|(name, field)| format!("Secret {name} ({field})"))
        .collect()
}

/// Every reference of `proxy`, in the order of the fields.
pub fn references(proxy: &ValidProxy) -> Vec<Reference> {
    let mut references = Vec::new();
    for (place, log) in placed(&proxy.logs) {
        references.extend(of_a_log(&place, log));
    }
    if let Some(tuf) = &proxy.tuf {
        references.extend(of_tuf(tuf));
    }
    if let Some(from) = &proxy.trusted_ca {
        references.push(Reference::mounts(
            "spec.trustedCA",
            from,
            "trusted-ca".to_owned(),
            File::trusted_ca(),
        ));
    }
    if let Some(tls) = &proxy.tls {
        let (certificate, key) = (File::certificate(), File::private_key());
        references.push(Reference {
            field: "spec.tls.secretRef".to_owned(),
            kind: Kind::Secret,
            name: tls.secret_ref.name.clone(),
            // As `kubernetes.io/tls` has them.
            entries: [&certificate, &key]
                .map(|file| (file.name.to_owned(), file.name))
                .to_vec(),
            volume: "tls".to_owned(),
            path: certificate.directory,
        });
        if let Some(ca) = &tls.client_ca_secret_ref {
            references.push(Reference::one(
                "spec.tls.clientCASecretRef".to_owned(),
                Kind::Secret,
                ca,
                "client-ca".to_owned(),
                File::client_ca(),
            ));
        }
    }
    references
}

fn of_a_log(place: &Place<'_>, log: &ValidLog) -> Vec<Reference> {
    let Place { field, volume, .. } = place;
    let mut references = Vec::new();
    for (at, upstream) in log.upstreams.iter().enumerate() {
        if let Some(ca) = &upstream.ca {
            references.push(Reference::one(
                format!("{field}.upstreams[{at}].caConfigMapKeyRef"),
                Kind::ConfigMap,
                ca,
                format!("{volume}upstream-{at}-ca"),
                File::ca(place, at),
            ));
        }
        if let Some(authorization) = &upstream.authorization {
            references.push(Reference::one(
                format!("{field}.upstreams[{at}].authSecretRef"),
                Kind::Secret,
                authorization,
                format!("{volume}upstream-{at}-authorization"),
                File::authorization(place, at),
            ));
        }
    }
    for (at, key) in log.keys.iter().enumerate() {
        if let ValidKey::Mounted(from) = key {
            references.push(Reference::mounts(
                &format!("{field}.publicKeys[{at}]"),
                from,
                format!("{volume}key-{at}"),
                File::key(place, at),
            ));
        }
    }
    references
}

fn of_tuf(tuf: &ValidTuf) -> Vec<Reference> {
    let mut references = Vec::new();
    if let Some(root) = &tuf.root {
        let (field, kind, from) = match root {
            Mounted::ConfigMap(from) => ("rootConfigMapKeyRef", Kind::ConfigMap, from),
            Mounted::Secret(from) => ("rootSecretKeyRef", Kind::Secret, from),
        };
        references.push(Reference::one(
            format!("spec.tuf.{field}"),
            kind,
            from,
            "tuf-root".to_owned(),
            File::tuf_root(),
        ));
    }
    if let Some(ca) = &tuf.ca {
        references.push(Reference::one(
            "spec.tuf.caConfigMapKeyRef".to_owned(),
            Kind::ConfigMap,
            ca,
            "tuf-ca".to_owned(),
            File::tuf_ca(),
        ));
    }
    references
}
