//! A PostgreSQL server of one test.

use std::process::Command;
use std::time::Duration;
use std::{fs, mem};

use anyhow::{Context, Result};
use nix::unistd::{User, chown, geteuid};
use tempfile::TempDir;

use super::daemon::Daemon;
use super::{PAUSE, START, World, free_port};
use crate::run::Run;
use crate::wait::{self, Seen};
use crate::{paths, prerequisites};

/// A server with one database; stopped and removed when dropped.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    daemon: Option<Daemon>,
    /// Not below `target`: the server runs as another user, who cannot look into everybody's home.
    directory: TempDir,
}

impl Postgres {
    /// A server with an empty database of this name, which its user of the same name owns.
    pub fn start(world: &World, name: &str) -> Result<Self> {
        let programs = prerequisites::ensure_postgresql(world.progress())?;
        let directory = tempfile::Builder::new()
            .prefix("tile-proxy-postgres-")
            .tempdir()
            .context("no place for a database")?;
        let data = directory.path().join("data");
        if geteuid().is_root() {
            // It refuses to run as root.
            let user = User::from_name(OWNER)?.context("no user is called `postgres`")?;
            chown(directory.path(), Some(user.uid), Some(user.gid))?;
        }
        Run::from_command(unprivileged(&programs.join("initdb")))
            .args(["--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"])
            .arg(format!("--username={name}"))
            .arg("-D")
            .arg(&data)
            .current_dir(directory.path())
            .deadline(START)
            .stdout()?;
        let port = free_port()?;
        let mut command = unprivileged(&programs.join("postgres"));
        command.current_dir(directory.path()).arg("-D").arg(&data);
        command.args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ] {
            command.args(["-c", setting]);
        }
        let sockets = directory.path().display();
        command.args(["-c", &format!("unix_socket_directories={sockets}")]);
        let daemon = Daemon::start(command, "postgres", &world.path("postgres.output"))?;
        let mut server = Self {
            port,
            daemon: Some(daemon),
            directory,
        };
        server.becomes_ready(name)?;
        Ok(server)
    }

    fn becomes_ready(&mut self, name: &str) -> Result<()> {
        wait::until("PostgreSQL to take connections", START, PAUSE, || {
            if let Some(daemon) = &mut self.daemon {
                daemon.expect_running()?;
            }
            let created = self.psql(
                name,
                "postgres",
                &["-c", &format!("CREATE DATABASE {name}")],
            );
            Ok(match created {
                Ok(_) => Seen::Ready(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Runs the statements of a file in the database.
    pub fn run_file(&self, name: &str, file: &std::path::Path) -> Result<()> {
        // Read by us: its user need not be able to.
        let statements = fs::read_to_string(file)?;
        let run = self.client(name, name).input(&statements)?;
        run.stdout().map(drop)
    }

    /// The database's address.
    pub fn uri(&self, name: &str) -> String {
        format!(
            "postgresql://{name}@127.0.0.1:{}/{name}?sslmode=disable",
            self.port
        )
    }

    fn psql(&self, user: &str, database: &str, args: &[&str]) -> Result<String> {
        self.client(user, database).args(args).stdout()
    }

    fn client(&self, user: &str, database: &str) -> Run<'static> {
        Run::new(paths::program("psql").unwrap_or_else(|| "psql".into()))
            .args(["-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-q"])
            .args(["-p", &self.port.to_string(), "-U", user, "-d", database])
            .deadline(STATEMENT)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // In order, because it would leave shared memory behind; whoever used it is gone by now.
        if let Some(daemon) = mem::take(&mut self.daemon) {
            let _ = daemon.stop();
        }
        // And its directory goes with it.
        let _ = &self.directory;
    }
}

/// A command that runs as the server's user, where we may choose.
fn unprivileged(program: &std::path::Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", OWNER, "--regid", OWNER, "--clear-groups"])
        .arg(program);
    command
}

/// Whom Debian's package makes the owner of its databases.
const OWNER: &str = "postgres";
const STATEMENT: Duration = Duration::from_secs(60);
