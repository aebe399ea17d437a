//! The HTTP interface, row by row: what is promised to programs that nobody here wrote.

use std::{path::Path, sync::Arc};

use serde_json::Value;

use crate::{
    honest, honest_with,
    world::{
        FixtureLog, Proxy, Upstream, cache_directory, eventually,
        raw::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, frame, header_block},
        request,
    },
};

const PLAIN: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";
const FOREVER: &str = "public, max-age=604800, immutable";

/// Begin of the SHA-256 of the origin of [`FixtureLog`].
const ORIGIN_HASH: &str = "7808a2bd";

#[test]
fn every_resource_has_its_status_type_and_caching() {
    let (_log, _upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/checkpoint").status, 200); // its origin is known by now
    let hash = origin_hash(&proxy);
    for (path, status, content_type, caching) in [
        ("/checkpoint".to_owned(), 200, PLAIN, "no-cache"),
        ("/tile/0/000".to_owned(), 200, OCTETS, FOREVER),
        ("/tile/0/273.p/112".to_owned(), 200, OCTETS, FOREVER),
        ("/tile/0/272.p/3".to_owned(), 200, OCTETS, FOREVER),
        ("/tile/0/272".to_owned(), 200, OCTETS, FOREVER),
        ("/tile/0/0".to_owned(), 200, OCTETS, FOREVER), // plain decimal
        ("/tile/entries/000".to_owned(), 200, OCTETS, FOREVER),
        ("/tile/entries/273.p/112".to_owned(), 200, OCTETS, FOREVER),
        ("/tile/entries/0".to_owned(), 200, OCTETS, FOREVER),
        // The one log by its name, by the hash of its origin, and as Rekor v2's clients ask.
        ("/default/checkpoint".to_owned(), 200, PLAIN, "no-cache"),
        ("/default/tile/0/000".to_owned(), 200, OCTETS, FOREVER),
        (format!("/{hash}/checkpoint"), 200, PLAIN, "no-cache"),
        (format!("/{hash}/tile/entries/000"), 200, OCTETS, FOREVER),
        ("/api/v2/checkpoint".to_owned(), 200, PLAIN, "no-cache"),
        ("/api/v2/tile/0/000".to_owned(), 200, OCTETS, FOREVER),
        (
            "/default/api/v2/tile/0/000".to_owned(),
            200,
            OCTETS,
            FOREVER,
        ),
        // Others, whose answers nobody may keep.
        (
            format!("/{}/checkpoint", hash.to_uppercase()),
            404,
            PLAIN,
            "no-store",
        ),
        ("/oslo/checkpoint".to_owned(), 404, PLAIN, "no-store"),
        ("/api/v1/log".to_owned(), 404, PLAIN, "no-store"),
        ("/tile/8/000".to_owned(), 404, PLAIN, "no-store"),
        ("/tile/63/000".to_owned(), 404, PLAIN, "no-store"),
        ("/tile/64/000".to_owned(), 400, PLAIN, "no-store"),
        ("/tile/0/00".to_owned(), 400, PLAIN, "no-store"), // leading zeros
        ("/tile/0/273".to_owned(), 404, PLAIN, "no-store"), // partial in this tree
        ("/tile/0/000.p/256".to_owned(), 400, PLAIN, "no-store"),
        ("/".to_owned(), 404, PLAIN, "no-store"),
    ] {
        let got = proxy.get(&path);
        assert_eq!(got.status, status, "{path}: {}", got.text());
        assert_eq!(got.header("content-type"), Some(content_type), "{path}");
        assert_eq!(got.header("cache-control"), Some(caching), "{path}");
        assert_eq!(
            got.header("access-control-allow-origin"),
            Some("*"),
            "{path}"
        );
        let length = got.body.len().to_string();
        assert_eq!(got.header("content-length"), Some(&*length), "{path}");
        if status != 200 {
            assert_eq!(got.text().lines().count(), 1, "{path}");
        }

        let head = proxy.send("HEAD", &path, "");
        assert_eq!((head.status, head.body.len()), (status, 0), "HEAD {path}");
        for name in ["content-type", "cache-control", "content-length", "etag"] {
            assert_eq!(head.header(name), got.header(name), "HEAD {path}: {name}");
        }

        let tag = got.header("etag").unwrap_or("\"none\"");
        let again = proxy.send("GET", &path, &format!("If-None-Match: {tag}\r\n"));
        if caching == FOREVER {
            assert!(tag.starts_with('"'), "{path}: a strong tag, not {tag}");
            assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
            assert_eq!(again.header("etag"), Some(tag), "{path}");
            assert_eq!(again.header("cache-control"), Some(caching), "{path}");
        } else {
            assert_eq!(again.status, status, "{path}");
        }

        let write = proxy.send("PUT", &path, "");
        assert_eq!(
            (
                write.status,
                write.header("allow"),
                write.header("cache-control")
            ),
            (405, Some("GET, HEAD, OPTIONS"), Some("no-store")),
            "PUT {path}"
        );
    }
    assert!(proxy.metric("tile_proxy_responses_total{log=\"default\",status=\"405\"}") > 20.0);
}

#[test]
fn a_page_of_another_site_may_read_and_nothing_else() {
    let (_log, _upstream, _cache, proxy) = honest(300);
    let asks = "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n\
                Access-Control-Request-Headers: x-trace, if-none-match\r\n";
    let preflight = proxy.send("OPTIONS", "/tile/0/000", asks);
    for (name, value) in [
        ("access-control-allow-origin", Some("*")),
        ("access-control-allow-methods", Some("GET, HEAD, OPTIONS")),
        (
            "access-control-allow-headers",
            Some("x-trace, if-none-match"),
        ),
        ("access-control-max-age", Some("86400")),
        ("access-control-allow-credentials", None),
        ("cache-control", Some("no-store")),
    ] {
        assert_eq!(preflight.header(name), value, "{name}");
    }
    assert_eq!((preflight.status, preflight.body.len()), (204, 0));
    let checkpoint = proxy.get("/checkpoint");
    let exposed = checkpoint.header("access-control-expose-headers");
    assert_eq!(exposed, Some("tile-proxy-checkpoint-age, tile-proxy-trust"));
    assert_eq!(checkpoint.header("tile-proxy-trust"), None);
    for path in [
        "/_admin/",
        "/_admin/health",
        "/_admin/cache/stats",
        "/_admin/metrics",
        "/_admin/x",
    ] {
        for method in ["GET", "OPTIONS", "POST"] {
            let answer = proxy.send(method, path, "Origin: https://a.example\r\n");
            let head = answer.head.to_ascii_lowercase();
            assert!(!head.contains("access-control"), "{method} {path}: {head}");
            assert_eq!(
                answer.header("cache-control"),
                Some("no-store"),
                "{method} {path}"
            );
        }
    }
}

#[test]
fn administration_answers_as_it_is_documented() {
    let (_log, _upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/003").status, 200);
    eventually("the tile has a record", || {
        proxy.get("/_admin/cache/tiles/0/3").status == 200
    });
    const JSON: &str = "application/json";
    const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    for (method, path, status, content_type, allow) in [
        ("GET", "/_admin/health", 200, JSON, None),
        ("GET", "/_admin/ready", 200, JSON, None),
        ("GET", "/_admin/metrics", 200, METRICS, None),
        ("GET", "/_admin/cache/stats", 200, JSON, None),
        ("GET", "/_admin/cache/tiles/0/3", 200, JSON, None),
        ("GET", "/_admin/cache/tiles/0/003", 200, JSON, None),
        ("GET", "/_admin/cache/tiles/0/4", 404, JSON, None), // not cached
        ("GET", "/_admin/cache/tiles/0/999999", 404, JSON, None),
        ("GET", "/_admin/cache/tiles/9/0", 404, JSON, None),
        ("GET", "/_admin/cache/tiles/0/x", 400, JSON, None),
        ("GET", "/_admin/cache/tiles/entries/000", 400, JSON, None),
        ("GET", "/_admin/cache/sync", 404, JSON, None), // none yet
        ("POST", "/_admin/refresh", 200, JSON, None),
        ("GET", "/_admin", 200, "text/html; charset=utf-8", None),
        ("GET", "/_admin/", 200, "text/html; charset=utf-8", None),
        ("GET", "/_admin/nothing", 404, JSON, None),
        ("POST", "/_admin/health", 405, JSON, Some("GET, HEAD")),
        ("POST", "/_admin/", 405, JSON, Some("GET, HEAD")),
        ("DELETE", "/_admin/ready", 405, JSON, Some("GET, HEAD")),
        ("PUT", "/_admin/metrics", 405, JSON, Some("GET, HEAD")),
        ("POST", "/_admin/cache/stats", 405, JSON, Some("GET, HEAD")),
        (
            "POST",
            "/_admin/cache/tiles/0/3",
            405,
            JSON,
            Some("GET, HEAD"),
        ),
        (
            "DELETE",
            "/_admin/cache/sync",
            405,
            JSON,
            Some("GET, HEAD, POST"),
        ),
        ("GET", "/_admin/refresh", 405, JSON, Some("POST")),
        ("OPTIONS", "/_admin/refresh", 405, JSON, Some("POST")),
    ] {
        let answer = proxy.send(method, path, "");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some(content_type),
            "{method} {path}"
        );
        assert_eq!(
            answer.header("cache-control"),
            Some("no-store"),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
        if status >= 400 {
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let words = ["error", "message"].map(|key| body[key].as_str().unwrap_or_default());
            assert!(
                words.iter().all(|word| !word.is_empty()),
                "{method} {path}: {body}"
            );
            assert_eq!(
                body.as_object().map(serde_json::Map::len),
                Some(2),
                "{method} {path}"
            );
        }
        if method == "GET" && status == 200 {
            let head = proxy.send("HEAD", path, "");
            assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {path}");
        }
    }
    for body in [
        "{\"depth\": 0}",
        "{\"dept\": 1}",
        "{",
        &format!("\"{}\"", "x".repeat(5_000)),
    ] {
        let answer = post(&proxy, "/_admin/cache/sync", body);
        assert_eq!(answer.status, 400, "{body}");
    }
    let other = post(&proxy, "/_admin/cache/sync", "{\"log\": \"oslo\"}");
    assert_eq!(other.status, 404);
    let first = post(
        &proxy,
        "/_admin/cache/sync",
        "{\"log\": \"default\", \"depth\": 300}",
    );
    assert_eq!(first.status, 202, "{}", first.text());
}

#[test]
fn administration_has_a_port_of_its_own_when_it_is_given_one() {
    let (_log, _upstream, _cache, proxy) = honest_with(300, "  admin_listen: 127.0.0.1:0\n");
    for (address, path, status) in [
        (proxy.address(), "/checkpoint", 200),
        (proxy.address(), "/_admin/health", 404),
        (proxy.address(), "/_admin/cache/stats", 404),
        (proxy.admin_address(), "/_admin/health", 200),
        (proxy.admin_address(), "/checkpoint", 404),
    ] {
        assert_eq!(
            request(address, "GET", path, "").status,
            status,
            "{address} {path}"
        );
    }
}

#[test]
fn an_absent_log_is_503_with_a_time_to_come_back() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    upstream.disappears();
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    for path in ["/checkpoint", "/tile/0/000", "/tile/entries/000"] {
        let answer = proxy.get(path);
        assert_eq!(answer.status, 503, "{path}");
        let seconds = answer
            .header("retry-after")
            .and_then(|s| s.parse::<u32>().ok());
        assert!(seconds.is_some(), "{path}: {}", answer.head);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let head = proxy.send("HEAD", path, "");
        assert_eq!(
            head.header("retry-after"),
            answer.header("retry-after"),
            "HEAD {path}"
        );
    }
    assert_eq!(proxy.send("POST", "/_admin/refresh", "").status, 503);
}

#[test]
fn bundles_are_compressed_for_those_who_accept_it_and_nothing_else_is() {
    let (log, _upstream, _cache, proxy) = honest(70_000);
    let get = |path: &str, accepts: &str| {
        proxy.send("GET", path, &format!("Accept-Encoding: {accepts}\r\n"))
    };
    let bundle = "/tile/entries/000";
    let want = log.get("tile/entries/000", 70_000, false).expect("there");
    let plain = proxy.get(bundle);
    assert_eq!(
        (plain.header("content-encoding"), &plain.body),
        (None, &want)
    );
    let mut tags = vec![plain.header("etag").expect("a tag").to_owned()];
    for (accepts, coding) in [
        ("gzip", Some("gzip")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("zstd;q=0, *", Some("gzip")),
        ("gzip;q=0.1, identity;q=0", Some("gzip")),
        ("br", None),
        ("identity", None),
        ("br, identity;q=0", None), // nothing it wants is there: as it is, rather than nothing
    ] {
        let answer = get(bundle, accepts);
        assert_eq!(answer.status, 200, "{accepts}");
        assert_eq!(answer.header("content-encoding"), coding, "{accepts}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"), "{accepts}");
        assert_eq!(answer.header("content-type"), Some(OCTETS), "{accepts}");
        assert_eq!(answer.header("cache-control"), Some(FOREVER), "{accepts}");
        assert_eq!(decoded(&answer), want, "{accepts}");
        assert!(
            coding.is_none() || answer.body.len() < want.len(),
            "{accepts}"
        );
        let tag = answer.header("etag").expect("a tag").to_owned();
        let head = proxy.send("HEAD", bundle, &format!("Accept-Encoding: {accepts}\r\n"));
        for name in ["etag", "content-length", "content-encoding", "vary"] {
            assert_eq!(
                head.header(name),
                answer.header(name),
                "HEAD {accepts}: {name}"
            );
        }
        // A tag is of one form: with another's, a client would take bytes for what they are not.
        for known in tags.iter().chain([&tag]) {
            let headers = format!("Accept-Encoding: {accepts}\r\nIf-None-Match: {known}\r\n");
            let again = proxy.send("GET", bundle, &headers);
            let status = if *known == tag { 304 } else { 200 };
            assert_eq!(again.status, status, "{accepts}, {known} known");
            assert_eq!(again.header("vary"), Some("Accept-Encoding"), "{accepts}");
        }
        tags.push(tag);
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 3, "one for each form: {tags:?}");
    for path in [
        "/tile/0/000",
        "/checkpoint",
        "/tile/0/999",
        "/_admin/cache/stats",
    ] {
        let answer = get(path, "gzip, zstd");
        assert_eq!(answer.header("content-encoding"), None, "{path}");
        assert_eq!(answer.header("vary"), None, "{path}");
    }
    // Too small to gain anything.
    let small = get("/tile/entries/000.p/2", "gzip");
    assert_eq!(small.header("content-encoding"), None);
    assert_eq!(small.header("vary"), Some("Accept-Encoding"));
}

#[test]
fn http2_answers_as_http1_does() {
    let (log, _upstream, _cache, proxy) = honest(300);
    for (method, body) in [("GET", log.get("tile/0/000", 300, false)), ("HEAD", None)] {
        let mut client = Raw::http2(proxy.address(), &[]);
        let block = header_block(method, "/tile/0/000");
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        let headers = client
            .frame_that(|frame| frame.kind == HEADERS)
            .expect("an answer");
        let (mut got, mut ended) = (Vec::new(), headers.flags & END_STREAM != 0);
        assert_eq!(
            ended,
            body.is_none(),
            "{method}: `HEAD` ends with its headers"
        );
        while !ended {
            let data = client
                .frame_that(|frame| frame.kind == DATA)
                .expect("a body");
            ended = data.flags & END_STREAM != 0;
            got.extend(data.payload);
        }
        assert_eq!(got, body.unwrap_or_default(), "{method}");
    }
}

#[test]
fn the_json_of_statistics_and_syncs_keeps_its_form() {
    let (_log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/003").status, 200);
    eventually("the tile and its parent are stored", || {
        json(&proxy.get("/_admin/cache/stats").body)["logs"][0]["tiles"] == 2
    });
    let mut stats: Value = json(&proxy.get("/_admin/cache/stats").body);
    assert_eq!(stats["version"], 1);
    settle(&mut stats, &upstream.url());
    assert_golden("stats.json", &stats);

    let started = post(&proxy, "/_admin/cache/sync", "{\"depth\": 300}");
    let mut started: Value = json(&started.body);
    eventually("the sync ends", || {
        json(&proxy.get("/_admin/cache/sync").body)["state"] == "succeeded"
    });
    let mut ended: Value = json(&proxy.get("/_admin/cache/sync").body);
    assert_eq!(started["id"], ended["id"]);
    for progress in [&mut started, &mut ended] {
        assert!(progress["id"].is_u64());
        progress["id"] = 0.into();
    }
    assert_golden("sync.json", &ended);
    let keys = |value: &Value| {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(keys(&started), keys(&ended));
}

#[test]
fn the_status_page_needs_no_script_and_shows_nothing_as_markup() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let more = format!(
        "  upstreams: [{{name: \"<script>alert(1)</script>\", url: \"{}\"}}]\n",
        upstream.url()
    );
    let proxy = Proxy::start_with(&log.vkey(), cache.path(), &more);
    eventually("the checkpoint is there", || {
        proxy.get("/checkpoint").status == 200
    });
    let page = proxy.get("/_admin/");
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let text = page.text();
    assert!(!text.contains("<script"), "{text}");
    for shown in [
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "rome.example/2026h1",
        "300",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(text.contains(shown), "{shown} is missing from\n{text}");
    }
}

fn origin_hash(proxy: &Proxy) -> String {
    use tile_proxy::tlog::Hash;
    let stats = json(&proxy.get("/_admin/cache/stats").body);
    let origin = stats["logs"][0]["origin"]
        .as_str()
        .expect("known")
        .to_owned();
    let digest = Hash::of(origin.as_bytes()).0;
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(hash.starts_with(ORIGIN_HASH), "{hash}");
    hash
}

fn post(proxy: &Proxy, path: &str, body: &str) -> crate::world::Response {
    let headers = format!("Content-Length: {}\r\n", body.len());
    proxy.send_body("POST", path, &headers, body)
}

fn decoded(answer: &crate::world::Response) -> Vec<u8> {
    use std::io::Read as _;
    match answer.header("content-encoding") {
        Some("gzip") => {
            let mut bytes = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&answer.body[..]);
            decoder.read_to_end(&mut bytes).expect("gzip");
            bytes
        }
        Some("zstd") => zstd::bulk::decompress(&answer.body, 1 << 20).expect("zstd"),
        _ => answer.body.clone(),
    }
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

/// Replaces what differs from run to run by what it is.
fn settle(value: &mut Value, url: &str) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let varies = ["bytes", "Bytes", "Seconds", "uptime", "At", "free"];
                if value.is_number() && varies.iter().any(|word| key.ends_with(word)) {
                    *value = 0.into();
                }
                settle(value, url);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| settle(item, url)),
        Value::String(text) if text == url => "http://log.example/".clone_into(text),
        Value::String(text) if url.trim_start_matches("http://").starts_with(&**text) => {
            "log.example".clone_into(text);
        }
        _ => {}
    }
}

/// Compares with a file beside this one; `UPDATE_GOLDEN=1` writes it instead.
fn assert_golden(name: &str, value: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/serve/testdata")
        .join(name);
    let text = format!("{value:#}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).expect("written");
    }
    let want = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        text, want,
        "{name}: if this is meant, run with UPDATE_GOLDEN=1 and say so in the changelog"
    );
}
