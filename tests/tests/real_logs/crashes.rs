//! Proxies that are killed and come back while they are read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tile_proxy_tests::http;
use tile_proxy_tests::local::World;
use tile_proxy_tests::local::full;
use tile_proxy_tests::local::hammer::Hammer;
use tile_proxy_tests::local::proxy::{Followed, Proxy};
use tile_proxy_tests::local::tessera::TesseraLog;
use tile_proxy_tests::real_log::VERIFIER_KEY;
use tile_proxy_tests::tiles::{self, WIDTH};
use tile_proxy_tests::toolchain::{TESSERA_FSCK, TESSERA_HAMMER, TESSERA_LOG};

#[test]
fn proxies_that_are_killed_under_load_never_serve_a_wrong_byte() -> Result<()> {
    let (before, growth) = if full() {
        (10_000, 30_000)
    } else {
        (2_000, 3_000)
    };
    let world = World::new("crashes", &[TESSERA_LOG, TESSERA_FSCK, TESSERA_HAMMER])?;
    let log = TesseraLog::start(&world)?;
    log.add(0..before, &world)?;
    let followed = Followed {
        url: &log.url(),
        tiles: None,
        key: VERIFIER_KEY,
        more: "",
    };
    let mut proxies = [world.proxy("a", &followed)?, world.proxy("b", &followed)?];
    for proxy in &proxies {
        proxy.follows_to(before)?;
    }
    let urls = proxies.each_ref().map(Proxy::url);

    let step = world.progress().step("hammer on two proxies");
    let mut hammer = Hammer::start(&world, &[&urls[0], &urls[1]], &log.url(), growth)?;
    let done = AtomicBool::new(false);
    let (kills, answers) = thread::scope(|scope| {
        let readers = [0, 1].map(|reader| {
            let (urls, log, done) = (&urls, log.url(), &done);
            scope.spawn(move || read_until(done, reader, urls, &log, before))
        });
        let kills = kill_until_the_end(&mut hammer, &mut proxies);
        done.store(true, Ordering::Relaxed);
        let mut answers = 0;
        for reader in readers {
            answers += reader.join().expect("a reader does not panic")?;
        }
        anyhow::Ok((kills?, answers))
    })?;
    let complaints = hammer.reaches_its_goal()?;
    step.done(format_args!(
        "{kills} kills, {answers} answers compared, {} complaints",
        complaints.len()
    ));
    let others: Vec<&String> = complaints
        .iter()
        .filter(|line| !EXPECTED.iter().any(|text| line.contains(text)))
        .collect();
    ensure!(others.is_empty(), "hammer: {others:#?}");
    ensure!(kills > 1 && answers > 0, "{kills} kills, {answers} answers");

    let size = log.size()?;
    for proxy in &proxies {
        proxy.follows_to(size)?;
        proxy.expect_nothing_false()?;
        world.fsck(&proxy.url(), VERIFIER_KEY, None)?;
    }
    world.end((log, proxies))
}

/// Kills the proxies by turns and starts them again, until the hammer has ended.
fn kill_until_the_end(hammer: &mut Hammer, proxies: &mut [Proxy; 2]) -> Result<usize> {
    for kills in 0.. {
        let proxy = &mut proxies[kills % 2];
        // Not before it has followed the log a bit further: it shall die at work.
        let begin = proxy.size()?;
        if !hammer.works_until(|| Ok(proxy.size()? >= begin + WIDTH))? {
            return Ok(kills);
        }
        let size = proxy.size()?;
        proxy.kill()?;
        proxy.restart()?;
        let served = proxy.size()?;
        ensure!(
            served >= size,
            "size {size} was served, {served} after a crash"
        );
    }
    Ok(0)
}

/// Reads tiles and bundles of the first `size` entries from the proxies until `done`, and compares
/// what is answered with what the log itself has; gives the number of answers.
fn read_until(
    done: &AtomicBool,
    reader: u64,
    proxies: &[String; 2],
    log: &str,
    size: u64,
) -> Result<u64> {
    let (agent, mut answers) = (http::agent(), 0);
    let count = size / WIDTH;
    for round in reader.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let index = round * 5 % count;
        let path = match round % 3 {
            0 => tiles::tile_path(0, index, size),
            1 => tiles::bundle_path(index, size),
            _ => format!("{}.p/{}", tiles::tile_path(0, index, size), 1 + round % 255),
        };
        // A dead proxy gives no answer; what it says while it starts is 503.
        let Ok(answer) = http::fetch(&agent, &format!("{}/{path}", proxies[(round % 2) as usize]))
        else {
            thread::sleep(PAUSE);
            continue;
        };
        ensure!(
            matches!(answer.status, 200 | 503),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        if answer.status == 200 {
            let whole = path.split(".p/").next().unwrap_or_default();
            let truth = http::fetch(&agent, &format!("{log}/{whole}"))?.body;
            let truth = truth
                .get(..answer.body.len())
                .context("longer than the truth")?;
            ensure!(answer.body == truth, "{path} is wrong");
            answers += 1;
        }
    }
    Ok(answers)
}

/// What the hammer says of a proxy that is dead or has just come back, and of one that is asked for
/// a tile of a checkpoint that so far only the other one has: replicas that do not know each other
/// differ by `checkpoint.refresh_interval`. That no tile inside the tree is ever missing is what
/// the other readers see to.
const EXPECTED: [&str; 6] = [
    "connection refused",
    "connection reset by peer",
    "EOF",
    "broken pipe",
    ": 503",
    "file does not exist",
];

const PAUSE: Duration = Duration::from_millis(20);
