//! Trust from TUF with python-tuf on the other side: it writes what the proxy reads, and reads what the
//! proxy's own tests write.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tile_proxy_tests::local::World;
use tile_proxy_tests::local::front::Front;
use tile_proxy_tests::local::proxy::Proxy;
use tile_proxy_tests::local::python_tuf::{LogKey, PythonTuf, Texts};
use tile_proxy_tests::local::tessera::TesseraLog;
use tile_proxy_tests::toolchain::TESSERA_LOG;
use tile_proxy_tests::wait::{self, Seen};

use crate::tuf_repository::{Files, TufRepository};

const ORIGIN: &str = "example.com/log";

#[test]
fn a_repository_by_python_tuf_is_followed_while_its_root_and_the_logs_key_rotate() -> Result<()> {
    let world = World::new("python-tuf-writer", &[TESSERA_LOG])?;
    let python = PythonTuf::new(&world)?;
    let (old, new) = (python.log_key(ORIGIN)?, python.log_key(ORIGIN)?);
    let mut log = TesseraLog::start(&world)?;
    log.rotate(&old.private)?;
    log.add(0..300, &world)?;

    let (repository, url) = (world.path("repository"), log.url());
    let publish = |keys: &[&LogKey], rotate: bool| {
        let map = json!({"version": 1, "rekor": {
            "url": url, "tile_base_url": url, "origin": ORIGIN,
            "public_key_targets": ["keys/rekor-key"]}});
        let targets = [
            ("sigstore-services-v1.json", map.to_string()),
            ("trusted_root.json", trusted_root(keys)),
        ];
        let keys: Vec<&str> = keys.iter().map(|key| key.pem.as_str()).collect();
        let delegated = [("keys/rekor-key", keys.concat())];
        python.publish(&repository, &texts(targets), &texts(delegated), rotate)
    };
    publish(&[&old], false)?;
    let front = Front::of_files(&repository, "")?;
    let root = world.path("root.json");
    fs::copy(repository.join("1.root.json"), &root)?;

    // Told of the repository and its root, and of nothing else.
    let lines = format!(
        "  tuf: {{enabled: true, url: '{}/', root: 'file:{}', allow_http: true, refresh_interval: 1s}}\n",
        front.url(),
        root.display()
    );
    let mut proxy = world.proxy_by("proxy", &lines)?;
    proxy.follows_to(300)?;
    for role in ["root", "timestamp", "snapshot", "targets", "log-keys"] {
        ensure!(version(&proxy, role)? == 1.0, "{role}");
    }
    expect_stored(&python, &proxy, &repository)?;

    publish(&[&old], true)?;
    becomes(&proxy, "root", 2.0)?;
    log.add(300..400, &world)?;
    proxy.follows_to(400)?;
    expect_stored(&python, &proxy, &repository)?;

    // The next key is known before it signs, and the old one is withdrawn when it does not any more.
    publish(&[&old, &new], false)?;
    becomes(&proxy, "log-keys", 3.0)?;
    log.rotate(&new.private)?;
    log.add(400..600, &world)?;
    proxy.follows_to(600)?;
    publish(&[&new], true)?;
    becomes(&proxy, "root", 3.0)?;
    log.add(600..700, &world)?;
    proxy.follows_to(700)?;
    let note = proxy.body("checkpoint")?;
    let signer = new.verifier.split('+').nth(1).context("an ID")?;
    ensure!(
        signed_by(&note, signer)?,
        "{}",
        String::from_utf8_lossy(&note)
    );
    expect_stored(&python, &proxy, &repository)?;
    proxy.expect_nothing_false()?;

    // Neither of them answers any more, and a new process has nothing but its disk.
    drop(front);
    log.stop()?;
    proxy.kill()?;
    proxy.restart()?;
    ensure!(proxy.body("checkpoint")? == note, "another checkpoint");
    ensure!(version(&proxy, "root")? == 3.0, "roots are from the disk");
    world.end((log, proxy))
}

#[test]
fn a_repository_of_our_own_tests_is_one_to_python_tuf() -> Result<()> {
    let world = World::new("python-tuf-reader", &[])?;
    let python = PythonTuf::new(&world)?;
    for (name, mut repository) in [
        ("consistent", TufRepository::new()),
        ("unversioned", TufRepository::unversioned()),
    ] {
        let directory = world.path(name);
        let root = world.file(&format!("{name}.root.json"), repository.root())?;
        let served = directory.join("served");
        let front = Front::of_files(&served, "")?;
        let url = format!("{}/", front.url());
        let names = ["key", "dir/key", "delegated", "nobody's"];
        let read = || python.read(&root, &url, &directory, &names);
        repository.list("key", "first").list("dir/key", "second");
        repository.delegate("2026/keys", "delegated", "third");
        for round in 0..4 {
            match round {
                0 => {}
                1 => drop(repository.rotate()),
                2 => drop(repository.pin()),
                _ => drop(repository.rotate().list("key", "fourth")),
            }
            serve(&served, &repository.publish().files)?;
            let read = read()?;
            ensure!(read.status.success(), "{name}, {round}: {}", read.stderr);
            let texts: Value = serde_json::from_str(&read.stdout)?;
            let key = if round < 3 { "first" } else { "fourth" };
            let want =
                json!({"key": key, "dir/key": "second", "delegated": "third", "nobody's": null});
            ensure!(texts == want, "{name}, {round}: {texts}");
        }
        python.verify(&directory.join("metadata"))?;

        // What it must refuse is refused by it as well.
        repository.publish_as(1);
        serve(&served, &repository.files)?;
        expect_refused(read()?, "version")?;
        let mut rogue = repository.rogue();
        rogue.version = 9;
        serve(&served, &rogue.publish().files)?;
        expect_refused(read()?, "signed by 0/2 keys")?;
        repository.version = 9;
        repository.expire("timestamp", "2020-01-01T00:00:00Z");
        serve(&served, &repository.publish().files)?;
        expect_refused(read()?, "expired")?;
    }
    world.end(())
}

fn expect_refused(ended: tile_proxy_tests::run::Ended, says: &str) -> Result<()> {
    ensure!(
        !ended.status.success() && ended.stderr.contains(says),
        "{says}: {}",
        ended.stderr
    );
    Ok(())
}

/// What the proxy keeps is what was served, byte for byte, and python-tuf verifies it.
fn expect_stored(python: &PythonTuf, proxy: &Proxy, repository: &Path) -> Result<()> {
    let meta = proxy.cache().join("tuf/meta");
    python.verify(&meta)?;
    for role in ["root", "snapshot", "targets", "log-keys", "timestamp"] {
        let served = match role {
            "timestamp" => "timestamp.json".to_owned(),
            role => format!("{}.{role}.json", version(proxy, role)?),
        };
        let served = fs::read(repository.join(&served)).with_context(|| served.clone())?;
        let kept = fs::read(meta.join(format!("{role}.json")))?;
        ensure!(kept == served, "{role} is kept as something else");
    }
    Ok(())
}

fn version(proxy: &Proxy, role: &str) -> Result<f64> {
    let metrics = String::from_utf8(proxy.body("_admin/metrics")?)?;
    let series = format!("tile_proxy_tuf_version{{role=\"{role}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    Ok(value.unwrap_or("0").parse()?)
}

/// Waits until this version of a role is trusted.
fn becomes(proxy: &Proxy, role: &str, wanted: f64) -> Result<()> {
    let (deadline, pause) = (Duration::from_secs(60), Duration::from_millis(50));
    wait::until(role, deadline, pause, || {
        Ok(match version(proxy, role)? {
            version if version >= wanted => Seen::Ready(()),
            version => Seen::NotYet(format!("version {version}, wanted {wanted}")),
        })
    })
}

/// Whether a note has a signature line with this key ID.
fn signed_by(note: &[u8], id: &str) -> Result<bool> {
    let note = String::from_utf8(note.to_vec())?;
    let (_, signatures) = note.rsplit_once("\n\n").context("a note")?;
    let mut ids = signatures.lines().filter_map(|line| {
        let signature = BASE64_STANDARD.decode(line.rsplit_once(' ')?.1).ok()?;
        Some(hex::encode(signature.get(..4)?))
    });
    Ok(ids.any(|other| other == id))
}

/// Sigstore's way to say whose key is whose.
fn trusted_root(keys: &[&LogKey]) -> String {
    let logs: Vec<Value> = keys
        .iter()
        .map(|key| {
            let der: String = key
                .pem
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect();
            json!({"baseUrl": format!("https://{ORIGIN}"), "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": der, "keyDetails": "PKIX_ED25519"}})
        })
        .collect();
    let kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
    json!({"mediaType": kind, "tlogs": logs}).to_string()
}

fn texts<const N: usize>(texts: [(&str, String); N]) -> Texts {
    texts.map(|(name, text)| (name.to_owned(), text)).into()
}

/// These files, and no others.
fn serve(directory: &Path, files: &Files) -> Result<()> {
    let _ = fs::remove_dir_all(directory); // not there the first time
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().context("below the directory")?)?;
        fs::write(path, bytes)?;
    }
    Ok(())
}
