//! P1: whichever write the operator dies after, its successor comes to the same end.

use serde_json::{Value, json};

use crate::{
    faults::{Fault, Faults},
    operator::{Operator, Setup},
    sample::sample,
    state::State,
    world::{World, all_of},
};

/// What a person does, from an empty namespace or from a settled TileProxy.
#[derive(Clone, Debug)]
struct Story {
    name: &'static str,
    /// Replicas that are there and settled; none: there is no TileProxy.
    before: Option<u16>,
    /// What happens while no operator runs.
    then: Then,
    /// How many of the crash points are tried, unless all are.
    most: usize,
}

#[derive(Clone, Debug)]
enum Then {
    Create(u16),
    Change(Value),
    DeleteAndCreate(u16),
}

impl Story {
    async fn prepare(&self, world: &World) {
        if let Some(replicas) = self.before {
            world.create("rome", replicas, json!({})).await;
            let operator = Operator::start(world).await;
            world.settles("rome").await;
            operator.crash().await;
        }
        match &self.then {
            Then::Create(replicas) => {
                world.create("rome", *replicas, json!({})).await;
            }
            Then::Change(spec) => {
                world.change("rome", spec.clone()).await;
            }
            Then::DeleteAndCreate(replicas) => {
                world.delete("rome").await;
                world.create("rome", *replicas, json!({})).await;
            }
        }
    }

    /// How it ends when nothing goes wrong, and after how many writes.
    async fn reference(&self) -> (State, usize) {
        let world = World::new(&format!("{}-reference", self.name)).await;
        self.prepare(&world).await;
        let operator = Operator::start(&world).await;
        world.settles("rome").await;
        world.awaits("rome", "VolumesReady", "True").await;
        operator.pokes(&world, "rome").await;
        let calls = operator.faults.calls();
        let writes = calls.iter().filter(|call| call.is_write()).count();
        (world.state().await, writes)
    }

    /// Ends the operator after its write `k`, and compares the end that its successor reaches.
    async fn survives_crash_after(&self, k: usize, want: &State) {
        let world = World::new(&format!("{}-crash-{k}", self.name)).await;
        self.prepare(&world).await;
        let faults = Faults::none();
        faults.at_write(k, Fault::Crash);
        let operator = Operator::with(&world, faults, Setup::default()).await;
        // How often the status is written depends on when pods get ready, so there may be fewer writes
        // this time.
        let settles = async {
            world.settles("rome").await;
            world.becomes(want, "a run without the crash").await;
        };
        tokio::select! {
            () = operator.faults.crash() => {}
            () = settles => {}
        }
        operator.crash().await;
        let successor = Operator::start(&world).await;
        let what = format!("{} after a crash at write {k}", self.name);
        world.becomes(want, &what).await;
        drop(successor);
    }

    async fn survives_every_crash(&self) {
        let (want, writes) = self.reference().await;
        assert!(writes > 2, "{writes} writes");
        let mut points: Vec<usize> = (0..writes).collect();
        sample(&mut points, self.most);
        println!("{}: {} of {writes} crash points", self.name, points.len());
        let want = &want;
        all_of(
            points
                .into_iter()
                .map(|k| self.survives_crash_after(k, want)),
        )
        .await;
    }
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_creation_is_made_good() {
    let creation = Story {
        name: "create",
        before: None,
        then: Then::Create(2),
        most: usize::MAX,
    };
    creation.survives_every_crash().await;
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_scale_up_is_made_good() {
    let up = Story {
        name: "scale-up",
        before: Some(1),
        then: Then::Change(json!({"replicas": 3})),
        most: usize::MAX,
    };
    up.survives_every_crash().await;
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_scale_down_is_made_good() {
    let down = Story {
        name: "scale-down",
        before: Some(3),
        then: Then::Change(json!({"replicas": 1})),
        most: usize::MAX,
    };
    down.survives_every_crash().await;
}

#[tokio::test]
async fn a_crash_during_a_change_of_the_image_replaces_no_pod_twice() {
    let roll = Story {
        name: "image",
        before: Some(3),
        then: Then::Change(json!({"image": {"tag": "7.2"}})),
        most: 6,
    };
    roll.survives_every_crash().await;
}

#[tokio::test]
async fn a_crash_while_volumes_grow_lets_them_grow() {
    let growth = Story {
        name: "growth-crash",
        before: Some(2),
        then: Then::Change(json!({"cache": {"size": "2Gi"}})),
        most: 6,
    };
    growth.survives_every_crash().await;
}

#[tokio::test]
async fn a_crash_while_a_new_tileproxy_takes_up_old_volumes_is_made_good() {
    let again = Story {
        name: "again",
        before: Some(2),
        then: Then::DeleteAndCreate(2),
        most: 6,
    };
    again.survives_every_crash().await;
}
