//! Long sweeps are run in part, chosen by a seed that is printed, or whole.

use std::{env, process};

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tile_proxy_tests::local::full;

/// Leaves `most` of `cases`, chosen by `TILE_PROXY_TEST_SEED` or at random; all of them in a full
/// run.
pub(crate) fn sample<T>(cases: &mut Vec<T>, most: usize) {
    if full() || cases.len() <= most {
        return;
    }
    cases.shuffle(&mut StdRng::seed_from_u64(seed()));
    cases.truncate(most);
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    let given = env::var("TILE_PROXY_TEST_SEED");
    let seed = given.map_or_else(
        |_| u64::from(process::id()),
        |seed| seed.parse().expect("a number in TILE_PROXY_TEST_SEED"),
    );
    println!("TILE_PROXY_TEST_SEED={seed}");
    seed
}
