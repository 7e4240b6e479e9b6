//! What `save_config` writes makes the same devices again.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Host, Program, PythonClient, at_least, bdev, bdevs, in_every_program, spdk,
};

/// Runs SPDK's client: its newest, or for 20.07, which refuses what that sends, the one that came with it.
fn client(host: &Host, args: &[&str]) -> String {
    if at_least(20, 10) {
        return PythonClient::install()
            .unwrap()
            .call(&host.socket(), args.iter().copied())
            .unwrap();
    }
    let mut python = Command::new("python3");
    python.arg(spdk().prefix().join("scripts/rpc.py")).arg("-s").arg(host.socket()).args(args);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn save(host: &Host) -> Value {
    serde_json::from_str(&client(host, &["save_config"])).unwrap()
}

/// The calls of one subsystem.
fn calls(config: &Value, subsystem: &str) -> Vec<Value> {
    let all = config["subsystems"].as_array().unwrap();
    let found = all.iter().find(|entry| entry["subsystem"] == subsystem).unwrap();
    found["config"].as_array().unwrap().clone()
}

/// Devices of every sort, some of which have been resized.
fn populate(host: &Host) {
    let call = |method: &str, params: Value| {
        let _: Value = host.call(method, params).unwrap();
    };
    call("bdev_ram_create", json!({ "name": "plain", "num_blocks": 2048, "block_size": 512 }));
    let params = json!({
        "name": "all of \"ü\"", "num_blocks": 4096, "block_size": 4096, "write_unit_size": 4,
        "optimal_io_boundary": 64, "uuid": "0d1b8a1e-7b0f-4a6e-9d35-0f6a0e2b4c11",
    });
    call("bdev_ram_create", params);
    call("bdev_ram_create", json!({ "name": "grown", "num_blocks": 2048, "block_size": 512 }));
    call("bdev_ram_resize", json!({ "name": "grown", "num_blocks": 6000 }));
    call("bdev_ram_create", json!({ "name": "shrunk", "num_blocks": 2048, "block_size": 512 }));
    call("bdev_ram_resize", json!({ "name": "shrunk", "num_blocks": 1000 }));
    call("bdev_rnull_create", json!({ "name": "null", "num_blocks": 1 << 30, "block_size": 512 }));
    let params = json!({
        "name": "null with metadata", "num_blocks": 4096, "block_size": 4096, "md_size": 16,
        "dif_type": 1, "dif_is_head_of_md": true,
    });
    call("bdev_rnull_create", params);
    call("bdev_rnull_create", json!({ "name": "resized", "num_blocks": 2048, "block_size": 512 }));
    call("bdev_rnull_resize", json!({ "name": "resized", "new_size": 7 }));
    call("bdev_ram_create", json!({ "name": "gone", "num_blocks": 2048, "block_size": 512 }));
    call("bdev_ram_delete", json!({ "name": "gone" }));
}

/// What a device is, without what its use has made of it.
fn description(host: &Host, name: &str) -> Value {
    let mut bdev = bdev(host, name);
    let bdev = bdev.as_object_mut().unwrap();
    bdev.remove("claimed");
    Value::Object(bdev.clone())
}

fn descriptions(host: &Host) -> Vec<Value> {
    let mut names = bdevs(host);
    names.sort();
    names.iter().map(|name| description(host, name)).collect()
}

in_every_program! {
    fn a_restart_brings_the_same(program) {
        let mut host = program.start();
        populate(&host);
        let (saved, before) = (save(&host), descriptions(&host));
        let sizes: Vec<_> = before.iter().map(|bdev| bdev["num_blocks"].as_u64().unwrap()).collect();
        assert_eq!(sizes, [4096, 6000, 1 << 30, 4096, 2048, 7 * 2048, 1000]);
        host.shutdown().unwrap();

        let mut host = program.builder().config(&saved).start().unwrap();
        assert_eq!(descriptions(&host), before);
        assert_eq!(save(&host), saved);
        host.shutdown().unwrap();
    }
}

#[test]
fn a_running_target_takes_it() {
    let mut host = Program::SpdkTgt.start();
    populate(&host);
    let (saved, before) = (save(&host), descriptions(&host));
    let file = host.dir().join("saved.json");
    std::fs::write(&file, saved.to_string()).unwrap();

    let mut other = Program::SpdkTgt.start();
    let load = |path: &Path| client(&other, &["load_config", "-j", path.to_str().unwrap()]);
    load(&file);
    assert_eq!(descriptions(&other), before);
    assert_eq!(calls(&save(&other), "bdev"), calls(&saved, "bdev"));
    other.shutdown().unwrap();
    host.shutdown().unwrap();
}

#[test]
fn nothing_is_saved_of_nothing() {
    let host = Program::SpdkTgt.start();
    let saved = save(&host);
    let ours = calls(&saved, "bdev").into_iter().filter(|call| {
        let method = call["method"].as_str().unwrap();
        method.contains("ram") || method.contains("rnull")
    });
    assert_eq!(ours.count(), 0, "{saved}");
}
