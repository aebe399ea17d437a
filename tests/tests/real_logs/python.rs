//! Clients written in Python by others: one that verifies everything, and one that verifies
//! nothing unless it is asked to.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use tile_proxy_tests::local::World;
use tile_proxy_tests::local::front::Front;
use tile_proxy_tests::local::proxy::Followed;
use tile_proxy_tests::local::tessera::TesseraLog;
use tile_proxy_tests::real_log::VERIFIER_KEY;
use tile_proxy_tests::run::{Ended, Run};
use tile_proxy_tests::toolchain::{AICS_TLOG, TESSERA_LOG, TLOG_SCALES};

const SIZE: u64 = 1_000;

#[test]
fn a_verifier_nobody_here_wrote_agrees_with_the_proxy() -> Result<()> {
    let world = World::new("python-verifier", &[TESSERA_LOG])?;
    let python = Python::of(&world)?;
    let log = TesseraLog::start(&world)?;
    log.add(0..SIZE, &world)?;
    let followed = Followed {
        url: &log.url(),
        tiles: None,
        key: VERIFIER_KEY,
        more: "",
    };
    let proxy = world.proxy("proxy", &followed)?;
    proxy.follows_to(SIZE)?;
    let (url, direct) = (proxy.url(), log.url());
    let key = world.file("log.vkey", format!("{VERIFIER_KEY}\n"))?;
    let aics = |arguments: &[&str]| {
        let run = python.run(AICS_TLOG).args(arguments);
        run.arg("--vkey-file").arg(&key).stdout()
    };

    let old = world.path("old.checkpoint").display().to_string();
    aics(&[
        "verify-checkpoint",
        "--tiles",
        &url,
        "--save-checkpoint",
        &old,
    ])?;
    // Which entry has which position is the log's to say, so the entries come from the log.
    for (index, other) in [("0", "1"), ("255", "256"), ("256", "255"), ("999", "998")] {
        let leaf = python.run(TLOG_SCALES).args(["get-leaf", &direct, index]);
        let leaf = world.file("leaf", leaf.stdout()?)?.display().to_string();
        aics(&[
            "verify-inclusion",
            "--leaf",
            &leaf,
            "--index",
            index,
            "--tiles",
            &url,
        ])?;
        aics(&[
            "verify-inclusion",
            "--leaf",
            &leaf,
            "--index",
            other,
            "--tiles",
            &url,
        ])
        .expect_err("an entry is in one place only");
        // It offers a proof to keep as well, and checks what it computes itself.
        python
            .run(TLOG_SCALES)
            .args(["get-leaf", "-c", &url, index])
            .stdout()?;
        let proof = python
            .run(TLOG_SCALES)
            .args(["gen-proof", &url, index])
            .stdout()?;
        let direct = python
            .run(TLOG_SCALES)
            .args(["gen-proof", &direct, index])
            .stdout()?;
        ensure!(
            proof == direct,
            "entry {index} has another proof:\n{proof}\n{direct}"
        );
    }

    log.add(SIZE..SIZE + 300, &world)?;
    proxy.follows_to(SIZE + 300)?;
    aics(&[
        "verify-consistency",
        "--old-checkpoint",
        &old,
        "--tiles",
        &url,
    ])?;
    // Given both, it fails where they contradict each other.
    aics(&["verify-checkpoint", "--tiles", &direct, "--tiles", &url])?;
    proxy.expect_nothing_false()?;
    world.end((log, proxy))
}

#[test]
fn a_client_that_verifies_nothing_is_not_lied_to_behind_the_proxy() -> Result<()> {
    let world = World::new("python-liar", &[TESSERA_LOG])?;
    let python = Python::of(&world)?;
    let log = TesseraLog::start(&world)?;
    log.add(0..SIZE, &world)?;
    let front = Front::before(log.url())?;
    let followed = Followed {
        url: &front.url(),
        tiles: None,
        key: VERIFIER_KEY,
        more: "",
    };
    let proxy = world.proxy("proxy", &followed)?;
    proxy.follows_to(SIZE)?;
    let get = |url: &str| python.run(TLOG_SCALES).args(["get-leaf", url, "5"]).ended();

    let truth = get(&log.url())?;
    ensure!(truth.status.success(), "{}", truth.stderr);
    front.lies(|path, body| {
        // Another last character of every entry.
        let mut end = 0;
        while path == "tile/entries/000" && end < body.len() {
            end += 2 + usize::from(u16::from_be_bytes([body[end], body[end + 1]]));
            body[end - 1] ^= 1;
        }
    });
    let lie = get(&front.url())?;
    ensure!(
        lie.status.success() && lie.stdout != truth.stdout,
        "it noticed: {}",
        lie.stderr
    );

    let Ended {
        status,
        stdout,
        stderr,
    } = get(&proxy.url())?;
    ensure!(
        !status.success() && stdout.is_empty(),
        "it was served {stdout}"
    );
    ensure!(stderr.contains("could not get tile"), "{stderr}");
    let answer = proxy.get("tile/entries/000")?;
    ensure!(answer.status == 502, "{} {}", answer.status, answer.text());
    let failures = proxy.metric("tile_proxy_verify_failures_total")?;
    ensure!(failures > 0.0, "nothing was counted");

    // Nothing of it was kept.
    front.tells_the_truth();
    proxy.recovers("tile/entries/000")?;
    ensure!(
        get(&proxy.url())?.stdout == truth.stdout,
        "the truth is not served"
    );
    world.end((log, front, proxy))
}

/// The Python that has the clients.
struct Python(PathBuf);

impl Python {
    fn of(world: &World) -> Result<Self> {
        world.toolchain().python(world.progress()).map(Self)
    }

    fn run(&self, module: &str) -> Run<'_> {
        // A proxy of the machine has no way to loopback.
        Run::new(&self.0)
            .args(["-m", module])
            .env("NO_PROXY", "*")
            .named(module)
    }
}
