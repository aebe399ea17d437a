//! A caching reverse proxy for transparency logs that proves every tile.

pub mod config;
pub mod note;
pub mod tlog;
