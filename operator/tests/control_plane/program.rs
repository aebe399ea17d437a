//! The program itself, with the flags and the rights that the chart gives it: fifty TileProxies at
//! once, and no secret in anything it says (P31).

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::{Value, json};
use tile_proxy_operator::crd::TileProxy;
use tile_proxy_tests::{
    http,
    local::{daemon::Daemon, full},
};

use crate::{
    operator::IMAGE,
    world::{RELEASE, SYSTEM, World, eventually},
};

const TILE_PROXIES: usize = 50;

#[tokio::test]
async fn fifty_tileproxies_settle_and_rest_and_nothing_tells_a_secret() {
    let world = World::new("fifty").await;
    let program = Program::start(&world, &["--log-level=trace"]);
    let started = Instant::now();
    for n in 0..TILE_PROXIES {
        world.create(&format!("rome-{n}"), 1, json!({})).await;
    }
    eventually("fifty ready TileProxies", async || {
        let all = world.api::<TileProxy>().list(&ListParams::default()).await;
        let all = all.expect("a list").items;
        let settled = all
            .iter()
            .filter(|p| is(p, "Ready", "True") && is(p, "Progressing", "False"));
        let settled = settled.count();
        if settled == TILE_PROXIES {
            Ok(())
        } else {
            Err(settled)
        }
    })
    .await;
    println!(
        "{TILE_PROXIES} TileProxies settled in {:.1} s; {} reconciles, {} writes to children; {}",
        started.elapsed().as_secs_f64(),
        program.metric("tile_proxy_operator_reconcile_total"),
        program.metric("tile_proxy_operator_apply_total"),
        program.usage(),
    );

    program.looks_at_all().await;
    let (versions, writes) = (
        versions(&world),
        program.metric("tile_proxy_operator_apply_total"),
    );
    let (since, looks) = (
        Instant::now(),
        program.metric("tile_proxy_operator_reconcile_total"),
    );
    program.looks_at_all().await;
    while full() && since.elapsed() < Duration::from_secs(60) {
        program.looks_at_all().await;
    }
    assert_eq!(program.metric("tile_proxy_operator_apply_total"), writes);
    assert_eq!(self::versions(&world), versions);
    let looks = program.metric("tile_proxy_operator_reconcile_total") - looks;
    let resyncs = since.elapsed().as_secs_f64() / RESYNC.as_secs_f64() + 1.0;
    assert!(
        looks <= resyncs * TILE_PROXIES as f64,
        "{looks} reconciles in {resyncs} resyncs"
    );
    println!(
        "at rest for {:.0} s: {looks} reconciles, no write",
        since.elapsed().as_secs_f64()
    );

    let secrets = world.api::<Secret>().list(&ListParams::default()).await;
    let secrets = secrets.expect("a list").items;
    assert_eq!(secrets.len(), TILE_PROXIES);
    let all = "configmaps,cronjobs,deployments,events,tileproxies,services";
    let said = world.kubectl(&["get", all, "--output=json"]) + &program.said();
    for secret in secrets {
        for value in secret.data.into_iter().flatten().map(|(_, value)| value.0) {
            let token = String::from_utf8(value).expect("a token of ASCII");
            assert!(token.len() >= 32, "{} bytes", token.len());
            assert!(!said.contains(&token), "a token was told");
        }
    }
}

/// The shortest that the program takes.
const RESYNC: Duration = Duration::from_secs(10);

/// The operator as a process.
struct Program {
    daemon: Daemon,
    port: u16,
}

impl Program {
    /// Started as the chart starts it, but without a Lease and for one namespace, and with `more`
    /// flags.
    fn start(world: &World, more: &[&str]) -> Self {
        let control = world.plane.control();
        let deployment = [
            "get",
            "deployment",
            RELEASE,
            "--output=json",
            "--namespace",
            SYSTEM,
        ];
        let deployment = control
            .kubectl(deployment)
            .stdout()
            .expect("the chart's Deployment");
        let deployment: Value = serde_json::from_str(&deployment).expect("JSON");
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().into_iter().flatten();
        let args = args.filter_map(Value::as_str);
        let args = args.filter(|arg| !arg.contains("leader") && !arg.contains("lease"));
        let kubeconfig = control.path(&format!("{}.kubeconfig", world.namespace));
        fs::write(&kubeconfig, world.plane.operator_kubeconfig()).expect("a kubeconfig");
        let port = tile_proxy_tests::local::free_port().expect("a free port");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tile-proxy-operator"));
        command
            .args(args)
            .arg(format!("--metrics-addr=127.0.0.1:{port}"))
            .arg(format!("--watch-namespaces={}", world.namespace))
            .arg(format!("--operand-image={IMAGE}"))
            .arg(format!("--resync={}s", RESYNC.as_secs()))
            .args(more)
            .env("KUBECONFIG", &kubeconfig);
        let log = control.path(&format!("operator-{}.log", world.namespace));
        let daemon = Daemon::leashed(&command, "tile-proxy-operator", &log).expect("started");
        Self { daemon, port }
    }

    /// The sum over all labels.
    fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let page = http::fetch(&http::agent(), &url).expect("metrics").text();
        let values = page.lines().filter(|line| line.starts_with(name));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// Waits until every TileProxy was looked at once more.
    async fn looks_at_all(&self) {
        let name = "tile_proxy_operator_reconcile_total";
        let wanted = self.metric(name) + TILE_PROXIES as f64;
        eventually("a resync", async || {
            let looks = self.metric(name);
            if looks >= wanted { Ok(()) } else { Err(looks) }
        })
        .await;
    }

    fn said(&self) -> String {
        self.daemon.output().expect("its output")
    }

    /// What it has used so far.
    fn usage(&self) -> String {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.daemon.pid());
            fs::read_to_string(path).unwrap_or_default()
        };
        let status = read("status");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        // Fields 14 and 15, in hundredths of a second; the name before them may hold spaces.
        let stat = read("stat");
        let fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse::<u64>().ok())
            .sum();
        let memory = memory.unwrap_or_default().trim();
        format!("{:.1} s of CPU, {memory} at most", ticks as f64 / 100.0)
    }
}

fn is(proxy: &TileProxy, condition: &str, status: &str) -> bool {
    crate::world::find(proxy, condition).is_some_and(|c| c.status == status)
}

/// Every object and its version.
fn versions(world: &World) -> String {
    let all = "configmaps,cronjobs,deployments,events,pvc,pdb,secrets,services,sa,tileproxies";
    let columns = "--output=custom-columns=:kind,:metadata.name,:metadata.resourceVersion";
    world.kubectl(&["get", all, columns])
}
