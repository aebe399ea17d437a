//! Several replicas of the real binary as one cache, and peers that are none.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc, thread, time::Instant};

use crate::{
    size_of,
    world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually, request},
};

const SIZE: u64 = 70_000;
const TOKEN: &str = "peers-of-rome";

/// Replicas of one log, which know each other.
struct Replicas {
    log: Arc<FixtureLog>,
    upstream: Upstream,
    proxies: Vec<Proxy>,
    cache: tempfile::TempDir,
}

impl Replicas {
    /// `count` replicas that follow a log of [`SIZE`] entries, and `others` in their list who are not
    /// of them. Clients wait for a minute at most, so that nobody is thought slow on a slow machine.
    fn new(count: usize, others: &[(&str, String)]) -> Self {
        Self::with(count, others, "  coalescing: {max_wait_ms: 60000}\n")
    }

    fn with(count: usize, others: &[(&str, String)], more: &str) -> Self {
        let log = Arc::new(FixtureLog::with_entries(SIZE as usize + 1_000));
        let upstream = Upstream::serving(&log);
        upstream.becomes(&log, SIZE);
        let mut replicas = Self {
            log,
            upstream,
            proxies: Vec::new(),
            cache: cache_directory(),
        };
        for ordinal in 0..count {
            let proxy = replicas.start(ordinal, more);
            replicas.proxies.push(proxy);
        }
        replicas.introduce(others);
        for proxy in &replicas.proxies {
            eventually("it knows the others", || {
                !proxy.printed("list of peers read").is_empty()
            });
            eventually("the log is followed", || {
                proxy.get("/checkpoint").status == 200
            });
        }
        replicas
    }

    fn start(&self, ordinal: usize, more: &str) -> Proxy {
        let directory = self.cache.path().join(format!("r-{ordinal}"));
        fs::create_dir_all(&directory).expect("made");
        let more = format!(
            "  peers: {{self: r-{ordinal}, file: \"{}\", token: {TOKEN}}}\n{more}",
            self.list(ordinal).display()
        );
        Proxy::start(&self.upstream.url(), &self.log.vkey(), &directory, &more)
    }

    fn list(&self, ordinal: usize) -> PathBuf {
        self.cache.path().join(format!("peers-{ordinal}.json"))
    }

    /// Gives everybody the list of all, and of `others`.
    fn introduce(&self, others: &[(&str, String)]) {
        let all = self.proxies.iter().enumerate();
        let all = all.map(|(i, proxy)| (format!("r-{i}"), format!("http://{}", proxy.address())));
        let others = others
            .iter()
            .map(|(name, url)| ((*name).to_owned(), url.clone()));
        let peers: Vec<_> = all
            .chain(others)
            .map(|(name, url)| serde_json::json!({"name": name, "url": url}))
            .collect();
        let list = serde_json::json!({"version": 1, "peers": peers}).to_string();
        for ordinal in 0..self.proxies.len() {
            // As a volume of Kubernetes does: a reader sees one list or the other.
            let new = self.cache.path().join("new");
            fs::write(&new, &list).expect("written");
            fs::rename(&new, self.list(ordinal)).expect("renamed");
        }
    }

    /// Asks each of `from` for each of `paths` at the same time, and expects the truth.
    fn read_everything(&self, from: &[&Proxy], paths: &[String]) {
        thread::scope(|scope| {
            for proxy in from {
                for half in [0, 1] {
                    scope.spawn(move || {
                        for (i, path) in paths.iter().enumerate() {
                            // The second client of each goes the other way round.
                            let path = if half == 0 {
                                path
                            } else {
                                &paths[paths.len() - 1 - i]
                            };
                            let answer = request(proxy.address(), "GET", &format!("/{path}"), "");
                            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                            assert_eq!(
                                Some(answer.body),
                                self.log.get(path, SIZE, false),
                                "{path}"
                            );
                        }
                    });
                }
            }
        });
    }

    /// How often the log was asked for each of these.
    fn asked(&self, paths: &[String]) -> HashMap<String, usize> {
        let count = |path: &String| (path.clone(), self.upstream.requests(path));
        paths.iter().map(count).collect()
    }
}

/// Cold tiles and bundles, and what their proofs need.
fn cold(count: usize) -> Vec<String> {
    let tiles = (0..count).map(|i| format!("tile/0/{i:03}"));
    let bundles = (0..count / 4).map(|i| format!("tile/entries/{i:03}"));
    tiles
        .chain(bundles)
        .chain(["tile/1/000".to_owned()])
        .collect()
}

#[test]
fn whatever_is_asked_of_whom_the_log_is_asked_once() {
    for count in [3, 5] {
        let replicas = Replicas::new(count, &[]);
        let paths = cold(100);
        let everybody: Vec<&Proxy> = replicas.proxies.iter().collect();
        replicas.read_everything(&everybody, &paths);
        for (path, asked) in replicas.asked(&paths) {
            assert_eq!(asked, 1, "{count} replicas: {path}");
        }
        // And each has all of it now: the log is gone, and so are the others.
        replicas.upstream.disappears();
        let mut alone = replicas;
        let left = alone.proxies.pop().expect("one");
        alone.proxies.clear();
        for path in &paths {
            assert_eq!(left.get(&format!("/{path}")).status, 200, "{path}");
        }
    }
}

#[test]
fn a_tile_from_a_peer_is_recorded_as_such() {
    let replicas = Replicas::new(2, &[]);
    let paths = cold(20);
    replicas.read_everything(&[&replicas.proxies[0]], &paths);
    let other = format!("http://{}/", replicas.proxies[1].address());
    let urls: Vec<_> = (0..20)
        .map(|i| {
            let path = format!("/_admin/cache/tiles/0/{i:03}");
            let mut url = String::new();
            eventually("it is stored", || {
                let record = replicas.proxies[0].get(&path);
                let record: serde_json::Value =
                    serde_json::from_slice(&record.body).expect("an object");
                url = record["upstreamUrl"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                !url.is_empty()
            });
            url
        })
        .collect();
    assert!(urls.contains(&other), "{urls:?}");
    assert!(urls.contains(&replicas.upstream.url()), "{urls:?}");
    assert!(
        urls.iter()
            .all(|url| *url == other || *url == replicas.upstream.url()),
        "{urls:?}"
    );
}

#[test]
fn clients_notice_no_replica_that_is_killed_or_hangs() {
    for (signal, case) in [
        (rustix::process::Signal::KILL, "killed"),
        (rustix::process::Signal::STOP, "hangs"),
    ] {
        // The one that hangs costs half of what a client waits.
        let replicas = Replicas::with(3, &[], "  coalescing: {max_wait_ms: 8000}\n");
        replicas.proxies[2].signal(signal);
        let paths = cold(60);
        let left = [&replicas.proxies[0], &replicas.proxies[1]];
        replicas.read_everything(&left, &paths);
        let asked = replicas.asked(&paths);
        let sum: usize = asked.values().sum();
        assert!(
            sum <= 2 * paths.len(),
            "{case}: {sum} requests for {}",
            paths.len()
        );
        let series = |proxy: &Proxy, reason: &str| {
            let labels = format!("{{log=\"default\",peer=\"r-2\",reason=\"{reason}\"}}");
            proxy.metric(&format!("tile_proxy_peer_fallbacks_total{labels}"))
        };
        let reason = if case == "killed" {
            "unreachable"
        } else {
            "slow"
        };
        assert!(
            left.iter().any(|proxy| series(proxy, reason) > 0.0),
            "{case}"
        );
        assert!(
            left.iter().any(|proxy| series(proxy, "breaker") > 0.0),
            "{case}"
        );
        let healthy = "tile_proxy_peer_healthy{log=\"default\",peer=\"r-2\"}";
        assert!(
            left.iter().any(|proxy| proxy.metric(healthy) == 0.0),
            "{case}"
        );
    }
}

#[test]
fn a_peer_that_is_none_costs_clients_nothing_but_time() {
    let log = Arc::new(FixtureLog::with_entries(SIZE as usize));
    let other_log = Arc::new(FixtureLog::forked(10, SIZE as usize));
    for (answer, reason) in [
        (Answer::Body(vec![7; 8_192]), "lied"),
        (Answer::Body(b"<html>".to_vec()), "lied"),
        (
            Answer::Body(other_log.get("tile/0/001", SIZE, false).expect("there")),
            "lied",
        ),
        (Answer::Status(404), "absent"),
        (Answer::Status(500), "failed"),
        (Answer::Status(403), "failed"),
        (Answer::Throttle(3_600), "failed"),
        (
            Answer::Redirect("http://oslo.invalid/".to_owned()),
            "failed",
        ),
        (Answer::Reset(vec![0; 8_192]), "unreachable"),
        (Answer::Endless, "unreachable"),
        (Answer::Bomb(64 << 20), "unreachable"),
    ] {
        let impostor = Upstream::serving(&log);
        impostor.always(answer.clone());
        let url = impostor.url();
        let replicas = Replicas::new(1, &[("impostor", url)]);
        let paths = cold(20);
        replicas.read_everything(&[&replicas.proxies[0]], &paths);
        let fell_back = |reason: &str| {
            let labels = format!("{{log=\"default\",peer=\"impostor\",reason=\"{reason}\"}}");
            replicas.proxies[0].metric(&format!("tile_proxy_peer_fallbacks_total{labels}"))
        };
        let case = format!("{reason}: {:.60}", format!("{answer:?}"));
        assert!(fell_back(reason) > 0.0, "{case}");
        let head = impostor
            .paths()
            .into_iter()
            .find(|path| path.contains("tile/"));
        let head = impostor.head(&head.expect("it was asked for a tile"));
        assert!(head.contains("tile-proxy-hop: 1\n"), "{head}");
        assert!(
            head.contains(&format!("authorization: Bearer {TOKEN}\n")),
            "{head}"
        );
        // What it owns was asked of the log, once.
        assert!(
            replicas.asked(&paths).values().all(|asked| *asked == 1),
            "{case}"
        );
        let failures =
            "tile_proxy_verify_failures_total{kind=\"tile\",log=\"default\",upstream=\"impostor\"}";
        let lies = replicas.proxies[0].metric(failures);
        assert_eq!(lies > 0.0, reason == "lied", "{case}: {lies}");
        // After a lie it is left alone; after an honest no, it is not.
        assert_eq!(
            fell_back("breaker") > 0.0,
            matches!(reason, "lied" | "unreachable"),
            "{case}"
        );
    }
}

#[test]
fn only_a_peer_with_the_token_is_one() {
    let more = "  coalescing: {max_wait_ms: 60000}\n  admin_listen: 127.0.0.1:0\n  \
                rate_limit: {per_ip_per_second: 1}\n";
    let replicas = Replicas::with(1, &[("gone", "http://127.0.0.1:9".to_owned())], more);
    let proxy = &replicas.proxies[0];
    let right = format!("Tile-Proxy-Hop: 1\r\nAuthorization: Bearer {TOKEN}\r\n");
    let wrong = "Tile-Proxy-Hop: 1\r\nAuthorization: Bearer guessed\r\n".to_owned();
    let no_hop = format!("Authorization: Bearer {TOKEN}\r\n");
    // The port of administration has tiles for peers, and for nobody else.
    for (headers, status) in [(&right, 200), (&wrong, 404), (&no_hop, 404)] {
        for path in ["/checkpoint", "/tile/0/001"] {
            let answer = request(proxy.admin_address(), "GET", path, headers);
            assert_eq!(answer.status, status, "{path} with {headers}");
        }
    }
    // Peers are not limited: they ask for many.
    let status = |headers: &str| request(proxy.address(), "GET", "/tile/0/001", headers).status;
    assert!((0..20).all(|_| status(&right) == 200));
    assert!((0..20).any(|_| status(&wrong) == 429));
    // What is not here is not fetched for who asks only for that.
    let cached = format!("{right}Cache-Control: only-if-cached\r\n");
    for (path, status) in [
        ("/tile/0/001", 200),
        ("/tile/0/002", 504),
        ("/tile/entries/003", 504),
    ] {
        let answer = request(proxy.address(), "GET", path, &cached);
        assert_eq!(answer.status, status, "{path}");
    }
    assert_eq!(replicas.upstream.requests("tile/0/002"), 0);
    // A peer's request goes to the log and nowhere else, whoever owns it.
    for i in 10..20 {
        let path = format!("/tile/0/{i:03}");
        assert_eq!(request(proxy.address(), "GET", &path, &right).status, 200);
    }
    let asked = proxy
        .metric("tile_proxy_peer_requests_total{log=\"default\",peer=\"gone\",status=\"error\"}");
    let by_checkpoints = proxy.printed("checkpoint not refreshed").len() as f64;
    assert!(asked <= by_checkpoints + 3.0, "{asked} requests to a peer");
}

#[test]
fn a_list_that_is_not_good_changes_nothing_and_is_said_once() {
    let replicas = Replicas::new(2, &[]);
    let proxy = &replicas.proxies[0];
    // One is not there yet when a replica starts.
    let before = 1 + proxy.printed("list of peers not used").len();
    let used = |i: usize| {
        let path = format!("/tile/0/{i:03}");
        assert_eq!(proxy.get(&path).status, 200);
        proxy.metric("tile_proxy_peer_requests_total{log=\"default\",peer=\"r-1\",status=\"200\"}")
    };
    for (i, (text, says)) in [
        ("", "unexpected end"),
        (
            "{version: 1, peers: [{name: r-0, url: 'http://a'}, {name: r-0, url: 'http://b'}]}",
            "`r-0` is in it twice",
        ),
        (
            "{version: 1, peers: [{name: r-7, url: 'http://a'}]}",
            "`r-0`, which this is",
        ),
        ("{version: 9, peers: []}", "version 9"),
        ("<html>", ""),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(replicas.list(0), text).expect("written");
        eventually("it is said", || {
            proxy.printed("list of peers not used").len() == i + before
        });
        let line = proxy.printed("list of peers not used").pop().expect("said");
        assert!(
            line.contains(says) && line.contains("\"kept\":true"),
            "{line}"
        );
        let before = used(20 * i);
        let after = (1..20).fold(before, |_, n| used(20 * i + n));
        assert!(after > before, "the other one is asked still");
    }
    replicas.introduce(&[]);
    eventually("a good one is read", || {
        proxy.printed("the one in use again").len() == 1
    });
}

#[test]
fn one_replica_asks_for_checkpoints_and_the_others_follow_it() {
    let replicas = Replicas::new(3, &[]);
    let asked = replicas.upstream.requests("checkpoint");
    let begin = Instant::now();
    let grow = |size: u64| {
        replicas.upstream.becomes(&replicas.log, size);
        let sizes = |proxy: &Proxy| size_of(&proxy.get("/checkpoint").body);
        eventually("somebody has it", || {
            replicas.proxies.iter().any(|proxy| sizes(proxy) == size)
        });
        eventually("all have it", || {
            replicas.proxies.iter().all(|proxy| sizes(proxy) == size)
        });
    };
    for size in [SIZE + 100, SIZE + 400, SIZE + 1_000] {
        grow(size);
    }
    // Each second one request at most, and not three.
    let asked = replicas.upstream.requests("checkpoint") - asked;
    let seconds = begin.elapsed().as_secs_f64();
    assert!(
        (asked as f64) <= seconds + 2.0,
        "{asked} requests in {seconds} s"
    );
    let fresh = |proxy: &Proxy| {
        let age = proxy
            .get("/checkpoint")
            .header("tile-proxy-checkpoint-age")
            .map(str::to_owned);
        age.and_then(|age| age.parse::<u64>().ok()).expect("an age")
    };
    // Who follows does not make the log look alive.
    replicas.upstream.disappears();
    for proxy in &replicas.proxies {
        eventually("its age grows", || fresh(proxy) >= 4);
        assert_eq!(
            proxy.get("/tile/0/999").status,
            503,
            "nobody says it is not there"
        );
    }
    replicas.upstream.returns();
    for proxy in &replicas.proxies {
        eventually("404 is said again", || {
            proxy.get("/tile/0/999").status == 404
        });
    }
}

#[test]
fn when_who_asks_for_checkpoints_is_gone_another_one_does() {
    let mut replicas = Replicas::new(3, &[]);
    let asked = |proxy: &Proxy| {
        let labels = "{log=\"default\",status=\"200\",upstream=\"127.0.0.1\"}";
        proxy.metric(&format!("tile_proxy_upstream_requests_total{labels}"))
    };
    // Three questions by one, and none by the others meanwhile.
    let all = || replicas.proxies.iter().map(asked).collect::<Vec<f64>>();
    let (mut before, mut leader) = (all(), None);
    eventually("one of them asks the log", || {
        let now = all();
        let more = |i: usize| now[i] - before[i];
        leader = (0..3).find(|i| more(*i) >= 3.0);
        let alone = (0..3).all(|i| Some(i) == leader || more(i) == 0.0);
        if leader.is_some() && !alone {
            before = now; // the others have just learned whom to follow
        }
        leader.is_some() && alone
    });
    let leader = leader.expect("one");
    drop(replicas.proxies.remove(leader));
    replicas.upstream.becomes(&replicas.log, SIZE + 500);
    for proxy in &replicas.proxies {
        eventually("the log is followed", || {
            size_of(&proxy.get("/checkpoint").body) == SIZE + 500
        });
    }
}
