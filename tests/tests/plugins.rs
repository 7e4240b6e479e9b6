//! Two plugins in one target.

use serde_json::{Value, json};
use spdk_plugin_tests::{Host, bdevs, modules, probe, prober, spdk, test_example, test_plugin};

const SECOND: &str = "spdk-plugin-test-second";

#[test]
fn two_plugins_work_side_by_side() {
    let plugins = [modules(), test_plugin(SECOND), prober()];
    let mut host = Host::builder(spdk(), "spdk_tgt").plugins(plugins).start().unwrap();
    let ram = json!({ "name": "ram0", "num_blocks": 2048, "block_size": 512 });
    let _: String = host.call("bdev_ram_create", ram).unwrap();
    let _: String = host.call("bdev_ones_create", json!({ "name": "ones0" })).unwrap();
    assert_eq!(bdevs(&host), ["ram0", "ones0"]);
    let read = json!({ "kind": "read", "blocks": 8 });
    assert_eq!(probe(&host, "ram0", std::slice::from_ref(&read))[0].data, Some(0));
    assert_eq!(probe(&host, "ones0", &[read])[0].data, Some(1));
    host.shutdown().unwrap();
}

/// Loads the project's plugin first and then one that wants a name that is taken: it is refused as a whole, and all
/// else is as it was.
#[track_caller]
fn refused(example: &str, texts: &[&str]) {
    // The loader constructs last what was named first.
    let plugins = [test_example(SECOND, example), modules()];
    let mut host = Host::builder(spdk(), "spdk_tgt").plugins(plugins).start().unwrap();
    let log = host.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("is not loaded")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for text in texts.iter().chain(&["*ERROR*", SECOND]) {
        assert!(lines[0].contains(text), "'{text}' is missing in: {}", lines[0]);
    }
    let methods: Vec<String> = host.call("rpc_get_methods", ()).unwrap();
    assert!(!methods.iter().any(|method| method.starts_with("taken_")), "{methods:?}");
    let ram = json!({ "name": "ram0", "num_blocks": 2048, "block_size": 512 });
    let _: String = host.call("bdev_ram_create", ram).unwrap();
    let malloc = json!({ "name": "m0", "num_blocks": 2048, "block_size": 512 });
    let _: Value = host.call("bdev_malloc_create", malloc).unwrap();
    assert_eq!(bdevs(&host), ["ram0", "m0"]);
    host.shutdown().unwrap();
}

#[test]
fn a_module_of_the_other_plugin() {
    refused("module", &["module ram", "spdk-plugin-ram in spdk-plugin-modules"]);
}

#[test]
fn a_method_of_the_other_plugin() {
    let owner = "spdk-plugin-ram in spdk-plugin-modules";
    refused("method", &["RPC method bdev_ram_create", owner]);
}

#[test]
fn a_module_of_spdk() {
    refused("c_module", &["module malloc", "SPDK's own in libspdk_bdev_malloc.so"]);
}

#[test]
fn a_method_of_spdk() {
    refused("c_method", &["RPC method bdev_get_bdevs", "SPDK's own"]);
}

#[test]
fn a_subsystem_of_spdk() {
    refused("c_subsystem", &["subsystem bdev", "SPDK's own"]);
}

#[test]
fn a_name_of_its_own() {
    refused("itself", &["RPC method taken_twice", "taken by spdk-plugin-test-second"]);
}

/// The first come is served, be it whose it may.
#[test]
fn the_order_decides() {
    let plugins = [modules(), test_example(SECOND, "module")];
    let mut host = Host::builder(spdk(), "spdk_tgt").plugins(plugins).start().unwrap();
    assert!(host.call::<bool>("taken_was_loaded", ()).unwrap());
    let methods: Vec<String> = host.call("rpc_get_methods", ()).unwrap();
    assert!(!methods.iter().any(|method| method.starts_with("bdev_ram")), "{methods:?}");
    host.shutdown().unwrap();
}
