//! P26: a Lease has one holder.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use tile_proxy_operator::lease::{Candidate, Lost};
use tokio::time::timeout;

use crate::world::{DEADLINE, World};

const LEASE: &str = "tile-proxy-operator";

/// Longer than a record may stay the same before others take the Lease over.
const LONGER_THAN_A_TERM: Duration = Duration::from_secs(18);

fn candidate(world: &World, identity: &str) -> Candidate {
    let client = world.client.clone();
    Candidate::new(client, &world.namespace, LEASE, identity.to_owned())
}

async fn holder(world: &World) -> (Option<String>, Option<i32>) {
    let spec = world.get::<Lease>(LEASE).await.spec.expect("a record");
    (spec.holder_identity, spec.lease_transitions)
}

#[tokio::test]
async fn who_holds_it_keeps_it_and_who_gives_it_up_is_followed_at_once() {
    let world = World::new("lease-kept").await;
    let (mut first, mut second) = (candidate(&world, "first"), candidate(&world, "second"));
    first.acquire().await;
    {
        let (kept, taken) = (first.keep(), second.acquire());
        tokio::select! {
            lost = kept => panic!("{lost}"),
            () = taken => panic!("two hold it"),
            () = tokio::time::sleep(LONGER_THAN_A_TERM) => {}
        }
    }
    assert_eq!(holder(&world).await, (Some("first".to_owned()), Some(1)));
    first.release().await;
    assert_eq!(holder(&world).await.0, None);
    timeout(DEADLINE, second.acquire())
        .await
        .expect("it is free");
    assert_eq!(holder(&world).await, (Some("second".to_owned()), Some(2)));
}

#[tokio::test]
async fn who_says_nothing_is_followed_after_a_term_and_not_before() {
    let world = World::new("lease-silent").await;
    let (mut first, mut second) = (candidate(&world, "first"), candidate(&world, "second"));
    first.acquire().await;
    drop(first); // as a crash does
    let since = Instant::now();
    timeout(DEADLINE, second.acquire())
        .await
        .expect("its time is over");
    let waited = since.elapsed();
    assert!(waited >= Duration::from_secs(15), "{waited:?}");
}

#[tokio::test]
async fn of_many_at_the_same_moment_one_holds_it() {
    let world = World::new("lease-race").await;
    let race = (0..12).map(|i| {
        let mut candidate = candidate(&world, &format!("candidate-{i}"));
        async move {
            // Whoever has it stays, as a holder does; the others look on.
            let won = timeout(Duration::from_secs(8), candidate.acquire()).await;
            if won.is_ok() {
                let _ = timeout(Duration::from_secs(8), candidate.keep()).await;
            }
            won.is_ok()
        }
    });
    let won = futures::future::join_all(race).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
}

#[tokio::test]
async fn one_that_was_taken_is_noticed() {
    let world = World::new("lease-taken").await;
    let mut first = candidate(&world, "first");
    first.acquire().await;
    let taken = json!({"spec": {"holderIdentity": "a-person"}});
    world.merge::<Lease>(LEASE, &taken).await;
    let lost = timeout(DEADLINE, first.keep()).await.expect("it looks");
    assert_eq!(lost, Lost::Taken("a-person".to_owned()));
    first.release().await;
    assert_eq!(
        holder(&world).await.0.as_deref(),
        Some("a-person"),
        "it is not its to give up"
    );
}
