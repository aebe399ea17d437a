//! `tile-proxy`: a caching reverse proxy for transparency logs. See `tile-proxy --help`.

use std::process::ExitCode;

/// Many small, short-lived buffers on many threads: what this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    tile_proxy::cli::main().await
}
