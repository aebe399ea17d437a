//! Turns TileProxy resources into running, self-filling replicas of the proxy.
//!
//! Start reading at [`controller`]: one reconcile is observe → validate → build → rollout → apply →
//! status, and only the first, the fifth and the sending of the last touch the network.
//!
//! | module | what it is |
//! |---|---|
//! | [`crd`] | the resource: fields, defaults, rules, status |
//! | [`controller`] | the reconcile and its steps |
//! | [`condition`] | the fixed list of condition types and reasons |
//! | [`lease`] | which of several operators works |
//! | [`admin`] | health, readiness and metrics of the operator itself |

pub mod admin;
pub mod condition;
pub mod controller;
pub mod crd;
pub mod lease;
pub mod ready;
