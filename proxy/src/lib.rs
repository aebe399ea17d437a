//! A caching reverse proxy for transparency logs that proves every tile.

pub mod cache;
pub mod config;
pub mod log;
pub mod metrics;
pub mod note;
pub mod tlog;
pub mod upstream;
