//! P2: settled is silent.

use std::time::Duration;

use serde_json::json;

use crate::{
    faults::Faults,
    operator::{Operator, Setup},
    world::World,
};

#[tokio::test]
async fn a_settled_operator_looks_once_per_resync_and_writes_nothing() {
    let world = World::new("settled").await;
    world.create("rome", 3, json!({})).await;
    let setup = Setup {
        resync: Duration::from_secs(1),
        ..Setup::default()
    };
    let operator = Operator::with(&world, Faults::none(), setup).await;
    world.settles("rome").await;
    let state = world.state().await;

    // The last status update and its echo may still be under way.
    operator.looks_again("rome", 2).await;
    let (writes, looks) = (
        operator.faults.written(),
        operator.faults.reconciles("rome"),
    );
    let since = std::time::Instant::now();
    operator.looks_again("rome", 5).await;
    let resyncs = since.elapsed().as_secs_f64() / setup.resync.as_secs_f64();

    let after = operator.faults.written();
    assert_eq!(
        after.len(),
        writes.len(),
        "wrote {:?}",
        &after[writes.len()..]
    );
    let looked = operator.faults.reconciles("rome") - looks;
    assert!(
        looked as f64 <= resyncs + 1.0,
        "{looked} reconciles in {resyncs} resyncs"
    );
    assert_eq!(world.state().await, state);
}
