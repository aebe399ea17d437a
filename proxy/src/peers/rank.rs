//! Which replica owns a resource: rendezvous hashing.
//!
//! Every replica computes the same order from the same names, without asking anyone. When one
//! leaves, only what it owned moves, and it moves to the next in order, evenly over the rest.

use std::cmp::Reverse;

use sha2::{Digest as _, Sha256};

/// `names` by their claim on a resource, the owner first: the greatest
/// SHA-256(name ‖ 0 ‖ origin ‖ 0 ‖ path). Costs one hash a name.
pub fn rank<'a>(names: impl Iterator<Item = &'a str>, origin: &str, path: &str) -> Vec<usize> {
    let mut claims: Vec<(Reverse<[u8; 32]>, usize)> = names
        .enumerate()
        .map(|(at, name)| (Reverse(claim(name, origin, path)), at))
        .collect();
    claims.sort_unstable();
    claims.into_iter().map(|(_, at)| at).collect()
}

fn claim(name: &str, origin: &str, path: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [
        name.as_bytes(),
        &[0],
        origin.as_bytes(),
        &[0],
        path.as_bytes(),
    ] {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = ["r-0", "r-1", "r-2", "r-3", "r-4"];

    fn owners(names: &[&'static str]) -> Vec<&'static str> {
        let path = |i: u64| format!("tile/0/{i:03}");
        (0..20_000)
            .map(|i| names[rank(names.iter().copied(), "rome.example/2026h1", &path(i))[0]])
            .collect()
    }

    #[test]
    fn each_of_three_and_five_owns_its_share() {
        for count in [3, 5] {
            let owners = owners(&NAMES[..count]);
            for name in &NAMES[..count] {
                let share = owners.iter().filter(|owner| *owner == name).count();
                let fair = owners.len() / count;
                assert!(
                    share.abs_diff(fair) < fair / 20,
                    "{name} of {count}: {share}"
                );
            }
        }
    }

    #[test]
    fn who_leaves_takes_only_its_own_share_and_leaves_it_evenly() {
        let (before, after) = (owners(&NAMES[..3]), owners(&NAMES[..2]));
        let mut inherited = [0_usize; 2];
        for (before, after) in before.iter().zip(&after) {
            match *before {
                "r-2" => inherited[usize::from(*after == "r-1")] += 1,
                stays => assert_eq!(stays, *after),
            }
        }
        assert!(
            inherited[0].abs_diff(inherited[1]) < inherited[0] / 10,
            "{inherited:?}"
        );
    }

    #[test]
    fn the_order_is_that_of_the_hashes() {
        // sha256sum of the three inputs, by hand: the greatest is first.
        let order = rank(["a", "b", "c"].into_iter(), "o", "p");
        let mut by_hash = [0, 1, 2];
        by_hash
            .sort_by_key(|at| Reverse(Sha256::digest([["a", "b", "c"][*at], "\0o\0p"].concat())));
        assert_eq!(order, by_hash);
    }
}
