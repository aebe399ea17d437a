//! `cargo xtask image`: our image as an OCI archive.

use std::process::ExitCode;

use anyhow::Result;
use tile_proxy_tests::image::product;
use tile_proxy_tests::progress::Progress;

/// Build both programs and pack them as an OCI archive, without a daemon.
///
/// The same sources give the same archive. Its tag ends in the digest of its contents, so a node
/// never mistakes an old image for a new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask image
  skopeo copy oci-archive:target/image/tile-proxy.oci.tar docker://registry.example.com/tile-proxy
  kind load image-archive target/image/tile-proxy.oci.tar

Environment:
  TILE_PROXY_IMAGE  an archive that demo and tests are to use instead of building one")]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> Result<ExitCode> {
    let archive = product::build(&Progress::new())?;
    println!("archive    {}", archive.path.display());
    println!("reference  {}", archive.reference);
    println!("digest     {}", archive.digest);
    println!("size       {:.1} MB", archive.bytes as f64 / 1e6);
    Ok(ExitCode::SUCCESS)
}
