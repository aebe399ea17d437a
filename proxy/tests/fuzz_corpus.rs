//! The fuzz targets over their stored corpora: what was found once stays found.

#[expect(
    unreachable_pub,
    reason = "public for the fuzzers, whose library this is"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::{collections::BTreeSet, fs, path::Path};

/// What a target is, and its function: whether it accepts an input.
type Target = (&'static str, fn(&[u8]) -> bool);

const TARGETS: [Target; 14] = [
    ("bundle", targets::bundle),
    ("checkpoint", targets::checkpoint),
    ("configuration", targets::configuration),
    ("note", targets::note),
    ("path", targets::path),
    ("record", targets::record),
    ("rekor_entry", targets::rekor_entry),
    ("retry_after", targets::retry_after),
    ("tuf_keys", targets::tuf_keys),
    ("tuf_monitor_config", targets::tuf_monitor_config),
    ("tuf_service_map", targets::tuf_service_map),
    ("tuf_signing_config", targets::tuf_signing_config),
    ("tuf_trusted_root", targets::tuf_trusted_root),
    ("vkey", targets::vkey),
];

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"))
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(directory)).expect(directory);
    entries
        .map(|entry| {
            let name = entry.expect("readable").file_name().into_string();
            name.expect("plain").trim_end_matches(".rs").to_owned()
        })
        .collect()
}

#[test]
fn every_target_holds_over_its_corpus() {
    for (name, target) in TARGETS {
        let corpus = format!("corpus/{name}");
        let (mut accepted, mut refused) = (0, 0);
        for input in names(&corpus) {
            // Shown with a failure: which input it was.
            println!("fuzz/{corpus}/{input}");
            let data = fs::read(fuzz().join(&corpus).join(input)).expect("readable");
            if target(&data) {
                accepted += 1;
            } else {
                refused += 1;
            }
        }
        // A corpus that a parser refuses as a whole would hold nothing.
        assert!(
            accepted >= 3,
            "{name}: {accepted} accepted, {refused} refused"
        );
        assert!(
            refused >= 3,
            "{name}: {accepted} accepted, {refused} refused"
        );
    }
}

#[test]
fn every_target_is_one_of_the_fuzzers() {
    let tested: BTreeSet<String> = TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(names("fuzz_targets"), tested);
    assert_eq!(names("corpus"), tested);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("readable");
    for name in tested {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
