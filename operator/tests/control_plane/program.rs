//! The operator as the program it is, with the flags and the rights that the chart gives it.

use std::{fs, process::Command, time::Duration};

use serde_json::Value;
use tile_proxy_tests::{http, local::daemon::Daemon};

use crate::{
    operator::IMAGE,
    world::{RELEASE, SYSTEM, World, eventually},
};

/// The shortest that the program takes.
pub(crate) const RESYNC: Duration = Duration::from_secs(10);

/// The operator as a process.
pub(crate) struct Program {
    daemon: Daemon,
    port: u16,
}

impl Program {
    /// Started as the chart starts it, but for one namespace and with `more` flags. The Lease has one
    /// holder, so one program at a time `elects`; the others work without.
    pub(crate) fn start(world: &World, elects: bool, more: &[&str]) -> Self {
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
        let args = args.filter(|arg| elects || !arg.contains("leader") && !arg.contains("lease"));
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
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let page = http::fetch(&http::agent(), &url).expect("metrics").text();
        let values = page.lines().filter(|line| line.starts_with(name));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// Waits until every one of so many TileProxies was looked at once more.
    pub(crate) async fn looks_at_all(&self, count: usize) {
        let name = "tile_proxy_operator_reconcile_total";
        let wanted = self.metric(name) + count as f64;
        eventually("a resync", async || {
            let looks = self.metric(name);
            if looks >= wanted { Ok(()) } else { Err(looks) }
        })
        .await;
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(self) {
        let ended = self.daemon.stop().expect("it ends");
        assert!(ended.success(), "{ended}");
    }

    pub(crate) fn said(&self) -> String {
        self.daemon.output().expect("its output")
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> String {
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
