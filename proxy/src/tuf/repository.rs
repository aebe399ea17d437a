//! Where metadata and targets are fetched from: a web server, or a directory that was carried over an
//! air gap. What comes back is unverified, and bounded.

use std::time::Duration;

use bytes::Bytes;
use sigstore_tuf::{Error, Repository, transport::FetchFuture};
use url::Url;

use super::error::LONGER;
use crate::{
    config::{Source, UpstreamSettings},
    upstream::{FetchError, How, Web, directory},
};

/// What messages call the repository: its URL stays out of them.
const NAME: &str = "the TUF repository";

/// How long one file may take: metadata is small, and nobody waits for it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where targets are, below the repository's URL.
const TARGETS: &str = "targets/";

/// Longest name of a target or a role; file systems take 255 bytes a part.
const MAX_NAME: usize = 512;

/// A TUF repository.
#[derive(Debug)]
pub(super) struct Remote {
    /// What asks a web server; a directory (`file:///`) needs nobody.
    client: Option<Web>,
    /// Metadata is below this.
    metadata: Url,
    /// Targets are below this.
    targets: Url,
}

/// What a name names, which decides how it stands in a URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum File {
    /// Its name comes encoded: a role may be called `a/b`.
    Metadata,
    /// A path as the metadata has it.
    Target,
}

impl Remote {
    /// Prepares a client; connects to nothing. Targets are in `targets/`, unless they have a URL of
    /// their own. `ca` alone vouches for the server; without it, `trusted_ca` and the system do.
    ///
    /// # Errors
    /// When the URL or the authorities are of no use, or the machine has no usable TLS.
    pub(super) fn new(
        url: &Url,
        targets: Option<&Url>,
        ca: Option<Source>,
        trusted_ca: Option<Source>,
    ) -> anyhow::Result<Self> {
        let metadata = with_final_slash(url.clone());
        let targets = match targets {
            Some(targets) => with_final_slash(targets.clone()),
            None => metadata.join(TARGETS)?,
        };
        let settings = UpstreamSettings {
            name: NAME.to_owned(),
            url: metadata.clone(),
            checkpoint_base_url: metadata.clone(),
            tile_base_url: metadata.clone(),
            priority: 0,
            timeout: TIMEOUT,
            learns: false,
            ca,
            trusted_ca,
            authorization: None,
            write_url: None,
            peer: false,
        };
        let client = match metadata.scheme() {
            "file" => None,
            _ => Some(Web::new(&settings)?),
        };
        Ok(Self {
            client,
            metadata,
            targets,
        })
    }

    async fn fetch(
        &self,
        name: &str,
        limit: u64,
        file: File,
    ) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        if !is_plain(name) {
            return Err(Error::Malformed(format!("`{name}` is no name of a file")));
        }
        let base = match file {
            File::Metadata => &self.metadata,
            File::Target => &self.targets,
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let fetched = match &self.client {
            Some(client) => match below(base, name, file) {
                Some(url) => client
                    .get(url, limit, &How::default())
                    .await
                    .map(|got| got.bytes),
                None => return Err(Error::Malformed(format!("`{name}` is no name of a file"))),
            },
            None => directory::read(NAME, base, name, limit, TIMEOUT).await,
        };
        match fetched {
            Ok(bytes) => Ok(Some(Bytes::into(bytes))),
            Err(FetchError::NotFound { .. }) => Ok(None),
            // How object stores say 404 to those who may not list.
            Err(FetchError::Status { status, .. }) if status.as_u16() == 403 => Ok(None),
            // The limit is the length that is listed for it.
            Err(FetchError::TooLarge { .. }) if file == File::Target => Err(
                Error::IntegrityMismatch(format!("{name}: {LONGER} {limit} bytes")),
            ),
            Err(error) => Err(Error::transport_with_source(name.to_owned(), error)),
        }
    }
}

impl Repository for Remote {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.fetch(name, max_length, File::Metadata))
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.fetch(path, max_length, File::Target))
    }
}

/// `name`, which is plain, below `base`.
fn below(base: &Url, name: &str, file: File) -> Option<Url> {
    match file {
        File::Metadata => base.join(name).ok(),
        File::Target => {
            let mut url = base.clone();
            url.path_segments_mut()
                .ok()?
                .pop_if_empty()
                .extend(name.split('/'));
            Some(url)
        }
    }
}

/// Whether a name stays below where it is looked for.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains(['\\', '\0', ':'])
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn with_final_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_the_repository() {
        let base: Url = "https://tuf.example/repo/".parse().expect("a URL");
        use File::{Metadata, Target};
        for (name, file, want) in [
            ("1.root.json", Metadata, "1.root.json"),
            ("1.a%2Fb.json", Metadata, "1.a%2Fb.json"), // a role called `a/b`
            ("a/b.json", Target, "a/b.json"),
            ("a?b", Target, "a%3Fb"),
            ("a b", Target, "a%20b"),
        ] {
            let got = below(&base, name, file).map(String::from);
            let want = format!("https://tuf.example/repo/{want}");
            assert_eq!(got, Some(want), "{name}");
            assert!(is_plain(name), "{name}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        for name in [
            "",
            "../a",
            "a/../../b",
            "/etc/passwd",
            "a//b",
            "http://b/",
            "a\\..\\b",
            &long,
        ] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain(&long[1..]));
    }
}
