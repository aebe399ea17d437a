//! Our own image: both programs, certificates of public authorities, and a user who is not root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Archive, Entry, Image, Tag};
use crate::progress::Progress;
use crate::run::Run;
use crate::{elf, paths};

/// Builds both programs as static release builds and packs them; or takes the archive that
/// `TILE_PROXY_IMAGE` names, which is for whoever changes something else.
///
/// The image holds no library and no shell, so there is nothing in it to patch but ourselves.
pub fn build(progress: &Progress) -> Result<Archive> {
    if let Some(given) = std::env::var_os(GIVEN).filter(|path| !path.is_empty()) {
        let step = progress.step("image");
        let archive = Archive::open(Path::new(&given)).with_context(|| format!("${GIVEN}"))?;
        step.done(format!("{}, not built but given", archive.reference));
        return Ok(archive);
    }
    let step = progress.step("release build");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    Run::new(env!("CARGO"))
        .current_dir(paths::checkout())
        .args(["build", "--release", "--locked", "--target", &target])
        .args(PROGRAMS.iter().flat_map(|program| ["--package", program]))
        // `--target` keeps the flag away from build scripts and procedural macros.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .named("cargo build --release")
        .deadline(BUILD_DEADLINE)
        .live(&step)
        .stdout()?;
    step.done("");

    let step = progress.step("image");
    let archive = pack(&paths::target().join(&target).join("release"))?;
    step.done(&archive.reference);
    Ok(archive)
}

fn pack(programs: &Path) -> Result<Archive> {
    let mut entries = BTreeMap::from([
        ("etc/passwd".to_owned(), Entry::Text(PASSWD.to_owned())),
        ("etc/group".to_owned(), Entry::Text(GROUP.to_owned())),
        (
            "etc/ssl/certs/ca-certificates.crt".to_owned(),
            Entry::File(ca_bundle()?),
        ),
        ("tmp".to_owned(), Entry::Folder(0o1777)),
    ]);
    for program in PROGRAMS {
        let built = programs.join(program);
        elf::require_static(&built)?;
        entries.insert(format!("usr/local/bin/{program}"), Entry::Program(built));
    }
    let image = Image {
        repository: "localhost/tile-proxy".to_owned(),
        tag: Tag::Content(env!("CARGO_PKG_VERSION").to_owned()),
        entrypoint: vec!["/usr/local/bin/tile-proxy".to_owned()],
        arguments: vec!["serve".to_owned()],
        user: "65532:65532",
        entries,
    };
    image
        .write(&paths::target().join("image/tile-proxy.oci.tar"))
        .context("cannot write the image")
}

fn ca_bundle() -> Result<PathBuf> {
    match CA_BUNDLES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
    {
        Some(path) => Ok(path),
        None => bail!(
            "no certificates of public authorities on this machine (looked for {}); \
             install the package ca-certificates",
            CA_BUNDLES.join(", ")
        ),
    }
}

/// Names an archive to use as it is.
const GIVEN: &str = "TILE_PROXY_IMAGE";

const PROGRAMS: [&str; 2] = ["tile-proxy", "tile-proxy-operator"];

/// Debian's place, and that of Fedora and its relatives.
const CA_BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\n\
    nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

/// Whole-program optimisation of two programs takes minutes on two cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(40 * 60);
