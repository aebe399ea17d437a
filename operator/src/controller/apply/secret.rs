//! The Secret with the token of mutating admin calls: random, so not part of what is built.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client};

use super::{ApplyError, post};
use crate::{
    admin::Metrics,
    controller::{build, validate::ValidProxy},
};

/// Creates the Secret with the admin token, unless there is one by that name.
///
/// The operator may create Secrets but not read them, so it tries instead of looking. A Secret
/// someone else put there is used as it is: that is how to bring one's own token.
///
/// # Errors
/// Anything but "already exists".
pub async fn create_admin_secret(
    client: &Client,
    metrics: &Metrics,
    proxy: &ValidProxy,
) -> Result<(), ApplyError> {
    let token: [u8; 32] = rand::random();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(proxy.names.admin_secret()),
            namespace: Some(proxy.names.namespace.clone()),
            labels: Some(proxy.names.selector()),
            owner_references: Some(vec![proxy.owner.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            build::TOKEN_FILE.to_owned(),
            ByteString(hex::encode(token).into_bytes()),
        )])),
        ..Secret::default()
    };
    let api = Api::<Secret>::namespaced(client.clone(), &proxy.names.namespace);
    match api.create(&post(), &secret).await {
        Ok(_) => {
            metrics.applied("Secret", "create");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(ApplyError::new("create", &secret, source)),
    }
}
