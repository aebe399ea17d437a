//! Logs of every kind in one proxy, which is told of none of them: a TUF repository says which there
//! are, where they are read, and with which keys.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tile_proxy_tests::local::World;
use tile_proxy_tests::local::front::Front;
use tile_proxy_tests::local::proxy::Proxy;
use tile_proxy_tests::local::rekor::{API, Rekor};
use tile_proxy_tests::local::rekor_v1::{RekorV1, TOOLS};
use tile_proxy_tests::local::tessera::TesseraLog;
use tile_proxy_tests::real_log::{VERIFIER_KEY, tree_size};
use tile_proxy_tests::toolchain::{REKOR_SERVER, TESSERA_FSCK, TESSERA_LOG};

use super::rekor_v1::{Artifact, cli_at};
use super::tuf_repository::TufRepository;

/// Names of Rekor v2 and of Tessera's log in paths: their origins.
const REKOR: &str = "rekor-example-test";
const TESSERA: &str = "example-com-log-testdata";

#[test]
fn logs_of_every_kind_are_discovered_and_outlive_each_other() -> Result<()> {
    let mut tools = TOOLS.to_vec();
    tools.extend([REKOR_SERVER, TESSERA_LOG, TESSERA_FSCK]);
    let world = World::new("several", &tools)?;
    let rekor_v1 = RekorV1::start(&world, &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let rekor = Rekor::start(&world)?;
    let tessera = TesseraLog::start(&world)?;
    tessera.add(0..700, &world)?;
    let vkey = rekor.verifier_key();
    let repository = publish(&world, &rekor_v1, &rekor, &tessera)?;
    let lines = format!(
        "  passthrough: true\n  tuf: {{enabled: true, url: '{}/', root: 'file:{}', allow_http: true}}\n",
        repository.url(),
        world.path("root.json").display(),
    );
    let mut proxy = world.proxy_by("proxy", &lines)?;
    let v1 = rekor_v1
        .url()
        .replace("http://", "")
        .replace(['.', ':'], "-");
    for (name, size) in [(&*v1, 0), (REKOR, 0), (TESSERA, 700)] {
        follows_to(&proxy, name, size)?;
    }
    ensure!(
        kinds(&proxy)?.get(&v1).map(String::as_str) == Some("rekor-v1"),
        "{:?}",
        kinds(&proxy)?
    );

    // Each by its own client, below its name.
    let step = world
        .progress()
        .step("rekor-cli: upload, get, verify, loginfo");
    let at_v1 = format!("{}/{v1}", proxy.url());
    let mut artifacts = Vec::new();
    for number in 0..3 {
        let artifact = Artifact::new(&world, number)?;
        let uploaded = cli_at(&world, &at_v1, &artifact.args("upload"))?;
        ensure!(uploaded.contains("Created entry at index"), "{uploaded}");
        artifacts.push(artifact);
    }
    follows_to(&proxy, &v1, 3)?;
    for artifact in &artifacts {
        cli_at(&world, &at_v1, &artifact.args("verify"))?;
    }
    let info = cli_at(&world, &at_v1, &["loginfo"])?;
    ensure!(info.contains("Verification Successful!"), "{info}");
    artifacts_are_found(&world, &at_v1, &artifacts)?;
    step.done(format_args!("{} entries", artifacts.len()));
    let entries = rekor.add(100, &world)?;
    follows_to(&proxy, REKOR, entries.len() as u64)?;
    tiles_are_proven(&world, &proxy, &vkey)?;
    // And below the hash of what its checkpoints begin with.
    let by_hash = format!("{}/{}", proxy.url(), origin_hash(&proxy, &v1)?);
    artifacts_are_found(&world, &by_hash, &artifacts)?;
    proxy.expect_nothing_false()?;

    // One log ends with its server; the others grow.
    drop(rekor_v1);
    let absent = proxy.get(&format!("{v1}/api/v1/log/entries?logIndex=99"))?;
    ensure!(absent.status == 503, "{}: {}", absent.status, absent.text());
    artifacts_are_found(&world, &at_v1, &artifacts)?;
    tessera.add(700..900, &world)?;
    follows_to(&proxy, TESSERA, 900)?;
    let more = rekor.add(20, &world)?;
    follows_to(&proxy, REKOR, (entries.len() + more.len()) as u64)?;
    tiles_are_proven(&world, &proxy, &vkey)?;

    // Nobody is there any more, the repository included, and the proxy begins anew.
    proxy.stop()?;
    drop((rekor, tessera, repository));
    proxy.restart()?;
    for url in [&at_v1, &by_hash] {
        artifacts_are_found(&world, url, &artifacts)?;
    }
    let info = cli_at(&world, &at_v1, &["loginfo"])?;
    ensure!(info.contains("Verification Successful!"), "{info}");
    tiles_are_proven(&world, &proxy, &vkey)?;
    proxy.expect_nothing_false()?;
    let proven = proxy.fsck()?;
    let entries = |line: &str| line.split_whitespace().take(2).eq(["entries", "3"]);
    ensure!(proven.lines().any(entries), "{proven}");
    world.end(proxy)
}

/// A TUF repository with the keys of all three, served as files. Its root is `root.json` of the world.
fn publish(
    world: &World,
    rekor_v1: &RekorV1,
    rekor: &Rekor,
    tessera: &TesseraLog,
) -> Result<Front> {
    let key = |base_url: &str, spki: String, details: &str| {
        json!({"baseUrl": base_url, "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": spki, "keyDetails": details}})
    };
    let of_pem =
        |pem: String| -> String { pem.lines().filter(|line| !line.starts_with('-')).collect() };
    let tessera_key = VERIFIER_KEY.splitn(3, '+').nth(2).context("no key")?;
    // The header of an Ed25519 key (RFC 8410) in place of the byte that a verifier key has for it.
    let header = hex::decode("302a300506032b6570032100")?;
    let spki = [&header[..], &BASE64_STANDARD.decode(tessera_key)?[1..]].concat();
    let tlogs = [
        key(
            &rekor_v1.url(),
            of_pem(rekor_v1.public_key_pem()),
            "PKIX_ECDSA_P256_SHA_256",
        ),
        key(
            &format!("https://{}", Rekor::ORIGIN),
            of_pem(rekor.public_key_pem()),
            "PKIX_ED25519",
        ),
        key(
            "https://example.com/log/testdata",
            BASE64_STANDARD.encode(spki),
            "PKIX_ED25519",
        ),
    ];
    let kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
    let trusted_root = json!({"mediaType": kind, "tlogs": tlogs});
    let reads = json!({"rekorLogs": [
        {"readUrl": format!("{}/{API}", rekor.tiles().url()), "logOrigin": Rekor::ORIGIN},
        {"readUrl": format!("{}/", tessera.url()), "logOrigin": "example.com/log/testdata"},
    ]});
    let mut repository = TufRepository::new();
    repository
        .list("trusted_root.json", trusted_root.to_string())
        .list("monitor_config.v1.json", reads.to_string())
        .publish();
    world.file("root.json", repository.root())?;
    let directory = world.path("tuf");
    for (name, bytes) in &repository.files {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().context("no directory")?)?;
        fs::write(file, bytes)?;
    }
    Front::of_files(directory, "")
}

/// Waits until the log of this name has at least `size` entries.
fn follows_to(proxy: &Proxy, name: &str, size: u64) -> Result<()> {
    proxy.waits_for(name, || {
        let answer = proxy.get(&format!("{name}/checkpoint"))?;
        let text = answer.text();
        ensure!(answer.status == 200, "{}: {text}", answer.status);
        let served = tree_size(&text)?;
        ensure!(served >= size, "size {served}, wanted {size}");
        Ok(())
    })
}

/// By index, `rekor-cli` finds each of them in the log at `url`.
fn artifacts_are_found(world: &World, url: &str, artifacts: &[Artifact]) -> Result<()> {
    for (index, artifact) in artifacts.iter().enumerate() {
        let got = cli_at(world, url, &["get", "--log-index", &index.to_string()])?;
        ensure!(got.contains(&artifact.digest), "{index} of {url}: {got}");
    }
    Ok(())
}

/// Tessera's `fsck` is content with both logs that have tiles, by each of their names.
fn tiles_are_proven(world: &World, proxy: &Proxy, vkey: &str) -> Result<()> {
    for (name, key) in [(REKOR, vkey), (TESSERA, VERIFIER_KEY)] {
        for name in [name.to_owned(), origin_hash(proxy, name)?] {
            world.fsck(&format!("{}/{name}", proxy.url()), key, None)?;
        }
    }
    Ok(())
}

/// The other name of a log: the hash of the first line of its checkpoint.
fn origin_hash(proxy: &Proxy, name: &str) -> Result<String> {
    let checkpoint = String::from_utf8(proxy.body(&format!("{name}/checkpoint"))?)?;
    let origin = checkpoint.lines().next().context("empty")?;
    Ok(hex::encode(Sha256::digest(origin)))
}

/// What each log is, as the proxy says.
fn kinds(proxy: &Proxy) -> Result<BTreeMap<String, String>> {
    let stats: Value = serde_json::from_slice(&proxy.body("_admin/cache/stats")?)?;
    let logs = stats["logs"].as_array().context("no logs")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kinds = logs
        .iter()
        .map(|log| (text(&log["name"]), text(&log["kind"])));
    Ok(kinds.collect())
}
