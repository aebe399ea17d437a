//! Tests of logs and of TUF: what a cluster with an older CRD lets through is refused all the same, and
//! what only the operator can see, too.

use serde_json::json;

use super::*;
use crate::{
    controller::{
        build::config,
        fixture::{parsed, proxy},
        validate::ValidProxy,
    },
    crd::TileProxy,
};

const ROME: &str = "rome.example.net/2026h1+e920e5d1+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx";
const OSLO: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

/// The TileProxy of the fixture with this spec.
fn with(spec: &str) -> Result<ValidProxy, Invalid> {
    let spec = spec.replace("ROME", ROME).replace("OSLO", OSLO);
    let spec: serde_json::Value = serde_saphyr::from_str(&spec).expect("YAML");
    let mut object = serde_json::to_value(proxy(|_| {})).expect("a tree");
    object["spec"] = spec;
    let written: TileProxy = serde_json::from_value(object).expect("a TileProxy");
    parsed(|proxy| *proxy = written)
}

#[test]
fn wrong_logs_are_refused_with_the_field_and_what_to_write() {
    let rome = "name: rome, publicKeys: [{inline: ROME}], upstreams: [{url: 'https://rome/'}]";
    let oslo = "name: oslo, publicKeys: [{inline: OSLO}], upstreams: [{url: 'https://oslo/'}]";
    let open = "name: oslo, origin: oslo, upstreams: [{url: 'https://oslo/'}]";
    let logs =
        |logs: &[&str], beside: &str| format!("{{logs: [{{{}}}], {beside}}}", logs.join("}, {"));
    let named = |name: &str| rome.replace("rome,", &format!("{name},"));
    for (spec, want) in [
        ("{}".to_owned(), "spec: set upstreams for one log"),
        (
            "{mode: Offline, publicKeys: [{inline: ROME}]}".to_owned(),
            "spec: set upstreams for one log",
        ),
        // Known by their addresses.
        (
            "{upstreams: [{url: 'https://rekor.sigstore.dev/'}], dangerAcceptUnsigned: true}".to_owned(),
            "spec: kind RekorV1 needs a key",
        ),
        (
            "{passthrough: true, upstreams: [{url: 'https://log2025-1.rekor.sigstore.dev/', writeURL: 'https://b/'}]}".to_owned(),
            "spec: writes are handed on to logs of kind RekorV1 only",
        ),
        (
            logs(&[rome], "upstreams: [{url: 'https://oslo/'}]"),
            "spec: upstreams, origin, kind and publicKeys are of a single log",
        ),
        (
            logs(&[rome], "origin: rome"),
            "spec: upstreams, origin, kind and publicKeys are of a single log",
        ),
        (logs(&[&named("tile")], ""), "spec.logs[0].name: must not be api"),
        (logs(&[&named("Rome")], ""), "spec.logs[0].name: must be a DNS label"),
        (logs(&[&named("a.b")], ""), "spec.logs[0].name: must be a DNS label"),
        (
            logs(&[&named(&"a".repeat(64))], ""),
            "spec.logs[0].name: must be a DNS label",
        ),
        (
            logs(&[rome, &oslo.replace("oslo,", "rome,")], ""),
            "spec.logs[1].name: another log is called rome",
        ),
        (
            logs(
                &[
                    &format!("{rome}, default: true"),
                    &format!("{oslo}, default: true"),
                ],
                "",
            ),
            "spec.logs: only one of the logs can be the default",
        ),
        (
            logs(&[&format!("{rome}, origin: o"), &format!("{oslo}, origin: o")], ""),
            "spec.logs: two of the logs have the same origin",
        ),
        (
            logs(&[rome, &oslo.replace("OSLO", "ROME")], ""),
            "spec.logs[oslo].origin: is needed: rome is signed by one of the same keys",
        ),
        (
            logs(&["name: rome, publicKeys: [{inline: ROME}]"], ""),
            "spec.logs[rome]: each of the logs needs at least one of upstreams",
        ),
        (
            logs(&["name: rome, upstreams: [{url: 'https://rome/'}]"], ""),
            "spec.logs[rome]: each of the logs needs publicKeys",
        ),
        // The rule of the CRD lets this through: it knows the hosts, not the logs.
        (
            logs(&["name: rome, upstreams: [{url: 'https://rome.sigstore.dev/'}]"], ""),
            "spec.logs[rome]: each of the logs needs publicKeys",
        ),
        (
            "{upstreams: [{url: 'https://rome.sigstore.dev/'}]}".to_owned(),
            "spec: publicKeys must hold at least one key",
        ),
        (
            logs(&[rome], "dangerAcceptUnsigned: true"),
            "spec: dangerAcceptUnsigned is for logs that have no key",
        ),
        (
            logs(&[rome, &open.replace("origin: oslo, ", "")], "dangerAcceptUnsigned: true"),
            "spec.logs[oslo]: of the logs, one without publicKeys needs its origin",
        ),
        (
            logs(&[rome, &format!("{open}, kind: RekorV1")], "dangerAcceptUnsigned: true"),
            "spec.logs[oslo]: of the logs, one without publicKeys needs its origin",
        ),
        (
            logs(
                &[open, "name: rekor, origin: r, upstreams: [{url: 'https://rekor.sigstore.dev/'}]"],
                "dangerAcceptUnsigned: true",
            ),
            "spec.logs[rekor]: is one of Sigstore's public logs, whose keys dangerAcceptUnsigned would",
        ),
        (
            logs(&[&format!("{rome}, cacheShare: 0")], ""),
            "spec.logs[rome].cacheShare: must be 1 to 1000",
        ),
        (
            logs(&[&format!("{rome}, cacheShare: 1001")], ""),
            "spec.logs[rome].cacheShare: must be 1 to 1000",
        ),
        (
            logs(&[&format!("{rome}, cacheShare: 1000"), oslo], ""),
            "spec.cache.size: leaves 9654022 bytes for oslo; each log needs at least 16Mi",
        ),
        (
            "{kind: RekorV1, upstreams: [{url: 'https://a/', tileBaseURL: 'https://b/'}], publicKeys: [{inline: ROME}]}".to_owned(),
            "spec: a log of kind RekorV1 has no tiles",
        ),
        (
            "{kind: RekorV1, upstreams: [{url: 'https://a/'}], dangerAcceptUnsigned: true}".to_owned(),
            "spec: kind RekorV1 needs a key",
        ),
        (
            "{kind: TlogTiles, passthrough: true, upstreams: [{url: 'https://a/', writeURL: 'https://b/'}], publicKeys: [{inline: ROME}]}".to_owned(),
            "spec: writes are handed on to logs of kind RekorV1 only",
        ),
        (
            "{upstreams: [{url: 'https://a/', writeURL: 'https://b/'}], publicKeys: [{inline: ROME}]}".to_owned(),
            "spec: writeURL is for what passthrough hands on",
        ),
    ] {
        let message = with(&spec).expect_err(want).to_string();
        assert!(message.starts_with(want), "{spec}\nwant {want}\ngot  {message}");
    }
}

#[test]
fn wrong_tuf_is_refused_with_the_field_and_what_to_write() {
    const ROOT: &str = "rootConfigMapKeyRef: {name: tuf-root, key: root.json}";
    for (tuf, beside, want) in [
        (ROOT, "", "spec: tuf.url is needed, unless mode is Offline"),
        (
            "url: 'https://tuf/'",
            "",
            "spec.tuf: set rootConfigMapKeyRef or",
        ),
        (
            "url: 'http://tuf-repo-cdn.sigstore.dev/'",
            "",
            "spec.tuf: set rootConfigMapKeyRef or",
        ),
        (
            "url: 'https://tuf/', ROOT, rootSecretKeyRef: {name: a, key: b}",
            "",
            "spec.tuf: set only one of",
        ),
        (
            "url: 'file:///tuf', ROOT",
            "",
            "spec.tuf.url: must be an http://",
        ),
        (
            "url: 'http://tuf/', ROOT, caConfigMapKeyRef: {name: a, key: b}",
            "",
            "spec.tuf: caConfigMapKeyRef vouches for certificates",
        ),
        (
            "url: 'https://tuf/', ROOT, environment: ' a'",
            "",
            "spec.tuf.environment: must be one line",
        ),
        (
            "url: 'https://tuf/', ROOT, serviceMap: ../map",
            "",
            "spec.tuf.serviceMap: ../map is not the name of a target",
        ),
        (
            "url: 'https://tuf/', ROOT, refreshInterval: 999ms",
            "",
            "spec.tuf.refreshInterval: is 999ms; must be between 1s and 24h",
        ),
        (
            "url: 'https://tuf/', ROOT, expiryGrace: 8761h",
            "",
            "spec.tuf.expiryGrace: is 8761h; must be between 0s and",
        ),
        (
            "url: 'https://tuf/', ROOT, validateCheckpointSignature: false",
            "",
            "spec: tuf.validateCheckpointSignature: false serves what nobody signed",
        ),
        (
            "url: 'https://tuf/', ROOT",
            "kind: RekorV2",
            "spec: origin, kind, publicKeys and dangerAcceptUnsigned are of the log",
        ),
        (
            "url: 'https://tuf/', ROOT, validateCheckpointSignature: false",
            "dangerAcceptUnsigned: true",
            "spec: origin, kind, publicKeys and dangerAcceptUnsigned are of the log",
        ),
        (
            "url: 'https://tuf/', ROOT",
            "dangerAcceptUnsigned: true, upstreams: [{url: 'https://a/'}]",
            "spec: dangerAcceptUnsigned is for logs that have no key: it is never beside a key, and beside tuf",
        ),
    ] {
        let spec = format!("{{tuf: {{{}}}, {beside}}}", tuf.replace("ROOT", ROOT));
        let message = with(&spec).expect_err(want).to_string();
        assert!(
            message.starts_with(want),
            "{spec}\nwant {want}\ngot  {message}"
        );
    }
}

#[test]
fn there_is_a_most_of_logs() {
    let logs = |count: usize| {
        let logs = (0..count).map(|n| {
            let urls = json!([{"url": format!("https://log-{n}.example.net/")}]);
            json!({"name": format!("log-{n}"), "origin": format!("log-{n}"), "upstreams": urls,
                   "publicKeys": [{"inline": ROME}]})
        });
        with(&json!({"logs": logs.collect::<Vec<_>>()}).to_string())
    };
    assert!(logs(MAX_LOGS).is_ok());
    let message = logs(MAX_LOGS + 1).expect_err("too many").to_string();
    assert_eq!(message, "spec.logs: must hold at most 64 logs");
}

#[test]
fn the_order_of_logs_means_nothing() {
    let rome = "{name: rome, publicKeys: [{inline: ROME}], upstreams: [{url: 'https://rome/'}]}";
    let oslo = "{name: oslo, publicKeys: [{inline: OSLO}], upstreams: [{url: 'https://oslo/'}]}";
    let one = with(&format!("{{logs: [{rome}, {oslo}]}}")).expect("valid");
    let other = with(&format!("{{logs: [{oslo}, {rome}]}}")).expect("valid");
    assert_eq!(one, other);
}

#[test]
fn logs_that_need_no_key_of_their_own_are_taken_and_the_proxy_takes_them() {
    for spec in [
        "{upstreams: [{url: 'https://rekor.sigstore.dev/'}]}",
        "{logs: [{name: rekor, upstreams: [{url: 'https://log2025-1.rekor.sigstore.dev/'}]}]}",
        "{tuf: {url: 'https://tuf-repo-cdn.sigstore.dev'}}",
        "{upstreams: [{url: 'https://a/'}], tuf: {url: 'https://tuf-repo-cdn.sigstore.dev'}}",
        "{logs: [{name: a, upstreams: [{url: 'https://a/'}]}], tuf: {url: 'https://tuf-repo-cdn.sigstore.dev'}}",
        "{mode: Offline, tuf: {rootSecretKeyRef: {name: tuf-root, key: root}}}",
        "{mode: Offline, logs: [{name: rome, publicKeys: [{inline: ROME}]}]}",
        "{upstreams: [{url: 'https://a/'}], publicKeys: [{inline: ROME}], dangerAcceptUnsigned: true, tuf: {url: 'https://tuf-repo-cdn.sigstore.dev', validateCheckpointSignature: false}}",
        "{logs: [{name: a, origin: a, upstreams: [{url: 'https://a/'}]}], dangerAcceptUnsigned: true}",
    ] {
        let mut told = config(&with(spec).expect(spec));
        told.peers.this = "rome2026h1-replica-0".to_owned(); // from the environment
        let checked = told.check();
        let settings = checked.unwrap_or_else(|problems| panic!("{spec}: {problems:?}"));
        assert_eq!(
            settings.discovers,
            spec.starts_with("{tuf") || spec.starts_with("{mode: Offline, tuf")
        );
    }
}
