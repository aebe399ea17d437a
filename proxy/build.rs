//! Says when the program was built. A clock before that is wrong, and must not make expired metadata
//! look fresh.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    // Reproducible builds say the time themselves: https://reproducible-builds.org/specs/source-date-epoch/
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let given = given.and_then(|seconds| seconds.parse::<u64>().ok());
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    };
    let seconds = given.unwrap_or_else(now);
    println!("cargo:rustc-env=TILE_PROXY_BUILT={seconds}");
}
