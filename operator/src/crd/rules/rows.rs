//! What the rules of the CRD accept and refuse, with what a person is told.
//!
//! Also read by the tests against a real API server, which decides in the end: a rule that only it, or
//! only the library that evaluates rules without it, understands shows as a difference.

use serde_json::{Value, json};

/// One change of the smallest TileProxy: where, to what, and a part of the message if it is refused.
pub(crate) type Row = (&'static str, Value, Option<&'static str>);

/// The smallest TileProxy with `value` at `pointer`.
pub(crate) fn with(pointer: &str, value: &Value) -> Value {
    let mut proxy = smallest();
    let mut at = &mut proxy;
    for segment in pointer.split('/').skip(1) {
        at = match segment.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[segment], // makes an object of what is not there
        };
    }
    *at = value.clone();
    proxy
}

/// The smallest TileProxy.
pub(crate) fn smallest() -> Value {
    json!({
        "apiVersion": "tiles.stella-ops.org/v1alpha1",
        "kind": "TileProxy",
        "metadata": {"name": "rome2026h1"},
        "spec": {
            "upstreams": [{"url": "https://rome.example.net/2026h1/"}],
            "publicKeys": [{"inline": "rome.example.net/2026h1+33d7b496+AeHTu4Q3hEIM"}],
        },
    })
}

/// Every rule from both sides.
pub(crate) fn rows() -> Vec<Row> {
    vec![
        ("/metadata/name", json!("a".repeat(40)), None),
        (
            "/metadata/name",
            json!("a".repeat(41)),
            Some("at most 40 characters"),
        ),
        (
            "/metadata/name",
            json!("2026h1"),
            Some("must start with a letter"),
        ),
        (
            "/metadata/name",
            json!("rome.2026h1"),
            Some("must start with a letter"),
        ),
        (
            "/metadata/name",
            json!("rome-replica-0"),
            Some("must not end in -replica-<number>"),
        ),
        ("/metadata/name", json!("rome-replica-x"), None),
        (
            "/spec/upstreams/0/url",
            json!("ftp://rome.example.net/"),
            Some("http:// or https://"),
        ),
        (
            "/spec/upstreams/0/url",
            json!("https://u:p@rome.example.net/"),
            Some("without user"),
        ),
        (
            "/spec/upstreams/0/url",
            json!("https://rome.example.net/?q"),
            Some("without user"),
        ),
        (
            "/spec/upstreams/0/url",
            json!("http://[::1]:8080/log"),
            None,
        ),
        (
            "/spec/upstreams/0/tileBaseURL",
            json!("tiles.example.net"),
            Some("http:// or https://"),
        ),
        (
            "/spec/upstreams/0/tileBaseURL",
            json!("https://tiles.example.net/tile/"),
            None,
        ),
        (
            "/spec/upstreams/0/timeout",
            json!("500ms"),
            Some("a duration between 1s and 10m"),
        ),
        ("/spec/upstreams/0/timeout", json!("10m"), None),
        (
            "/spec/upstreams/0/timeout",
            json!("10m1s"),
            Some("a duration between 1s and 10m"),
        ),
        (
            "/spec/origin",
            json!("two\nlines"),
            Some("one line without spaces around it"),
        ),
        (
            "/spec/origin",
            json!("trailing "),
            Some("one line without spaces around it"),
        ),
        (
            "/spec/origin",
            json!("rekor.sigstore.dev - 2605736670972794746"),
            None,
        ),
        (
            "/spec/publicKeys/0",
            json!({}),
            Some("exactly one of inline"),
        ),
        (
            "/spec/publicKeys/0",
            json!({"inline": "k", "secretKeyRef": {"name": "k", "key": "k"}}),
            Some("exactly one of inline"),
        ),
        (
            "/spec/publicKeys/0",
            json!({"configMapKeyRef": {"name": "k", "key": "k"}}),
            None,
        ),
        (
            "/spec/publicKeys",
            json!([]),
            Some("publicKeys must hold at least one key"),
        ),
        (
            "/spec/dangerAcceptUnsigned",
            json!(true),
            Some("never beside a key"),
        ),
        (
            "/spec/upstreams",
            json!([
                {"url": "https://rome.example.net/", "name": "rome"},
                {"url": "https://mirror.example.net/", "name": "rome"},
            ]),
            Some("two upstreams have the same name"),
        ),
        (
            "/spec/upstreams",
            json!([
                {"url": "https://rome.example.net/"},
                {"url": "https://mirror.example.net/"},
                {"url": "https://oslo.example.net/", "name": "oslo"},
            ]),
            None,
        ),
        (
            "/spec/upstreams/0",
            json!({"url": "http://rome.example.net/", "caConfigMapKeyRef": {"name": "c", "key": "k"}}),
            Some("url must start with https://"),
        ),
        (
            "/spec/upstreams/0",
            json!({"url": "https://rome.example.net/", "caConfigMapKeyRef": {"name": "c", "key": "k"}}),
            None,
        ),
        (
            "/spec/tls",
            json!({"secretRef": {"name": "rome-tls"}, "requireClientCert": true}),
            Some("requireClientCert needs clientCASecretRef"),
        ),
        (
            "/spec/tls",
            json!({"secretRef": {"name": "rome-tls"}}),
            None,
        ),
        ("/spec/service/port", json!(65_535), None),
        (
            "/spec/trustedCA",
            json!({"configMapKeyRef": {"name": "c", "key": "k"}}),
            None,
        ),
        (
            "/spec/trustedCA",
            json!({}),
            Some("exactly one of configMapKeyRef and secretKeyRef"),
        ),
        (
            "/spec/trustedCA",
            json!({"configMapKeyRef": {"name": "c", "key": "k"}, "secretKeyRef": {"name": "c", "key": "k"}}),
            Some("exactly one of configMapKeyRef and secretKeyRef"),
        ),
        (
            "/spec/securityContext",
            json!({"privileged": true}),
            Some("privileged and allowPrivilegeEscalation must not be true"),
        ),
        (
            "/spec/securityContext",
            json!({"allowPrivilegeEscalation": true}),
            Some("privileged and allowPrivilegeEscalation must not be true"),
        ),
        (
            "/spec/securityContext",
            json!({"runAsUser": 0}),
            Some("runAsUser must not be 0"),
        ),
        (
            "/spec/securityContext",
            json!({"runAsNonRoot": false}),
            Some("nor runAsNonRoot false"),
        ),
        (
            "/spec/securityContext",
            json!({"capabilities": {"add": ["NET_BIND_SERVICE", "NET_ADMIN"]}}),
            Some("nothing but NET_BIND_SERVICE"),
        ),
        (
            "/spec/securityContext",
            json!({"capabilities": {"add": ["NET_ADMIN"]}}),
            Some("nothing but NET_BIND_SERVICE"),
        ),
        (
            "/spec/securityContext",
            json!({"seccompProfile": {"type": "Unconfined"}}),
            Some("must not be Unconfined"),
        ),
        (
            "/spec/securityContext",
            json!({"appArmorProfile": {"type": "Unconfined"}}),
            Some("must not be Unconfined"),
        ),
        (
            "/spec/securityContext",
            json!({"procMount": "Unmasked"}),
            Some("nor procMount Unmasked"),
        ),
        (
            "/spec/securityContext",
            json!({"seLinuxOptions": {"type": "spc_t"}}),
            Some("a type other than container_t"),
        ),
        (
            "/spec/securityContext",
            json!({"windowsOptions": {}}),
            Some("the image is for Linux"),
        ),
        // As charts have it, and what may be relaxed.
        (
            "/spec/securityContext",
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
                "privileged": false,
                "procMount": "Default",
                "readOnlyRootFilesystem": false,
                "runAsNonRoot": true,
                "runAsUser": 1000,
                "seLinuxOptions": {"level": "s0:c1,c2", "type": "container_t"},
                "seccompProfile": {"type": "Localhost", "localhostProfile": "rome.json"},
            }),
            None,
        ),
        (
            "/spec/podSecurityContext",
            json!({"seLinuxOptions": {"user": "root"}}),
            Some("must not set user or role"),
        ),
        (
            "/spec/podSecurityContext",
            json!({"seLinuxOptions": {"level": "s0:c1,c2"}}),
            None,
        ),
        (
            "/spec/rateLimit",
            json!({"burst": 1}),
            Some("have no effect without perIPPerSecond"),
        ),
        (
            "/spec/rateLimit",
            json!({"trustedProxies": ["10.0.0.0/8"]}),
            Some("have no effect without perIPPerSecond"),
        ),
        (
            "/spec/rateLimit",
            json!({"perIPPerSecond": 1, "burst": 1}),
            None,
        ),
        (
            "/spec/proxy/httpsProxy",
            json!("http://user@proxy.example.net"),
            Some("without user and path"),
        ),
        ("/spec/proxy/httpsProxy", json!("http://[::1]:3128"), None),
        (
            "/spec/monitoring/serviceMonitor/interval",
            json!("4s"),
            Some("a duration between 5s and 1h"),
        ),
        (
            "/spec/monitoring/serviceMonitor/interval",
            json!("5s"),
            None,
        ),
        (
            "/spec/monitoring/serviceMonitor/interval",
            json!("1h"),
            None,
        ),
        (
            "/spec/checkpoint/refreshInterval",
            json!("900ms"),
            Some("a duration between 1s and 24h"),
        ),
        ("/spec/checkpoint/refreshInterval", json!("24h"), None),
        (
            "/spec/cache/size",
            json!("63Mi"),
            Some("a size of at least 64Mi"),
        ),
        ("/spec/cache/size", json!("64Mi"), None),
        (
            "/spec/cache/size",
            json!("10GB"),
            Some("a size of at least 64Mi"),
        ),
        (
            "/spec/checkpoint/refreshInterval",
            json!("10"),
            Some("a duration between 1s"),
        ),
        (
            "/spec/cache/memory",
            json!("1000k"),
            Some("a size between 1Mi and 64Gi"),
        ),
        (
            "/spec/cache/memory",
            json!("65Gi"),
            Some("a size between 1Mi and 64Gi"),
        ),
        (
            "/spec/cache/checkpointTTL",
            json!("90s"),
            Some("whole minutes"),
        ),
        ("/spec/cache/checkpointTTL", json!("60s"), None),
        (
            "/spec/sync/schedule",
            json!("TZ=UTC 0 * * * *"),
            Some("use sync.timeZone"),
        ),
        (
            "/spec/sync/schedule",
            json!("@every 5m"),
            Some("five cron fields"),
        ),
        (
            "/spec/sync/schedule",
            json!("0 0 * *"),
            Some("five cron fields"),
        ),
        ("/spec/sync/schedule", json!("@hourly"), None),
        (
            "/spec/sync/timeZone",
            json!("loCal"),
            Some("must name a time zone"),
        ),
        (
            "/spec/cache/accessModes",
            json!(["ReadWriteOncePod", "ReadWriteOnce"]),
            Some("must stand alone"),
        ),
        ("/spec/cache/accessModes", json!(["ReadWriteOncePod"]), None),
        (
            "/spec/cache/accessModes",
            json!(["ReadWriteMany", "ReadWriteOnce"]),
            None,
        ),
        (
            "/spec/cache/storageClassName",
            json!("Fast_SSD"),
            Some("the name of a StorageClass"),
        ),
        (
            "/spec/cache/storageClassName",
            json!("fast..ssd"),
            Some("the name of a StorageClass"),
        ),
        (
            "/spec/cache/storageClassName",
            json!("fast.csi.example.net"),
            None,
        ),
    ]
}
