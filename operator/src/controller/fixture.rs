//! TileProxies for tests: written as YAML like a person would, and named unlike every default.

use super::{
    Defaults,
    validate::{Invalid, ValidProxy, validate},
};
use crate::crd::TileProxy;

/// The smallest TileProxy, with what the API server adds.
const SMALLEST: &str = "
apiVersion: tiles.stella-ops.org/v1alpha1
kind: TileProxy
metadata: {name: rome2026h1, namespace: verifiers, uid: 5a11e7, generation: 4}
spec:
  replicas: 2
  upstreams: [{url: 'https://rome.example.net/2026h1/'}]
  publicKeys: [{inline: rome.example.net/2026h1+e920e5d1+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx}]
";

/// The smallest TileProxy, after `change`.
pub(super) fn proxy(change: impl FnOnce(&mut TileProxy)) -> TileProxy {
    let mut proxy = serde_saphyr::from_str(SMALLEST).expect("a TileProxy");
    change(&mut proxy);
    proxy
}

/// The same, parsed.
pub(super) fn parsed(change: impl FnOnce(&mut TileProxy)) -> Result<ValidProxy, Invalid> {
    let defaults = Defaults {
        operand_image: "mirror.example.net:5000/tile-proxy:7.1".to_owned(),
        ..Defaults::default()
    };
    validate(&proxy(change), &defaults)
}

/// The same, where it is known to be valid.
pub(super) fn valid(change: impl FnOnce(&mut TileProxy)) -> ValidProxy {
    parsed(change).expect("a valid TileProxy")
}
