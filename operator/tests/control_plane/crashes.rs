//! P1: whichever write the operator dies after, its successor comes to the same end.

use serde_json::{Value, json};

use crate::{
    faults::{Fault, Faults},
    operator::{Operator, Setup},
    state::State,
    world::{World, all_of},
};

/// What a person does, from an empty namespace or from a settled TileProxy.
#[derive(Clone, Debug)]
struct Story {
    name: &'static str,
    /// Replicas and spec that are there and settled; none: nothing is.
    before: Option<(u16, Value)>,
    /// What is created, or changed.
    then: Value,
}

impl Story {
    fn creation() -> Self {
        Self {
            name: "create",
            before: None,
            then: json!({"replicas": 2}),
        }
    }

    async fn prepare(&self, world: &World) {
        if let Some((replicas, spec)) = &self.before {
            world.create("rome", *replicas, spec.clone()).await;
            let operator = Operator::start(world).await;
            world.settles("rome").await;
            operator.crash().await;
        }
    }

    async fn happen(&self, world: &World) {
        if self.before.is_some() {
            world.change("rome", self.then.clone()).await;
        } else {
            world.create("rome", 1, self.then.clone()).await;
        }
    }

    /// How it ends when nothing goes wrong, and after how many writes.
    async fn reference(&self) -> (State, usize) {
        let world = World::new(&format!("{}-reference", self.name)).await;
        self.prepare(&world).await;
        self.happen(&world).await;
        let operator = Operator::start(&world).await;
        world.settles("rome").await;
        let calls = operator.faults.calls();
        (
            world.state().await,
            calls.iter().filter(|c| c.is_write()).count(),
        )
    }

    /// Ends the operator after its write `k`, and compares the end that its successor reaches.
    async fn survives_crash_after(&self, k: usize, want: &State) {
        let world = World::new(&format!("{}-crash-{k}", self.name)).await;
        self.prepare(&world).await;
        self.happen(&world).await;
        let faults = Faults::none();
        faults.at_write(k, Fault::Crash);
        let operator = Operator::with(&world, faults, Setup::default()).await;
        operator.faults.crash().await;
        operator.crash().await;
        let successor = Operator::start(&world).await;
        world
            .becomes(want, &format!("{} after a crash at write {k}", self.name))
            .await;
        drop(successor);
    }

    async fn survives_every_crash(&self) {
        let (want, writes) = self.reference().await;
        assert!(writes > 2, "{writes} writes");
        println!("{}: {writes} crash points", self.name);
        let want = &want;
        all_of((0..writes).map(|k| self.survives_crash_after(k, want))).await;
    }
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_creation_is_made_good() {
    Story::creation().survives_every_crash().await;
}
