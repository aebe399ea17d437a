//! Rekor v1, which has no tiles: entries are proven one by one, by the log's own client as well.

use anyhow::{Context, Result, bail, ensure};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tile_proxy_tests::http;
use tile_proxy_tests::local::World;
use tile_proxy_tests::local::front::Front;
use tile_proxy_tests::local::proxy::{Followed, Proxy};
use tile_proxy_tests::local::rekor_v1::{RekorV1, TOOLS, rekor_cli};

#[test]
fn entries_of_rekor_v1_are_proven_through_the_proxy() -> Result<()> {
    let world = World::new("rekor-v1", &TOOLS)?;
    // As private logs may; the public one signs with ECDSA, which another test has.
    let rekor = RekorV1::start(&world, &rcgen::PKCS_ED25519)?;
    let front = Front::before(rekor.url())?;
    let pem = world.file("rekor-v1.pub", rekor.public_key_pem())?;
    let followed = Followed {
        url: &front.url(),
        tiles: None,
        key: &format!("file:{}", pem.display()),
        more: "  kind: rekor-v1\n  passthrough: true\n",
    };
    let mut proxy = world.proxy("proxy", &followed)?;
    // An empty log has a tree head, too.
    proxy.follows_to(0)?;

    // Written through us, by the client that everybody has; and the log that it then asks for grows.
    let step = world
        .progress()
        .step("rekor-cli: upload, get, verify, loginfo");
    let mut artifacts = Vec::new();
    for number in 0..12 {
        let artifact = Artifact::new(&world, number)?;
        let uploaded = cli(&world, &proxy, &artifact.args("upload"))?;
        ensure!(uploaded.contains("Created entry at index"), "{uploaded}");
        let path = format!("api/v1/log/entries?logIndex={number}");
        let theirs = http::fetch(&http::agent(), &format!("{}/{path}", rekor.url()))?;
        artifacts.push((artifact, parts(&theirs.body)?.0));
        if number == 0 {
            proxy.follows_to(1)?;
            let info = cli(&world, &proxy, &["loginfo"])?;
            ensure!(info.contains("Verification Successful!"), "{info}");
        }
    }
    let again = cli(&world, &proxy, &artifacts[3].0.args("upload"))?;
    ensure!(again.contains("already exists"), "{again}");
    proxy.follows_to(12)?;
    // It remembers the tree of one entry, and wants to see that ours begins with it.
    let info = cli(&world, &proxy, &["loginfo"])?;
    ensure!(info.contains("Verification Successful!"), "{info}");
    every_artifact_is_found(&world, &proxy, &artifacts)?;
    for (artifact, _) in &artifacts {
        let verified = cli(&world, &proxy, &artifact.args("verify"))?;
        ensure!(verified.contains("Entry Hash"), "{verified}");
    }
    step.done(format_args!("{} entries", artifacts.len()));
    every_entry_is_the_logs(&rekor, &proxy, &artifacts)?;
    proxy.expect_nothing_false()?;

    // Somebody on the way flips a bit of an entry that is not here yet.
    let (_, last) = upload_directly(&world, &rekor, 12)?;
    front.lies(|path, body| {
        if path.starts_with("api/v1/log/entries")
            && let Some(byte) = body.get_mut(200)
        {
            *byte = if *byte == b'A' { b'B' } else { b'A' };
        }
    });
    for path in [
        format!("api/v1/log/entries/{last}"),
        "api/v1/log/entries?logIndex=12".to_owned(),
    ] {
        let refused = proxy.get(&path)?;
        ensure!(
            refused.status == 502,
            "{path}: {} {}",
            refused.status,
            refused.text()
        );
    }
    ensure!(
        proxy.metric("tile_proxy_verify_failures_total")? >= 2.0,
        "lies were not counted"
    );
    front.tells_the_truth();
    proxy.recovers(&format!("api/v1/log/entries/{last}"))?;
    every_artifact_is_found(&world, &proxy, &artifacts)?;

    // So that the client has seen the tree that will be the last one.
    cli(&world, &proxy, &["loginfo"])?;

    // The log and its database are gone; what was proven is not.
    drop(rekor);
    every_artifact_is_found(&world, &proxy, &artifacts)?;
    proxy.stop()?;
    proxy.restart()?;
    every_artifact_is_found(&world, &proxy, &artifacts)?;
    let info = cli(&world, &proxy, &["loginfo"])?;
    ensure!(info.contains("Verification Successful!"), "{info}");
    let absent = proxy.get("api/v1/log/entries?logIndex=99")?;
    ensure!(absent.status == 503, "{}: {}", absent.status, absent.text());
    let upload = rekor_cli(
        &world,
        &proxy.url(),
        &Artifact::new(&world, 99)?.args("upload"),
    )?;
    ensure!(!upload.status.success(), "written to a log that is gone");
    drop(front);
    world.end(proxy)
}

/// By UUID and by index, `rekor-cli` finds each of them and is convinced.
fn every_artifact_is_found(
    world: &World,
    proxy: &Proxy,
    artifacts: &[(Artifact, String)],
) -> Result<()> {
    for (index, (artifact, uuid)) in artifacts.iter().enumerate() {
        let index = index.to_string();
        for args in [["get", "--uuid", uuid], ["get", "--log-index", &index]] {
            let got = cli(world, proxy, &args)?;
            ensure!(got.contains(&artifact.digest), "{args:?}: {got}");
        }
        for args in [
            ["verify", "--uuid", uuid],
            ["verify", "--log-index", &index],
        ] {
            let verified = cli(world, proxy, &args)?;
            ensure!(
                verified.contains(&format!("Entry Index in Current Tree: {index}\n")),
                "{args:?}: {verified}"
            );
        }
    }
    Ok(())
}

/// What we serve is what the log has, but for proofs, which it makes anew each time.
fn every_entry_is_the_logs(
    rekor: &RekorV1,
    proxy: &Proxy,
    artifacts: &[(Artifact, String)],
) -> Result<()> {
    for (index, (_, uuid)) in artifacts.iter().enumerate() {
        for path in [
            format!("api/v1/log/entries/{uuid}"),
            format!("api/v1/log/entries/{}", &uuid[16..]),
            format!("api/v1/log/entries?logIndex={index}"),
        ] {
            let theirs = http::fetch(&http::agent(), &format!("{}/{path}", rekor.url()))?;
            let (ours, theirs) = (parts(&proxy.body(&path)?)?, parts(&theirs.body)?);
            ensure!(ours == theirs, "{path}: {ours:?}, and not {theirs:?}");
        }
    }
    Ok(())
}

fn parts(json: &[u8]) -> Result<(String, Value, Value, Value)> {
    let Value::Object(entries) = serde_json::from_slice(json)? else {
        bail!("not a map");
    };
    let (uuid, entry) = entries.into_iter().next().context("no entry")?;
    let part = |name: &str| entry[name].clone();
    Ok((uuid, part("body"), part("integratedTime"), part("logIndex")))
}

/// Something signed, as files.
pub(super) struct Artifact {
    pub(super) digest: String,
    signature: String,
    key: String,
}

impl Artifact {
    pub(super) fn new(world: &World, number: usize) -> Result<Self> {
        let content = format!("artifact {number}");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let signature = key.sign(content.as_bytes())?;
        let path = |file: std::path::PathBuf| file.display().to_string();
        Ok(Self {
            digest: hex::encode(Sha256::digest(&content)),
            signature: path(world.file(&format!("{number}.sig"), signature)?),
            key: path(world.file(&format!("{number}.pub"), key.public_key_pem())?),
        })
    }

    pub(super) fn args<'a>(&'a self, command: &'a str) -> Vec<&'a str> {
        vec![
            command,
            "--type=hashedrekord:0.0.1",
            "--pki-format=x509",
            "--artifact-hash",
            &self.digest,
            "--signature",
            &self.signature,
            "--public-key",
            &self.key,
        ]
    }
}

fn cli(world: &World, proxy: &Proxy, args: &[&str]) -> Result<String> {
    cli_at(world, &proxy.url(), args)
}

/// What `rekor-cli` says of the log at `url`, if it is content.
pub(super) fn cli_at(world: &World, url: &str, args: &[&str]) -> Result<String> {
    let ended = rekor_cli(world, url, args)?;
    let said = format!("{}{}", ended.stdout, ended.stderr);
    ensure!(
        ended.status.success(),
        "rekor-cli {args:?}: {}\n{said}",
        ended.status
    );
    Ok(said)
}

/// Adds an entry that the proxy has not seen.
fn upload_directly(world: &World, rekor: &RekorV1, number: usize) -> Result<(Artifact, String)> {
    let artifact = Artifact::new(world, number)?;
    let ended = rekor_cli(world, &rekor.url(), &artifact.args("upload"))?;
    ensure!(ended.status.success(), "{}", ended.stderr);
    let uuid = uuid_in(&ended.stdout)?;
    Ok((artifact, uuid))
}

/// The UUID in the address that `rekor-cli` prints.
fn uuid_in(text: &str) -> Result<String> {
    let (_, uuid) = text
        .rsplit_once("/api/v1/log/entries/")
        .context("no UUID")?;
    let uuid = uuid.split_whitespace().next().unwrap_or_default();
    ensure!(uuid.len() == 80, "not a UUID: {uuid}");
    Ok(uuid.to_owned())
}
