//! The real proxy between logs and clients that nobody here wrote, as plain processes on loopback.
//!
//! Needs Go and Python, no root; the first time it builds the logs. `cargo xtask test` runs it. By
//! hand, one of them:
//! `cargo test -p tile-proxy-tests --features real-logs --test real_logs rekor -- --nocapture`.
//! What is run and what is not: docs/testing.md.

mod crashes;
mod growth;
mod python;
mod rekor_v1;
mod several;
mod signatures;
mod tuf;
#[allow(dead_code)] // the proxy's own tests use the rest
#[path = "../../../proxy/tests/serve/world/tuf_repository.rs"]
mod tuf_repository;
