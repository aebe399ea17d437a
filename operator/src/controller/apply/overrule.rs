//! The last resort against an edit that server-side apply cannot undo.
//!
//! Apply leaves alone what others own. Where that contradicts what we ask for, such as the parameters
//! of a rolling update beside the strategy `Recreate`, or a second port of the same name, the API
//! server refuses the outcome, and would refuse it for ever. Then everything beside the metadata
//! is replaced by what we ask for, additions of others included. What we ask for is refused again if
//! it is invalid by itself, and nothing has changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tracing::warn;

use crate::controller::child::Child;
use crate::controller::names::MANAGER;

/// Applies `desired`, which `found` is to become if there is one.
///
/// # Errors
/// What the API server said to the apply; what it said to the last resort is only logged.
pub(super) async fn apply_at_last<K: Child>(
    api: &Api<K>,
    desired: &K,
    found: Option<&K>,
) -> Result<K, kube::Error> {
    let name = desired.name_any();
    if let Some(found) = found {
        // Of a last resort that a crash has cut short.
        disown(api, found).await?;
    }
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(desired);
    let refusal = match api.patch(&name, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.is_invalid() => status,
        answer => return answer,
    };
    let Some(found) = found else {
        return Err(kube::Error::Api(refusal));
    };
    match replace(api, desired, found).await {
        Ok(replaced) => {
            warn!(kind = %K::kind(&()), name, refusal = refusal.message,
                "replaced what others changed, because it left no valid way to undo only that");
            disown(api, &replaced).await?;
            api.patch(&name, &params, &patch).await
        }
        Err(_) => Err(kube::Error::Api(refusal)),
    }
}

/// Gives `found` everything that `desired` has beside its metadata.
async fn replace<K: Child>(api: &Api<K>, desired: &K, found: &K) -> Result<K, kube::Error> {
    let desired = serde_json::to_value(desired).map_err(kube::Error::SerdeError)?;
    let fields = desired.as_object().into_iter().flatten();
    let ours = fields.filter(|(key, _)| !BESIDE.contains(&key.as_str()));
    let changes =
        ours.map(|(key, value)| json!({"op": "add", "path": format!("/{key}"), "value": value}));
    send(api, found, changes.collect()).await
}

/// Takes back what a [`replace`] left us owning beside what we apply: it would outlive the field that
/// the spec once asked for.
async fn disown<K: Child>(api: &Api<K>, found: &K) -> Result<(), kube::Error> {
    let fields = found.managed_fields();
    let others: Vec<_> = fields.iter().filter(|field| !is_left(field)).collect();
    if others.len() == fields.len() {
        return Ok(());
    }
    let change = json!({"op": "replace", "path": "/metadata/managedFields", "value": others});
    send(api, found, vec![change]).await.map(drop)
}

/// Whether this is ours, but not by applying.
fn is_left(field: &ManagedFieldsEntry) -> bool {
    field.manager.as_deref() == Some(MANAGER)
        && field.operation.as_deref() == Some("Update")
        && field.subresource.as_deref().is_none_or(str::is_empty)
}

/// Sends `changes` to `found`, unless it has changed meanwhile.
async fn send<K: Child>(api: &Api<K>, found: &K, changes: Vec<Value>) -> Result<K, kube::Error> {
    let unchanged = json!({
        "op": "test",
        "path": "/metadata/resourceVersion",
        "value": found.resource_version(),
    });
    let patch: Vec<Value> = std::iter::once(unchanged).chain(changes).collect();
    let patch = serde_json::from_value(json!(patch)).map_err(kube::Error::SerdeError)?;
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch(&found.name_any(), &params, &Patch::Json::<K>(patch))
        .await
}

/// Top-level keys that are not replaced.
const BESIDE: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];
