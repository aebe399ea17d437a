//! OCI images without a daemon: an archive is a tar file of a few JSON documents and one layer.
//!
//! The same files give the same bytes on every machine: entries are sorted, times and owners fixed.
//! See <https://github.com/opencontainers/image-spec>.

mod archive;
pub mod helpers;
pub mod product;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::lock;

/// What an image holds and how it starts.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name without tag, such as `localhost/tile-proxy`.
    pub repository: String,
    /// The tag.
    pub tag: Tag,
    /// What runs unless the pod says otherwise.
    pub entrypoint: Vec<String>,
    /// Its arguments unless the pod says otherwise.
    pub arguments: Vec<String>,
    /// User and group it runs as; both, because a user alone gets the group 0.
    pub user: &'static str,
    /// Paths without leading slash, and what is there. Folders above a path need no entry.
    pub entries: BTreeMap<String, Entry>,
}

/// How an image is tagged.
#[derive(Clone, Debug)]
pub enum Tag {
    /// As given.
    Fixed(String),
    /// The given text, `-`, and the first twelve digits of the digest of the configuration: other
    /// contents never go by the same name, so a node cannot mistake an old image for a new one.
    Content(String),
}

/// One path of an image, owned by root.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A folder with its mode.
    Folder(u32),
    /// A text anyone may read.
    Text(String),
    /// A file of the host anyone may read.
    File(PathBuf),
    /// A program of the host anyone may run.
    Program(PathBuf),
    /// Another name of a file of the image.
    Link(String),
}

/// An archive.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where it is.
    pub path: PathBuf,
    /// Repository and tag.
    pub reference: String,
    /// The digest of the manifest, `sha256:…`.
    pub digest: String,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Image {
    /// Writes the image as an OCI archive to `path`, in one step.
    pub fn write(&self, path: &Path) -> Result<Archive> {
        let layer = self.layer()?;
        let compressed = gzip(&layer)?;
        let config = to_bytes(&self.config(&sha256(&layer)))?;
        let config_digest = sha256(&config);
        let tag = match &self.tag {
            Tag::Fixed(tag) => tag.clone(),
            Tag::Content(tag) => format!("{tag}-{}", &config_digest[..12]),
        };
        let reference = format!("{}:{tag}", self.repository);
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &compressed)],
        }))?;
        let digest = sha256(&manifest);
        let mut described = descriptor(MANIFEST, &manifest);
        described["annotations"] = json!({
            // The first is what containerd and Docker name the image by, the second what the
            // specification says.
            NAME: reference,
            TAG: tag,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] });

        let mut archive = Builder::new(Vec::new());
        let blobs = [
            (
                "oci-layout".to_owned(),
                to_bytes(&json!({ "imageLayoutVersion": "1.0.0" }))?,
            ),
            (archive::INDEX_FILE.to_owned(), to_bytes(&index)?),
            (format!("blobs/sha256/{config_digest}"), config),
            (format!("blobs/sha256/{digest}"), manifest),
            (format!("blobs/sha256/{}", sha256(&compressed)), compressed),
        ];
        for (name, contents) in blobs {
            append(&mut archive, &name, EntryType::Regular, 0o644, &contents)?;
        }
        let bytes = archive.into_inner()?;
        lock::write_atomically(path, &bytes)?;
        Ok(Archive {
            path: path.to_path_buf(),
            reference,
            digest: format!("sha256:{digest}"),
            bytes: bytes.len() as u64,
        })
    }

    /// The only layer, uncompressed.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        let mut folders = std::collections::BTreeSet::new();
        for (path, entry) in &self.entries {
            // Shortest first; the last ancestor is the empty path.
            let ancestors: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for folder in ancestors.into_iter().rev().skip(1) {
                if folders.insert(folder.to_path_buf()) {
                    let name = format!("{}/", folder.display());
                    append(&mut layer, &name, EntryType::Directory, 0o755, &[])?;
                }
            }
            match entry {
                Entry::Folder(mode) => {
                    folders.insert(PathBuf::from(path));
                    append(
                        &mut layer,
                        &format!("{path}/"),
                        EntryType::Directory,
                        *mode,
                        &[],
                    )?;
                }
                Entry::Text(text) => {
                    append(&mut layer, path, EntryType::Regular, 0o644, text.as_bytes())?;
                }
                Entry::File(file) => {
                    append(&mut layer, path, EntryType::Regular, 0o644, &read(file)?)?;
                }
                Entry::Program(file) => {
                    append(&mut layer, path, EntryType::Regular, 0o755, &read(file)?)?;
                }
                Entry::Link(target) => {
                    let mut header = header(EntryType::Link, 0o755, 0);
                    layer.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }

    fn config(&self, layer_digest: &str) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": EPOCH,
            "config": {
                "User": self.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
            "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
        })
    }
}

/// The name OCI has for the architecture this harness runs on.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", sha256(blob)),
        "size": blob.len(),
    })
}

fn append(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    contents: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, contents.len() as u64);
    archive
        .append_data(&mut header, path, contents)
        .with_context(|| format!("cannot pack {path}"))
}

/// A header without anything that differs between machines: owner root, time zero.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Compresses with a header that holds neither time nor name.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EPOCH: &str = "1970-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Image {
        Image {
            repository: "localhost/greeting".to_owned(),
            tag: Tag::Content("1.0".to_owned()),
            entrypoint: vec!["/bin/greet".to_owned()],
            arguments: Vec::new(),
            user: "65532:65532",
            entries: BTreeMap::from([
                ("etc/greeting".to_owned(), Entry::Text(text.to_owned())),
                ("tmp".to_owned(), Entry::Folder(0o1777)),
            ]),
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_other_files_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text, name| image(text).write(&dir.path().join(name)).unwrap();
        let (first, second) = (write("hello", "first.tar"), write("hello", "second.tar"));
        assert_eq!(
            fs::read(&first.path).unwrap(),
            fs::read(&second.path).unwrap()
        );
        assert_eq!(first.reference, second.reference);
        assert_ne!(first.reference, write("goodbye", "third.tar").reference);
    }

    #[test]
    fn folders_above_a_file_come_before_it_and_once() {
        let layer = image("hello").layer().unwrap();
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["etc/", "etc/greeting", "tmp/"]);
    }
}
