//! Archives and directories that were made to do harm.

use std::{fs, io::Write as _, path::Path, sync::Arc};

use super::{Side, all_files, report};
use crate::world::{FixtureLog, Outcome, cache_directory};

const ENTRIES: usize = 3_000;

/// One member of an archive, as anyone may write it.
#[derive(Clone)]
struct Raw {
    name: String,
    kind: tar::EntryType,
    /// What the header says; not always the truth.
    size: u64,
    bytes: Vec<u8>,
}

impl Raw {
    fn file(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            kind: tar::EntryType::Regular,
            size: bytes.len() as u64,
            bytes: bytes.to_vec(),
        }
    }
}

/// Writes members as they are; the name past every check of the library.
fn write_archive(path: &Path, members: &[Raw]) {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        // Names up to 155 bytes: what is before the last slash goes to the prefix, as in any tar.
        let (prefix, name) = match member.name.rsplit_once('/') {
            Some((prefix, name)) if member.name.len() > 99 => (prefix, name),
            _ => ("", member.name.as_str()),
        };
        let ustar = header.as_ustar_mut().expect("ustar");
        ustar.name[..name.len()].copy_from_slice(name.as_bytes());
        ustar.prefix[..prefix.len()].copy_from_slice(prefix.as_bytes());
        header.set_entry_type(member.kind);
        header.set_size(member.size);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, member.bytes.as_slice())
            .expect("memory");
    }
    let tar = tar.into_inner().expect("memory");
    fs::write(path, zstd::encode_all(tar.as_slice(), 1).expect("memory")).expect("written");
}

fn read_archive(path: &Path) -> Vec<Raw> {
    let tar = zstd::decode_all(fs::File::open(path).expect("there")).expect("zstd");
    let mut archive = tar::Archive::new(tar.as_slice());
    let entries = archive.entries().expect("tar");
    entries
        .map(|entry| {
            let mut entry = entry.expect("a member");
            let name = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8");
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).expect("memory");
            Raw::file(&name, &bytes)
        })
        .collect()
}

/// An honest export of the fixture log, taken apart.
fn honest() -> (Arc<FixtureLog>, Vec<Raw>) {
    let log = Arc::new(FixtureLog::with_entries(ENTRIES));
    let carried = cache_directory();
    let out = carried.path().join("bundle");
    let connected = Side::connected(&log, ENTRIES as u64);
    assert_eq!(connected.export("bundle", &out).code, Some(0));
    (log, read_archive(&out))
}

fn position(members: &[Raw], end: &str) -> usize {
    let found = members.iter().position(|member| member.name.ends_with(end));
    found.unwrap_or_else(|| panic!("no member {end}"))
}

fn import(side: &Side, members: &[Raw]) -> Outcome {
    let archive = side.path().join("hostile");
    write_archive(&archive, members);
    side.import(&archive)
}

#[test]
fn what_only_looks_like_an_export_does_no_harm() {
    let (log, honest) = honest();
    let at = |end: &str| position(&honest, end);
    let tile = at("tile/0/003");
    let insert = |member: Raw| {
        let mut members = honest.clone();
        members.insert(tile, member);
        members
    };
    let special = |kind| {
        let mut member = Raw::file("0000/tile/0/000", b"");
        member.kind = kind;
        insert(member)
    };
    let with = |change: &dyn Fn(&mut Raw)| {
        let mut members = honest.clone();
        change(&mut members[tile]);
        members
    };
    let without = |end: &str| {
        let mut members = honest.clone();
        members.remove(at(end));
        members
    };
    let mut repeated = honest.clone();
    repeated.insert(tile, honest[tile].clone());
    let mut swapped = honest.clone();
    swapped.swap(tile, tile + 1);
    let more = [&honest[..], &[Raw::file("more", b"more")]].concat();

    // What happened to the checkpoint, members refused or damaged, and what is said.
    for (case, members, checkpoint, wrong, says) in [
        (
            "a way out",
            insert(Raw::file("../../etc/passwd", b"root")),
            "advanced",
            1,
            "not a name",
        ),
        (
            "an absolute name",
            insert(Raw::file("/etc/passwd", b"root")),
            "advanced",
            1,
            "not a name",
        ),
        (
            "a hidden way out",
            insert(Raw::file(
                &format!("{}/tile/0/../../../x", "a".repeat(64)),
                b"x",
            )),
            "advanced",
            1,
            "not a name",
        ),
        (
            "a symbolic link",
            special(tar::EntryType::Symlink),
            "advanced",
            1,
            "no regular file",
        ),
        (
            "a hard link",
            special(tar::EntryType::Link),
            "advanced",
            1,
            "no regular file",
        ),
        (
            "a device",
            special(tar::EntryType::Block),
            "advanced",
            1,
            "no regular file",
        ),
        (
            "a pipe",
            special(tar::EntryType::Fifo),
            "advanced",
            1,
            "no regular file",
        ),
        (
            "an extension that renames",
            special(tar::EntryType::XHeader),
            "advanced",
            1,
            "no regular file",
        ),
        (
            "a long name",
            special(tar::EntryType::GNULongName),
            "advanced",
            1,
            "no regular file",
        ),
        (
            "a flipped bit",
            with(&|tile| tile.bytes[77] ^= 1),
            "advanced",
            1,
            "its root is",
        ),
        (
            "a short tile",
            with(&|tile| {
                tile.bytes.pop();
                tile.size -= 1;
            }),
            "advanced",
            1,
            "of the wrong length",
        ),
        ("a repeat", repeated, "incomplete", 0, "comes twice"),
        (
            "another order",
            swapped,
            "incomplete",
            0,
            "not in its order",
        ),
        (
            "an oversized member",
            with(&|tile| {
                tile.size = 8_193;
                tile.bytes.push(0);
            }),
            "incomplete",
            0,
            "at most 8192 are right",
        ),
        (
            "a size that is a lie",
            with(&|tile| tile.size = 1 << 40),
            "incomplete",
            0,
            "at most 8192 are right",
        ),
        (
            "no manifest",
            without("manifest.json"),
            "incomplete",
            0,
            "does not end with manifest.json",
        ),
        (
            "something after it",
            more,
            "incomplete",
            0,
            "comes after the manifest",
        ),
        (
            "no edge",
            without("tile/0/011.p/184"),
            "refused",
            0,
            "edge tiles of its checkpoint are missing",
        ),
    ] {
        let offline = Side::offline(&log);
        let outcome = import(&offline, &members);
        assert_eq!(outcome.code, Some(1), "{case}: {outcome:?}");
        if checkpoint == "incomplete" && outcome.stdout.is_empty() {
            // Seen in the first reading already: nothing is imported at all.
            assert!(outcome.stderr.contains(says), "{case}: {outcome:?}");
            assert!(offline.stored().is_empty(), "{case}");
            continue;
        }
        let report = report(&outcome);
        assert_eq!(report["checkpoint"], checkpoint, "{case}: {report}");
        let refused = report["refused"].as_u64().expect("a number");
        let damaged = report["tiles"]["damaged"].as_u64().expect("a number");
        assert_eq!(refused + damaged, wrong, "{case}: {report}");
        assert!(
            report["findings"].to_string().contains(says),
            "{case}: {report}"
        );
        let outside = all_files(offline.path())
            .into_iter()
            .filter(|path| !path.starts_with(offline.path().join("cache")))
            .count();
        assert_eq!(outside, 2, "{case}: only its configuration and the archive");
        let clean = crate::world::run("fsck", offline.path(), &["--json"]);
        assert_eq!(clean.code, Some(0), "{case}: {clean:?}");
    }
}

#[test]
fn a_thousand_wrong_members_are_passed_over_and_no_more() {
    let (log, honest) = honest();
    let tile = position(&honest, "tile/0/003");
    for (count, checkpoint) in [(1_000, "advanced"), (1_001, "incomplete")] {
        let mut members = honest.clone();
        let junk = (0..count).map(|i| Raw::file(&format!("junk {i}"), b"junk"));
        members.splice(tile..tile, junk);
        let offline = Side::offline(&log);
        let outcome = import(&offline, &members);
        assert_eq!(outcome.code, Some(1), "{count}");
        assert_eq!(report(&outcome)["checkpoint"], checkpoint, "{count}");
        assert_eq!(report(&outcome)["refused"], count);
    }
}

#[test]
fn logs_that_are_not_followed_here_are_passed_over_up_to_a_hundred() {
    let (log, honest) = honest();
    for (count, imported) in [(100, true), (101, false)] {
        let stranger = |i: u32| Raw::file(&format!("{i:064x}/checkpoint"), b"a note of nobody");
        let members = [(0..count).map(stranger).collect(), honest.clone()].concat();
        let offline = Side::offline(&log);
        let outcome = import(&offline, &members);
        assert_eq!(outcome.code, Some(1), "{count}: {outcome:?}");
        assert_eq!(
            offline.stored().is_empty(),
            !imported,
            "{count}: {outcome:?}"
        );
        let says = "more than 100 of its logs are none of those here";
        assert_eq!(
            outcome.stderr.contains(says),
            !imported,
            "{count}: {outcome:?}"
        );
    }
}

#[test]
fn an_archive_cut_off_anywhere_publishes_nothing_and_the_rest_completes_it() {
    let (log, members) = honest();
    let offline = Side::offline(&log);
    let whole = offline.path().join("whole");
    write_archive(&whole, &members);
    let bytes = fs::read(&whole).expect("written");
    let archive = offline.path().join("cut");
    for part in [0, 3, 200, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&archive, &bytes[..part]).expect("written");
        let outcome = offline.import(&archive);
        assert_eq!(outcome.code, Some(1), "{part} bytes: {outcome:?}");
        assert!(
            crate::find(offline.path(), "3000.checkpoint").is_empty(),
            "{part} bytes"
        );
    }
    let done = offline.imported(&whole);
    assert_eq!(done["checkpoint"], "advanced");
    let there = done["tiles"]["present"].as_u64().expect("a number");
    assert!(there > 0, "what came before the cut was kept: {done}");
}

#[test]
fn a_bomb_is_noticed_before_it_goes_off() {
    let (log, honest) = honest();
    let offline = Side::offline(&log);
    // Terabytes of nothing in a member that is skipped, and in one that is none.
    let archive = offline.path().join("bomb");
    let mut encoder =
        zstd::Encoder::new(fs::File::create(&archive).expect("made"), 19).expect("zstd");
    let mut tar = tar::Builder::new(Vec::new());
    for member in &honest[..1] {
        let mut header = tar::Header::new_ustar();
        header.set_path(&member.name).expect("short");
        header.set_size(member.size);
        header.set_cksum();
        tar.append(&header, member.bytes.as_slice())
            .expect("memory");
    }
    let mut directory = tar::Header::new_ustar();
    directory.set_path("d").expect("short");
    directory.set_entry_type(tar::EntryType::Directory);
    directory.set_size(0);
    directory.set_cksum();
    let mut start = tar.into_inner().expect("memory");
    start.truncate(1_024);
    encoder.write_all(&start).expect("written");
    for _ in 0..1_000_000 {
        encoder.write_all(directory.as_bytes()).expect("written");
    }
    encoder.finish().expect("written");
    let outcome = offline.import(&archive);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("expands to more than 1000 times"),
        "{outcome:?}"
    );
    assert!(offline.stored().is_empty());
}

#[test]
fn a_file_or_a_directory_of_something_else_is_no_export() {
    let log = FixtureLog::with_entries(1);
    let offline = Side::offline(&log);
    let directory = cache_directory();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("text"), "not an archive").expect("written");
    fs::create_dir(path("empty")).expect("made");
    for (name, says) in [
        ("text", "its first bytes are not those of zstd"),
        (
            "empty",
            "neither an archive nor a directory with `checkpoint` or `tiles`",
        ),
        ("absent", "No such file"),
    ] {
        let outcome = offline.import(&path(name));
        assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{name}: {outcome:?}");
    }
}

#[test]
fn links_and_pipes_in_a_directory_are_not_followed() {
    let log = Arc::new(FixtureLog::with_entries(ENTRIES));
    let connected = Side::connected(&log, ENTRIES as u64);
    let mirror = connected.path().join("mirror");
    assert_eq!(connected.export("tlog-tiles", &mirror).code, Some(0));
    let moved = connected.path().join("moved");
    fs::rename(mirror.join("tile/0/003"), &moved).expect("there");
    std::os::unix::fs::symlink(&moved, mirror.join("tile/0/003")).expect("linked");
    let pipe = mirror.join("tile/0/004");
    fs::remove_file(&pipe).expect("there");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, rustix::fs::Mode::RUSR, 0).expect("made");
    let offline = Side::offline(&log);
    let outcome = offline.import(&mirror);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let report = report(&outcome);
    assert_eq!(report["checkpoint"], "advanced", "the rest is sound");
    assert_eq!(report["refused"], 2, "{report}");
    assert_eq!(report["tiles"]["stored"], 9, "{report}");
}
