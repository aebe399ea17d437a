//! The harness: a real cluster, a real log, and the whole chain from one to the other.
//!
//! `xtask` and the end-to-end tests drive the same modules, so what the tests prove is what the
//! demonstration shows.
//!
//! - [`toolchain`] builds etcd, Kubernetes, Helm and the rest from Go modules at pinned tags.
//! - [`cluster`] runs them as one node in namespaces of its own, or uses kind.
//! - [`control_plane`] runs those of them that need no node: a Kubernetes API on loopback.
//! - [`image`] packs programs as OCI archives without a daemon.
//! - [`real_log`] runs a log nobody here wrote, as a pod; [`fsck`] proves every byte of it.
//! - [`local`] runs logs, the proxy and its clients as plain processes, without a cluster.
//! - [`chain`] is the story: cluster, image, log, chart, TileProxy, tiles.
//! - [`accidents`] is what befalls it then, up to its removal, with [`clients`] under way.
//! - [`tile_proxy`] is what people see of a TileProxy.
//!
//! The rest is small: [`http`], [`progress`], [`run`], [`wait`], [`interrupt`], [`lock`], [`paths`],
//! [`prerequisites`], [`elf`], [`tiles`], [`older_chart`].

pub mod accidents;
pub mod chain;
pub mod clients;
pub mod cluster;
pub mod control_plane;
pub mod elf;
pub mod fsck;
pub mod http;
pub mod image;
pub mod interrupt;
pub mod local;
pub mod lock;
pub mod older_chart;
pub mod paths;
pub mod prerequisites;
pub mod progress;
pub mod real_log;
pub mod run;
pub mod tile_proxy;
pub mod tiles;
pub mod toolchain;
pub mod wait;
