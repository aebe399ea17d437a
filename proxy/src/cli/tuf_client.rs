//! `tile-proxy tuf-client`: the command line of
//! <https://github.com/theupdateframework/tuf-conformance>. Hidden: it is for its tests, and for
//! looking into a repository by hand.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use url::Url;

use super::{EXIT_FAILURE, fail};
use crate::tuf::client::{Client, init};

/// Fetch metadata and targets of a TUF repository, verified as the proxy verifies them.
#[derive(Args, Debug)]
pub(super) struct TufClient {
    /// Directory of trusted metadata.
    #[arg(long, value_name = "DIRECTORY")]
    metadata_dir: PathBuf,
    /// URL of the repository's metadata.
    #[arg(long, value_name = "URL")]
    metadata_url: Option<Url>,
    /// Path of a target; may be given several times.
    #[arg(long, value_name = "PATH")]
    target_name: Vec<String>,
    /// URL of the repository's targets. Defaults to `targets/` below the metadata.
    #[arg(long, value_name = "URL")]
    target_base_url: Option<Url>,
    /// Directory for targets.
    #[arg(long, value_name = "DIRECTORY")]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Trust a root; asks nobody.
    Init {
        /// The root, `root.json`.
        root: PathBuf,
    },
    /// Bring metadata up to date.
    Refresh,
    /// Bring metadata up to date, and fetch targets.
    Download,
}

impl TufClient {
    pub(super) async fn run(&self) -> ExitCode {
        match self.try_run(Timestamp::now()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(EXIT_FAILURE, &error),
        }
    }

    async fn try_run(&self, now: Timestamp) -> anyhow::Result<()> {
        if let Verb::Init { root } = &self.verb {
            return init(&self.metadata_dir, root);
        }
        let client = Client {
            metadata: self.metadata_dir.clone(),
            url: self
                .metadata_url
                .clone()
                .context("--metadata-url is missing")?,
            targets: self.target_base_url.clone(),
        };
        match self.verb {
            Verb::Init { .. } | Verb::Refresh => client.refresh(now).await.map(drop),
            Verb::Download => {
                anyhow::ensure!(!self.target_name.is_empty(), "--target-name is missing");
                let into = self
                    .target_dir
                    .as_ref()
                    .context("--target-dir is missing")?;
                client.download(&self.target_name, into, now).await
            }
        }
    }
}
