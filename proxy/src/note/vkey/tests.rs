//! Every spelling that is a key, and what is not.

use proptest::prelude::*;

use super::*;

const REKOR_V2: &str =
    "log2025-1.rekor.sigstore.dev+cf119915+AbfK5adZJxsI323FwGD2AJJ9F4i89cfDuLdGJBIYntuO";
const REKOR_V1: &str = "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=";
const WITNESS: &str = "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv";

const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----";
const P384_PEM: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEi4pdhx1F0xLljhEFfJT9xoJTeIZqoaSZ
6d2e+yFRe7FCVHa54fzH6Naa+XoJczO66YF/mrdFNLHjFhomfiIFo1Z4c9h5C7Xl
5RVT+OE76XTtMKBzg2ZiKYKTTKJCCye3
-----END PUBLIC KEY-----";
const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEATYJhw+1v93jbce6maoKBejktoaZJ/xaGm7YBr58Pu8c=
-----END PUBLIC KEY-----";

#[test]
fn published_keys_parse_and_format_to_the_same() {
    for (text, algorithm) in [
        (REKOR_V2, Algorithm::Ed25519),
        (
            "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", // + in base64
            Algorithm::Ed25519,
        ),
        (
            "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            Algorithm::Ed25519,
        ),
        (
            "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
            Algorithm::Ed25519,
        ),
        (REKOR_V1, Algorithm::EcdsaP256),
        (WITNESS, Algorithm::CosignatureV1),
        (P256_PEM, Algorithm::EcdsaP256),
        (P384_PEM, Algorithm::EcdsaP384),
        (ED25519_PEM, Algorithm::Ed25519),
    ] {
        let key: VerifierKey = text.parse().expect(text);
        assert_eq!(key.to_string(), text);
        assert_eq!(key.algorithm(), algorithm, "{text}");
    }
}

#[test]
fn only_log_keys_vouch_for_logs() {
    for (text, vouches) in [
        (REKOR_V1, true),
        (REKOR_V2, true),
        (P384_PEM, true),
        (WITNESS, false),
    ] {
        let key: VerifierKey = text.parse().expect(text);
        assert_eq!(key.algorithm().vouches_for_logs(), vouches, "{text}");
    }
}

#[test]
fn a_key_matches_by_name_and_id_and_from_pem_by_id_alone() {
    let id = 0xc0d2_3d6a;
    for (key, name, id, matches) in [
        (REKOR_V1, "rekor.sigstore.dev", id, true),
        (REKOR_V1, "rekor.sigstage.dev", id, false), // an ID alone proves little: 32 bits
        (REKOR_V1, "rekor.sigstore.dev", id ^ 1, false),
        (P256_PEM, "rekor.sigstore.dev", id, true),
        (P256_PEM, "rekor.sigstage.dev", id, true), // ECDSA: no name is in the ID
        (P256_PEM, "rekor.sigstore.dev", id ^ 1, false),
        (ED25519_PEM, "rome.example", id, false),
    ] {
        let parsed: VerifierKey = key.parse().expect(key);
        assert_eq!(
            parsed.signs_as(name, id),
            matches,
            "{key} as {name}+{id:08x}"
        );
    }
    // That of Ed25519 holds the name, so a key without one has another ID under every name.
    let key: VerifierKey = ED25519_PEM.parse().expect("a key");
    assert!(key.signs_as("rome.example", key.id_under("rome.example")));
    assert!(!key.signs_as("oslo.example", key.id_under("rome.example")));
}

#[test]
fn a_key_that_is_not_exactly_right_is_refused() {
    // The last byte of the point is its y coordinate's.
    let off_curve = REKOR_V1.replace("fkWLc=", "fkWLY=");
    for (text, want) in [
        ("", "it needs three parts"),
        ("rome", "it needs three parts"),
        ("+cf119915+AbfK", "the name is empty"),
        (
            "a b+cf119915+AbfK",
            "the name is empty or holds white space",
        ),
        ("rome+cf119915+%", "not base64"),
        ("rome+cf119915+AbfK", "not 32 bytes"),
        ("rome+cf119915+BLfK", "not 32 bytes"),
        ("rome+cf119915+", "of an unknown type"),
        (
            "rome+c0d23d6a+AjBZMBMGByqGSM49",
            "neither Ed25519 nor ECDSA",
        ),
        (&off_curve, "not on its curve"),
        (
            "rome+cf119915+BbfK",
            "RFC 6962 tree head (type 5) keys are not built",
        ),
        (
            "rome+cf119915+BrfK",
            "ML-DSA-44 cosigner (type 6) keys are not built",
        ),
        (
            "rome+cf119915+/7fK",
            "RSA and other (type 255) keys are not built",
        ),
        (
            &REKOR_V2.replace("cf119915", "CF119915"),
            "the key ID is CF119915, but",
        ),
        (
            &REKOR_V2.replace("log2025", "log2026"),
            "the key ID is cf119915, but",
        ),
        (
            &REKOR_V1.replace("c0d23d6a", "c0d23d6b"),
            "but this name and key have c0d23d6a",
        ),
        ("-----BEGIN PUBLIC KEY-----", "the block is cut"),
        (&P256_PEM[..120], "the block is cut"),
        (
            &P256_PEM.replace("MFkw", "MFk!"),
            "the block is cut or not base64",
        ),
        (
            &P256_PEM.replace("MFkw", "MFkx"),
            "neither Ed25519 nor ECDSA",
        ),
        (
            &P256_PEM.replace("PUBLIC", "EC PUBLIC"),
            "no whole `PUBLIC KEY` block",
        ),
        (
            &P256_PEM.replace("PUBLIC", "PRIVATE"),
            "it is a private key",
        ),
        (
            &P256_PEM.replace("PUBLIC KEY", "CERTIFICATE"),
            "it is a certificate",
        ),
        (&format!("{P256_PEM}\n{P256_PEM}"), "a block begins"),
        (P521_PEM, "ECDSA P-521 keys are not built"),
        (COMPRESSED_PEM, "neither Ed25519 nor ECDSA"),
    ] {
        let error = text.parse::<VerifierKey>().expect_err(text).to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}

const P521_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBpqLSOZAFPrUnTW7w+ghw46noo4BI
83DOgv1nTLwtEKn4kbtw++Y7ejtjfOr8rFtJqscmr8zO60pOpyWQs3RX3wYBl/3V
Jfjmsc8ckTkS6oIiA38HBqylkOPIFfBrjUX3AF+ZSov2+fuYPiu8fzaQw27bFCwI
/m7yxB1cW9k+FS9NwJw=
-----END PUBLIC KEY-----";

/// P-256, with half a point.
const COMPRESSED_PEM: &str = "-----BEGIN PUBLIC KEY-----
MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgADLY153d485qKd6bgV7U3Mb4BmyNo0
vCnfF8dkNu5N1QI=
-----END PUBLIC KEY-----";

#[test]
fn a_file_may_hold_lines_and_blocks_while_keys_rotate() {
    for (text, want) in [
        (String::new(), 0),
        ("\n \n".to_owned(), 0),
        (P256_PEM.to_owned(), 1),
        (format!("{P256_PEM}\n{P384_PEM}\n"), 2),
        (
            format!("\n{REKOR_V2}\r\n{P256_PEM}\n\n{REKOR_V1}\n{ED25519_PEM}"),
            4,
        ),
        (P256_PEM.replace('\n', "\r\n"), 1),
    ] {
        let keys = VerifierKey::parse_all(&text).expect("keys");
        assert_eq!(keys.len(), want, "{text}");
    }
    for text in [
        format!("{P256_PEM}\nrome"),
        format!("-----BEGIN PUBLIC KEY-----\n{P256_PEM}"),
        format!("{REKOR_V2}\n-----BEGIN PUBLIC KEY-----\nMFkw"),
        format!("{REKOR_V2} {REKOR_V1}"),
    ] {
        assert!(VerifierKey::parse_all(&text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_formatted_parses_to_the_same(name in "[^\\s+]{1,40}", seed: [u8; 32], kind in 0..3_u8) {
        let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
        let key = VerifierKey {
            name: (kind > 0).then_some(name),
            key: if kind == 2 {
                PublicKey::CosignatureV1(public)
            } else {
                PublicKey::Ed25519(public)
            },
        };
        let parsed: Result<VerifierKey, _> = key.to_string().parse();
        prop_assert_eq!(parsed, Ok(key));
    }
}

/// As `openssl genpkey` makes them, without the keys themselves.
#[test]
fn a_kind_of_key_that_is_not_used_is_refused_by_its_name() {
    for (spki, kind) in [
        (
            "30820122300d06092a864886f70d01010105000382010f00",
            "RSA keys",
        ),
        (
            "3081a7301006072a8648ce3d020106052b81040023038192",
            "ECDSA P-521 keys",
        ),
        (
            "304e301006072a8648ce3d020106052b81040021033a0004",
            "ECDSA P-224 keys",
        ),
        (
            "3056301006072a8648ce3d020106052b8104000a03420004",
            "ECDSA secp256k1 keys",
        ),
        ("3043300506032b6571033a00", "Ed448 keys"),
        (
            "3059301306072a8648ce3d020106082a8648ce3d030107034200",
            "its point is not",
        ),
        ("302a300506032b656e032100", "neither Ed25519 nor ECDSA"), // X25519 signs nothing
        ("", "neither Ed25519 nor ECDSA"),
    ] {
        let spki = hex::decode(spki).expect("hex");
        let error = VerifierKey::from_spki(&spki).expect_err(kind).to_string();
        assert!(error.contains(kind), "{error}");
    }
}

#[test]
fn an_ed25519_key_has_the_id_that_rekor_v1_gives_it_as_well() {
    let log = crate::fixture_log::FixtureLog::with_entries(1);
    let key: VerifierKey = log.pem().parse().expect("a key");
    let [a, b, c, d, ..] = key.log_id().0;
    let id = u32::from_be_bytes([a, b, c, d]);
    assert_ne!(id, key.id_under("rome"));
    assert!(key.signs_as("rome", id) && key.signs_as("rome", key.id_under("rome")));
    assert!(!key.signs_as("rome", id ^ 1));
    let named = key.named("rome").expect("a name");
    assert!(named.signs_as("rome", id) && !named.signs_as("oslo", id));
}
