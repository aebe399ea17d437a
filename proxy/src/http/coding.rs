//! Content codings of entry bundles: which one a client wants, and bundles coded once for all.
//!
//! Tiles are hashes and cannot be made smaller. A bundle is coded when the first client that accepts
//! it asks, on a thread that may be busy for a while, and is kept in a bounded set beside the bundles.

use std::{io::Write as _, sync::Arc, thread::available_parallelism};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use tokio::sync::Semaphore;

use crate::cache::Body;

/// Bundles below this are not coded: the headers would outweigh what is saved.
const LEAST_BYTES: usize = 512;

/// Bundles up to this are coded where they are asked for, which takes less than a millisecond.
const INLINE_BYTES: usize = 16 << 10;

/// Bytes that a coded bundle takes besides its own.
const OVERHEAD: u64 = 200;

/// Effort of zstd and gzip: about the same time for each byte, and near what more effort would give.
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 5;

/// A content coding.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The entity tag of the coded form of what has `etag`.
    pub(super) fn tag(self, etag: &HeaderValue) -> HeaderValue {
        let tag = etag.to_str().unwrap_or_default().trim_end_matches('"');
        // A header value with a word and a quote appended is one.
        HeaderValue::from_str(&format!("{tag}-{}\"", self.name())).unwrap_or_else(|_| etag.clone())
    }
}

/// What a client accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Accepted {
    /// The coding it likes best, if it likes one at least as well as none.
    pub(super) coding: Option<Coding>,
    /// Whether it will not take a bundle as it is.
    pub(super) only_coded: bool,
}

/// What `Accept-Encoding` says (RFC 9110, section 12.5.3). Between equals, zstd, which is cheaper to
/// read; a client that accepts nothing we have gets the bundle as it is.
pub(super) fn accepted(headers: &HeaderMap) -> Accepted {
    let (mut zstd, mut gzip, mut identity, mut rest) = (None, None, None, None);
    let lines = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let items = lines.filter_map(|line| line.to_str().ok());
    for item in items.flat_map(|line| line.split(',')) {
        let (name, weight) = weighed(item);
        match () {
            () if name.eq_ignore_ascii_case("zstd") => zstd = Some(weight),
            () if name.eq_ignore_ascii_case("gzip") => gzip = Some(weight),
            () if name.eq_ignore_ascii_case("x-gzip") => gzip = Some(weight),
            () if name.eq_ignore_ascii_case("identity") => identity = Some(weight),
            () if name == "*" => rest = Some(weight),
            () => {}
        }
    }
    let weight = |own: Option<u16>| own.or(rest).unwrap_or(0);
    let candidates = [(Coding::Gzip, weight(gzip)), (Coding::Zstd, weight(zstd))];
    let best = candidates.into_iter().max_by_key(|(_, weight)| *weight); // the last of equals
    let only_coded = identity.or(rest) == Some(0);
    // As it is counts as much as the client says, and if it says nothing, less than any coding.
    let as_it_is = identity.unwrap_or(0);
    let coding = best.filter(|(_, weight)| *weight > 0 && *weight >= as_it_is);
    Accepted {
        coding: coding.map(|(coding, _)| coding),
        only_coded,
    }
}

/// A coding and its weight in thousandths; one that is not a number counts as none.
fn weighed(item: &str) -> (&str, u16) {
    let (name, parameters) = item.split_once(';').unwrap_or((item, "q=1"));
    let weight = parameters.trim().strip_prefix(['q', 'Q']);
    let weight = weight.and_then(|rest| rest.trim_start().strip_prefix('='));
    let weight = weight.and_then(|q| q.trim().parse::<f32>().ok());
    let weight = weight.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
    (name.trim(), (weight * 1_000.0) as u16)
}

/// The coded forms of bundles.
pub struct CodedBundles {
    /// By entity tag, which is a digest of the bundle. `None` is not smaller coded.
    kept: Cache<(HeaderValue, Coding), Option<Body>, ByBytes>,
    /// Threads that code at once: more would only take the processors from the answers.
    busy: Arc<Semaphore>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(HeaderValue, Coding), Option<Body>> for ByBytes {
    fn weight(&self, _: &(HeaderValue, Coding), body: &Option<Body>) -> u64 {
        let bytes = body.as_ref().map_or(0, |body| body.bytes.len());
        bytes as u64 + OVERHEAD
    }
}

impl CodedBundles {
    /// Keeps at most so many bytes.
    pub fn new(budget: u64) -> Self {
        let entries = usize::try_from(budget / 4_096)
            .unwrap_or(usize::MAX)
            .max(16);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(budget)
            .shards(4) // a shard must have room for the largest bundles
            .build();
        let kept = match options {
            Ok(options) => {
                Cache::with_options(options, ByBytes, Default::default(), Default::default())
            }
            Err(_) => Cache::with_weighter(entries, budget, ByBytes), // all options are given
        };
        let threads = available_parallelism().map_or(1, usize::from);
        Self {
            kept,
            busy: Arc::new(Semaphore::new(threads)),
        }
    }

    /// The coded form of a bundle; `None` if it is not smaller. Clients that ask at once share the
    /// work.
    pub(super) async fn get(&self, body: &Body, coding: Coding) -> Option<Body> {
        if body.bytes.len() < LEAST_BYTES {
            return None;
        }
        let key = (body.etag.clone(), coding);
        let coded = self.kept.get_or_insert_async(&key, async {
            let coded = self.code(body.bytes.clone(), coding).await?;
            let smaller = coded.len() < body.bytes.len();
            Ok::<_, ()>(smaller.then(|| Body {
                bytes: coded,
                etag: coding.tag(&body.etag),
            }))
        });
        coded.await.ok().flatten()
    }

    /// The coded form for a client that takes no other, even if it is larger. Not kept: hardly
    /// anybody asks so.
    pub(super) async fn get_anyway(&self, body: &Body, coding: Coding) -> Option<Body> {
        let bytes = self.code(body.bytes.clone(), coding).await.ok()?;
        let etag = coding.tag(&body.etag);
        Some(Body { bytes, etag })
    }

    /// Fails when the process is ending, or memory is short: the bundle is served as it is.
    async fn code(&self, bytes: Bytes, coding: Coding) -> Result<Bytes, ()> {
        if bytes.len() <= INLINE_BYTES {
            return coded(&bytes, coding).ok_or(());
        }
        let permit = Arc::clone(&self.busy).acquire_owned().await.map_err(drop)?;
        let work = move || {
            let _permit = permit; // until the work is done, also if nobody waits for it any more
            coded(&bytes, coding)
        };
        tokio::task::spawn_blocking(work)
            .await
            .ok()
            .flatten()
            .ok_or(())
    }
}

fn coded(bytes: &[u8], coding: Coding) -> Option<Bytes> {
    let coded = match coding {
        Coding::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL).ok()?,
        Coding::Gzip => {
            let level = flate2::Compression::new(GZIP_LEVEL);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).ok()?;
            encoder.finish().ok()?
        }
    };
    Some(coded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_it_likes_best() {
        use Coding::{Gzip, Zstd};
        for (lines, coding, only_coded) in [
            (&[][..], None, false),
            (&[""], None, false),
            (&["gzip"], Some(Gzip), false),
            (&["zstd"], Some(Zstd), false),
            (&["gzip, deflate, br, zstd"], Some(Zstd), false),
            (&["gzip;q=1.0, zstd;q=0.5"], Some(Gzip), false),
            (&["zstd;q=0.5", "gzip ; Q=0.6"], Some(Gzip), false),
            (&["GZIP"], Some(Gzip), false),
            (&["x-gzip"], Some(Gzip), false),
            (&["*"], Some(Zstd), false),
            (&["*;q=0.5, zstd;q=0"], Some(Gzip), false),
            (&["gzip;q=0"], None, false),
            (&["br, deflate"], None, false),
            (&["identity"], None, false),
            (&["identity, gzip;q=0.5"], None, false),
            (&["identity;q=0.5, gzip"], Some(Gzip), false),
            (&["gzip, identity"], Some(Gzip), false),
            (&["gzip, identity;q=0"], Some(Gzip), true),
            (&["identity;q=0"], None, true),
            (&["gzip, *;q=0"], Some(Gzip), true),
            (&["*;q=0, identity"], None, false),
            (&["gzip;q=high"], None, false),
            (&["gzip;q=2"], None, false),
            (&["gzip;q=-1"], None, false),
            (&["gzip;q=nan"], None, false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::ACCEPT_ENCODING, line.parse().expect("a value"));
            }
            let want = Accepted { coding, only_coded };
            assert_eq!(accepted(&headers), want, "{lines:?}");
        }
    }

    #[tokio::test]
    async fn a_bundle_is_coded_once_and_only_if_that_makes_it_smaller() {
        let bundles = CodedBundles::new(1 << 20);
        let body = Body::new(Bytes::from(b"the same entry again ".repeat(4_000)));
        for coding in [Coding::Gzip, Coding::Zstd] {
            let (one, two) = tokio::join!(bundles.get(&body, coding), bundles.get(&body, coding));
            let (one, two) = (one.expect("smaller"), two.expect("smaller"));
            assert_eq!(one.bytes.as_ptr(), two.bytes.as_ptr(), "shared");
            assert_ne!(one.etag, body.etag);
        }
        let small = Body::new(Bytes::from(vec![0; LEAST_BYTES - 1]));
        assert!(bundles.get(&small, Coding::Gzip).await.is_none());
        let noise: Vec<u8> = (0..64_u8)
            .flat_map(|i| Body::new(vec![i].into()).etag.as_bytes()[1..33].to_vec())
            .collect();
        let noise = Body::new(Bytes::from(
            noise
                .chunks(2)
                .map(|hex| {
                    let hex = std::str::from_utf8(hex).expect("hex digits");
                    u8::from_str_radix(hex, 16).expect("hex digits")
                })
                .collect::<Vec<u8>>(),
        ));
        assert_eq!(noise.bytes.len(), 1_024);
        assert!(bundles.get(&noise, Coding::Zstd).await.is_none());
        assert!(bundles.get_anyway(&noise, Coding::Zstd).await.is_some());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let bundles = CodedBundles::new(64 << 10);
        for i in 0..2_000_u32 {
            let body = Body::new(Bytes::from(i.to_be_bytes().repeat(200)));
            assert!(bundles.get(&body, Coding::Gzip).await.is_some());
        }
        assert!(
            bundles.kept.weight() <= 64 << 10,
            "{}",
            bundles.kept.weight()
        );
    }
}
