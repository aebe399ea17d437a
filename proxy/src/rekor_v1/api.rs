//! What Rekor v1 says in JSON: parsed strictly as far as it is used, and dropped where it is not.
//!
//! Nothing here is proven. What is written is written from what was parsed, so that a field that
//! nobody looked at, such as an attestation, is never handed on.

use std::{fmt, marker::PhantomData};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap as _,
};

use crate::{
    note::checkpoint::MAX_SIZE,
    tlog::{HASH_BYTES, Hash, proof::MAX_PROOF_HASHES},
};

/// Largest entry as JSON, 8 MiB. A log reads its entries from Trillian in messages of gRPC's default
/// size, 4 MiB, which base64 makes 5.6 MB; the rest is for an attestation and a proof.
pub const MAX_ENTRY_BYTES: usize = 8 << 20;

/// Largest description of a log, 256 KiB: 64 shards with a checkpoint of 4 KiB each.
pub const MAX_LOG_BYTES: usize = 256 << 10;

/// Largest consistency proof as JSON, 16 KiB: three times what 64 hashes in hex take.
pub const MAX_PROOF_BYTES: usize = 16 << 10;

/// Most shards of a log; the public one began three in its first four years.
pub const MAX_SHARDS: usize = 64;

/// Largest integer that JSON as RFC 8785 writes it can tell from its neighbours.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Digits of a tree ID and of a leaf hash in a UUID.
const TREE_DIGITS: usize = 16;
const LEAF_DIGITS: usize = 64;

/// Why something is not what Rekor v1 answers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an answer of Rekor v1: {0}")]
pub struct ApiError(String);

impl ApiError {
    fn of(error: &serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// The number of a shard's tree: decimal in its origin, 16 hex digits in a UUID.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TreeId(pub u64); // positive, and fits in 63 bits, as Trillian's

impl TreeId {
    /// Parses the one decimal spelling.
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.parse::<u64>().ok()?;
        let valid = (1..=i64::MAX.cast_unsigned()).contains(&id) && id.to_string() == text;
        valid.then_some(Self(id))
    }
}

/// Decimal, as in an origin.
impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A UUID: the leaf hash of an entry, and in its long form the shard that it is in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Uuid {
    /// `None` in the short form: whichever shard has it.
    pub tree: Option<TreeId>,
    /// The leaf hash.
    pub leaf: Hash,
}

impl Uuid {
    /// Parses 64 or 80 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (tree, leaf) = match text.len() {
            LEAF_DIGITS => (None, text),
            length if length == TREE_DIGITS + LEAF_DIGITS => {
                let (tree, leaf) = text.split_at_checked(TREE_DIGITS)?;
                let digits = tree.bytes().all(|digit| digit.is_ascii_hexdigit());
                let tree = u64::from_str_radix(tree, 16).ok().filter(|_| digits)?;
                (Some(TreeId::parse(&tree.to_string())?), leaf)
            }
            _ => return None,
        };
        let leaf = hash_from_hex(leaf)?;
        Some(Self { tree, leaf })
    }

    /// Whether an entry of this shard and hash is what was asked for.
    pub fn admits(self, other: Self) -> bool {
        self.leaf == other.leaf && self.tree.is_none_or(|tree| other.tree == Some(tree))
    }
}

/// In lower case, as Rekor writes it.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(TreeId(tree)) = self.tree {
            write!(f, "{tree:016x}")?;
        }
        f.write_str(&hex::encode(self.leaf.0))
    }
}

/// An entry of a log, with what vouches for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// In its long form.
    pub uuid: Uuid,
    /// What was hashed.
    pub body: Vec<u8>,
    /// When the log took it, in seconds since 1970.
    pub integrated_time: u64,
    /// SHA-256 of the log's public key.
    pub log_id: Hash,
    /// Position in the whole log, counted over all shards.
    pub log_index: u64,
    /// That it is in its shard's tree.
    pub proof: InclusionProof,
    /// The log's signature over body, time, log and position.
    pub signed_entry_timestamp: Vec<u8>,
}

/// That an entry is in a tree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InclusionProof {
    /// The signed note of that tree.
    pub checkpoint: String,
    /// From the hash beside the entry upwards.
    #[serde(with = "hex_hashes")]
    pub hashes: Vec<Hash>,
    /// Position in the shard.
    pub log_index: u64,
    /// Root of that tree.
    #[serde(with = "hex_hash")]
    pub root_hash: Hash,
    /// Its size.
    pub tree_size: u64,
}

/// The value in the map of one entry.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    #[serde(with = "base64_bytes")]
    body: Vec<u8>,
    integrated_time: u64,
    #[serde(rename = "logID", with = "hex_hash")]
    log_id: Hash,
    log_index: u64,
    verification: Verification,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    inclusion_proof: InclusionProof,
    #[serde(with = "base64_bytes")]
    signed_entry_timestamp: Vec<u8>,
}

impl Entry {
    /// Parses the answer for one entry: a map of its UUID to the rest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ApiError> {
        let wrong = |what: &str| Err(ApiError(what.to_owned()));
        let Single(uuid, value) =
            serde_json::from_slice::<Single<Value>>(json).map_err(|error| ApiError::of(&error))?;
        let Some(uuid) = Uuid::parse(&uuid).filter(|uuid| uuid.tree.is_some()) else {
            return wrong("the entry's name is not 80 hex digits");
        };
        let Value {
            body,
            integrated_time,
            log_id,
            log_index,
            verification,
        } = value;
        if integrated_time > MAX_INTEGER || log_index > MAX_INTEGER {
            return wrong("a number is above 2^53 - 1");
        }
        Ok(Self {
            uuid,
            body,
            integrated_time,
            log_id,
            log_index,
            proof: verification.inclusion_proof,
            signed_entry_timestamp: verification.signed_entry_timestamp,
        })
    }

    /// The same answer, without anything that was not parsed.
    pub fn to_json(&self) -> Vec<u8> {
        let value = Value {
            body: self.body.clone(),
            integrated_time: self.integrated_time,
            log_id: self.log_id,
            log_index: self.log_index,
            verification: Verification {
                inclusion_proof: self.proof.clone(),
                signed_entry_timestamp: self.signed_entry_timestamp.clone(),
            },
        };
        to_json(&Single(self.uuid.to_string(), value))
    }

    /// What the signed entry timestamp signs, as RFC 8785 writes it: sorted keys, no white space. No
    /// character in it needs an escape, and every number has one spelling.
    pub fn signed_json(&self) -> String {
        format!(
            r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
            BASE64_STANDARD.encode(&self.body),
            self.integrated_time,
            hex::encode(self.log_id.0),
            self.log_index,
        )
    }
}

/// What a log says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogInfo {
    /// Shards that grow no more; some servers say `null` for none.
    #[serde(default, deserialize_with = "or_null")]
    pub inactive_shards: Vec<TreeHead>,
    /// The one that grows.
    #[serde(flatten)]
    pub active: TreeHead,
}

/// The state of one shard.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeHead {
    /// Root of its tree.
    #[serde(with = "hex_hash")]
    pub root_hash: Hash,
    /// The signed note that says so.
    pub signed_tree_head: String,
    /// Which tree.
    #[serde(rename = "treeID")]
    pub tree_id: TreeId,
    /// Its size.
    pub tree_size: u64,
}

impl LogInfo {
    /// Parses the answer to `GET /api/v1/log`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ApiError> {
        let info: Self = serde_json::from_slice(json).map_err(|error| ApiError::of(&error))?;
        if info.inactive_shards.len() >= MAX_SHARDS {
            return Err(ApiError(format!("more than {MAX_SHARDS} shards")));
        }
        let too_large = |head: &TreeHead| head.tree_size > MAX_SIZE;
        if info.inactive_shards.iter().any(too_large) || too_large(&info.active) {
            return Err(ApiError("a tree size is above 2^63".to_owned()));
        }
        Ok(info)
    }

    /// The same answer.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// The hashes of an answer to `GET /api/v1/log/proof`. The root beside them is that of the newest tree,
/// which nobody asked for.
///
/// # Errors
/// What is wrong with it.
pub fn parse_proof(json: &[u8]) -> Result<Vec<Hash>, ApiError> {
    #[derive(Deserialize)]
    struct Proof {
        #[serde(with = "hex_hashes")]
        hashes: Vec<Hash>,
    }
    let proof: Proof = serde_json::from_slice(json).map_err(|error| ApiError::of(&error))?;
    Ok(proof.hashes)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and maps with strings for keys: there is nothing that could fail.
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    json
}

fn hash_from_hex(text: &str) -> Option<Hash> {
    let mut hash = [0; HASH_BYTES];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(Hash(hash))
}

/// A map with one key.
struct Single<T>(String, T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Single<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Of<T> {
            type Value = Single<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with one entry")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Single<T>, A::Error> {
                let none = || A::Error::custom("there is no entry in it");
                let (key, value) = map.next_entry()?.ok_or_else(none)?;
                match map.next_entry::<IgnoredAny, IgnoredAny>()? {
                    None => Ok(Single(key, value)),
                    Some(_) => Err(A::Error::custom("there is more than one entry in it")),
                }
            }
        }
        deserializer.deserialize_map(Of(PhantomData))
    }
}

impl<T: Serialize> Serialize for Single<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.0, &self.1)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for TreeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("a tree ID is not a positive decimal"))
    }
}

impl Serialize for TreeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TreeHead>, D::Error> {
    Option::<Vec<TreeHead>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

mod hex_hash {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        hash_from_hex(&text).ok_or_else(|| D::Error::custom("a hash is not 64 hex digits"))
    }

    pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hash.0))
    }
}

mod hex_hashes {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Hash>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() > MAX_PROOF_HASHES {
            return Err(D::Error::custom("a proof has more than 64 hashes"));
        }
        let hashes: Option<Vec<Hash>> = texts.iter().map(|text| hash_from_hex(text)).collect();
        hashes.ok_or_else(|| D::Error::custom("a hash is not 64 hex digits"))
    }

    pub(super) fn serialize<S: Serializer>(
        hashes: &[Hash],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(hashes.iter().map(|hash| hex::encode(hash.0)))
    }
}

mod base64_bytes {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        // One spelling: padded, and without bits that stand for nothing.
        let decoded = BASE64_STANDARD.decode(text);
        decoded.map_err(|_| D::Error::custom("a text is not base64"))
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rekor_v1::testing::REAL_ENTRY;

    #[test]
    fn a_uuid_is_64_or_80_hex_digits() {
        let leaf = "ab".repeat(32);
        let tree = "24296fb24b8ad77a";
        let long = format!("{tree}{leaf}");
        for (text, want) in [
            (leaf.clone(), Some((None, leaf.clone()))),
            (
                long.clone(),
                Some((Some(TreeId(2_605_736_670_972_794_746)), long.clone())),
            ),
            (
                long.to_uppercase(),
                Some((Some(TreeId(2_605_736_670_972_794_746)), long.clone())),
            ),
            (leaf[1..].to_owned(), None),
            (format!("{leaf}0"), None),
            (format!("0{long}"), None),
            (format!("{}{leaf}", "0".repeat(16)), None), // no tree has this number
            (format!("{}{leaf}", "f".repeat(16)), None), // nor a negative one
            (format!("+{}{leaf}", &tree[1..]), None),
            (format!("{}g", &leaf[1..]), None),
            (format!("{}é", &leaf[2..]), None),
            (String::new(), None),
        ] {
            let got = Uuid::parse(&text).map(|uuid| (uuid.tree, uuid.to_string()));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn the_short_form_admits_every_shard_and_the_long_form_one() {
        let uuid = |tree, leaf| Uuid {
            tree,
            leaf: Hash([leaf; HASH_BYTES]),
        };
        let (one, two) = (Some(TreeId(1)), Some(TreeId(2)));
        for (asked, got, admitted) in [
            (uuid(None, 1), uuid(one, 1), true),
            (uuid(one, 1), uuid(one, 1), true),
            (uuid(one, 1), uuid(two, 1), false),
            (uuid(None, 1), uuid(one, 2), false),
        ] {
            assert_eq!(asked.admits(got), admitted, "{asked} and {got}");
        }
    }

    #[test]
    fn an_entry_of_the_public_log_is_parsed_and_written_again() {
        let entry = Entry::parse(REAL_ENTRY).expect("as it was published");
        assert_eq!(entry.log_index, 31_821_305);
        assert_eq!(entry.proof.log_index, 27_657_874);
        assert_eq!(entry.uuid.tree, Some(TreeId(2_605_736_670_972_794_746)));
        assert_eq!(Entry::parse(&entry.to_json()), Ok(entry.clone()));
        let value = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).expect("JSON");
        assert_eq!(value(&entry.to_json()), value(REAL_ENTRY));
    }

    #[test]
    fn what_is_not_an_entry_is_refused_with_what_is_wrong() {
        let real = str::from_utf8(REAL_ENTRY).expect("text");
        let change = |from: &str, to: &str| {
            assert!(real.contains(from), "{from}");
            real.replacen(from, to, 1)
        };
        let attested = change(
            "\"body\"",
            "\"attestation\": {\"data\": \"eA==\"}, \"body\"",
        );
        let entry = Entry::parse(attested.as_bytes()).expect("an attestation does no harm");
        assert!(
            !entry
                .to_json()
                .windows(11)
                .any(|part| part == b"attestation")
        );
        for (json, want) in [
            ("{}".to_owned(), "there is no entry"),
            ("null".to_owned(), "a map with one entry"),
            ("<html>sorry</html>".to_owned(), "expected value"),
            (real[..real.len() / 2].to_owned(), "EOF"),
            (format!("{real}{real}"), "trailing characters"),
            (
                real.trim_end().strip_suffix('}').expect("a map").to_owned() + ",\"x\": 0}",
                "more than one",
            ),
            (change("24296fb24b8ad77a", ""), "not 80 hex digits"),
            (
                change("\"integratedTime\":", "\"integratedTime\": -"),
                "integer",
            ),
            (
                change("\"integratedTime\":", "\"integratedTime\": 99999999"),
                "above 2^53",
            ),
            (
                change("\"logIndex\":31821305", "\"logIndex\":9007199254740992"),
                "above 2^53",
            ),
            (
                change("\"logIndex\":31821305", "\"logIndex\":31821305.5"),
                "floating point",
            ),
            (change("\"logID\"", "\"logId\""), "missing field `logID`"),
            (
                change("\"logID\":\"c0", "\"logID\":\"zz"),
                "not 64 hex digits",
            ),
            (change("\"body\":\"", "\"body\":\"!"), "not base64"),
            (
                change("\"body\":", "\"body\": \"\", \"body\":"),
                "duplicate field",
            ),
            (
                change("\"hashes\":[", "\"hashes\":[\"00\","),
                "not 64 hex digits",
            ),
            (
                change(
                    "\"hashes\":[",
                    &format!(
                        "\"hashes\":[{}",
                        format!("\"{}\",", "00".repeat(32)).repeat(64)
                    ),
                ),
                "more than 64 hashes",
            ),
        ] {
            let error = Entry::parse(json.as_bytes()).expect_err(want).to_string();
            assert!(error.contains(want), "{error}, and not {want}");
        }
    }

    #[test]
    fn a_log_describes_its_shards() {
        let head = |tree: &str| {
            format!(
                r#""rootHash":"{}","signedTreeHead":"note","treeID":"{tree}","treeSize":3"#,
                "0a".repeat(32)
            )
        };
        for (json, inactive) in [
            (
                format!(r#"{{"inactiveShards":null,{}}}"#, head("7")),
                Some(0),
            ),
            (format!("{{{}}}", head("7")), Some(0)),
            (
                format!(r#"{{"inactiveShards":[{{{}}}],{}}}"#, head("5"), head("7")),
                Some(1),
            ),
            (
                format!(
                    r#"{{"inactiveShards":[{}],{}}}"#,
                    vec![format!("{{{}}}", head("5")); 63].join(","),
                    head("7")
                ),
                Some(63),
            ),
            (
                format!(
                    r#"{{"inactiveShards":[{}],{}}}"#,
                    vec![format!("{{{}}}", head("5")); 64].join(","),
                    head("7")
                ),
                None,
            ),
            (format!("{{{}}}", head("07")), None),
            (format!("{{{}}}", head("-7")), None),
            (format!("{{{}}}", head("9223372036854775808")), None),
            (
                format!(
                    "{{{}}}",
                    head("7").replace("treeSize\":3", "treeSize\":9223372036854775809")
                ),
                None,
            ),
            (r#"{"treeSize": 3}"#.to_owned(), None),
            ("<html>".to_owned(), None),
        ] {
            let info = LogInfo::parse(json.as_bytes());
            assert_eq!(
                info.as_ref().ok().map(|info| info.inactive_shards.len()),
                inactive,
                "{json}"
            );
            if let Ok(info) = info {
                assert_eq!(LogInfo::parse(&info.to_json()), Ok(info));
            }
        }
    }

    #[test]
    fn a_proof_is_its_hashes() {
        let hash = "0b".repeat(32);
        for (json, want) in [
            (r#"{"hashes":[],"rootHash":"00"}"#.to_owned(), Some(0)),
            (
                format!(r#"{{"hashes":["{hash}"],"rootHash":"{hash}"}}"#),
                Some(1),
            ),
            (format!(r#"{{"hashes":["{}"]}}"#, &hash[2..]), None),
            (r#"{"rootHash":"00"}"#.to_owned(), None),
            (r#"{"code":400,"message":"no"}"#.to_owned(), None),
        ] {
            assert_eq!(
                parse_proof(json.as_bytes()).ok().map(|hashes| hashes.len()),
                want,
                "{json}"
            );
        }
    }
}
