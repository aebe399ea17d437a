//! Where a log is read: the first says who knows, and an explicit setting always wins.

use super::*;

/// Where Rekor v2 has its tiles.
const API: &str = "api/v2/";

/// A log's servers, each the word of somebody else, and the repository that grows word by word.
struct Words {
    world: World,
    log: Arc<FixtureLog>,
    origin: String,
    /// `baseUrl`, monitor configuration, service map, its override, configuration.
    servers: Vec<Upstream>,
}

impl Words {
    fn new() -> Self {
        let mut world = World::new();
        let mut servers = vec![Upstream::serving(&world.log)];
        // Its name is where it is, as Sigstore's logs are called.
        let url = servers[0].url();
        let name = url.trim_start_matches("http://").trim_end_matches('/');
        let log = Arc::new(FixtureLog::with_entries(300).called(name, name));
        servers[0].becomes(&log, 300);
        // Of a log with such a key that is all there is to go by: Rekor v2.
        servers[0].moves_below(API);
        servers.extend((0..4).map(|_| Upstream::serving(&log)));
        world.repository.targets.clear();
        let root = trusted_root(&[&log]).replace("https://", "http://");
        world.repository.list("trusted_root.json", root);
        Self {
            world,
            origin: name.to_owned(),
            log,
            servers,
        }
    }

    fn url(&self, i: usize) -> String {
        self.servers[i].url()
    }

    /// Waits until the log is asked for at this server and at no other.
    fn expect_read_at(&self, proxy: &Proxy, server: usize) {
        let count = |i: usize| {
            let below = self.servers[i].requests(&format!("{API}checkpoint"));
            below + self.servers[i].requests("checkpoint")
        };
        let others = || -> usize {
            let all = 0..self.servers.len();
            all.filter(|i| *i != server).map(count).sum()
        };
        eventually(&format!("the log of server {server} is served"), || {
            serves(proxy, self.log.size())
        });
        eventually(&format!("it is read at server {server}"), || {
            let before = (count(server), others());
            proxy.send("POST", "/_admin/refresh", "");
            count(server) > before.0 && others() == before.1
        });
    }
}

#[test]
fn a_log_is_read_where_the_first_says_who_knows() {
    let mut words = Words::new();
    words.world.publish();
    let proxy = words.world.proxy_with(", allow_http: true", "");
    words.expect_read_at(&proxy, 0);
    eventually("it is told that this is a guess", || {
        let said = proxy.printed("nobody says where this log is read");
        said.iter().any(|line| line.contains(&words.url(0)))
    });

    let origin = words.origin.clone();
    let monitored = json!({"rekorLogs": [{"readUrl": words.url(1), "logOrigin": origin}]});
    let target = "monitor_config.v1.json";
    words.world.repository.list(target, monitored.to_string());
    words.world.publish();
    words.expect_read_at(&proxy, 1);

    let over = json!({"rekor": {"tile_base_url": words.url(3)}});
    let map = json!({"version": 1,
        "rekor": {"url": "http://nobody.invalid/", "tile_base_url": words.url(2), "origin": origin},
        "overrides": {"staging": over}});
    let target = "sigstore-services-v1";
    words.world.repository.list(target, map.to_string());
    words.world.publish();
    words.expect_read_at(&proxy, 2);
    assert_eq!(proxy.stop(), Some(0));

    let staging = ", allow_http: true, environment: staging";
    let proxy = words.world.proxy_with(staging, "");
    words.expect_read_at(&proxy, 3);
    assert_eq!(proxy.stop(), Some(0));

    let explicit = format!("  upstream_url: {}\n", words.url(4));
    let proxy = words.world.proxy_with(staging, &explicit);
    words.expect_read_at(&proxy, 4);
}

#[test]
fn a_log_whose_name_leads_to_plain_http_is_not_followed_unless_that_is_allowed() {
    let mut words = Words::new();
    words.world.publish();
    let proxy = words.world.proxy_with("", "");
    eventually("it is said", || {
        let said = proxy.printed("a log of the TUF repository is not followed");
        said.iter().any(|line| line.contains("tuf.allow_http"))
    });
    eventually("trust is fresh", || is(&proxy, "fresh"));
    assert!(words.servers[0].paths().is_empty());
}
