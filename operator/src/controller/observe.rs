//! Reads a TileProxy and its children, straight from the API server.
//!
//! Nothing is taken from a watch's cache: what follows deletes objects and decides what may restart,
//! and a stale answer would do so wrongly.

use std::{fmt::Debug, marker::PhantomData};

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    build::Resources,
    names::{Names, query},
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
        service_accounts,
        services,
    ) = tokio::try_join!(
        list.labelled(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned(),
        list.owned(),
    )?;
    let children = Resources {
        claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        service_accounts,
        services,
        state: PhantomData,
    };
    Ok(Some(Observed { proxy, children }))
}

struct Lister<'a> {
    client: &'a Client,
    names: &'a Names,
    uid: String,
}

impl Lister<'_> {
    async fn labelled<K>(&self) -> Result<Vec<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &self.names.namespace);
        let params = ListParams::default().labels(&query(&self.names.selector()));
        Ok(api.list(&params).await?.items)
    }

    async fn owned<K>(&self) -> Result<Vec<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let mut children = self.labelled::<K>().await?;
        children.retain(|child| is_controlled_by(child, &self.uid));
        Ok(children)
    }
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
