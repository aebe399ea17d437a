//! Reads a TileProxy and its children, straight from the API server.
//!
//! Nothing is taken from a watch's cache: what follows deletes objects and decides what may restart,
//! and a stale answer would do so wrongly.

use std::marker::PhantomData;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, Resource, ResourceExt as _, api::ListParams};

use super::{
    apply::ApplyError,
    build::{Kind, Resources, references},
    child::Child,
    names::{Names, query},
    validate::ValidProxy,
};
use crate::crd::TileProxy;

/// As found on the API server. Children are those `proxy` controls; claims are those with its
/// labels, because they outlive it.
#[derive(Clone, Debug, PartialEq)]
pub struct Existing;

/// What there is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The resource itself.
    pub proxy: TileProxy,
    /// Its children.
    pub children: Resources<Existing>,
}

/// Reads the TileProxy `name` and its children. `None` if it is gone or going: the garbage
/// collector does the rest.
///
/// # Errors
/// Whatever the API server answered; every read can be repeated.
pub async fn observe(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Observed>, kube::Error> {
    let Some(proxy) = Api::<TileProxy>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await?
    else {
        return Ok(None);
    };
    if proxy.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let names = Names {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    };
    let list = Lister {
        client,
        names: &names,
        uid: proxy.uid().unwrap_or_default(),
    };
    let (
        claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        network_policies,
        service_accounts,
        service_monitors,
        services,
    ) = tokio::try_join!(
        list.labelled(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned_if_known(),
        list.owned(),
    )?;
    let children = Resources {
        claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        network_policies,
        service_accounts,
        service_monitors,
        services,
        state: PhantomData,
    };
    Ok(Some(Observed { proxy, children }))
}

/// What the pods of `proxy` need of others and is not there, one sentence each. ConfigMaps only: the
/// operator may not look at Secrets.
///
/// # Errors
/// The read that failed; every one can be repeated.
pub async fn missing_references(
    client: &Client,
    proxy: &ValidProxy,
) -> Result<Vec<String>, ApplyError> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), &proxy.names.namespace);
    let mut missing = Vec::new();
    for reference in references(proxy) {
        if reference.kind != Kind::ConfigMap {
            continue;
        }
        let found = api.get_opt(&reference.name).await;
        let found =
            found.map_err(|source| ApplyError::of::<ConfigMap>("read", &reference.name, source))?;
        missing.extend(
            lack_of(&reference.name, found.as_ref(), reference.keys())
                .map(|lack| format!("{lack}, which {} refers to", reference.field)),
        );
    }
    Ok(missing)
}

/// What of the ConfigMap `name` is not there.
fn lack_of<'a>(
    name: &str,
    found: Option<&ConfigMap>,
    mut keys: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let Some(found) = found else {
        return Some(format!("there is no ConfigMap {name}"));
    };
    let has = |key: &str| {
        found
            .data
            .as_ref()
            .is_some_and(|data| data.contains_key(key))
            || found
                .binary_data
                .as_ref()
                .is_some_and(|data| data.contains_key(key))
    };
    let lacking = keys.find(|key| !has(key))?;
    Some(format!("the ConfigMap {name} has no entry {lacking}"))
}

struct Lister<'a> {
    client: &'a Client,
    names: &'a Names,
    uid: String,
}

impl Lister<'_> {
    async fn labelled<K: Child>(&self) -> Result<Vec<K>, kube::Error> {
        let api = Api::<K>::namespaced(self.client.clone(), &self.names.namespace);
        let params = ListParams::default().labels(&query(&self.names.selector()));
        Ok(api.list(&params).await?.items)
    }

    async fn owned<K: Child>(&self) -> Result<Vec<K>, kube::Error> {
        let mut children = self.labelled::<K>().await?;
        children.retain(|child| is_controlled_by(child, &self.uid));
        Ok(children)
    }

    /// As [`owned`](Self::owned); none of a kind that the cluster does not know.
    async fn owned_if_known<K: Child>(&self) -> Result<Vec<K>, kube::Error> {
        match self.owned().await {
            Err(error) if is_unknown_kind(&error) => Ok(Vec::new()),
            other => other,
        }
    }
}

/// Whether a list failed because the cluster does not know the kind. Told by the code alone: where
/// the whole group is unknown, the answer is a line of text and no status.
pub fn is_unknown_kind(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the object with this uid is `child`'s controller.
pub fn is_controlled_by<K: Resource>(child: &K, uid: &str) -> bool {
    child
        .meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// The object called `name`.
pub fn find<'a, K: Resource>(objects: &'a [K], name: &str) -> Option<&'a K> {
    objects
        .iter()
        .find(|object| object.meta().name.as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_config_map_that_pods_wait_for_is_named() {
        let keys = ConfigMap {
            data: Some(BTreeMap::from([("rome.pub".to_owned(), String::new())])),
            ..ConfigMap::default()
        };
        let lack = |found: Option<&ConfigMap>, key: &'static str| {
            lack_of("log-keys", found, [key].into_iter()).unwrap_or_default()
        };
        assert_eq!(lack(None, "rome.pub"), "there is no ConfigMap log-keys");
        assert_eq!(
            lack(Some(&keys), "oslo.pub"),
            "the ConfigMap log-keys has no entry oslo.pub"
        );
        assert_eq!(lack(Some(&keys), "rome.pub"), "");
    }
}
