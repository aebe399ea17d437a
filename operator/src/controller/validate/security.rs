//! What pods and containers may do: never more than the *restricted* Pod Security Standard allows.

use k8s_openapi::api::core::v1::{SELinuxOptions, SecurityContext};

use super::{Invalid, invalid, units};
use crate::crd::{
    CAPABILITY_RULE, CONFINED_RULE, PRIVILEGE_RULE, PodSecurity, ROOT_RULE, SELINUX_RULE,
    SELINUX_TYPES, WINDOWS_RULE,
};

/// User and group of the proxy, as in its image.
const USER: i64 = 65_532;

/// As whom pods run where the spec does not say.
pub(super) fn default_pod() -> PodSecurity {
    PodSecurity {
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        ..PodSecurity::default()
    }
}

/// Checks what the standard asks of a pod.
pub(super) fn check_pod(security: &PodSecurity) -> Result<(), Invalid> {
    const FIELD: &str = "spec.podSecurityContext";
    let PodSecurity {
        run_as_user,
        run_as_group,
        fs_group,
        supplemental_groups,
        se_linux_options,
    } = security;
    let range = 1..=i64::from(i32::MAX);
    for (field, id) in [
        ("runAsUser", run_as_user),
        ("runAsGroup", run_as_group),
        ("fsGroup", fs_group),
    ] {
        units::number(&format!("{FIELD}.{field}"), id.unwrap_or(1), &range)?;
    }
    for (at, group) in supplemental_groups.iter().enumerate() {
        let field = format!("{FIELD}.supplementalGroups[{at}]");
        units::number(&field, *group, &range)?;
    }
    check_se_linux(FIELD, se_linux_options.as_ref())
}

/// Checks what the standard asks of a container.
pub(super) fn check_container(security: &SecurityContext) -> Result<(), Invalid> {
    const FIELD: &str = "spec.securityContext";
    const UNCONFINED: &str = "Unconfined";
    // Destructured without `..`: what Kubernetes adds does not compile until someone looked at it.
    let SecurityContext {
        allow_privilege_escalation,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem: _, // not part of the standard
        run_as_group,
        run_as_non_root,
        run_as_user,
        se_linux_options,
        seccomp_profile,
        windows_options,
    } = security;
    let added = capabilities.iter().flat_map(|c| c.add.iter().flatten());
    let confined = |type_: Option<&String>| type_.is_none_or(|type_| type_ != UNCONFINED);
    let rules = [
        (
            *privileged != Some(true) && *allow_privilege_escalation != Some(true),
            PRIVILEGE_RULE,
        ),
        (
            *run_as_user != Some(0) && *run_as_non_root != Some(false),
            ROOT_RULE,
        ),
        (
            added
                .collect::<Vec<_>>()
                .iter()
                .all(|c| *c == "NET_BIND_SERVICE"),
            CAPABILITY_RULE,
        ),
        (
            confined(seccomp_profile.as_ref().map(|profile| &profile.type_))
                && confined(app_armor_profile.as_ref().map(|profile| &profile.type_))
                && proc_mount.as_ref().is_none_or(|mount| mount == "Default"),
            CONFINED_RULE,
        ),
        (windows_options.is_none(), WINDOWS_RULE),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(invalid(FIELD, rule));
    }
    let range = 1..=i64::from(i32::MAX);
    for (field, id) in [("runAsUser", run_as_user), ("runAsGroup", run_as_group)] {
        units::number(&format!("{FIELD}.{field}"), id.unwrap_or(1), &range)?;
    }
    check_se_linux(FIELD, se_linux_options.as_ref())
}

fn check_se_linux(field: &str, options: Option<&SELinuxOptions>) -> Result<(), Invalid> {
    let Some(SELinuxOptions {
        level: _,
        role,
        type_,
        user,
    }) = options
    else {
        return Ok(());
    };
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let type_ = type_.as_deref().unwrap_or_default();
    if is_set(role) || is_set(user) || !SELINUX_TYPES.contains(&type_) {
        return Err(invalid(field, SELINUX_RULE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::controller::fixture::parsed;
    use serde_json::{Value, json};

    fn refused(field: &str, value: &Value) -> String {
        let result = parsed(|proxy| {
            let mut tree = serde_json::to_value(&*proxy).expect("plain data");
            tree["spec"][field] = value.clone();
            *proxy = serde_json::from_value(tree).expect("the right shape");
        });
        result
            .map(|_| ())
            .map_err(|e| e.to_string())
            .err()
            .unwrap_or_default()
    }

    #[test]
    fn nothing_leaves_the_restricted_standard_where_the_crd_is_older() {
        for (value, want) in [
            (json!({"privileged": true}), "privileged and allow"),
            (
                json!({"allowPrivilegeEscalation": true}),
                "privileged and allow",
            ),
            (json!({"runAsUser": 0}), "runAsUser must not be 0"),
            (json!({"runAsNonRoot": false}), "runAsUser must not be 0"),
            (
                json!({"capabilities": {"add": ["SYS_ADMIN"]}}),
                "capabilities.add",
            ),
            (
                json!({"seccompProfile": {"type": "Unconfined"}}),
                "seccompProfile and",
            ),
            (
                json!({"appArmorProfile": {"type": "Unconfined"}}),
                "seccompProfile and",
            ),
            (json!({"procMount": "Unmasked"}), "seccompProfile and"),
            (
                json!({"seLinuxOptions": {"role": "system_r"}}),
                "seLinuxOptions must",
            ),
            (
                json!({"windowsOptions": {"hostProcess": true}}),
                "windowsOptions must",
            ),
        ] {
            let said = refused("securityContext", &value);
            let want = format!("spec.securityContext: {want}");
            assert!(said.starts_with(&want), "{value}: {said}");
        }
        let value = json!({"seLinuxOptions": {"type": "spc_t"}});
        let said = refused("podSecurityContext", &value);
        assert!(
            said.starts_with("spec.podSecurityContext: seLinux"),
            "{said}"
        );
        let value = json!({"runAsGroup": -1});
        let said = refused("securityContext", &value);
        assert!(
            said.starts_with("spec.securityContext.runAsGroup: must"),
            "{said}"
        );
        for value in [
            json!({}),
            json!({"privileged": false, "runAsUser": 1, "capabilities": {"drop": ["ALL"]}}),
            json!({"capabilities": {"add": ["NET_BIND_SERVICE"]}, "procMount": "Default"}),
        ] {
            assert_eq!(refused("securityContext", &value), "", "{value}");
        }
    }
}
