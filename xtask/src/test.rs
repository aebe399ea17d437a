//! `cargo xtask test`: everything a change has to pass, in the order of what fails fastest.

use std::cell::RefCell;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tile_proxy_tests::cluster::Cluster;
use tile_proxy_tests::interrupt;
use tile_proxy_tests::paths;
use tile_proxy_tests::prerequisites;
use tile_proxy_tests::progress::{Progress, Step, Time};
use tile_proxy_tests::run::Run;

use crate::ahead::Ahead;
use crate::crds;

/// Check everything a change has to pass: format, lints, documentation, dependencies, tests, real
/// logs and clients, the operator on a real API server, and the whole chain on a real cluster.
///
/// Every step's output is kept in target/xtask-test. The cluster is removed at the end, whatever
/// the outcome. A step that cannot be taken on this machine is reported as not run, with the reason,
/// and the command fails: what was not run has not passed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                 what continuous integration runs
  cargo xtask test --no-cluster    without the end-to-end test; needs no root
  cargo xtask test --kind          the end-to-end test on kind and Docker
  cargo xtask test --kind --only 'end to end'
  cargo xtask test --keep-going    all steps, even after one has failed")]
pub(crate) struct Args {
    /// Run long sweeps whole instead of a sample; for a night
    #[arg(long)]
    full: bool,
    /// Leave out the end-to-end test, which needs root
    #[arg(long)]
    no_cluster: bool,
    /// Run the end-to-end test on kind and Docker instead of built-in nodes
    #[arg(long, conflicts_with = "no_cluster")]
    kind: bool,
    /// Take this step alone; its name is the one that is printed
    #[arg(long, value_name = "STEP")]
    only: Option<String>,
    /// Go on after a step has failed
    #[arg(long)]
    keep_going: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let progress = Progress::new();
    let ahead = RefCell::new(match args.only {
        None => Ahead::start(!args.no_cluster && !args.kind),
        Some(_) => Ahead::nothing(),
    });
    let mut steps: Vec<(&str, Check<'_>)> = vec![
        (
            "format",
            Box::new(|step| cargo(step, &["fmt", "--all", "--check"])),
        ),
        ("lints", Box::new(|step| cargo(step, CLIPPY))),
        ("documentation", Box::new(documentation)),
        ("dependencies", Box::new(dependencies)),
        ("unit tests", Box::new(|step| unit_tests(step, args.full))),
        ("generated files", Box::new(generated_files)),
        ("chart", Box::new(chart)),
        ("real logs", Box::new(|step| real_logs(step, args.full))),
        (
            "control plane",
            Box::new(|step| control_plane(step, args.full)),
        ),
    ];
    if !args.no_cluster {
        steps.push((
            "end to end",
            Box::new(|step| {
                step.note("what is still being built for it");
                ahead.borrow_mut().finish();
                end_to_end(step, args.full, args.kind)
            }),
        ));
    }
    if let Some(only) = &args.only {
        steps.retain(|(name, _)| name == only);
        ensure!(!steps.is_empty(), "there is no step {only:?}");
    }

    let mut outcomes: Vec<(&str, Duration, Verdict)> = Vec::new();
    let mut tests_passed = 0;
    for (name, check) in &steps {
        let started = Instant::now();
        let step = progress.step(*name);
        let verdict = match check(&step) {
            Ok(outcome) => {
                tests_passed += outcome
                    .strip_suffix(PASSED)
                    .and_then(|count| count.parse::<u64>().ok())
                    .unwrap_or_default();
                step.done(outcome);
                Verdict::Passed
            }
            Err(error) => match error.downcast::<NotRun>() {
                Ok(NotRun(reason)) => {
                    step.not_run(&reason);
                    Verdict::NotRun(reason)
                }
                Err(error) => {
                    drop(step);
                    progress.say(format_args!("\n{error:#}\n"));
                    Verdict::Failed
                }
            },
        };
        let failed = verdict == Verdict::Failed;
        outcomes.push((name, started.elapsed(), verdict));
        if interrupt::raised() || failed && !args.keep_going {
            break;
        }
    }

    println!();
    for (name, time, verdict) in &outcomes {
        let verdict = match verdict {
            Verdict::Passed => "ok".to_owned(),
            Verdict::Failed => "FAILED".to_owned(),
            Verdict::NotRun(reason) => format!("NOT RUN: {reason}"),
        };
        println!("{name:<18} {:>10}  {verdict}", Time(*time).to_string());
    }
    for (name, _) in &steps[outcomes.len()..] {
        println!("{name:<18} {:>10}  not run", "");
    }
    if args.no_cluster {
        println!("{:<18} {:>10}  left out by --no-cluster", "end to end", "");
    }
    let failed = outcomes.iter().filter(|(_, _, v)| *v == Verdict::Failed);
    let failed = failed.count();
    println!("\n{tests_passed}{PASSED}, {failed} failed");
    let mut verdicts = outcomes.iter().map(|(_, _, verdict)| verdict);
    let passed = outcomes.len() == steps.len() && verdicts.all(|v| *v == Verdict::Passed);
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How a step ended.
#[derive(Eq, PartialEq)]
enum Verdict {
    Passed,
    Failed,
    NotRun(String),
}

/// This machine cannot take the step; the reason names what it lacks.
#[derive(Debug)]
struct NotRun(String);

impl std::fmt::Display for NotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRun {}

/// One step: shows what it does, returns a word about the outcome; [`NotRun`] where it cannot begin.
type Check<'a> = Box<dyn Fn(&Step<'_>) -> Result<String> + 'a>;

const CLIPPY: &[&str] = &[
    "clippy",
    "--locked",
    "--workspace",
    "--all-targets",
    "--features=tile-proxy-operator/control-plane",
    "--features=tile-proxy-tests/chart,tile-proxy-tests/cluster,tile-proxy-tests/real-logs",
    "--",
    "--deny=warnings",
];

const CONTROL_PLANE: [&str; 5] = [
    "test",
    "--locked",
    "--workspace",
    "--test=control_plane",
    "--features=tile-proxy-operator/control-plane",
];

fn documentation(step: &Step<'_>) -> Result<String> {
    let args = [
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    let run = command(step, &args).env("RUSTDOCFLAGS", "--deny=warnings");
    run.stdout().map(|_| String::new())
}

/// Licences, bans and sources of all dependencies. Advisories change without a commit of ours, so
/// they are checked where a schedule can run.
fn dependencies(step: &Step<'_>) -> Result<String> {
    let root = paths::cache()?.join(format!("tools/cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        // Unoptimised: building it takes minutes otherwise, and its work takes seconds.
        command(step, &["install", "--locked", "--quiet", "--debug"])
            .arg("cargo-deny")
            .args(["--version", CARGO_DENY, "--root"])
            .arg(&root)
            // Neither our lints nor our target folder are its business.
            .current_dir("/")
            .stdout()
            .context("cannot install cargo-deny")?;
    }
    // What other systems than this one would build is judged as well, and no build has fetched it.
    cargo(step, &["fetch", "--locked"])?;
    // No build here needs the lock file of the fuzz targets; it must fit all the same.
    let fuzz = "--manifest-path=fuzz/Cargo.toml";
    cargo(step, &["fetch", "--locked", fuzz])?;
    Run::new(program)
        .current_dir(paths::checkout())
        .args(["--offline", "check", "licenses", "bans", "sources"])
        .live(step)
        .log(log("dependencies"))
        .deadline(STEP)
        .stdout()
        .map(|_| String::new())
}

fn unit_tests(step: &Step<'_>, full: bool) -> Result<String> {
    let mut run = command(step, &["test", "--locked", "--workspace"]);
    // The program between scripted logs waits more than it computes.
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    run = run.env("RUST_TEST_THREADS", (3 * cores).to_string());
    if full {
        run = run.env(FULL, "1");
    }
    Ok(summary(&run.stdout()?))
}

/// What the operator says of its types; the program is the one that the control plane will meet, so that
/// nothing is compiled twice.
fn generated_files(step: &Step<'_>) -> Result<String> {
    command(step, &CONTROL_PLANE).arg("--no-run").stdout()?;
    let operator = paths::target().join("debug/tile-proxy-operator");
    crds::check(&crds::generate_by(&operator)?)?;
    Ok(String::new())
}

/// The chart by real Helm, and on a real API server; both are built the first time.
fn chart(step: &Step<'_>) -> Result<String> {
    let args = ["test", "--locked", "--workspace", "--test=chart"];
    let run = command(step, &args).arg("--features=tile-proxy-tests/chart");
    Ok(summary(&run.log(log("chart")).stdout()?))
}

/// The proxy between real logs and real clients, which are built the first time.
///
/// With the features of the whole workspace, so that nothing is compiled twice: the program is the
/// one that the unit tests have built.
fn real_logs(step: &Step<'_>, full: bool) -> Result<String> {
    command(step, &["test", "--locked", "--workspace", "--no-run"])
        .log(log("real-logs-build"))
        .stdout()?;
    let args = ["test", "--locked", "--workspace", "--test=real_logs"];
    let mut run = command(step, &args)
        .args(["--features=tile-proxy-tests/real-logs", "--", "--nocapture"])
        .env(PROGRAM, paths::target().join("debug/tile-proxy"))
        .log(log("real-logs"));
    if full {
        run = run.env(FULL, "1");
    }
    Ok(summary(&run.stdout()?))
}

/// The operator against a real API server, which ends with the program.
fn control_plane(step: &Step<'_>, full: bool) -> Result<String> {
    let mut run = command(step, &CONTROL_PLANE)
        // They wait more than they compute.
        .args(["--", "--nocapture", "--test-threads=8"])
        .log(log("control-plane"));
    if full {
        run = run.env(FULL, "1");
    }
    Ok(summary(&run.stdout()?))
}

/// The whole chain on a real cluster, which is removed whether it held or not.
fn end_to_end(step: &Step<'_>, full: bool, kind: bool) -> Result<String> {
    let able = if kind {
        prerequisites::ensure_kind()
    } else {
        prerequisites::ensure_root().and_then(|()| prerequisites::ensure_namespaces())
    };
    able.map_err(|error| NotRun(format!("{error:#}")))?;
    let cluster = if kind { "kind" } else { "builtin" };
    let args = [
        "test",
        "--locked",
        "--package=tile-proxy-tests",
        "--features=cluster",
    ];
    let mut run = command(step, &args)
        .args(["--test=e2e", "--", "--nocapture"])
        .env(CLUSTER, cluster)
        .log(log("end-to-end"));
    if full {
        run = run.env(FULL, "1");
    }
    let outcome = run.stdout();
    // Removing the cluster after Ctrl-C must not be interrupted by the same Ctrl-C.
    let interrupted = interrupt::clear();
    let cluster = if kind {
        Cluster::kind()
    } else {
        Cluster::builtin()
    };
    let down = cluster.and_then(|cluster| cluster.down(&Progress::quiet()));
    if interrupted {
        interrupt::raise();
    }
    let output = outcome?;
    down.context("cannot remove the cluster")?;
    Ok(summary(&output))
}

fn cargo(step: &Step<'_>, args: &[&str]) -> Result<String> {
    command(step, args).stdout().map(|_| String::new())
}

/// A cargo command in the checkout, with its output in the step's log.
fn command<'a>(step: &'a Step<'a>, args: &[&str]) -> Run<'a> {
    Run::new(env!("CARGO"))
        .current_dir(paths::checkout())
        .args(args)
        .named(format!("cargo {}", args.join(" ")))
        .log(log(&format!("cargo-{}", args[0])))
        .deadline(STEP)
        .live(step)
}

fn log(name: &str) -> PathBuf {
    paths::target()
        .join("xtask-test")
        .join(format!("{name}.log"))
}

/// How many tests passed, of all the lines cargo ends its test programs with.
fn summary(output: &str) -> String {
    let passed = |line: &str| -> Option<u64> {
        let (_, rest) = line.split_once("test result: ok. ")?;
        rest.split(' ').next()?.parse().ok()
    };
    let count = output.lines().filter_map(passed).sum::<u64>();
    format!("{count}{PASSED}")
}

/// How a step that ran tests ends its word about the outcome.
const PASSED: &str = " passed";

/// The newest release that builds with our toolchain.
const CARGO_DENY: &str = "0.20.2";

/// Tells tests to run their sweeps whole.
const FULL: &str = "TILE_PROXY_TEST_FULL";

/// Tells the end-to-end test where nodes come from.
const CLUSTER: &str = "TILE_PROXY_CLUSTER";

/// Tells the tests of real logs which program to test.
const PROGRAM: &str = "TILE_PROXY_BINARY";

/// Every step builds something the first time.
const STEP: Duration = Duration::from_secs(60 * 60);
