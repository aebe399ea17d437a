//! A scripted world for the real binary: a signed log of any size, an upstream that lies in every
//! way we can think of, and a proxy process on ports of its own.

mod command;
mod fixture_log;
mod https;
mod load;
mod proxy;
pub(crate) mod raw;
#[allow(dead_code)] // the crate's own tests use the rest
mod rekor_log;
mod rekor_server;
#[allow(dead_code)] // as above
mod tuf_repository;
mod tuf_server;
mod upstream;

pub(crate) use self::{
    command::{Outcome, run, sync_all, tile_proxy},
    fixture_log::FixtureLog,
    https::{Https, connect_proxy},
    load::Load,
    proxy::{Proxy, Response, cache_directory, eventually, request},
    rekor_log::{ED25519, RekorLog},
    rekor_server::RekorServer,
    tuf_repository::{Files, TufRepository},
    tuf_server::TufServer,
    upstream::{Answer, Upstream},
};
