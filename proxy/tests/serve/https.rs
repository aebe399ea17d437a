//! Upstreams over TLS: whom they are vouched for by, what they are shown, and the way there.

use std::{path::Path, sync::Arc};

use http::Version;

use crate::world::{FixtureLog, Https, Proxy, cache_directory, connect_proxy, eventually};

/// The only name that a certificate is for; nobody can resolve it.
const NAME: &str = "log.rome.invalid";

/// A proxy whose upstream has files beside the cache.
fn start(environment: &[(&str, &str)], log: &FixtureLog, directory: &Path, url: &str) -> Proxy {
    let at = directory.display();
    let more = format!(
        "  upstreams: [{{name: rome, url: \"{url}\", ca: \"file:{at}/ca.pem\", \
         authorization: \"file:{at}/token\"}}]\n"
    );
    Proxy::start_in(environment, &log.vkey(), directory, &more)
}

#[test]
fn both_versions_of_http_are_spoken_and_the_credential_is_shown() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    for (protocols, version) in [
        (&[&b"h2"[..], &b"http/1.1"[..]][..], Version::HTTP_2),
        (&[&b"http/1.1"[..]], Version::HTTP_11),
    ] {
        let server = Https::serving(NAME, &log, protocols);
        let world = cache_directory();
        std::fs::write(world.path().join("ca.pem"), &server.authority).expect("written");
        std::fs::write(world.path().join("token"), "Bearer hunter2\n").expect("written");
        let url = format!("https://{}/", server.address);
        let proxy = start(&[], &log, world.path(), &url);
        eventually("it is followed", || proxy.get("/checkpoint").status == 200);
        assert_eq!(proxy.get("/tile/0/001").status, 200);
        for seen in server.seen() {
            assert_eq!(seen.version, version);
            assert_eq!(seen.authorization.as_deref(), Some("Bearer hunter2"));
        }
        // Replaced, and read again.
        std::fs::write(world.path().join("token"), "Bearer hunter3\n").expect("written");
        eventually("the new one is shown", || {
            let last = server.seen().pop().expect("asked");
            last.authorization.as_deref() == Some("Bearer hunter3")
        });
        assert!(proxy.printed("hunter").is_empty());
        let stats = proxy.get("/_admin/cache/stats").text();
        assert!(!stats.contains("hunter"), "{stats}");
    }
}

#[test]
fn an_authority_that_is_not_the_configured_one_vouches_for_nothing() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let server = Https::serving(NAME, &log, &[b"h2"]);
    let other = Https::serving(NAME, &log, &[b"h2"]);
    let world = cache_directory();
    std::fs::write(world.path().join("ca.pem"), &other.authority).expect("written");
    std::fs::write(world.path().join("token"), "Bearer hunter2").expect("written");
    let url = format!("https://{}/", server.address);
    let proxy = start(&[], &log, world.path(), &url);
    eventually("the certificate is refused", || {
        let response = proxy.get("/checkpoint");
        response.status == 503 && response.text().contains("certificate")
    });
    assert!(server.seen().is_empty(), "nothing was sent to it");
    // What cannot be used changes nothing; the right one is taken up without a restart.
    std::fs::write(world.path().join("ca.pem"), "half a file").expect("written");
    eventually("it is said", || proxy.printed("not read again").len() == 1);
    std::fs::write(world.path().join("ca.pem"), &server.authority).expect("written");
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
}

#[test]
fn further_authorities_stand_beside_those_of_the_system() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let public = Https::serving(NAME, &log, &[b"h2"]);
    let private = Https::serving(NAME, &log, &[b"h2"]);
    let world = cache_directory();
    let file = |name: &str| world.path().join(name).display().to_string();
    let (system, further) = (file("system.pem"), file("further.pem"));
    std::fs::write(&system, &public.authority).expect("written");
    std::fs::write(&further, &public.authority).expect("written");
    let more = format!(
        "  trusted_ca: \"file:{further}\"\n  upstreams: [{{url: \"https://{}/\", \
         tile_base_url: \"https://{}/\"}}]\n",
        public.address, private.address
    );
    let environment = [("SSL_CERT_FILE", &*system)];
    let proxy = Proxy::start_in(&environment, &log.vkey(), world.path(), &more);
    eventually("the checkpoint comes, and the tiles do not", || {
        proxy.get("/checkpoint").text().contains("certificate")
    });
    assert!(!public.seen().is_empty() && private.seen().is_empty());
    // Added to, under the running process.
    let both = format!("{}{}", public.authority, private.authority);
    std::fs::write(&further, &private.authority).expect("written");
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(proxy.get("/tile/0/001.p/44").status, 200);
    assert_eq!(proxy.stop(), Some(0));

    // An upstream's own authorities are the only ones for it.
    std::fs::write(&further, &both).expect("written");
    let more = format!(
        "  trusted_ca: \"file:{further}\"\n  upstreams: [{{url: \"https://{}/\", ca: \"file:{system}\"}}]\n",
        private.address
    );
    let cache = cache_directory();
    let proxy = Proxy::start_in(&[], &log.vkey(), cache.path(), &more);
    eventually("the certificate is refused", || {
        proxy.get("/checkpoint").text().contains("certificate")
    });
}

#[test]
fn the_way_there_may_lead_through_a_proxy() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let server = Https::serving(NAME, &log, &[b"h2", b"http/1.1"]);
    let (address, asked) = connect_proxy(server.address);
    let through = format!("http://{address}");
    let world = cache_directory();
    std::fs::write(world.path().join("ca.pem"), &server.authority).expect("written");
    std::fs::write(world.path().join("token"), "Bearer hunter2").expect("written");
    let environment = [("HTTPS_PROXY", &*through), ("NO_PROXY", "127.0.0.1")];
    // Only the proxy can find this name.
    let url = format!("https://{NAME}/");
    let proxy = start(&environment, &log, world.path(), &url);
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    let names = asked.lock().expect("no panic").clone();
    assert!(
        names
            .iter()
            .all(|name| name == &format!("CONNECT {NAME}:443"))
    );
    assert_eq!(proxy.stop(), Some(0));

    // And not where it is said not to.
    let cache = cache_directory();
    for file in ["ca.pem", "token"] {
        std::fs::copy(world.path().join(file), cache.path().join(file)).expect("copied");
    }
    let url = format!("https://{}/", server.address);
    let proxy = start(&environment, &log, cache.path(), &url);
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(asked.lock().expect("no panic").len(), names.len());
}
