//! The example in a stock `spdk_tgt`.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_rig::{Bdevperf, Config, Host, HostBuilder, RpcError, plugin, spdk};

fn target() -> HostBuilder {
    Host::builder(spdk(), "spdk_tgt").plugin(plugin("spdk-plugin-example-settings"))
}

fn start_init(host: &Host) {
    host.call::<Value>("framework_start_init", ()).unwrap();
    host.call::<Value>("framework_wait_init", ()).unwrap();
}

/// What `save_config` of SPDK's client makes of these calls, in any version.
fn save_config(host: &Host) -> Value {
    let subsystems: Vec<Value> = host.call("framework_get_subsystems", ()).unwrap();
    let saved = subsystems.iter().map(|subsystem| {
        let name = &subsystem["subsystem"];
        let config: Value = host.call("framework_get_config", json!({ "name": name })).unwrap();
        json!({ "subsystem": name, "config": config })
    });
    json!({ "subsystems": saved.collect::<Vec<_>>() })
}

#[track_caller]
fn refused(reply: Result<Value, RpcError>, code: i64, text: &str) {
    let error = reply.unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn settings_are_made_before_the_start_and_saved() {
    let mut host = target().wait_for_rpc().start().unwrap();
    let options: Value = host.call("scratch_get_options", ()).unwrap();
    assert_eq!(options, json!({ "block_size": 4096, "max_bytes": 64 << 20 }));
    let set = |options: Value| host.call::<Value>("scratch_set_options", options);
    set(json!({ "block_size": 512 })).unwrap();
    set(json!({ "max_bytes": 1 << 20 })).unwrap();
    start_init(&host);

    let options: Value = host.call("scratch_get_options", ()).unwrap();
    assert_eq!(options, json!({ "block_size": 512, "max_bytes": 1 << 20 }));
    let create = |params: Value| host.call::<Value>("bdev_scratch_create", params);
    create(json!({ "name": "S0", "num_blocks": 1024 })).unwrap();
    create(json!({ "name": "S1", "num_blocks": 64, "block_size": 4096 })).unwrap();
    let bdevs: Value = host.call("bdev_get_bdevs", ()).unwrap();
    assert_eq!((&bdevs[0]["name"], &bdevs[0]["block_size"]), (&json!("S0"), &json!(512)));

    let saved = save_config(&host);
    host.shutdown().unwrap();
    let mut host = target().config(&saved).start().unwrap();
    assert_eq!(save_config(&host), saved);
    let again: Value = host.call("bdev_get_bdevs", ()).unwrap();
    for i in 0..2 {
        assert_eq!(again[i]["uuid"], bdevs[i]["uuid"]);
    }
    host.shutdown().unwrap();
}

#[test]
fn the_limit_is_kept_and_memory_comes_back() {
    let mut host = target().start().unwrap();
    let create = |name: &str, num_blocks: u64| {
        let params = json!({ "name": name, "num_blocks": num_blocks });
        host.call::<Value>("bdev_scratch_create", params)
    };
    create("S0", 10 << 10).unwrap();
    refused(create("S1", 10 << 10), -12, "scratch bdevs have 41943040 of their 67108864");
    // A create that fails later on keeps nothing.
    refused(create("S0", 1), -17, "already");
    host.call::<bool>("bdev_scratch_delete", json!({ "name": "S0" })).unwrap();
    create("S1", 16 << 10).unwrap();
    host.shutdown().unwrap();
}

#[test]
fn wrong_settings_are_refused() {
    let mut host = target().wait_for_rpc().start().unwrap();
    let set = |options: Value| host.call::<Value>("scratch_set_options", options);
    refused(set(json!({ "block_size": 513 })), -32602, "params.block_size: expected a multiple");
    refused(set(json!({ "max_bytes": -1 })), -32602, "params.max_bytes: expected u64");
    refused(set(json!({ "max_byte": 1 })), -32602, "params.max_byte: unknown field");
    start_init(&host);
    refused(set(json!({ "block_size": 512 })), -1, "Method");
    host.shutdown().unwrap();
}

#[test]
fn settings_that_cannot_be_end_the_start() {
    let mut host = target().wait_for_rpc().start().unwrap();
    host.call::<Value>("scratch_set_options", json!({ "max_bytes": 1024 })).unwrap();
    // The program may end before it has answered.
    host.call::<Value>("framework_start_init", ()).unwrap_err();
    let status = host.wait_exit(Duration::from_secs(30)).unwrap();
    assert!(!status.success());
    let log = host.log();
    assert!(log.contains("init of subsystem scratch failed: max_bytes is 1024"), "{log}");
}

#[test]
fn data_are_stored() {
    let config =
        Config::new().bdev("bdev_scratch_create", json!({ "name": "S", "num_blocks": 256 }));
    let run = Bdevperf::new(spdk(), "verify").plugin(plugin("spdk-plugin-example-settings"));
    let perf = run.config(config).bdev("S").run().unwrap();
    assert!(perf.iops > 0.0, "{perf:?}");
}
