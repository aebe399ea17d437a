//! A TUF repository with keys of its own, made in memory, which can be published honestly and in every
//! way it must not be.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sigstore_tuf::canonical_json::to_canonical_bytes;

/// Files by name; targets are below `targets/`.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// When what does not expire in a test expires.
const FAR: &str = "2099-01-01T00:00:00Z";

/// Keys of the root that must sign it.
const THRESHOLD: usize = 2;

/// A repository and the keys of those who run it.
pub(crate) struct TufRepository {
    /// What is served.
    pub(crate) files: Files,
    /// Whether names begin with a version or a hash.
    pub(crate) consistent: bool,
    /// What is listed, with what is said about it.
    pub(crate) targets: BTreeMap<String, (Vec<u8>, Value)>,
    /// What roles list that `targets` delegates to, each with what it lists and a key of its own.
    delegated: BTreeMap<String, (BTreeMap<String, Vec<u8>>, TestKey)>,
    /// The version that was published last.
    pub(crate) version: u64,
    /// The version of the newest root.
    pub(crate) root_version: u64,
    root_keys: Vec<TestKey>,
    online: TestKey,
    expires: BTreeMap<String, String>,
    /// Whether length and hash of metadata are listed, beside its version.
    pins: bool,
    /// Versions that are listed instead of the one that is published, by file.
    points: BTreeMap<String, u64>,
}

impl TufRepository {
    /// One whose first root is there, and nothing is published yet.
    pub(crate) fn new() -> Self {
        let mut repository = Self {
            files: Files::new(),
            consistent: true,
            targets: BTreeMap::new(),
            delegated: BTreeMap::new(),
            version: 0,
            root_version: 1,
            root_keys: vec![TestKey::ed25519(), TestKey::ecdsa()],
            online: TestKey::ecdsa(),
            expires: BTreeMap::new(),
            pins: false,
            points: BTreeMap::new(),
        };
        repository.sign_root(&[]);
        repository
    }

    /// The root to pin.
    pub(crate) fn root(&self) -> String {
        String::from_utf8(self.files["1.root.json"].clone()).expect("JSON")
    }

    /// Lists a target, from the next publication on.
    pub(crate) fn list(&mut self, name: &str, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.targets
            .insert(name.to_owned(), (bytes.into(), Value::Null));
        self
    }

    /// Has a role list a target that `targets` delegates to, from the next publication on.
    pub(crate) fn delegate(
        &mut self,
        role: &str,
        name: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> &mut Self {
        let made = || (BTreeMap::new(), TestKey::ed25519());
        let (listed, _) = self.delegated.entry(role.to_owned()).or_insert_with(made);
        listed.insert(name.to_owned(), bytes.into());
        self
    }

    /// A role expires then, from the next publication on; the root from its next version.
    pub(crate) fn expire(&mut self, role: &str, at: &str) -> &mut Self {
        self.expires.insert(role.to_owned(), at.to_owned());
        self
    }

    /// Length and hash of metadata are listed, from the next publication on.
    pub(crate) fn pin(&mut self) -> &mut Self {
        self.pins = true;
        self
    }

    /// The role above this file lists another version of it, in the next publication.
    pub(crate) fn point(&mut self, file: &str, version: u64) -> &mut Self {
        self.points.insert(file.to_owned(), version);
        self
    }

    /// The name by which a target that was published is fetched.
    pub(crate) fn served_as(&self, target: &str) -> String {
        let (bytes, _) = &self.targets[target];
        self.target_file(target, &sha256(bytes))
    }

    fn target_file(&self, name: &str, hash: &str) -> String {
        let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
        let file = match (self.consistent, directory) {
            (false, _) => name.to_owned(),
            (true, "") => format!("{hash}.{file}"),
            (true, directory) => format!("{directory}/{hash}.{file}"),
        };
        format!("targets/{file}")
    }

    /// Publishes the next version.
    pub(crate) fn publish(&mut self) -> &mut Self {
        self.version += 1;
        self.publish_as(self.version)
    }

    /// Publishes as this version, whatever was before.
    pub(crate) fn publish_as(&mut self, version: u64) -> &mut Self {
        let mut files = Files::new();
        let mut listed = Map::new();
        for (name, (bytes, custom)) in &self.targets {
            let mut entry = self.put(&mut files, name, bytes);
            if !custom.is_null() {
                entry["custom"] = custom.clone();
            }
            listed.insert(name.clone(), entry);
        }
        let prefix = match self.consistent {
            true => format!("{version}."),
            false => String::new(),
        };
        let mut body = json!({"targets": listed});
        let mut below = Map::new();
        let (mut keys, mut roles) = (Map::new(), Vec::new());
        for (name, (targets, key)) in &self.delegated {
            let put = |(target, bytes): (&String, &Vec<u8>)| {
                (target.clone(), self.put(&mut files, target, bytes))
            };
            let listed: Map<_, _> = targets.iter().map(put).collect();
            let bytes = self.sign("targets", name, version, json!({"targets": listed}), key);
            below.insert(format!("{name}.json"), self.meta(version, &bytes));
            let file = name.replace('/', "%2F");
            files.insert(format!("{prefix}{file}.json"), bytes);
            keys.insert(key.id.clone(), key.public.clone());
            let paths: Vec<&String> = targets.keys().collect();
            roles.push(
                json!({"name": name, "keyids": [key.id], "threshold": 1, "terminating": false,
                "paths": paths}),
            );
        }
        if !roles.is_empty() {
            body["delegations"] = json!({"keys": keys, "roles": roles});
        }
        let online = |kind: &str, body| self.sign(kind, kind, version, body, &self.online);
        let targets = online("targets", body);
        let points = |file: &str| self.points.get(file).copied().unwrap_or(version);
        below.insert(
            "targets.json".to_owned(),
            self.meta(points("targets.json"), &targets),
        );
        let snapshot = online("snapshot", json!({"meta": below}));
        let listed = self.meta(points("snapshot.json"), &snapshot);
        let timestamp = online("timestamp", json!({"meta": {"snapshot.json": listed}}));
        files.extend([
            (format!("{prefix}targets.json"), targets),
            (format!("{prefix}snapshot.json"), snapshot),
            ("timestamp.json".to_owned(), timestamp),
        ]);
        self.files.extend(files);
        self.points.clear();
        self
    }

    /// Puts a target where it is fetched, and says what is listed of it.
    fn put(&self, files: &mut Files, name: &str, bytes: &[u8]) -> Value {
        let hash = sha256(bytes);
        files.insert(self.target_file(name, &hash), bytes.to_vec());
        json!({"length": bytes.len(), "hashes": {"sha256": hash}})
    }

    /// What a role says of the file below it.
    fn meta(&self, version: u64, bytes: &[u8]) -> Value {
        let mut entry = json!({"version": version});
        if self.pins {
            entry["length"] = bytes.len().into();
            entry["hashes"] = json!({"sha256": sha256(bytes)});
        }
        entry
    }

    /// A role of this kind and name, signed.
    fn sign(&self, kind: &str, name: &str, version: u64, rest: Value, key: &TestKey) -> Vec<u8> {
        let expires = self.expires.get(name).map_or(FAR, String::as_str);
        sign(&role(kind, version, expires, rest), &[key])
    }

    /// The next root, with other keys, signed by them and by those before; and another online key.
    pub(crate) fn rotate(&mut self) -> &mut Self {
        let outgoing = std::mem::replace(
            &mut self.root_keys,
            vec![TestKey::ecdsa(), TestKey::ed25519()],
        );
        self.online = TestKey::ed25519();
        self.root_version += 1;
        let outgoing: Vec<&TestKey> = outgoing.iter().collect();
        self.sign_root(&outgoing);
        self
    }

    /// The next root with the same keys.
    pub(crate) fn renew_root(&mut self) -> &mut Self {
        self.root_version += 1;
        self.sign_root(&[]);
        self
    }

    /// What somebody would publish who has none of the keys: the next root, signed by their own alone,
    /// and everything below it.
    pub(crate) fn rogue(&self) -> Self {
        let mut rogue = Self {
            files: self.files.clone(),
            targets: self.targets.clone(),
            delegated: BTreeMap::new(),
            expires: self.expires.clone(),
            points: BTreeMap::new(),
            root_keys: vec![TestKey::ed25519(), TestKey::ed25519()],
            online: TestKey::ed25519(),
            ..*self
        };
        rogue.root_version += 1;
        rogue.sign_root(&[]);
        rogue
    }

    fn sign_root(&mut self, outgoing: &[&TestKey]) {
        let all = self.root_keys.iter().chain([&self.online]);
        let keys: Map<_, _> = all
            .map(|key| (key.id.clone(), key.public.clone()))
            .collect();
        let ids: Vec<_> = self.root_keys.iter().map(|key| &key.id).collect();
        let one = json!({"keyids": [self.online.id], "threshold": 1});
        let rest = json!({"consistent_snapshot": self.consistent, "keys": keys, "roles": {
            "root": {"keyids": ids, "threshold": THRESHOLD},
            "timestamp": one, "snapshot": one, "targets": one}});
        let expires = self.expires.get("root").map_or(FAR, String::as_str);
        let body = role("root", self.root_version, expires, rest);
        let signers: Vec<&TestKey> = self
            .root_keys
            .iter()
            .chain(outgoing.iter().copied())
            .collect();
        let bytes = sign(&body, &signers);
        self.files
            .insert(format!("{}.root.json", self.root_version), bytes);
    }

    /// Without consistent snapshots, from the root on that is signed next.
    pub(crate) fn unversioned() -> Self {
        let mut repository = Self::new();
        repository.consistent = false;
        repository.sign_root(&[]);
        repository
    }
}

/// A key of somebody who runs the repository.
struct TestKey {
    id: String,
    public: Value,
    pair: Pair,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl TestKey {
    fn new(public: Value, pair: Pair) -> Self {
        let id = sha256(&to_canonical_bytes(&public).expect("canonical"));
        Self { id, public, pair }
    }

    fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate().expect("random");
        let public = hex::encode(pair.public_key().as_ref());
        let public =
            json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}});
        Self::new(public, Pair::Ed25519(pair))
    }

    fn ecdsa() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("random");
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a key");
        let encoded = BASE64_STANDARD.encode(der.as_ref());
        let (first, second) = encoded.split_at(64);
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n");
        let scheme = "ecdsa-sha2-nistp256";
        let public = json!({"keytype": "ecdsa", "scheme": scheme, "keyval": {"public": pem}});
        Self::new(public, Pair::Ecdsa(pair))
    }

    fn sign(&self, message: &[u8]) -> String {
        match &self.pair {
            Pair::Ed25519(pair) => hex::encode(pair.sign(message)),
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                hex::encode(signature.expect("signed"))
            }
        }
    }
}

fn sign(body: &Value, keys: &[&TestKey]) -> Vec<u8> {
    let message = to_canonical_bytes(body).expect("canonical");
    // A key signs once, whatever roles it has.
    let mut seen = BTreeSet::new();
    let keys = keys.iter().filter(|key| seen.insert(&key.id));
    let signatures: Vec<_> = keys
        .map(|key| json!({"keyid": key.id, "sig": key.sign(&message)}))
        .collect();
    serde_json::to_vec(&json!({"signatures": signatures, "signed": body})).expect("JSON")
}

fn role(kind: &str, version: u64, expires: &str, rest: Value) -> Value {
    let mut body =
        json!({"_type": kind, "spec_version": "1.0.31", "version": version, "expires": expires});
    if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
        body.extend(rest);
    }
    body
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
