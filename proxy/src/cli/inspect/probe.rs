//! Asks a server what kind of log it is. Nothing that comes back is proven.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    log::verify::VerifiedEdge,
    note::{Note, checkpoint::Checkpoint},
    tlog::{
        edge::edge_tiles,
        tile::{FULL_TILE_BYTES, FULL_WIDTH, Tile},
    },
    upstream::USER_AGENT,
};

/// Largest checkpoint, and largest answer of a Rekor v1 API, that is read: a note with a hundred
/// post-quantum signatures of 5 kB is half of it.
const MAX_NOTE_BYTES: usize = 1_000_000;

/// Headers that say what caches may do.
const CACHING: [header::HeaderName; 6] = [
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::ETAG,
    header::LAST_MODIFIED,
    header::VARY,
];

/// What a server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogKind {
    /// A JSON API without tiles.
    RekorV1,
    /// tlog-tiles below `api/v2/`.
    RekorV2,
    /// C2SP tlog-tiles.
    TlogTiles,
}

/// A log, where it was found.
pub(super) enum Found {
    RekorV1 {
        base: Url,
        note: Bytes,
        caching: Headers,
    },
    Tiles {
        base: Url,
        kind: LogKind,
        checkpoint: Answer,
    },
}

pub(super) type Headers = BTreeMap<String, String>;

/// What a server answered.
pub(super) struct Answer {
    status: StatusCode,
    headers: header::HeaderMap,
    pub(super) body: Bytes,
}

/// What the edge tiles showed.
pub(super) struct Edge {
    pub(super) tiles: Vec<String>,
    /// What one of the tiles says to caches.
    pub(super) caching: Headers,
    pub(super) proof: Result<(), String>,
}

impl Answer {
    /// Its headers that say what caches may do.
    pub(super) fn caching(&self) -> Headers {
        let value = |name: &header::HeaderName| {
            let value = self.headers.get(name)?.to_str().ok()?;
            Some((name.to_string(), value.to_owned()))
        };
        CACHING.iter().filter_map(value).collect()
    }

    /// What it was, for a message.
    fn describe(&self) -> String {
        match self.headers.get(header::LOCATION).map(|to| to.to_str()) {
            Some(Ok(to)) if self.status.is_redirection() => {
                format!("{}, to {to}: give that URL if it is the log's", self.status)
            }
            _ => self.status.to_string(),
        }
    }
}

/// A client that follows no redirect: where a log is, is what it is asked.
pub(super) struct Probe {
    client: reqwest::Client,
}

impl Probe {
    /// `authorities` may vouch for the server beside those of the system.
    pub(super) fn new(
        timeout: Duration,
        authorities: Vec<reqwest::Certificate>,
    ) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(authorities)
            .build()?;
        Ok(Self { client })
    }

    /// Finds the log at or below a URL.
    ///
    /// # Errors
    /// When the server cannot be reached, or nothing there is a log; says what each place answered.
    pub(super) async fn find(&self, url: &Url) -> anyhow::Result<Found> {
        let base = base_of(url)?;
        let mut answers = Vec::new();
        let is_v2 = base.path().ends_with("/api/v2/");
        for (below, kind) in [
            (
                "",
                if is_v2 {
                    LogKind::RekorV2
                } else {
                    LogKind::TlogTiles
                },
            ),
            ("api/v2/", LogKind::RekorV2),
        ] {
            if is_v2 && !below.is_empty() {
                continue;
            }
            let base = base.join(below)?;
            let place = base.join("checkpoint")?;
            let checkpoint = self.get(&place, MAX_NOTE_BYTES).await?;
            if checkpoint.status != StatusCode::OK {
                answers.push(format!("{place} answered {}", checkpoint.describe()));
                continue;
            }
            match Note::parse(&checkpoint.body) {
                Err(error) => answers.push(format!("{place} is {error}")),
                Ok(_) => {
                    return Ok(Found::Tiles {
                        base,
                        kind,
                        checkpoint,
                    });
                }
            }
        }
        let place = base.join("api/v1/log")?;
        let answer = self.get(&place, MAX_NOTE_BYTES).await?;
        match serde_json::from_slice::<RekorV1Log>(&answer.body) {
            Ok(log) if answer.status == StatusCode::OK => Ok(Found::RekorV1 {
                caching: answer.caching(),
                note: log.signed_tree_head.into(),
                base,
            }),
            _ => {
                answers.push(format!("{place} answered {}", answer.describe()));
                bail!("there is no log: {}", answers.join("; "))
            }
        }
    }

    /// Fetches the edge tiles of a checkpoint, and folds them to its root.
    pub(super) async fn edge(&self, base: &Url, checkpoint: &Checkpoint) -> Edge {
        let tiles = edge_tiles(checkpoint.size);
        let mut edge = Edge {
            tiles: tiles.iter().map(Tile::to_string).collect(),
            caching: Headers::new(),
            proof: Ok(()),
        };
        let mut contents = Vec::new();
        for tile in tiles {
            match self.tile(base, tile).await {
                Ok((bytes, caching)) => {
                    contents.push(bytes);
                    edge.caching = caching;
                }
                Err(error) => {
                    edge.proof = Err(format!("{error:#}"));
                    return edge;
                }
            }
        }
        if let Err(error) = VerifiedEdge::prove(checkpoint, contents) {
            edge.proof = Err(format!("the edge tiles do not fold to the root: {error}"));
        }
        edge
    }

    /// A partial tile; where the log has deleted it since it is full, the beginning of the full one.
    async fn tile(&self, base: &Url, tile: Tile) -> anyhow::Result<(Bytes, Headers)> {
        let mut place = base.join(&tile.to_string())?;
        let mut answer = self.get(&place, FULL_TILE_BYTES).await?;
        if answer.status == StatusCode::NOT_FOUND
            && let Some(full) = tile.with_width(FULL_WIDTH)
        {
            place = base.join(&full.to_string())?;
            answer = self.get(&place, FULL_TILE_BYTES).await?;
            answer.body.truncate(tile.bytes());
        }
        if answer.status != StatusCode::OK {
            bail!("{place} answered {}", answer.describe());
        }
        let caching = answer.caching();
        Ok((answer.body, caching))
    }

    /// # Errors
    /// When there is no answer, or its body is longer than `limit` bytes after decompression.
    async fn get(&self, url: &Url, limit: usize) -> anyhow::Result<Answer> {
        let unreachable = || format!("cannot read {url}");
        let request = self.client.get(url.clone()).send();
        let mut response = request
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(unreachable)?;
        let mut body = BytesMut::new();
        let chunk = async |response: &mut reqwest::Response| {
            let chunk = response.chunk().await.map_err(reqwest::Error::without_url);
            chunk.with_context(unreachable)
        };
        while let Some(more) = chunk(&mut response).await? {
            if body.len() + more.len() > limit {
                bail!("{url} is longer than {limit} bytes");
            }
            body.extend_from_slice(&more);
        }
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: body.freeze(),
        })
    }
}

/// What Rekor v1 says of itself.
#[derive(Deserialize)]
struct RekorV1Log {
    #[serde(rename = "signedTreeHead")]
    signed_tree_head: String,
}

/// The base below which `checkpoint` is: people give that URL, too.
fn base_of(url: &Url) -> anyhow::Result<Url> {
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        bail!("{url} must start with `http://` or `https://` and a host");
    }
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    let path = base.path();
    let path = match path.strip_suffix("/checkpoint") {
        Some(path) => path.to_owned(),
        None => path.trim_end_matches('/').to_owned(),
    };
    base.set_path(&format!("{path}/"));
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_what_people_give() {
        for (given, want) in [
            ("https://log.example", "https://log.example/"),
            ("https://log.example/", "https://log.example/"),
            ("https://log.example/rome", "https://log.example/rome/"),
            ("https://log.example/rome//", "https://log.example/rome/"),
            (
                "https://log.example/rome/checkpoint",
                "https://log.example/rome/",
            ),
            ("https://log.example/checkpoint?x#y", "https://log.example/"),
            (
                "https://log.example/mycheckpoint",
                "https://log.example/mycheckpoint/",
            ),
        ] {
            let base = base_of(&given.parse().expect("a URL")).expect("a base");
            assert_eq!(base.as_str(), want, "{given}");
        }
        for given in ["ftp://log.example/", "file:///var/log", "data:,x"] {
            assert!(base_of(&given.parse().expect("a URL")).is_err(), "{given}");
        }
    }
}
