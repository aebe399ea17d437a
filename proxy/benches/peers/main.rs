//! tile-proxy beside nginx on the same work, in the same run: what `cargo xtask bench` shows.
//!
//! Only the ratios carry over to other machines. Servers are asked in turn, in another order each
//! round; the median over the rounds is shown with the smallest and the largest. A round in which
//! something else used the processors is repeated.
//!
//! | table | work | what is measured |
//! |---|---|---|
//! | warm | random tiles of a filled cache; the server has one core, wrk the other | CPU time a request |
//! | cold | each tile once, none cached; all cores shared with upstream and clients | tiles a second |
//! | herd | 200 clients at the same moment for one tile that nobody has | the last answer |

mod cpu;
mod load;
mod log;
mod server;
mod table;
mod upstream;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rand::seq::SliceRandom as _;

use self::{
    load::Saturated,
    log::BenchLog,
    server::{Contender, Cores, Locked, Server},
    table::{Row, Sample, median, table},
    upstream::{Behaviour, PROMPT, Upstream},
};

/// Compare tile-proxy with nginx on warm hits, cold tiles and herds.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", max_term_width = 100)]
struct Args {
    /// Rounds of every table; the median of them is shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each warm measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these tables
    #[arg(long, value_delimiter = ',', default_values_t = ["warm".to_owned(), "cold".to_owned(), "herd".to_owned()])]
    tables: Vec<String>,
    /// What `cargo bench` adds to every bench program
    #[arg(long, hide = true)]
    bench: bool,
}

/// Tiles of the warm table: 131 MB, so more than processor caches hold.
const WARM_TILES: u64 = 16_000;

/// Tiles of the hot table: 2 MB.
const HOT_TILES: u64 = 256;

/// Tiles of the cold table.
const COLD_TILES: u64 = 20_000;

/// Clients of a herd.
const HERD: usize = 200;

/// Most of a core that anything else may use during a measurement.
const FOREIGN: f64 = 0.10;

/// Repeats of a measurement that something else disturbed.
const REPEATS: usize = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.seconds > 0, "nothing to measure");
    println!(
        "tile-proxy beside nginx: {} rounds; median (min to max)",
        args.rounds
    );
    println!("{}", machine());
    let begin = Instant::now();
    let upstream = Upstream::start(BenchLog::with_full_tiles(COLD_TILES)).await?;
    eprintln!(
        "a log of {COLD_TILES} full tiles made in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    for name in &args.tables {
        match name.as_str() {
            "warm" => warm(&args, &upstream).await?,
            "cold" => cold(&args, &upstream).await?,
            "herd" => herd(&args, &upstream).await?,
            other => anyhow::bail!("no table is called `{other}`; there are warm, cold and herd"),
        }
    }
    Ok(())
}

/// Random hits on filled caches, the server alone on its core.
async fn warm(args: &Args, upstream: &Upstream) -> Result<()> {
    let contenders = [
        Contender::Nginx,
        Contender::NginxOpenFiles,
        Contender::NginxBest,
        Contender::TileProxyDisk,
        Contender::TileProxy,
    ];
    let mut servers = Vec::new();
    for contender in contenders {
        let server = Server::start(
            contender,
            Cores::First,
            upstream.address(),
            &upstream.vkey(),
        )
        .with_context(|| contender.name())?;
        load::sweep(server.address(), WARM_TILES)
            .await
            .with_context(|| contender.name())?;
        let locked = Locked::files_below(&server.cache())?;
        // Once more: the first time after a fill, files are opened and tiles are proven.
        load::sweep(server.address(), WARM_TILES).await?;
        servers.push((contender, server, locked));
    }
    let scratch = tempfile::tempdir()?;
    for (title, tiles) in [
        ("warm, 16,000 tiles", WARM_TILES),
        ("hot, 256 tiles", HOT_TILES),
    ] {
        let mut rows: Vec<Row> = contenders.iter().map(|c| Row::new(c.name())).collect();
        for round in 0..args.rounds {
            for i in shuffled(servers.len()) {
                let (contender, server, _) = &servers[i];
                eprintln!("{title}, round {}: {}", round + 1, contender.name());
                let time = Duration::from_secs(args.seconds);
                let (address, path) = (server.address(), scratch.path());
                let saturate = || load::saturate(address, Cores::First, tiles, time, path);
                let (seen, cost) = tokio::task::block_in_place(|| undisturbed(server, saturate))?;
                let Saturated {
                    requests,
                    per_second,
                    p50,
                    p99,
                } = seen;
                rows[i].push(Sample {
                    cpu_us: cost.as_secs_f64() * 1e6 / requests as f64,
                    per_second,
                    first: p50,
                    last: p99,
                });
            }
        }
        println!(
            "\n{title}: {} connections, one core each for server and wrk",
            load::CONNECTIONS
        );
        print!(
            "{}",
            table(
                &rows,
                "CPU µs/request",
                "requests/s",
                ["p50", "p99"],
                |row| { median(row.samples.iter().map(|sample| sample.cpu_us)) }
            )
        );
    }
    Ok(())
}

/// Every tile once, none of them cached.
async fn cold(args: &Args, upstream: &Upstream) -> Result<()> {
    let contenders = [Contender::Nginx, Contender::TileProxy];
    let mut rows: Vec<Row> = contenders.iter().map(|c| Row::new(c.name())).collect();
    for round in 0..args.rounds {
        for i in shuffled(contenders.len()) {
            eprintln!("cold, round {}: {}", round + 1, contenders[i].name());
            // A new directory each time: a file system takes its time over inodes just freed.
            let server = Server::start(
                contenders[i],
                Cores::All,
                upstream.address(),
                &upstream.vkey(),
            )?;
            let before = server.cpu();
            let took = load::sweep(server.address(), COLD_TILES).await?;
            server.await_stored(contenders[i], COLD_TILES)?;
            let cost = server.cpu() - before;
            rows[i].push(Sample {
                cpu_us: cost.as_secs_f64() * 1e6 / COLD_TILES as f64,
                per_second: COLD_TILES as f64 / took.as_secs_f64(),
                first: took / u32::try_from(COLD_TILES)?,
                last: took,
            });
        }
    }
    println!(
        "\ncold, 20,000 tiles once: {} connections, all cores shared; tile-proxy proves and stores, nginx stores",
        load::CONNECTIONS
    );
    print!(
        "{}",
        table(&rows, "CPU µs/tile", "tiles/s", ["a tile", "all"], |row| {
            1.0 / median(row.samples.iter().map(|sample| sample.per_second))
        })
    );
    Ok(())
}

/// Two hundred clients at once for a tile that nobody has.
async fn herd(args: &Args, upstream: &Upstream) -> Result<()> {
    println!("\nherd: {HERD} clients at the same moment for one tile that is not cached");
    println!(
        "  {:<28} {:<16} {:>9} {:>22} {:>22} {:>9}",
        "upstream", "server", "upstream", "half are answered", "all are answered", "status"
    );
    for (name, behaviour) in [
        ("200 after 20 ms", behaviour(20, true)),
        ("200 after 200 ms", behaviour(200, true)),
        ("500 after 200 ms", behaviour(200, false)),
    ] {
        // Without a server in between, first: what all of this costs the clients by itself.
        for contender in [None, Some(Contender::Nginx), Some(Contender::TileProxy)] {
            let start = |contender| {
                let (address, vkey) = (upstream.address(), upstream.vkey());
                Server::start(contender, Cores::All, address, &vkey)
            };
            let server = contender.map(start).transpose()?;
            let address = server
                .as_ref()
                .map_or_else(|| upstream.address(), Server::address);
            // The parents of the tiles, so that only the tile itself is cold.
            load::sweep(address, 1_000).await?;
            let (mut halves, mut lasts, mut asked, mut statuses) = (vec![], vec![], vec![], vec![]);
            for round in 0..args.rounds as u64 {
                upstream.behaves(behaviour);
                let before = upstream.requests();
                let seen = load::herd(address, HERD, &load::path(1_001 + round)).await?;
                asked.push((upstream.requests() - before) as f64);
                upstream.behaves(PROMPT);
                halves.push(seen.p50.as_secs_f64() * 1e3);
                lasts.push(seen.last.as_secs_f64() * 1e3);
                statuses.extend(seen.statuses);
            }
            statuses.sort_unstable();
            statuses.dedup();
            println!(
                "  {name:<28} {:<16} {:>9} {:>22} {:>22} {:>9}",
                contender.map_or("the log itself", Contender::name),
                format!("{:.0}", median(asked)),
                table::spread(halves, "ms"),
                table::spread(lasts, "ms"),
                statuses
                    .iter()
                    .map(u16::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
    }
    Ok(())
}

fn behaviour(milliseconds: u64, succeeds: bool) -> Behaviour {
    Behaviour {
        delay: Duration::from_millis(milliseconds),
        succeeds,
    }
}

/// Runs `work` until nothing else has used the processors meanwhile; its outcome, and the processor
/// time that the server spent on it.
fn undisturbed<T>(server: &Server, work: impl Fn() -> Result<T>) -> Result<(T, Duration)> {
    let mut repeats = 0;
    loop {
        let begin = Instant::now();
        let before = (cpu::of_machine(), server.cpu(), cpu::of_self());
        let outcome = work()?;
        let cost = server.cpu() - before.1;
        let known = cost + (cpu::of_self() - before.2);
        let foreign = (cpu::of_machine() - before.0).saturating_sub(known);
        let share = foreign.as_secs_f64() / begin.elapsed().as_secs_f64();
        if share <= FOREIGN || repeats == REPEATS {
            if share > FOREIGN {
                eprintln!("  {share:.2} cores were used by others; taken all the same");
            }
            return Ok((outcome, cost));
        }
        eprintln!("  {share:.2} cores were used by others; once more");
        repeats += 1;
    }
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rand::rng());
    order
}

/// What the figures are from.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(PathBuf::from(path)).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let nginx = std::process::Command::new("nginx").arg("-v").output();
    let nginx = nginx.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    format!(
        "{}, {cores} cores, Linux {}, {}",
        model.map_or("unknown processor", |(_, model)| model),
        kernel.trim(),
        nginx.unwrap_or_default(),
    )
}
