//! Fifty TileProxies at once under the program itself, and no secret in anything it says (P31).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::json;
use tile_proxy_operator::crd::TileProxy;

use crate::{
    audit,
    program::{Program, RESYNC},
    world::{World, eventually},
};

const TILE_PROXIES: usize = 50;

/// Settled means that nothing is written for this long.
const REST: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fifty_tileproxies_settle_and_rest_and_nothing_tells_a_secret() {
    let world = World::new("fifty").await;
    let program = Program::start(&world, false, &["--log-level=trace"]);
    let started = Instant::now();
    for n in 0..TILE_PROXIES {
        world.create(&format!("rome-{n}"), 1, json!({})).await;
    }
    eventually("fifty ready TileProxies", async || {
        let all = world.api::<TileProxy>().list(&ListParams::default()).await;
        let all = all.expect("a list").items;
        let settled = all
            .iter()
            .filter(|p| is(p, "Ready", "True") && is(p, "Progressing", "False"));
        let settled = settled.count();
        if settled == TILE_PROXIES {
            Ok(())
        } else {
            Err(settled)
        }
    })
    .await;
    println!(
        "{TILE_PROXIES} TileProxies settled in {:.1} s; {} reconciles, {} writes to children, {} in all; {}",
        started.elapsed().as_secs_f64(),
        program.metric("tile_proxy_operator_reconcile_total"),
        program.metric("tile_proxy_operator_apply_total"),
        audit::writes(&world).len(),
        program.usage(),
    );

    program.looks_at_all(TILE_PROXIES).await;
    let (versions, writes) = (versions(&world), audit::writes(&world));
    let (since, looks) = (
        Instant::now(),
        program.metric("tile_proxy_operator_reconcile_total"),
    );
    while since.elapsed() < REST {
        program.looks_at_all(TILE_PROXIES).await;
    }
    let written = audit::writes(&world).split_off(writes.len());
    assert!(written.is_empty(), "{written:#?}");
    assert_eq!(self::versions(&world), versions);
    let looks = program.metric("tile_proxy_operator_reconcile_total") - looks;
    let resyncs = since.elapsed().as_secs_f64() / RESYNC.as_secs_f64() + 1.0;
    assert!(
        looks <= resyncs * TILE_PROXIES as f64,
        "{looks} reconciles in {resyncs} resyncs"
    );
    println!(
        "at rest for {:.0} s: {looks} reconciles, no write",
        since.elapsed().as_secs_f64()
    );

    let secrets = world.api::<Secret>().list(&ListParams::default()).await;
    let secrets = secrets.expect("a list").items;
    assert_eq!(secrets.len(), TILE_PROXIES);
    let all = "configmaps,cronjobs,deployments,events,tileproxies,services";
    let said = world.kubectl(&["get", all, "--output=json"]) + &program.said();
    for secret in secrets {
        for value in secret.data.into_iter().flatten().map(|(_, value)| value.0) {
            let token = String::from_utf8(value).expect("a token of ASCII");
            assert!(token.len() >= 32, "{} bytes", token.len());
            assert!(!said.contains(&token), "a token was told");
        }
    }
}

fn is(proxy: &TileProxy, condition: &str, status: &str) -> bool {
    crate::world::find(proxy, condition).is_some_and(|c| c.status == status)
}

/// Every object and its version.
fn versions(world: &World) -> String {
    let all = "configmaps,cronjobs,deployments,events,pvc,pdb,secrets,services,sa,tileproxies";
    let columns = "--output=custom-columns=:kind,:metadata.name,:metadata.resourceVersion";
    world.kubectl(&["get", all, columns])
}
