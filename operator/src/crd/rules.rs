//! Tests of the CEL rules: each refuses what it should, with the message a person gets. The API
//! server decides in the end; this is the same expressions, evaluated without one.

mod log_rows;
mod rows;

use serde_json::{Value, json};

use super::TileProxy;

fn with(pointer: &str, value: &Value) -> TileProxy {
    serde_json::from_value(rows::with(pointer, value)).expect("the shape of a TileProxy")
}

#[test]
fn the_smallest_resource_is_accepted() {
    let proxy: TileProxy = serde_json::from_value(rows::smallest()).expect("a TileProxy");
    assert!(proxy.validate_cel().is_ok(), "{:?}", proxy.validate_cel());
}

#[test]
fn each_rule_refuses_with_a_message_that_helps() {
    for (pointer, value, want) in rows::rows() {
        let errors = match with(pointer, &value).validate_cel() {
            Ok(()) => String::new(),
            Err(errors) => errors.to_string(),
        };
        match want {
            None => assert_eq!(errors, "", "{pointer} = {value}"),
            Some(want) => assert!(errors.contains(want), "{pointer} = {value}: {errors:?}"),
        }
    }
}

#[test]
fn each_rule_about_logs_refuses_with_a_message_that_helps() {
    for (spec, want) in log_rows::rows() {
        // Some are refused by the schema, which has no say here.
        let Ok(proxy) = serde_json::from_value::<TileProxy>(log_rows::with(&spec)) else {
            assert!(want.is_some(), "{spec}");
            continue;
        };
        let errors = match proxy.validate_cel() {
            Ok(()) => String::new(),
            Err(errors) => errors.to_string(),
        };
        match want {
            None => assert_eq!(errors, "", "{spec}"),
            Some(want) => assert!(errors.contains(want), "{spec}: {errors:?}"),
        }
    }
}

#[test]
fn what_a_volume_was_made_of_cannot_change() {
    let old = with("/spec/cache/storageClassName", &json!("fast"));
    let slow = with("/spec/cache/storageClassName", &json!("slow"));
    let errors = slow
        .validate_cel_update(&old)
        .expect_err("immutable")
        .to_string();
    assert!(errors.contains("do not move between classes"), "{errors}");

    let mut many = old.clone();
    many.spec.cache.access_modes = vec![super::AccessMode::ReadWriteMany];
    let errors = many
        .validate_cel_update(&old)
        .expect_err("immutable")
        .to_string();
    assert!(errors.contains("because the volumes exist"), "{errors}");

    let mut larger = old.clone();
    larger.spec.cache.size = "20Gi".to_owned();
    assert!(larger.validate_cel_update(&old).is_ok());
}
