//! Sigstore's Rekor v2 on POSIX files, and a file server for its tiles, which it does not serve
//! itself.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Error, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::daemon::Daemon;
use super::front::Front;
use super::{PAUSE, START, World, create_directory, free_port};
use crate::http;
use crate::interrupt;
use crate::toolchain::REKOR_SERVER;
use crate::wait::{self, Seen};

/// A log of signatures; killed when dropped.
#[derive(Debug)]
pub struct Rekor {
    key: KeyPair,
    port: u16,
    tiles: Front,
    _daemon: Daemon,
}

/// An entry as the log took it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position.
    pub index: u64,
    /// What the log made of it, and hashed.
    pub body: Vec<u8>,
}

impl Rekor {
    /// The origin of its checkpoints, and the name of its key.
    pub const ORIGIN: &str = "rekor.example.test";

    /// An empty log that runs, with a new key. Its tool must be built: see [`REKOR_SERVER`].
    pub fn start(world: &World) -> Result<Self> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let signer = world.file("rekor.pem", key.serialize_pem())?;
        let files = world.path("rekor");
        create_directory(&files)?;
        let (port, grpc, metrics) = (free_port()?, free_port()?, free_port()?);
        let mut command = Command::new(world.toolchain().path(REKOR_SERVER));
        command
            .args([
                "serve",
                "--http-address=127.0.0.1",
                "--grpc-address=127.0.0.1",
            ])
            .arg(format!("--hostname={}", Self::ORIGIN))
            .arg(format!("--storage-dir={}", files.display()))
            .arg(format!("--signer-filepath={}", signer.display()))
            .arg(format!("--http-port={port}"))
            .arg(format!("--grpc-port={grpc}"))
            .arg(format!("--http-metrics-port={metrics}"))
            .arg("--checkpoint-interval=1s");
        let mut daemon = Daemon::start(command, "rekor-server", &world.path("rekor.output"))?;
        let tiles = Front::of_files(&files, API)?;
        let checkpoint = format!("{}/{API}checkpoint", tiles.url());
        wait::until("Rekor's first checkpoint", START, PAUSE, || {
            daemon.expect_running()?;
            let answer = http::fetch(&http::agent(), &checkpoint)?;
            Ok(match answer.status {
                200 => Seen::Ready(()),
                status => Seen::NotYet(format!("status {status}")),
            })
        })?;
        Ok(Self {
            key,
            port,
            tiles,
            _daemon: daemon,
        })
    }

    /// Where it takes entries, without a slash at the end. It answers 501 to whoever reads there.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where its files are served, below [`API`].
    pub fn tiles(&self) -> &Front {
        &self.tiles
    }

    /// The key that signs its checkpoints, as a verifier key.
    pub fn verifier_key(&self) -> String {
        // Type 1, Ed25519; see <https://c2sp.org/signed-note>.
        let key = [&[1], self.key.der_bytes()].concat();
        let name = Self::ORIGIN;
        let id = Sha256::digest([format!("{name}\n").as_bytes(), &key].concat());
        let key = BASE64_STANDARD.encode(key);
        format!("{name}+{}+{key}", hex::encode(&id[..4]))
    }

    /// The same key, as PEM.
    pub fn public_key_pem(&self) -> String {
        self.key.public_key_pem()
    }

    /// Adds `count` signatures over as many artifacts, each under a key of its own, from many
    /// threads; gives the entries by position once the log vouches for all of them.
    pub fn add(&self, count: u64, world: &World) -> Result<Vec<Entry>> {
        let step = world.progress().step("sign and add entries");
        let next = AtomicU64::new(0);
        let outcome: Mutex<Result<Vec<Entry>>> = Mutex::new(Ok(Vec::new()));
        // It answers once a checkpoint includes the entry, which is once a second.
        thread::scope(|scope| {
            for _ in 0..CLIENTS.min(count) {
                scope.spawn(|| {
                    let agent = http::agent();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        let added = interrupt::check()
                            .and_then(|()| self.post(&agent, &format!("artifact {number}")));
                        let Ok(mut outcome) = outcome.lock() else {
                            return;
                        };
                        match (&mut *outcome, added) {
                            (Ok(entries), Ok(entry)) => entries.push(entry),
                            (Ok(_), Err(error)) => *outcome = Err(error),
                            (Err(_), _) => return,
                        }
                    }
                });
            }
        });
        let mut entries = outcome
            .into_inner()
            .map_err(|_| Error::msg("a thread that added entries panicked"))??;
        entries.sort_by_key(|entry| entry.index);
        step.done(format_args!("{} entries", entries.len()));
        Ok(entries)
    }

    /// Signs `artifact` with a new key, and has the log take the signature.
    fn post(&self, agent: &ureq::Agent, artifact: &str) -> Result<Entry> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        let request = json!({ "hashedRekordRequestV002": {
            "digest": encode(&Sha256::digest(artifact)),
            "signature": {
                "content": encode(&key.sign(artifact.as_bytes())?),
                "verifier": {
                    "publicKey": { "rawBytes": encode(&key.subject_public_key_info()) },
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                },
            },
        }});
        let url = format!("{}/{API}log/entries", self.url());
        let answer = http::post(agent, &url, &request.to_string())?;
        ensure!(
            matches!(answer.status, 200 | 201),
            "status {} for an entry: {}",
            answer.status,
            answer.text()
        );
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Taken {
            /// Left out for the first entry, as Protobuf's JSON does with zeros.
            #[serde(default)]
            log_index: Option<String>,
            canonicalized_body: String,
        }
        let taken: Taken = serde_json::from_slice(&answer.body)
            .with_context(|| format!("not an entry: {}", answer.text()))?;
        Ok(Entry {
            index: taken.log_index.unwrap_or_default().parse().unwrap_or(0),
            body: BASE64_STANDARD.decode(taken.canonicalized_body)?,
        })
    }
}

/// The prefix of everything Rekor v2 answers to.
pub const API: &str = "api/v2/";

const CLIENTS: u64 = 64;
