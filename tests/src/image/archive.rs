//! Archives that are there already: opened, and given another name.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tar::{Builder, EntryType};

use super::{Archive, NAME, TAG, append, to_bytes};
use crate::lock;

impl Archive {
    /// The archive at `path`, if it holds one image with a name.
    pub fn open(path: &Path) -> Result<Self> {
        let (bytes, index) = read(path)?;
        let what = || {
            format!(
                "{} is not an archive of one image with a name",
                path.display()
            )
        };
        let manifests = index["manifests"].as_array().with_context(what)?;
        ensure!(manifests.len() == 1, what());
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(what);
        Ok(Self {
            path: path.to_path_buf(),
            reference: text(&manifests[0]["annotations"][NAME])?,
            digest: text(&manifests[0]["digest"])?,
            bytes: bytes.len() as u64,
        })
    }

    /// Writes the same image to `path` under another tag: the same digest by another name.
    pub fn tagged(&self, tag: &str, path: &Path) -> Result<Self> {
        let (bytes, mut index) = read(&self.path)?;
        let (repository, _) = self.named()?;
        let reference = format!("{repository}:{tag}");
        index["manifests"][0]["annotations"] = json!({ NAME: reference, TAG: tag });
        let mut renamed = Builder::new(Vec::new());
        for entry in tar::Archive::new(bytes.as_slice()).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            if name == INDEX_FILE {
                contents = to_bytes(&index)?;
            }
            append(&mut renamed, &name, EntryType::Regular, 0o644, &contents)?;
        }
        lock::write_atomically(path, &renamed.into_inner()?)?;
        Self::open(path)
    }

    /// Repository and tag of its name.
    pub fn named(&self) -> Result<(&str, &str)> {
        let named = self.reference.rsplit_once(':');
        named.context("the image's reference has no tag")
    }
}

/// The bytes of an archive, and its index.
fn read(path: &Path) -> Result<(Vec<u8>, Value)> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut index = None;
    for entry in tar::Archive::new(bytes.as_slice()).entries()? {
        let entry = entry?;
        if entry.path()?.as_ref() == Path::new(INDEX_FILE) {
            index = Some(serde_json::from_reader(entry)?);
        }
    }
    let index = index.with_context(|| format!("{} has no {INDEX_FILE}", path.display()))?;
    Ok((bytes, index))
}

pub(super) const INDEX_FILE: &str = "index.json";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Entry, Image, Tag};
    use super::*;

    #[test]
    fn an_image_by_another_tag_is_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image {
            repository: "localhost/greeting".to_owned(),
            tag: Tag::Fixed("1.0".to_owned()),
            entrypoint: vec!["/bin/greet".to_owned()],
            arguments: Vec::new(),
            user: "65532:65532",
            entries: BTreeMap::from([("bin/greet".to_owned(), Entry::Text("hello".to_owned()))]),
        };
        let first = image.write(&dir.path().join("first.tar")).unwrap();
        let opened = Archive::open(&first.path).unwrap();
        assert_eq!(opened.reference, first.reference);
        assert_eq!(opened.digest, first.digest);

        let second = first
            .tagged("next", &dir.path().join("second.tar"))
            .unwrap();
        assert_eq!(second.reference, "localhost/greeting:next");
        assert_eq!(second.digest, first.digest);
    }

    #[test]
    fn what_is_no_archive_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.tar");
        fs::write(&path, Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        let error = Archive::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("has no index.json"), "{error}");
    }
}
