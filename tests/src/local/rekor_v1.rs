//! Sigstore's Rekor v1: a server over Trillian over PostgreSQL; and its client.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{KeyPair, SignatureAlgorithm};

use super::daemon::Daemon;
use super::postgres::Postgres;
use super::{PAUSE, START, World, free_port};
use crate::http;
use crate::run::{Ended, Run};
use crate::toolchain::{REKOR_CLI, REKOR_V1_SERVER, TRILLIAN_SERVER, TRILLIAN_SIGNER, Tool};
use crate::wait::{self, Seen};

/// The tools that it takes.
pub const TOOLS: [Tool; 4] = [REKOR_V1_SERVER, REKOR_CLI, TRILLIAN_SERVER, TRILLIAN_SIGNER];

/// A log of signatures; killed when dropped.
#[derive(Debug)]
pub struct RekorV1 {
    key: KeyPair,
    port: u16,
    // In the order in which they may go: who asks before who is asked.
    _server: Daemon,
    _signer: Daemon,
    _trillian: Daemon,
    _database: Postgres,
}

impl RekorV1 {
    /// What the origins of its shards begin with.
    pub const HOSTNAME: &str = "rekor.example.test";

    /// An empty log that runs, with a new key of this kind. [`TOOLS`] must be built.
    pub fn start(world: &World, kind: &'static SignatureAlgorithm) -> Result<Self> {
        let step = world.progress().step("Rekor v1 on Trillian and PostgreSQL");
        let database = Postgres::start(world, DATABASE)?;
        let schema = "storage/postgresql/schema/storage.sql";
        let schema = world.toolchain().source_file(TRILLIAN_SERVER, schema)?;
        database.run_file(DATABASE, &schema)?;
        let trillian_port = free_port()?;
        let mut trillian = trillian(world, &database, TRILLIAN_SERVER, trillian_port, &[])?;
        let more = [
            "--force_master",
            "--sequencer_interval=100ms",
            "--batch_size=1000",
        ];
        let signer = self::trillian(world, &database, TRILLIAN_SIGNER, free_port()?, &more)?;
        let key = KeyPair::generate_for(kind)?;
        let file = world.file("rekor-v1.pem", key.serialize_pem())?;
        let port = free_port()?;
        let mut command = Command::new(world.toolchain().path(REKOR_V1_SERVER));
        command
            .args(["serve", "--host=127.0.0.1", "--log_type=prod"])
            .arg(format!("--port={port}"))
            .arg(format!("--rekor_server.hostname={}", Self::HOSTNAME))
            .arg(format!("--rekor_server.signer={}", file.display()))
            .arg("--trillian_log_server.address=127.0.0.1")
            .arg(format!("--trillian_log_server.port={trillian_port}"))
            .arg(format!("--enabled_api_endpoints={ENDPOINTS}"));
        // It makes its tree as soon as it runs, and ends if it cannot.
        wait::until("Trillian to take connections", START, PAUSE, || {
            trillian.expect_running()?;
            Ok(
                match std::net::TcpStream::connect(("127.0.0.1", trillian_port)) {
                    Ok(_) => Seen::Ready(()),
                    Err(error) => Seen::NotYet(error.to_string()),
                },
            )
        })?;
        let mut server = Daemon::start(command, "rekor-server", &world.path("rekor-v1.output"))?;
        let log = format!("http://127.0.0.1:{port}/api/v1/log");
        wait::until("Rekor v1's first answer", START, PAUSE, || {
            server.expect_running()?;
            Ok(match http::fetch(&http::agent(), &log) {
                Ok(answer) if answer.status == 200 => Seen::Ready(()),
                Ok(answer) => Seen::NotYet(answer.text()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })?;
        step.done("");
        Ok(Self {
            key,
            port,
            _server: server,
            _signer: signer,
            _trillian: trillian,
            _database: database,
        })
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The key that it signs with.
    pub fn public_key_pem(&self) -> String {
        self.key.public_key_pem()
    }
}

/// One of Trillian's programs.
fn trillian(
    world: &World,
    database: &Postgres,
    tool: Tool,
    port: u16,
    more: &[&str],
) -> Result<Daemon> {
    let mut command = Command::new(world.toolchain().path(tool));
    command
        .args([
            "--storage_system=postgresql",
            "--quota_system=noop",
            "--logtostderr",
        ])
        .arg(format!("--postgresql_uri={}", database.uri(DATABASE)))
        .arg(format!("--rpc_endpoint=127.0.0.1:{port}"))
        .arg(format!("--http_endpoint=127.0.0.1:{}", free_port()?))
        .args(more);
    let output = world.path(&format!("{}.output", tool.name));
    Daemon::start(command, tool.name, &output)
}

/// Runs `rekor-cli` against the log at `url`, with a home of its own.
pub fn rekor_cli(world: &World, url: &str, args: &[&str]) -> Result<Ended> {
    let (command, args) = args.split_first().context("no command")?;
    Run::new(world.toolchain().path(REKOR_CLI))
        .args([command, "--rekor_server", url])
        .args(args)
        .env("HOME", world.path("home"))
        .env("NO_PROXY", "127.0.0.1")
        .named(format!("rekor-cli {command}"))
        .deadline(CLIENT)
        .ended()
}

const DATABASE: &str = "trillian";
const ENDPOINTS: &str = "getLogInfo,getPublicKey,getLogProof,createLogEntry,getLogEntryByIndex,\
                         getLogEntryByUUID,searchLogQuery";
const CLIENT: Duration = Duration::from_secs(60);
