//! P18, P19: every leaf of the schema is changed, to what is valid, at a bound, beyond it and senseless.
//! Each change is refused with a message, shows in a child, or sets a condition; and taking it back
//! restores what was there.
//!
//! The API server tries all of them, so everything it refuses is looked at. Of what it takes, one for
//! each leaf of ours and some within Kubernetes' own types are carried out, or all in a full run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tile_proxy_operator::{
    controller::{Defaults, validate::validate},
    crd::{TileProxy, crd},
};
use tile_proxy_tests::local::full;

use crate::{
    operator::{IMAGE, Operator},
    sample::seed,
    state::{State, difference, without_history},
    world::{World, all_of, eventually, find},
};

#[path = "../../src/controller/effects/mutants.rs"]
mod mutants;

use mutants::{ABOUT_THE_OPERATOR, FOREIGN, example, is_leaf, is_leaf_of_ours, mutants, visit};

/// How many changes within Kubernetes' own types are carried out in a run that is not full.
const FOREIGN_SAMPLE: usize = 12;

/// How many operators work at once, each on a TileProxy of its own, and for how many changes one is
/// worth starting.
const LANES: usize = 4;
const LEAST_OF_A_LANE: usize = 8;

/// The examples that together have every field. Of each, only what those before it lack is changed.
const BASES: [&str; 4] = [
    "full.yaml",
    "several-logs.yaml",
    "tuf-private.yaml",
    "tuf-keys.yaml",
];

/// Most reconciles of one change and what follows from it, besides those of each replica: it is
/// written, becomes ready, and its claim and Service are told of.
const MOST_RECONCILES: usize = 25;
const MOST_RECONCILES_OF_A_REPLICA: usize = 8;

/// What each is called here.
const NAME: &str = "rekor";

/// A change of one leaf.
#[derive(Clone, Debug)]
struct Case {
    field: String,
    pointer: String,
    /// The whole spec with it.
    spec: Value,
}

impl Case {
    /// The field of the spec it is in, which a message about it has to name.
    fn part(&self) -> &str {
        self.field.split('.').next().unwrap_or_default()
    }

    /// For people.
    fn what(&self) -> String {
        let value = self.spec.pointer(self.pointer.trim_start_matches("/spec"));
        let value = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        let short: String = value.chars().take(80).collect();
        format!("{} = {short}", self.pointer)
    }
}

#[tokio::test]
async fn every_change_is_refused_or_shows_or_is_told_and_can_be_taken_back() {
    let mut known = BTreeSet::new();
    for example in BASES {
        let base = base(example);
        let all = cases(&base);
        let fields: BTreeSet<String> = all.iter().map(|case| case.field.clone()).collect();
        let new = |case: &Case| !known.contains(&case.field);
        let new = all.into_iter().filter(new).collect();
        changes(example, &base, new).await;
        known.extend(fields);
    }
}

/// Tries all of `cases`, and carries out those that the API server takes, or a sample.
async fn changes(example: &str, base: &Value, cases: Vec<Case>) {
    let stem = example.trim_end_matches(".yaml");
    let world = World::new(&format!("misoperations-{stem}")).await;
    let lane = Lane::start(world, base.clone()).await;
    let mut takes = Vec::new();
    let count = cases.len();
    for case in cases {
        match lane.tries(&case.spec, true).await {
            Ok(()) => takes.push(case),
            Err(said) => assert!(
                said.contains("spec") || said.contains(case.part()),
                "{}: {said}",
                case.what()
            ),
        }
    }
    let refused = count - takes.len();
    if !full() {
        takes = sampled(takes);
    }
    println!(
        "{example}: {count} changes: the API server refuses {refused}; of the others, {} are carried out",
        takes.len()
    );

    let mut lanes = vec![lane];
    for n in 1..LANES.min(takes.len() / LEAST_OF_A_LANE) {
        let world = World::new(&format!("misoperations-{stem}-{n}")).await;
        lanes.push(Lane::start(world, base.clone()).await);
    }
    let each = takes.len().div_ceil(lanes.len()).max(1);
    let shares = takes.chunks(each).map(<[Case]>::to_vec);
    all_of(lanes.into_iter().zip(shares).map(async |(lane, share)| {
        for case in share {
            lane.carries_out(&case).await;
        }
        lane.operator.rests().await;
    }))
    .await;
}

/// One change of each leaf of ours, and some within Kubernetes' own types.
fn sampled(mut cases: Vec<Case>) -> Vec<Case> {
    cases.shuffle(&mut StdRng::seed_from_u64(seed()));
    let is_foreign = |case: &Case| is_foreign(&case.field);
    let (mut foreign, ours): (Vec<_>, Vec<_>) = cases.into_iter().partition(is_foreign);
    foreign.truncate(FOREIGN_SAMPLE);
    let ours: BTreeMap<String, Case> = ours
        .into_iter()
        .map(|case| (case.field.clone(), case))
        .collect();
    ours.into_values().chain(foreign).collect()
}

/// Whether `field` is part of Kubernetes' own types.
fn is_foreign(field: &str) -> bool {
    FOREIGN.iter().any(|part| {
        let within = field.strip_prefix(part);
        within.is_some_and(|within| within.is_empty() || within.starts_with('.'))
    })
}

/// The example `name`.
fn base(name: &str) -> Value {
    let mut base = example(name);
    base["metadata"] = json!({"name": NAME});
    base
}

/// Changes of every leaf, those of Kubernetes' own types included.
fn cases(base: &Value) -> Vec<Case> {
    let crd = serde_json::to_value(crd()).expect("a tree");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut cases = Vec::new();
    let mut add = |field: &str, pointer: &str, schema: &Value| {
        for mutant in mutants(base, pointer, schema) {
            cases.push(Case {
                field: field.to_owned(),
                pointer: pointer.to_owned(),
                spec: mutant["spec"].clone(),
            });
        }
    };
    let at = ("", "/spec");
    visit(schema, &base["spec"], at, is_leaf_of_ours, &mut add);
    visit(
        schema,
        &base["spec"],
        at,
        is_leaf,
        &mut |field, pointer, schema| {
            // Those of ours are there already.
            if is_foreign(field) && !FOREIGN.contains(&field) {
                add(field, pointer, schema);
            }
        },
    );
    cases
}

/// A settled TileProxy and its operator.
struct Lane {
    world: World,
    api: Api<DynamicObject>,
    operator: Operator,
    base: Value,
    settled: State,
}

impl Lane {
    async fn start(world: World, base: Value) -> Self {
        for (name, keys) in [
            ("company-ca", &["ca-bundle.crt"][..]),
            ("log-keys", &["rekor.pub", "tessera.pub"]),
            ("mirror-ca", &["ca.crt"]),
            ("tuf-root", &["root.json"]),
        ] {
            let data: BTreeMap<_, _> = keys.iter().map(|key| (key, "something")).collect();
            let map = json!({"metadata": {"name": name}, "data": data});
            let map: ConfigMap = serde_json::from_value(map).expect("a ConfigMap");
            let created = world.api().create(&PostParams::default(), &map).await;
            created.expect("a ConfigMap");
        }
        let kind = ApiResource::erase::<TileProxy>(&());
        let operator = Operator::start(&world).await;
        // The policy of the example.
        operator.may_delete_volumes();
        let mut lane = Self {
            api: Api::namespaced_with(world.client.clone(), &world.namespace, &kind),
            world,
            operator,
            base,
            settled: State::new(),
        };
        lane.begin().await;
        lane.settled = without_history(lane.world.state().await);
        lane
    }

    /// Creates the TileProxy, and waits until it has settled.
    async fn begin(&self) {
        let base = serde_json::from_value(self.base.clone()).expect("an object");
        let created = self.api.create(&PostParams::default(), &base).await;
        created.expect("the example is taken");
        let proxy = self.world.settles(NAME).await;
        let degraded = find(&proxy, "Degraded").expect("told");
        assert_eq!(degraded.status, "False", "{degraded:?}");
        self.operator.rests().await;
    }

    /// Replaces the spec, as `kubectl replace` would; or only asks whether that could be.
    async fn tries(&self, spec: &Value, only_asks: bool) -> Result<(), String> {
        let change = json!([{"op": "replace", "path": "/spec", "value": spec}]);
        let change = serde_json::from_value(change).expect("a JSON patch");
        let params = PatchParams {
            dry_run: only_asks,
            ..PatchParams::default()
        };
        let patch = Patch::Json::<()>(change);
        let answer = self.api.patch(NAME, &params, &patch).await;
        answer.map(drop).map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => panic!("{other}"),
        })
    }

    /// Makes the change, looks what became of it, and takes it back.
    async fn carries_out(&self, case: &Case) {
        let what = case.what();
        let before = self.operator.faults.reconciles(NAME);
        self.replaces(&case.spec, &what).await;
        self.operator.rests().await;
        let proxy = self.world.get::<TileProxy>(NAME).await;
        let state = without_history(self.world.state().await);
        self.expect_told(case, &proxy, &state);
        let calm = MOST_RECONCILES + replicas(&proxy) * MOST_RECONCILES_OF_A_REPLICA;
        let looks = self.operator.faults.reconciles(NAME) - before;
        assert!(looks <= calm, "{what}: {looks} reconciles");

        let base = self.base["spec"].clone();
        self.replaces(&base, &format!("{what} taken back")).await;
        if self.has_grown(&state) {
            // The only change that cannot be taken back.
            let proxy = self.world.awaits(NAME, "VolumesReady", "False").await;
            assert_eq!(
                crate::world::reason(&proxy, "VolumesReady"),
                "ShrinkRefused"
            );
            self.world.delete(NAME).await;
            self.world.kubectl(&["delete", "pvc", "--all"]);
            self.begin().await;
        }
        let what = format!("{what} taken back");
        self.world
            .becomes_apart_from_history(&self.settled, &what)
            .await;
        let looks = self.operator.faults.reconciles(NAME) - before;
        assert!(looks <= 3 * calm, "{what}: {looks} reconciles");
    }

    /// Replaces the spec, and waits until the operator has seen it.
    async fn replaces(&self, spec: &Value, what: &str) {
        let tried = self.tries(spec, false).await;
        tried.unwrap_or_else(|error| panic!("{what}: {error}"));
        eventually(what, async || {
            self.operator.expect_running();
            let proxy = self.world.get::<TileProxy>(NAME).await;
            let seen = proxy.status.as_ref().and_then(|s| s.observed_generation);
            if seen == proxy.metadata.generation {
                Ok(())
            } else {
                Err(format!("{:#?}", proxy.status))
            }
        })
        .await;
    }

    /// Fails unless a person can find out what became of `case`.
    fn expect_told(&self, case: &Case, proxy: &TileProxy, state: &State) {
        let what = case.what();
        let accepted = find(proxy, "Accepted").expect("always there");
        if accepted.status == "False" {
            let said = &accepted.message;
            assert!(said.contains("spec.") && said.len() > 20, "{what}: {said}");
            return;
        }
        let told = conditions(&self.settled) != conditions(state);
        let shows = !difference(&children(&self.settled), &children(state)).is_empty();
        let nothing_new = parsed(&self.base, &case.spec) == parsed(&self.base, &self.base["spec"]);
        let silent = nothing_new || ABOUT_THE_OPERATOR.contains(&&*case.field);
        assert!(
            told || shows || silent,
            "{what} was taken, changes no child and sets no condition"
        );
    }

    /// Whether volumes are larger in `state` than they were.
    fn has_grown(&self, state: &State) -> bool {
        let claims = |state: &State| -> Vec<Value> {
            let claims = state.iter().filter(|(key, _)| key.starts_with(CLAIM));
            claims
                .map(|(_, claim)| claim["spec"]["resources"].clone())
                .collect()
        };
        let was = claims(&self.settled);
        claims(state).iter().any(|size| *size != was[0])
    }
}

const CLAIM: &str = "PersistentVolumeClaim ";

/// What the operator makes of the resource with this spec.
fn parsed(base: &Value, spec: &Value) -> Result<impl PartialEq + use<>, String> {
    let mut object = base.clone();
    object["spec"] = spec.clone();
    object["metadata"]["namespace"] = json!("logs");
    object["metadata"]["uid"] = json!("5a11e7");
    let proxy: TileProxy = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let defaults = Defaults {
        operand_image: IMAGE.to_owned(),
        ..Defaults::default()
    };
    validate(&proxy, &defaults).map_err(|error| error.to_string())
}

/// Status and reason of every condition.
fn conditions(state: &State) -> Vec<[Value; 3]> {
    let proxy = &state[&format!("TileProxy {NAME}")];
    let conditions = proxy["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let told = ["type", "status", "reason"];
    conditions.map(|c| told.map(|key| c[key].clone())).collect()
}

fn children(state: &State) -> State {
    let mut children = state.clone();
    children.retain(|key, _| !key.starts_with("TileProxy "));
    children
}

fn replicas(proxy: &TileProxy) -> usize {
    usize::try_from(proxy.spec.replicas)
        .unwrap_or_default()
        .max(2)
}
