//! P10: calls that fail, at each write and in every way, are repeated until all is well, and never
//! in a hurry.

use std::time::Duration;

use serde_json::json;

use crate::{
    calls::Call,
    faults::{Fault, Faults},
    operator::{Operator, Setup},
    sample::sample,
    state::State,
    world::{World, all_of, eventually},
};

const fn refused(code: u16) -> Fault {
    Fault::Refused {
        code,
        retry_after: None,
    }
}

/// Every way in which one call can fail.
const FAULTS: [(&str, Fault); 9] = [
    ("lost-request", Fault::LostRequest),
    ("lost-answer", Fault::LostAnswer),
    ("conflict", refused(409)),
    ("invalid", refused(422)),
    ("too-many", refused(429)),
    ("internal", refused(500)),
    ("unavailable", refused(503)),
    ("gateway-timeout", refused(504)),
    ("forbidden-no-more", refused(401)),
];

#[tokio::test]
async fn whatever_befalls_whichever_write_of_a_creation_the_end_is_the_same() {
    let (want, writes) = creation_without_faults().await;
    let mut cases: Vec<_> = (0..writes)
        .flat_map(|k| FAULTS.map(|(name, fault)| (k, name, fault)))
        .collect();
    sample(&mut cases, 36);
    let want = &want;
    all_of(cases.into_iter().map(async |(k, name, fault)| {
        let world = World::new(&format!("write-{k}-{name}")).await;
        world.create("rome", 2, json!({})).await;
        let faults = Faults::none();
        faults.at_write(k, fault);
        let operator = Operator::with(&world, faults, Setup::default()).await;
        world
            .becomes(want, &format!("a creation with {fault:?} at write {k}"))
            .await;
        drop(operator);
    }))
    .await;
}

/// How a creation ends when all goes well, and after how many writes.
async fn creation_without_faults() -> (State, usize) {
    let world = World::new("write-reference").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let calls = operator.faults.calls();
    let writes = calls.iter().filter(|call| call.is_write()).count();
    (world.state().await, writes)
}

#[tokio::test]
async fn an_api_server_that_refuses_everything_is_asked_ever_more_rarely() {
    let world = World::new("refused").await;
    world.create("rome", 1, json!({})).await;
    let faults = Faults::none();
    faults.script(|call, _| call.is_write().then_some(refused(500)));
    let operator = Operator::with(&world, faults, Setup::default()).await;
    // Nothing is written, so nothing but the pause brings the next one about.
    for (tries, at_least) in [(2, 1), (3, 2), (4, 4)] {
        let pause = pause_before(&operator, tries).await;
        assert!(pause >= Duration::from_secs(at_least), "{pause:?}");
    }

    // Success ends it: the next failure is repeated after a second again, not after eight.
    operator.faults.end();
    world.settles("rome").await;
    operator.pokes(&world, "rome").await;
    let before = operator.faults.reconciles("rome");
    operator
        .faults
        .script(|call, _| call.is_write().then_some(refused(500)));
    world
        .change("rome", json!({"origin": "rome.example.net/2026h1"}))
        .await;
    let pause = pause_before(&operator, before + 2).await;
    assert!(pause < Duration::from_secs(7), "{pause:?}");
}

#[tokio::test]
async fn a_call_that_is_never_answered_is_given_up_and_made_again() {
    let world = World::new("silence").await;
    world.create("rome", 1, json!({})).await;
    let faults = Faults::none();
    faults.at_write(3, Fault::Silence);
    let operator = Operator::with(&world, faults, Setup::default()).await;
    world.settles("rome").await;
    let calls = operator.faults.calls();
    let writes: Vec<&Call> = calls.iter().filter(|call| call.is_write()).collect();
    assert_eq!(writes[3].answer, None, "{}", writes[3]);
    // Everything was written again, this one too.
    let again = writes[4..]
        .iter()
        .find(|call| call.resource == writes[3].resource);
    assert!(again.is_some_and(|call| call.has_written()));
}

/// The time between the start of reconcile `number`, counted from 1, and of the one before it.
async fn pause_before(operator: &Operator, number: usize) -> Duration {
    eventually("one more reconcile", async || {
        let calls = operator.faults.calls();
        let starts: Vec<&Call> = calls
            .iter()
            .filter(|c| c.begins_reconcile("rome"))
            .collect();
        match starts.get(number - 2..number) {
            Some([first, second]) => Ok(first.before(second)),
            _ => Err(starts.len()),
        }
    })
    .await
}

#[tokio::test]
async fn the_client_waits_as_long_as_the_api_server_asks_for() {
    let world = World::new("retry-after").await;
    world.create("rome", 1, json!({})).await;
    let faults = Faults::none();
    faults.script(|call, writes| {
        let busy = Fault::Refused {
            code: 429,
            retry_after: Some(3),
        };
        (call.is_write() && writes == 0).then_some(busy)
    });
    let as_shipped = Setup {
        retries: true,
        ..Setup::default()
    };
    let operator = Operator::with(&world, faults, as_shipped).await;
    world.settles("rome").await;
    let calls = operator.faults.calls();
    let writes: Vec<&Call> = calls.iter().filter(|call| call.is_write()).collect();
    assert_eq!(writes[0].answer, Some(429));
    assert_eq!(writes[1].resource, writes[0].resource, "repeated first");
    assert!(writes[0].before(writes[1]) >= Duration::from_secs(3));
}
