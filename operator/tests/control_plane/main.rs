//! The operator against a real API server, with everything going wrong that can.
//!
//! etcd, kube-apiserver and the garbage collector are the real ones, once for all tests; each test
//! has a namespace of its own. The operator runs in the test's process, with the rights of the
//! ServiceAccount that the chart installs, and a [`faults`] layer in its client counts what it
//! writes, breaks calls, and ends it between any two of them. What a kubelet and a provisioner would
//! write is written by [`kubelet`].
//!
//! Needs Go the first time, no root. `cargo xtask test` runs it. By hand, one of them:
//! `cargo test -p tile-proxy-operator --features control-plane --test control_plane scaling`.
//! Which property is shown where: docs/testing.md.

mod audit;
mod calls;
mod faults;
mod kubelet;
mod operator;
mod program;
mod replicas;
mod sample;
mod state;
mod world;

mod broken_calls;
mod crashes;
mod drift;
mod events;
mod fifty;
mod foreign;
mod lease;
mod logs;
mod misoperations;
mod outage;
mod removal;
mod retention;
mod rights;
mod rollout;
mod rules;
mod scaling;
mod settled;
mod stale;
mod status;
mod surroundings;
mod sync;
mod volumes;
