//! Images of what is not ours but runs in the cluster: one static program each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Entry, Image, Tag};
use crate::toolchain::{
    CLIENT, COREDNS, LOCAL_PATH_PROVISIONER, PAUSE, TESSERA_LOG, Tool, Toolchain,
};
use crate::{elf, paths};

/// An image that is in the cache, and the name it has on a node.
#[derive(Clone, Debug)]
pub struct Helper {
    /// Repository and tag.
    pub reference: String,
    /// Its archive.
    pub archive: PathBuf,
}

/// Holds pods open.
pub fn pause(toolchain: &Toolchain) -> Result<Helper> {
    of_tool(toolchain, PAUSE)
}

/// Names of Services.
pub fn coredns(toolchain: &Toolchain) -> Result<Helper> {
    of_tool(toolchain, COREDNS)
}

/// Makes volumes.
pub fn local_path_provisioner(toolchain: &Toolchain) -> Result<Helper> {
    of_tool(toolchain, LOCAL_PATH_PROVISIONER)
}

/// The log to follow.
pub fn tessera_log(toolchain: &Toolchain) -> Result<Helper> {
    of_tool(toolchain, TESSERA_LOG)
}

/// Clients of a log.
pub fn client(toolchain: &Toolchain) -> Result<Helper> {
    of_tool(toolchain, CLIENT)
}

/// A shell, for the pods that create and remove volumes. The host's own busybox: its shell runs
/// every applet without a link to it.
pub fn busybox(toolchain: &Toolchain) -> Result<Helper> {
    let program = paths::program("busybox").context("busybox is not installed")?;
    elf::require_static(&program).context("install the package busybox-static")?;
    let entries = BTreeMap::from([
        ("bin/busybox".to_owned(), Entry::Program(program)),
        ("bin/sh".to_owned(), Entry::Link("bin/busybox".to_owned())),
        ("tmp".to_owned(), Entry::Folder(0o1777)),
    ]);
    // Two megabytes; written every time, because the host's version may have changed.
    let archive = Image {
        repository: format!("{REPOSITORY}/busybox"),
        tag: Tag::Content("host".to_owned()),
        entrypoint: vec!["/bin/sh".to_owned()],
        arguments: Vec::new(),
        user: NON_ROOT,
        entries,
    }
    .write(&archive_path(toolchain, "busybox"))?;
    Ok(Helper {
        reference: archive.reference,
        archive: archive.path,
    })
}

/// The image of one tool, written unless the cache has it: a version never changes its contents.
fn of_tool(toolchain: &Toolchain, tool: Tool) -> Result<Helper> {
    let archive = archive_path(toolchain, &tool.folder());
    let repository = format!("{REPOSITORY}/{}", tool.name);
    let reference = format!("{repository}:{}", tool.version);
    if archive.is_file() {
        return Ok(Helper { reference, archive });
    }
    let program = toolchain.path(tool);
    elf::require_static(&program)?;
    let image = Image {
        repository,
        tag: Tag::Fixed(tool.version.to_owned()),
        entrypoint: vec![format!("/{}", tool.name)],
        arguments: Vec::new(),
        // Upstream's image of CoreDNS and of the provisioner run as root: one listens on port 53,
        // the other starts pods that do.
        user: if tool == COREDNS || tool == LOCAL_PATH_PROVISIONER {
            "0:0"
        } else {
            NON_ROOT
        },
        entries: BTreeMap::from([(tool.name.to_owned(), Entry::Program(program))]),
    };
    image
        .write(&archive)
        .with_context(|| format!("cannot write the image of {}", tool.name))?;
    Ok(Helper { reference, archive })
}

fn archive_path(toolchain: &Toolchain, name: &str) -> PathBuf {
    toolchain
        .derived("images")
        .join(Path::new(&format!("{name}.oci.tar")))
}

const REPOSITORY: &str = "localhost/tile-proxy-cluster";
const NON_ROOT: &str = "65532:65532";
