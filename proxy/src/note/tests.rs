//! What opens, and what does not.

use super::{testing::TestSigner, *};

/// The example of <https://pkg.go.dev/golang.org/x/mod/sumdb/note>'s format.
const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const TEXT: &str = "This is an example message.\n";
const SIGNATURE: &str =
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=";

fn published() -> (Vec<u8>, Vec<VerifierKey>) {
    let note = format!("{TEXT}\n\u{2014} example.com/foo {SIGNATURE}\n");
    (
        note.into_bytes(),
        vec![VKEY.parse().expect("a verifier key")],
    )
}

#[test]
fn a_published_note_opens() {
    let (note, keys) = published();
    assert_eq!(open(&note, &keys), Ok(TEXT));
}

#[test]
fn a_note_with_any_bit_flipped_does_not_open() {
    let (note, keys) = published();
    for at in 0..note.len() * 8 {
        let mut bad = note.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(open(&bad, &keys).is_err(), "bit {at}");
    }
}

#[test]
fn a_note_cut_short_does_not_open() {
    let (note, keys) = published();
    for end in 0..note.len() {
        assert!(open(&note[..end], &keys).is_err(), "cut at {end}");
    }
}

#[test]
fn unknown_signatures_are_ignored_and_bad_ones_of_known_keys_are_not() {
    let (rome, oslo) = (
        TestSigner::new("rome.example", 1),
        TestSigner::new("oslo.example", 2),
    );
    let impostor = TestSigner::new("rome.example", 3); // another key ID under the same name
    let text = "rome.example/2026h1\n0\n";
    let line = rome.line(text);
    for (signatures, keys, want) in [
        (
            vec![line.clone(), oslo.line(text)],
            vec![rome.vkey()],
            Ok(text),
        ),
        (
            vec![oslo.line(text), line.clone()],
            vec![rome.vkey()],
            Ok(text),
        ),
        (
            vec![line.clone(), impostor.line(text)],
            vec![rome.vkey()],
            Ok(text),
        ),
        (
            vec![line.clone(), line.clone()],
            vec![rome.vkey()],
            Ok(text),
        ), // a repeat
        (
            vec![line.clone(), oslo.line("another text\n")],
            vec![rome.vkey(), oslo.vkey()],
            Err("bad_signature"),
        ),
        (vec![oslo.line(text)], vec![rome.vkey()], Err("unknown_key")),
        (vec![line.clone()], vec![], Err("unknown_key")),
        (
            vec![line.clone(), "no signature\n".to_owned()],
            vec![rome.vkey()],
            Err("malformed"),
        ),
    ] {
        let note = format!("{text}\n{}", signatures.concat());
        let opened = open(note.as_bytes(), &keys).map_err(|error| error.reason());
        assert_eq!(opened, want, "{note}");
    }
}

#[test]
fn a_hundred_signatures_are_read_and_no_more() {
    let rome = TestSigner::new("rome.example", 1);
    let text = "rome.example/2026h1\n0\n";
    for (count, opens) in [(MAX_SIGNATURES, true), (MAX_SIGNATURES + 1, false)] {
        let note = format!("{text}\n{}", rome.line(text).repeat(count));
        assert_eq!(
            open(note.as_bytes(), &[rome.vkey()]).is_ok(),
            opens,
            "{count} lines"
        );
    }
}

#[test]
fn blank_lines_belong_to_the_text() {
    let rome = TestSigner::new("rome.example", 1);
    let text = "one\n\ntwo\n";
    assert_eq!(open(&rome.sign(text), &[rome.vkey()]), Ok(text));
}

/// Notes that public logs have signed, each with a key of theirs, as published.
const REAL: [(&str, &str, &str); 4] = [
    // ECDSA; the key's name is the host, the origin is not.
    (
        REKOR_V1,
        "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=",
        "rekor.sigstore.dev - 1193050959916656506",
    ),
    // The same key as PEM, which matches by its ID.
    (
        REKOR_V1,
        REKOR_V1_PEM,
        "rekor.sigstore.dev - 1193050959916656506",
    ),
    // Ed25519, and a witness.
    (
        REKOR_V2,
        "log2025-1.rekor.sigstore.dev+cf119915+AbfK5adZJxsI323FwGD2AJJ9F4i89cfDuLdGJBIYntuO",
        "log2025-1.rekor.sigstore.dev",
    ),
    // The origin has spaces, and is not the key's name.
    (
        "go.sum database tree\n3784599\n7uvxIZ67TZygcq/AehTD8iHYt81Ih+Zl2Y7vXZbfszQ=\n\n\u{2014} sum.golang.org Az3grn972wXskjQrsZhVGc93fTU2uOsmSTiId1Wn1lxDCup5z4ggl1/4gaUqOkMa6cMbYvjB7hn7yemNr7Zqanol/go=\n",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "go.sum database tree",
    ),
];

const REKOR_V1: &str = "rekor.sigstore.dev - 1193050959916656506\n266676745\n3ZhLKI3mKUlpedQ9hiIMbJIjKr3vTc+ueViyxWqwQGA=\n\n\u{2014} rekor.sigstore.dev wNI9ajBEAiAE7ER4yd8Waq4ZzLQt9BIUyfAvbizhv5PCcxk5Glf28AIgWT6LH4VlkrI8VhZnqCPigxEVzdlwVQpuRo0OsISdPGs=\n";

const REKOR_V1_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----";

const REKOR_V2: &str = "log2025-1.rekor.sigstore.dev\n139911860\nEliTHtnx44DhEBH+5qIXBtQsSpc54Avam7mIYEvxnTA=\n\n\u{2014} log2025-1.rekor.sigstore.dev zxGZFcOra4Y7QpuiQen+CmnUvDZbxSXfBOXJzL+HKIeR9aC58QTfao58ABqkhVyBhQDseS+TZdDNpcnZhoRxkh7IbQ0=\n\u{2014} witness.stagemole.eu Z/euoAAAAABqxF18wrJCADsJ1G5Lc2JaRjZqqBwjpNqH24yQse4iJ4rKS6b5MtvHP+IbKYXwaWuWokdGA+BubLFi+TrwK7xpKr6XBw==\n";

/// Who witnessed that.
const STAGEMOLE: &str =
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv";

/// Made by OpenSSL 3.0: `openssl dgst -sha256 -sign` over the text with a P-384 key.
const P384: &str = "rome.example/2026h1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} rome.example iGHsNDBlAjEArbnVhx6sBKKdF08o0YerwyKO7F9uaBlK/NRNy3XLMuoE2X29jGnUa1iKWRQD8hLRAjANlJF4XhNwa65ULM6l32IauQd1Yj0eI9k6eBN1bK+QNSbk3tDk5xuSE7hbf/XxYt4=\n";

const P384_PEM: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEi4pdhx1F0xLljhEFfJT9xoJTeIZqoaSZ
6d2e+yFRe7FCVHa54fzH6Naa+XoJczO66YF/mrdFNLHjFhomfiIFo1Z4c9h5C7Xl
5RVT+OE76XTtMKBzg2ZiKYKTTKJCCye3
-----END PUBLIC KEY-----";

fn key(text: &str) -> VerifierKey {
    text.parse().expect("a verifier key")
}

#[test]
fn notes_of_public_logs_open_with_their_published_keys() {
    for (note, vkey, origin) in REAL
        .into_iter()
        .chain([(P384, P384_PEM, "rome.example/2026h1")])
    {
        let text = open(note.as_bytes(), &[key(vkey)]).expect(origin);
        assert_eq!(text.lines().next(), Some(origin));
        assert_eq!(
            Note::parse(note.as_bytes())
                .map(|n| n.to_string())
                .as_deref(),
            Ok(note)
        );
    }
}

#[test]
fn an_ecdsa_note_with_any_bit_flipped_does_not_open() {
    for (note, pem) in [(REKOR_V1, REKOR_V1_PEM), (P384, P384_PEM)] {
        // With a name, because the one in the line means nothing to a key that came as PEM.
        let spki = pem
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect::<String>();
        let typed = [&[2], &BASE64_STANDARD.decode(spki).expect("base64")[..]].concat();
        let line = Note::parse(note.as_bytes()).expect("a note").signatures()[0].key();
        let keys = [key(&format!("{line}+{}", BASE64_STANDARD.encode(typed)))];
        assert!(open(note.as_bytes(), &keys).is_ok());
        for at in 0..note.len() * 8 {
            let mut bad = note.as_bytes().to_vec();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(open(&bad, &keys).is_err(), "bit {at}");
        }
    }
}

#[test]
fn a_witness_alone_makes_no_checkpoint_trusted() {
    let (log, witness) = (key(REAL[2].1), key(STAGEMOLE));
    let opened = |keys: &[VerifierKey]| open(REKOR_V2.as_bytes(), keys).map_err(|e| e.reason());
    assert!(opened(std::slice::from_ref(&log)).is_ok());
    assert!(opened(&[log.clone(), witness.clone()]).is_ok());
    assert_eq!(opened(std::slice::from_ref(&witness)), Err("only_cosigned"));

    let note = Note::parse(REKOR_V2.as_bytes()).expect("a note");
    let cosignature = &note.signatures()[1];
    let keys = [log, witness];
    assert_eq!(cosignature.check(note.text(), &keys), Signed::By(&keys[1]));
    // Ten million entries later it would have seen something else.
    let grown = REKOR_V2.replace("\n139911860\n", "\n149911860\n");
    let grown = Note::parse(grown.as_bytes()).expect("a note");
    assert_eq!(cosignature.check(grown.text(), &keys), Signed::Bad);
}

#[test]
fn a_cosigner_counts_against_a_note_and_never_for_it() {
    let (rome, bern) = (
        TestSigner::new("rome.example", 1),
        TestSigner::new("bern.example/witness", 2),
    );
    let text = "rome.example/2026h1\n0\n";
    let forged = bern.cosign("another text\n", 1_764_000_000);
    let cosigned = bern.cosign(text, 1_764_000_000);
    let keys = [rome.vkey(), bern.cosigner_vkey()];
    for (lines, want) in [
        (vec![rome.line(text), cosigned.clone()], Ok(text)),
        (vec![cosigned.clone(), rome.line(text)], Ok(text)),
        (vec![rome.line(text), forged], Err("bad_signature")),
        (vec![cosigned], Err("only_cosigned")),
        // Signed as a log does, by the witness's key: another type, so another ID.
        (vec![bern.line(text)], Err("unknown_key")),
    ] {
        let note = format!("{text}\n{}", lines.concat());
        let opened = open(note.as_bytes(), &keys).map_err(|error| error.reason());
        assert_eq!(opened, want, "{note}");
    }
    // And a log's key under the same name and secret is not one of the cosigner.
    let cosigner = [rome.cosigner_vkey()];
    let note = rome.sign(text);
    let opened = open(&note, &cosigner).map_err(|error| error.reason());
    assert_eq!(opened, Err("unknown_key"));
}

#[test]
fn a_key_from_pem_signs_under_any_name() {
    let text = "rome.example/2026h1\n0\n";
    for name in ["rome.example", "rome.example/2026h1", "oslo.example"] {
        let note = TestSigner::new(name, 1).sign(text);
        let keys = [TestSigner::new("unused", 1).pem()];
        assert_eq!(open(&note, &keys), Ok(text), "{name}");
        let other = [TestSigner::new("unused", 2).pem()];
        let opened = open(&note, &other).map_err(|error| error.reason());
        assert_eq!(opened, Err("unknown_key"), "{name}");
    }
    // Known by its ID, and bad: someone changed the text.
    let signer = TestSigner::new("rome.example", 1);
    let note = format!("{text}\n{}", signer.line("another text\n"));
    let opened = open(note.as_bytes(), &[signer.pem()]).map_err(|error| error.reason());
    assert_eq!(opened, Err("bad_signature"));
}
