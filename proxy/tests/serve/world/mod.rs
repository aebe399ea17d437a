//! A scripted world for the real binary: a signed log of any size, an upstream that lies in every
//! way we can think of, and a proxy process on ports of its own.

mod command;
mod fixture_log;
mod proxy;
pub(crate) mod raw;
mod upstream;

pub(crate) use self::{
    command::{Outcome, run, sync_all},
    fixture_log::FixtureLog,
    proxy::{Proxy, Response, cache_directory, eventually, request},
    upstream::{Answer, Upstream},
};
