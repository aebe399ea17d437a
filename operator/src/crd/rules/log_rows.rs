//! What the rules of the CRD accept and refuse of logs and of TUF: whole specs, because these rules look
//! at several fields.
//!
//! Also read by the tests against a real API server, as the rows beside it.

use serde_json::{Value, json};

/// A spec, and a part of the message if it is refused.
pub(crate) type Row = (Value, Option<&'static str>);

const KEY: &str = "rome.example.net/2026h1+33d7b496+AeHTu4Q3hEIM";

/// The TileProxy with this spec.
pub(crate) fn with(spec: &Value) -> Value {
    json!({
        "apiVersion": "tiles.stella-ops.org/v1alpha1",
        "kind": "TileProxy",
        "metadata": {"name": "rome2026h1"},
        "spec": spec,
    })
}

/// `base`, with the keys of `changes` in place of its own.
fn and(base: &Value, changes: &Value) -> Value {
    let mut both = base.clone();
    for (key, value) in changes.as_object().into_iter().flatten() {
        both[key] = value.clone();
    }
    both
}

/// One of several logs.
fn log(name: &str, changes: &Value) -> Value {
    let log = json!({
        "name": name,
        "publicKeys": [{"inline": KEY}],
        "upstreams": [{"url": format!("https://{name}.example.net/")}],
    });
    and(&log, changes)
}

/// Every rule from both sides.
pub(crate) fn rows() -> Vec<Row> {
    [kinds(), several(), unsigned(), from_tuf()].concat()
}

fn kinds() -> Vec<Row> {
    let one = |upstream: Value, changes: Value| {
        let upstream = and(&json!({"url": "https://rome.example.net/"}), &upstream);
        let one = json!({"upstreams": [upstream], "publicKeys": [{"inline": KEY}]});
        and(&one, &changes)
    };
    let (tiles, writes) = ("https://tiles.example.net/", "https://write.example.net/");
    vec![
        (one(json!({}), json!({"kind": "TlogTiles"})), None),
        (one(json!({}), json!({"kind": "Rekor"})), Some("kind")),
        (
            one(json!({"tileBaseURL": tiles}), json!({"kind": "RekorV2"})),
            None,
        ),
        (
            one(json!({"tileBaseURL": tiles}), json!({"kind": "RekorV1"})),
            Some("has no tiles"),
        ),
        (
            one(json!({"writeURL": writes}), json!({})),
            Some("writeURL is for what passthrough hands on"),
        ),
        (
            one(json!({"writeURL": writes}), json!({"passthrough": true})),
            None,
        ),
        (
            one(
                json!({"writeURL": "write.example.net"}),
                json!({"passthrough": true}),
            ),
            Some("http:// or https://"),
        ),
        (
            one(
                json!({"writeURL": writes}),
                json!({"passthrough": true, "kind": "RekorV2"}),
            ),
            Some("of kind RekorV1 only"),
        ),
        // Whose key ships with the proxy.
        (
            json!({"upstreams": [{"url": "https://log2025-1.rekor.sigstore.dev/"}]}),
            None,
        ),
        (
            json!({"upstreams": [{"url": "https://rome.example.net/"}]}),
            Some("publicKeys must hold at least one key"),
        ),
        (json!({}), Some("set upstreams for one log")),
        (
            json!({"publicKeys": [{"inline": KEY}]}),
            Some("set upstreams for one log"),
        ),
        // Not asked, and still what the log is known by.
        (
            json!({"publicKeys": [{"inline": KEY}], "mode": "Offline"}),
            Some("set upstreams for one log"),
        ),
    ]
}

fn several() -> Vec<Row> {
    let logs = |logs: &[Value]| json!({"logs": logs});
    let rome = |changes: Value| logs(&[log("rome", &changes)]);
    let two = |one: Value, other: Value| logs(&[log("rome", &one), log("oslo", &other)]);
    let many = |count: u16| {
        let many = (0..count).map(|n| log(&format!("log-{n}"), &json!({})));
        logs(&many.collect::<Vec<_>>())
    };
    let long = "a".repeat(63);
    let mut rows = vec![
        (two(json!({}), json!({"cacheShare": 1000})), None),
        (logs(&[log(&long, &json!({}))]), None),
        (
            and(&rome(json!({})), &json!({"origin": "rome.example.net"})),
            Some("are of a single log"),
        ),
        (
            and(&rome(json!({})), &json!({"publicKeys": [{"inline": KEY}]})),
            Some("are of a single log"),
        ),
        (
            and(&rome(json!({})), &json!({"kind": "RekorV2"})),
            Some("are of a single log"),
        ),
        (
            and(
                &rome(json!({})),
                &json!({"upstreams": [{"url": "https://a.example.net/"}]}),
            ),
            Some("are of a single log"),
        ),
        (
            two(json!({"default": true}), json!({"default": true})),
            Some("only one of the logs can be the default"),
        ),
        (two(json!({"default": true}), json!({})), None),
        (
            two(json!({"origin": "o"}), json!({"origin": "o"})),
            Some("have the same origin"),
        ),
        (two(json!({"origin": "o"}), json!({"origin": "p"})), None),
        (
            rome(json!({"origin": "two\nlines"})),
            Some("one line without spaces around it"),
        ),
        (
            rome(json!({"upstreams": []})),
            Some("needs at least one of upstreams"),
        ),
        (
            and(&rome(json!({"upstreams": []})), &json!({"mode": "Offline"})),
            None,
        ),
        (
            rome(json!({"publicKeys": []})),
            Some("each of the logs needs publicKeys"),
        ),
        (
            rome(json!({
                "publicKeys": [],
                "upstreams": [{"url": "https://rekor.sigstore.dev/"}],
            })),
            None,
        ),
        (
            rome(json!({"upstreams": [
                {"url": "https://a.example.net/", "name": "a"},
                {"url": "https://b.example.net/", "name": "a"},
            ]})),
            Some("two upstreams have the same name"),
        ),
        (
            rome(json!({
                "kind": "RekorV1",
                "upstreams": [{
                    "url": "https://a.example.net/",
                    "tileBaseURL": "https://b.example.net/",
                }],
            })),
            Some("has no tiles"),
        ),
        (
            rome(json!({"upstreams": [{
                "url": "https://a.example.net/",
                "writeURL": "https://b.example.net/",
            }]})),
            Some("writeURL is for what passthrough hands on"),
        ),
        (many(64), None),
    ];
    for name in ["api", "checkpoint", "proof", "sumdb", "tile", "tuf"] {
        let reserved = Some("which mean something else in paths");
        rows.push((logs(&[log(name, &json!({}))]), reserved));
    }
    rows
}

fn unsigned() -> Vec<Row> {
    let unsigned = json!({"dangerAcceptUnsigned": true});
    let logs = |of_oslo: Value| {
        let logs = [log("rome", &json!({})), log("oslo", &of_oslo)];
        and(&json!({"logs": logs}), &unsigned)
    };
    let one = json!({"upstreams": [{"url": "https://rome.example.net/"}]});
    vec![
        (and(&one, &unsigned), None),
        (
            and(
                &and(&one, &unsigned),
                &json!({"publicKeys": [{"inline": KEY}]}),
            ),
            Some("never beside a key"),
        ),
        (
            and(&and(&one, &unsigned), &json!({"kind": "RekorV1"})),
            Some("kind RekorV1 needs a key"),
        ),
        (logs(json!({"publicKeys": [], "origin": "oslo"})), None),
        (
            logs(json!({"publicKeys": []})),
            Some("needs its origin beside dangerAcceptUnsigned"),
        ),
        (
            logs(json!({"publicKeys": [], "origin": "oslo", "kind": "RekorV1"})),
            Some("cannot be of kind RekorV1"),
        ),
        (logs(json!({})), Some("is for logs that have no key")),
    ]
}

fn from_tuf() -> Vec<Row> {
    let reference = json!({"name": "tuf-root", "key": "root.json"});
    let tuf = |changes: Value| {
        let tuf = json!({
            "url": "https://tuf.example.net/",
            "rootConfigMapKeyRef": reference,
        });
        json!({"tuf": and(&tuf, &changes)})
    };
    let one = json!({"upstreams": [{"url": "https://rome.example.net/"}]});
    let unsigned = json!({"dangerAcceptUnsigned": true});
    let lax = tuf(json!({"validateCheckpointSignature": false}));
    vec![
        (tuf(json!({})), None),
        (and(&one, &tuf(json!({}))), None),
        (
            json!({"tuf": {"url": "https://tuf-repo-cdn.sigstore.dev"}}),
            None,
        ),
        (
            json!({"tuf": {"url": "https://tuf-repo-cdn.sigstore.dev.example.net"}}),
            Some("set rootConfigMapKeyRef or rootSecretKeyRef"),
        ),
        (
            json!({"tuf": {"url": "http://tuf-repo-cdn.sigstore.dev"}}),
            Some("set rootConfigMapKeyRef or rootSecretKeyRef"),
        ),
        (
            tuf(json!({"rootSecretKeyRef": reference})),
            Some("set only one of rootConfigMapKeyRef"),
        ),
        (
            tuf(json!({"url": "file:///mnt/tuf"})),
            Some("http:// or https://"),
        ),
        (tuf(json!({"url": ""})), Some("tuf.url is needed")),
        (
            and(&tuf(json!({"url": ""})), &json!({"mode": "Offline"})),
            None,
        ),
        (tuf(json!({"caConfigMapKeyRef": reference})), None),
        (
            tuf(json!({"url": "http://tuf.example.net/", "caConfigMapKeyRef": reference})),
            Some("url must start with https://"),
        ),
        (
            tuf(json!({"environment": "staging "})),
            Some("exactly as in the service map"),
        ),
        (tuf(json!({"refreshInterval": "1s"})), None),
        (
            tuf(json!({"refreshInterval": "999ms"})),
            Some("a duration between 1s and 24h"),
        ),
        (
            tuf(json!({"refreshInterval": "25h"})),
            Some("a duration between 1s and 24h"),
        ),
        (tuf(json!({"expiryGrace": "8760h"})), None),
        (
            tuf(json!({"expiryGrace": "8761h"})),
            Some("a duration of at most 8760h"),
        ),
        (lax.clone(), Some("serves what nobody signed")),
        (
            and(&tuf(json!({})), &json!({"origin": "rome"})),
            Some("are of the log that upstreams has"),
        ),
        (
            and(&lax, &unsigned),
            Some("are of the log that upstreams has"),
        ),
        (and(&and(&one, &lax), &unsigned), None),
        (
            and(&and(&one, &tuf(json!({}))), &unsigned),
            Some("beside tuf only with validateCheckpointSignature: false"),
        ),
    ]
}
