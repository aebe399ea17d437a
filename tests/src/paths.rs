//! Where things are: the checkout, and the cache outside of it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the checkout this harness was compiled in.
pub fn checkout() -> PathBuf {
    // The harness is the member `tests`, one level below the root.
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().unwrap_or(member).to_path_buf()
}

/// The folder for what is expensive to build and does not change with the checkout:
/// `$TILE_PROXY_CACHE`, else `$XDG_CACHE_HOME/tile-proxy`, else `~/.cache/tile-proxy`.
pub fn cache() -> Result<PathBuf> {
    let set = |key| {
        env::var_os(key)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("TILE_PROXY_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("tile-proxy")))
        .or_else(|| Some(set("HOME")?.join(".cache/tile-proxy")))
        .context("no place for the cache: set HOME or TILE_PROXY_CACHE")?;
    if cache.is_relative() {
        bail!(
            "the cache folder must be absolute, not {}; set TILE_PROXY_CACHE",
            cache.display()
        );
    }
    Ok(cache)
}

/// Where cargo puts what it builds, and where we put logs and images.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

/// Finds `program` on `PATH` or in the folders of system tools, which a user's `PATH` often lacks.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

const SYSTEM_FOLDERS: [&str; 5] = [
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/go/bin",
    "/usr/local/bin",
];
