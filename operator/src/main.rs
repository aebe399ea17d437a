//! The operator's process: flags, the address for probes, the controller, the signal that ends it.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::{
    api::networking::v1::NetworkPolicyPeer, apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use tile_proxy::config::Interval;
use tile_proxy_operator::{
    admin::{self, Metrics},
    controller::{
        self, Context, Defaults, Watched,
        names::{MANAGER, own_pod},
    },
    crd,
    lease::Candidate,
    ready,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns TileProxy resources into running, self-filling replicas of tile-proxy.
#[derive(Parser)]
#[command(name = "tile-proxy-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinition as YAML
    #[command(
        after_help = "Example:\n  tile-proxy-operator crd | kubectl apply --server-side -f -"
    )]
    Crd,
    /// Watch TileProxy resources and bring them about, until a signal ends it
    #[command(
        args_override_self = true,
        after_help = "\
Examples:
  Against the cluster of the current kubeconfig, all namespaces:
    tile-proxy-operator run --operand-image registry.example.com/tile-proxy:0.1.0
  Two namespaces only:
    tile-proxy-operator run --operand-image … --watch-namespaces logs,staging"
    )]
    Run(Box<Run>),
    /// Ask a running operator whether it is ready
    ///
    /// For `helm test`: the image has no shell and no HTTP client but this one. Asks every second, and
    /// ends with 0 as soon as the answer is yes, or with 1 and the last answer after the time given.
    #[command(
        after_help = "Example:\n  tile-proxy-operator ready --within 60s tile-proxy-metrics.tile-proxy-system.svc:8080"
    )]
    Ready {
        /// Where its /readyz is, as name or address and port
        #[arg(value_name = "HOST:PORT")]
        address: String,

        /// How long to go on asking
        #[arg(long, value_name = "DURATION", default_value = "60s")]
        within: Interval,
    },
}

#[derive(Args)]
struct Run {
    /// Image of the proxies whose TileProxy does not name one
    #[arg(long, env = "TILE_PROXY_OPERATOR_OPERAND_IMAGE", value_name = "IMAGE")]
    operand_image: String,

    /// Namespaces to watch, separated by commas [default: all of them]
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_WATCH_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,

    /// Address of /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_METRICS_ADDR",
        value_name = "ADDRESS",
        default_value = "[::]:8080"
    )]
    metrics_addr: SocketAddr,

    /// How often a settled TileProxy is looked at, in case a watch missed something; at least 10s
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_RESYNC",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = resync
    )]
    resync: Interval,

    /// Work only while holding a Lease, so that several operators take turns
    #[arg(long, env = "TILE_PROXY_OPERATOR_LEADER_ELECT")]
    leader_elect: bool,

    /// Namespace of the Lease [default: the operator's own]
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_LEASE_NAMESPACE",
        value_name = "NAMESPACE",
        requires = "leader_elect"
    )]
    lease_namespace: Option<String>,

    /// Name of the Lease: one for all operators that look after the same TileProxies
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_LEASE_NAME",
        value_name = "NAME",
        default_value = "tile-proxy-operator"
    )]
    lease_name: String,

    /// Labels of the operator's own pods, as `key=value`, separated by commas: the NetworkPolicies of
    /// TileProxies let them ask replicas about logs
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_OWN_PODS",
        value_name = "LABELS",
        value_delimiter = ',',
        value_parser = label
    )]
    own_pods: Vec<(String, String)>,

    /// How lines are printed
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,

    /// What is printed: a level, or a filter such as `info,tile_proxy_operator=debug`
    #[arg(
        long,
        env = "TILE_PROXY_OPERATOR_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    log_level: EnvFilter,
}

/// Shortest `--resync`: each one reads all children of every TileProxy.
const MIN_RESYNC: Interval = Interval::seconds(10);

fn resync(text: &str) -> Result<Interval, String> {
    let interval: Interval = text.parse()?;
    if interval.0 < MIN_RESYNC.0 {
        return Err(format!("must be at least {MIN_RESYNC}"));
    }
    Ok(interval)
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be a label, such as app.kubernetes.io/name=tile-proxy-operator".to_owned()),
    }
}

/// Pods with these labels in `namespace`; `None` without any, which would be all pods of it.
fn operator_pods(labels: Vec<(String, String)>, namespace: &str) -> Option<NetworkPolicyPeer> {
    let selector = |labels: BTreeMap<String, String>| {
        Some(LabelSelector {
            match_labels: Some(labels),
            match_expressions: None,
        })
    };
    // The label that every namespace has.
    let namespace = (
        "kubernetes.io/metadata.name".to_owned(),
        namespace.to_owned(),
    );
    (!labels.is_empty()).then(|| NetworkPolicyPeer {
        namespace_selector: selector(BTreeMap::from([namespace])),
        pod_selector: selector(labels.into_iter().collect()),
        ip_block: None,
    })
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// One JSON object a line
    Json,
    /// Text for people
    Text,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => std::io::stdout()
            .write_all(crd::crd_yaml().as_bytes())
            .context("cannot print the CRD"),
        Command::Run(flags) => run(*flags).await,
        Command::Ready { address, within } => ready::ready(&address, within.0).await,
    }
}

async fn run(flags: Run) -> anyhow::Result<()> {
    let Run {
        operand_image,
        watch_namespaces,
        metrics_addr,
        resync,
        leader_elect,
        lease_namespace,
        lease_name,
        own_pods,
        log_format,
        log_level,
    } = flags;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(log_level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match log_format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.init(),
    }
    anyhow::ensure!(
        !operand_image.is_empty(),
        "--operand-image must name an image"
    );
    let watched = match watch_namespaces
        .into_iter()
        .filter(|n| !n.is_empty())
        .collect::<Vec<_>>()
    {
        names if names.is_empty() => Watched::Cluster,
        names => Watched::Namespaces(names),
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
    };

    let metrics = Metrics::new().context("cannot set up metrics")?;
    let listener = admin::bind(metrics_addr)
        .await
        .with_context(|| format!("cannot listen on --metrics-addr {metrics_addr}"))?;
    let client = kube::Client::try_default()
        .await
        .context("found no Kubernetes API server, neither in-cluster nor by kubeconfig")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        image = operand_image,
        ?watched,
        "starting"
    );

    let ready = Arc::new(AtomicBool::new(false));
    tokio::spawn(admin::serve(listener, metrics.clone(), ready.clone()));
    let is_ready = || {
        ready.store(true, Ordering::Release);
        info!("watching");
    };
    let context = Context::new(
        client.clone(),
        Defaults {
            operand_image,
            operator_pods: operator_pods(own_pods, client.default_namespace()),
        },
        metrics.clone(),
        resync.0,
    );
    let context = Arc::new(context);
    if !leader_elect {
        metrics.leads(true);
        controller::run(context, watched, stop, is_ready).await;
        return Ok(());
    }

    let namespace = lease_namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let mut candidate = Candidate::new(client, &namespace, &lease_name, identity());
    let mut stop = Box::pin(stop);
    // Waiting is what a second operator is there for: a rollout must not wait for it.
    ready.store(true, Ordering::Release);
    tokio::select! {
        () = candidate.acquire() => {}
        () = &mut stop => return Ok(()),
    }
    metrics.leads(true);
    tokio::select! {
        () = controller::run(context, watched, stop, is_ready) => {}
        // What is under way ends with the process; another one may have begun already.
        lost = candidate.keep() => return Err(lost.into()),
    }
    candidate.release().await;
    Ok(())
}

/// The pod's name, and something that no earlier process in it had.
fn identity() -> String {
    let pod = own_pod().unwrap_or_else(|| MANAGER.to_owned());
    format!("{pod}_{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_resync_that_would_never_rest_is_refused() {
        for (text, ok) in [
            ("0s", false),
            ("9999ms", false),
            ("10s", true),
            ("10m", true),
        ] {
            let flags = ["operator", "run", "--operand-image=p", "--resync", text];
            assert_eq!(Cli::try_parse_from(flags).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn the_operators_own_pods_are_those_with_all_of_its_labels() {
        for (text, ok) in [("a/b=c", true), ("a=", true), ("=c", false), ("a", false)] {
            let flags = ["operator", "run", "--operand-image=p", "--own-pods", text];
            assert_eq!(Cli::try_parse_from(flags).is_ok(), ok, "{text}");
        }
        let labels = ["app=tp", "release=r"].map(|text| label(text).expect("a label"));
        let pods = operator_pods(labels.to_vec(), "tile-proxy-system").expect("pods");
        let pods = serde_json::to_value(pods).expect("a tree");
        let want = serde_json::json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tile-proxy-system"}},
            "podSelector": {"matchLabels": {"app": "tp", "release": "r"}},
        });
        assert_eq!(pods, want);
        assert_eq!(operator_pods(Vec::new(), "tile-proxy-system"), None);
    }

    /// The chart sets some flags, and its users add to them.
    #[test]
    fn of_a_flag_given_twice_the_last_counts() {
        let flags = ["operator", "run", "--operand-image=a", "--operand-image=b"];
        let Ok(Command::Run(run)) = Cli::try_parse_from(flags).map(|cli| cli.command) else {
            panic!("refused");
        };
        assert_eq!(run.operand_image, "b");
    }

    /// Rows of the page are `| flag | default | meaning |`.
    #[test]
    fn the_page_lists_every_flag_and_no_other() {
        let page = include_str!("../../docs/operator.md");
        let listed: Vec<&str> = page.lines().filter(|l| l.starts_with("| `--")).collect();
        let mut rows = Vec::new();
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand("run").expect("there is one");
        for flag in run.get_arguments().filter(|a| a.get_id() != "help") {
            let name = flag.get_long().expect("all are long");
            let default = flag.get_default_values().first();
            let default = match default.map(|value| value.to_string_lossy()) {
                Some(value) if flag.get_action().takes_values() => format!("`{value}`"),
                _ => String::new(),
            };
            let help = flag.get_help().expect("all have one").to_string();
            rows.push(format!("| `--{name}` | {default} | {help} |"));
        }
        assert_eq!(
            listed,
            rows,
            "docs/operator.md should have\n{}",
            rows.join("\n")
        );
    }
}
