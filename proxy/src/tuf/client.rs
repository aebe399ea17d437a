//! A bare TUF client over our repository and store, for those who test such clients
//! (<https://github.com/theupdateframework/tuf-conformance>): metadata in one directory, byte for byte
//! as it was served.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256, Sha512};
use sigstore_tuf::{MetadataStore, TargetFile, TrustedMetadataSet, Updater};
use url::Url;

use super::{
    error::TufError,
    floor::{Guarded, is_snapshot},
    repository::{Remote, is_plain},
    store::{Meta, SNAPSHOT, Store},
};

/// Where such a client keeps metadata, and where that is from.
#[derive(Clone, Debug)]
pub struct Client {
    /// `root.json`, `timestamp.json` and so on are in it, without versions.
    pub metadata: PathBuf,
    /// Where metadata is served.
    pub url: Url,
    /// Where targets are served; `targets/` below that if `None`.
    pub targets: Option<Url>,
}

/// Trusts a root from now on; asks nobody.
///
/// # Errors
/// When it is not signed by itself, or cannot be written.
pub fn init(metadata: &Path, root: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
    TrustedMetadataSet::from_root(&bytes).map_err(TufError::from)?;
    fs::create_dir_all(metadata)?;
    Flat::of(metadata)
        .store("root.json", &bytes)
        .map_err(TufError::from)?;
    Ok(())
}

impl Client {
    /// Brings metadata up to date.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub async fn refresh(&self, now: Timestamp) -> anyhow::Result<Updater> {
        let root =
            fs::read(self.metadata.join("root.json")).context("no root: run `init` first")?;
        let remote = Remote::new(&self.url, self.targets.as_ref(), None, None)?;
        let store = Arc::new(Flat::of(&self.metadata));
        let guarded = Guarded::new(Arc::new(remote), Arc::<Flat>::clone(&store));
        let updater = Updater::new(guarded, &root).map_err(TufError::from)?;
        let mut updater = updater.with_store(store);
        updater.refresh(now).await.map_err(TufError::from)?;
        Ok(updater)
    }

    /// Brings metadata up to date and these targets into a directory. One that is there already is not
    /// fetched again.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn download(
        &self,
        names: &[String],
        into: &Path,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let mut updater = self.refresh(now).await?;
        for name in names {
            let info = updater
                .get_target_info(name, now)
                .await
                .map_err(TufError::from)?;
            let info = info.with_context(|| format!("no role lists the target `{name}`"))?;
            let path = into.join(file_name(name));
            if fs::read(&path).is_ok_and(|bytes| is_it(&bytes, &info)) {
                continue;
            }
            let bytes = updater
                .download_target(&info, name)
                .await
                .map_err(TufError::from)?;
            fs::create_dir_all(path.parent().unwrap_or(into))?;
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Where a target goes below the directory: its path, or the end of it if that led elsewhere.
fn file_name(target: &str) -> &str {
    match is_plain(target) {
        true => target,
        false => target
            .rsplit('/')
            .find(|part| is_plain(part))
            .unwrap_or("target"),
    }
}

fn is_it(bytes: &[u8], info: &TargetFile) -> bool {
    let mut known = info.hashes.iter().filter_map(|(algorithm, hash)| {
        let ours = match algorithm.as_str() {
            "sha256" => hex::encode(Sha256::digest(bytes)),
            "sha512" => hex::encode(Sha512::digest(bytes)),
            _ => return None,
        };
        Some(ours == *hash)
    });
    bytes.len() as u64 == info.length && known.next() == Some(true) && known.all(|same| same)
}

/// Our store with the names that everybody knows: neither versions, nor the history of roots, nor
/// targets.
struct Flat(Arc<Meta>);

impl Flat {
    fn of(directory: &Path) -> Self {
        Self(Store::flat(directory.to_owned()))
    }
}

impl MetadataStore for Flat {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        match is_flat(name) {
            true => self.0.load(name),
            false => Ok(None),
        }
    }

    fn store(&self, name: &str, bytes: &[u8]) -> sigstore_tuf::Result<()> {
        match is_flat(name) {
            true => self.0.store(name, bytes),
            false => Ok(()),
        }
    }
}

fn is_flat(name: &str) -> bool {
    !name.contains('/') && (name == SNAPSHOT || !is_snapshot(name))
}
