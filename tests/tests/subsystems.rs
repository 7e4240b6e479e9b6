//! Subsystems: their start, their RPCs, their end, and what may go wrong with each.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{Host, HostBuilder, assert_logged, bdevs, spdk, test_example, test_plugin};

const PACKAGE: &str = "spdk-plugin-test-subsystems";
/// Far longer than any of them may take, and shorter than any of SPDK's own time-outs.
const SOON: Duration = Duration::from_secs(30);

fn target(told: &str) -> HostBuilder {
    let host = Host::builder(spdk(), "spdk_tgt").plugin(test_plugin(PACKAGE));
    host.env("TEST_SUBSYSTEM", told)
}

#[test]
fn they_start_and_stop_in_order() {
    let mut host = target("").start().unwrap();
    let subsystems: Vec<Value> = host.call("framework_get_subsystems", ()).unwrap();
    let find = |name: &str| subsystems.iter().find(|s| s["subsystem"] == name).unwrap();
    assert_eq!(find("first")["depends_on"], json!(["bdev"]));
    assert_eq!(find("second")["depends_on"], json!(["first"]));
    assert!(bdevs(&host).is_empty());
    host.shutdown().unwrap();
    let log = host.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no '{text}' in:\n{log}"));
    assert!(at("first starts at level 1") < at("second starts"));
    assert!(at("second starts") < at("second stops"));
    assert!(at("second stops") < at("first stops"));
}

#[test]
fn they_are_configured_before_they_start() {
    let mut host = target("").wait_for_rpc().start().unwrap();
    let level = |host: &Host| host.call::<u32>("first_get", ()).unwrap();
    assert!(host.call::<bool>("first_set", json!({ "level": 7 })).unwrap());
    assert_eq!(level(&host), 7);
    assert!(!host.log().contains("first starts"));
    assert!(host.call::<bool>("framework_start_init", ()).unwrap());
    assert!(host.call::<bool>("framework_wait_init", ()).unwrap());
    assert_logged(&host, &["first starts at level 7", "second starts"]);

    // Now it is too late.
    let error = host.call::<bool>("first_set", json!({ "level": 8 })).unwrap_err();
    assert_eq!(error.code(), Some(-1), "{error}");
    assert_eq!(level(&host), 7);

    let saved: Value = host.call("framework_get_config", json!({ "name": "first" })).unwrap();
    assert_eq!(saved, json!([{ "method": "first_set", "params": { "level": 7 } }]));
    host.shutdown().unwrap();

    let config = json!({ "subsystems": [{ "subsystem": "first", "config": saved }] });
    let mut host = target("").config(config).start().unwrap();
    assert_eq!(level(&host), 7);
    assert_logged(&host, &["first starts at level 7"]);
    host.shutdown().unwrap();
}

/// The program must end by itself, with a failure, and say what was wrong.
#[track_caller]
fn ends(host: HostBuilder, texts: &[&str]) {
    let output = host.run(SOON).unwrap();
    assert!(!output.status.success(), "{}", output.log);
    assert!(output.status.code().is_some(), "{}: {}", output.status, output.log);
    for text in texts {
        assert!(output.log.contains(text), "the log lacks '{text}':\n{}", output.log);
    }
}

#[test]
fn one_that_fails_ends_the_program() {
    ends(
        target("init fails"),
        &["init of subsystem second failed", "the licence server does not answer"],
    );
}

#[test]
fn one_that_hangs_ends_the_program() {
    ends(target("init hangs"), &["init of subsystem second", "did not end within 0.5 s"]);
}

#[test]
fn one_that_panics_ends_the_program() {
    ends(target("init panics"), &["told to", "init of subsystem second"]);
    ends(target("init panics later"), &["told to, after an await", "init of subsystem second"]);
}

#[test]
fn one_that_hangs_and_panics_when_it_is_dropped_ends_the_program() {
    ends(target("init hangs and panics"), &["did not end within 0.5 s", "told to, in a drop"]);
}

/// Those of others that had started are stopped.
#[test]
fn the_others_are_stopped() {
    ends(target("init fails"), &["first starts", "second starts", "first stops"]);
}

#[test]
fn one_with_an_unknown_dependency_ends_the_program() {
    let plugin = test_example(PACKAGE, "unknown");
    let host = Host::builder(spdk(), "spdk_tgt").plugin(plugin);
    ends(host, &["lonely", "no_such_subsystem"]);
}

#[test]
fn circular_ones_end_the_program() {
    let plugin = test_example(PACKAGE, "circular");
    let host = Host::builder(spdk(), "spdk_tgt").plugin(plugin);
    ends(host, &["circular dependency", "egg -> hen -> chick -> egg"]);
}

/// Those that wait for RPCs to start must end too.
#[test]
fn a_late_failure_ends_the_program() {
    for told in ["init fails", "init hangs"] {
        let mut host = target(told).wait_for_rpc().start().unwrap();
        // There may be no time for an answer.
        let started = host.call::<bool>("framework_start_init", ());
        assert!(!matches!(started, Ok(true)), "{told}");
        let status = host.wait_exit(SOON).unwrap();
        assert!(!status.success(), "{told}: {}", host.log());
        assert_logged(&host, &["init of subsystem second"]);
    }
}

#[test]
fn what_goes_wrong_at_the_end_does_not_stop_it() {
    for told in ["fini fails", "fini panics", "fini hangs"] {
        let mut host = target(told).start().unwrap();
        host.shutdown().unwrap();
        assert_logged(&host, &["fini of subsystem second", "first stops"]);
    }
}

#[test]
fn a_panic_saves_nothing() {
    let mut host = target("config panics").start().unwrap();
    let saved: Value = host.call("framework_get_config", json!({ "name": "second" })).unwrap();
    assert_eq!(saved, json!([]));
    let saved: Value = host.call("framework_get_config", json!({ "name": "first" })).unwrap();
    assert_eq!(saved.as_array().unwrap().len(), 1);
    host.shutdown().unwrap();
}
