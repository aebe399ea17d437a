//! Rekor v2: entries are posted to its server, tiles are read elsewhere.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use tile_proxy_tests::local::proxy::{Followed, Proxy};
use tile_proxy_tests::local::rekor::{API, Entry, Rekor};
use tile_proxy_tests::local::{World, full};
use tile_proxy_tests::tiles::{self, Hash, Tree, WIDTH};
use tile_proxy_tests::toolchain::{REKOR_SERVER, TESSERA_FSCK};

#[test]
fn signatures_in_rekor_are_proven_through_the_proxy() -> Result<()> {
    let count = if full() { 3_000 } else { 600 };
    let world = World::new("rekor", &[REKOR_SERVER, TESSERA_FSCK])?;
    let rekor = Rekor::start(&world)?;
    let key = rekor.verifier_key();
    // As Sigstore gives them: the place to write to, the key in PEM, and tiles elsewhere.
    let pem = world.file("rekor.pub", rekor.public_key_pem())?;
    let followed = Followed {
        url: &rekor.url(),
        tiles: Some(&format!("{}/{API}", rekor.tiles().url())),
        key: &format!("file:{}", pem.display()),
        more: &format!("  kind: rekor-v2\n  origin: {}\n", Rekor::ORIGIN),
    };
    let mut proxy = world.proxy("proxy", &followed)?;
    // And as a log like any other, below its prefix.
    let followed = Followed {
        url: &format!("{}/{API}", rekor.tiles().url()),
        tiles: None,
        key: &key,
        more: "",
    };
    let other = world.proxy("other", &followed)?;
    // An empty log has a checkpoint, too.
    proxy.follows_to(0)?;
    other.follows_to(0)?;

    let entries = rekor.add(count, &world)?;
    ensure!(entries.len() as u64 == count, "{} entries", entries.len());
    proxy.follows_to(count)?;
    other.follows_to(count)?;
    every_entry_is_proven(&other, &entries)?;
    other.expect_nothing_false()?;
    drop(other);
    every_entry_is_proven(&proxy, &entries)?;
    world.fsck(&proxy.url(), &key, None)?;
    world.fsck(
        &format!("{}/api/v2", proxy.url()),
        &key,
        Some(Rekor::ORIGIN),
    )?;
    proxy.expect_nothing_false()?;

    // The server and its files are gone, the proofs are not.
    drop(rekor);
    proxy.stop()?;
    proxy.restart()?;
    every_entry_is_proven(&proxy, &entries)?;
    proxy.expect_nothing_false()?;
    world.end(proxy)
}

/// Each of `entries` is in the bundles as the server had it, and its inclusion is proven from the
/// tiles; by turns from the paths with and without the API's prefix.
fn every_entry_is_proven(proxy: &Proxy, entries: &[Entry]) -> Result<()> {
    let checkpoint = String::from_utf8(proxy.body("checkpoint")?)?;
    let prefixed = String::from_utf8(proxy.body("api/v2/checkpoint")?)?;
    ensure!(
        checkpoint == prefixed,
        "two checkpoints: {checkpoint}{prefixed}"
    );
    let mut lines = checkpoint.lines();
    ensure!(lines.next() == Some(Rekor::ORIGIN), "{checkpoint}");
    let size: u64 = lines.next().context("no size")?.parse()?;
    let root: Hash = BASE64_STANDARD
        .decode(lines.next().context("no root")?)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("the root is no hash"))?;

    let mut bundles = Vec::new();
    for index in 0..size.div_ceil(WIDTH) {
        bundles.push(proxy.body(&format!("{API}{}", tiles::bundle_path(index, size)))?);
    }
    let mut bodies = Vec::new();
    for bundle in &bundles {
        bodies.extend(tiles::entries(bundle)?);
    }
    ensure!(
        bodies.len() as u64 == size,
        "{} entries in bundles",
        bodies.len()
    );

    let mut read = HashMap::new();
    let mut tree = Tree::new(size, |path: &str| {
        if !read.contains_key(path) {
            let prefix = if read.len() % 2 == 0 { API } else { "" };
            read.insert(path.to_owned(), proxy.body(&format!("{prefix}{path}"))?);
        }
        Ok(read[path].clone())
    });
    for Entry { index, body } in entries {
        let served = bodies.get(*index as usize).context("an entry is missing")?;
        ensure!(
            served == body,
            "entry {index} is not what the server made of it"
        );
        let proof = tree.inclusion_proof(*index)?;
        tiles::verify_inclusion(tiles::leaf_hash(body), *index, size, &proof, &root)?;
    }
    Ok(())
}
