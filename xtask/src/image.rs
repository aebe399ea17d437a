//! `cargo xtask image`: our image as an OCI archive.

use std::process::ExitCode;

use anyhow::Result;
use tile_proxy_tests::image::product::{self, Profile};
use tile_proxy_tests::progress::Progress;

/// Build both programs and pack them as an OCI archive, without a daemon.
///
/// The same sources give the same archive. Its tag ends in the digest of its contents, so a node
/// never mistakes an old image for a new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask image
  cargo xtask image --dist         what ships: the whole program optimised, minutes more
  skopeo copy oci-archive:target/image/tile-proxy.oci.tar docker://registry.example.com/tile-proxy
  kind load image-archive target/image/tile-proxy.oci.tar")]
pub(crate) struct Args {
    /// Optimise the whole program, as for a release
    #[arg(long)]
    dist: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let profile = if args.dist {
        Profile::Dist
    } else {
        Profile::Release
    };
    let archive = product::build(profile, &Progress::new())?;
    println!("archive    {}", archive.path.display());
    println!("reference  {}", archive.reference);
    println!("digest     {}", archive.digest);
    println!("size       {:.1} MB", archive.bytes as f64 / 1e6);
    Ok(ExitCode::SUCCESS)
}
