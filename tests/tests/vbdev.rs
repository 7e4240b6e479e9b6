//! What virtual bdevs may do beside passing requests on: share a base, be found by a superblock, take time to
//! start and to stop.

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Host, at_least, bdev, bdevs, errors, modules, probe, prober, spdk, test_plugin, until,
};

fn start() -> Host {
    let stack = test_plugin("spdk-plugin-test-stack");
    Host::builder(spdk(), "spdk_tgt").plugins([modules(), prober(), stack]).start().unwrap()
}

fn call(host: &Host, method: &str, params: Value) -> Value {
    host.call(method, params).unwrap_or_else(|error| panic!("{error}\n{}", host.log()))
}

fn sorted(host: &Host) -> Vec<String> {
    let mut names = bdevs(host);
    names.sort();
    names
}

fn write(offset: u64, fill: u8) -> Value {
    json!({ "kind": "write", "offset": offset, "blocks": 8, "fill": fill })
}

fn read(offset: u64) -> Value {
    json!({ "kind": "read", "offset": offset, "blocks": 8 })
}

fn data(host: &Host, name: &str, offset: u64) -> u8 {
    let outcomes = probe(host, name, &[read(offset)]);
    assert!(outcomes[0].success, "{outcomes:?}");
    outcomes[0].data.unwrap()
}

#[test]
fn parts_share_a_base() {
    let mut host = start();
    let part = |name: &str, first: u64, blocks: u64| json!({ "name": name, "base": "base", "first_block": first, "num_blocks": blocks });
    call(&host, "stack_part_create", part("low", 0, 1024));
    let ram = json!({ "name": "base", "num_blocks": 4096, "block_size": 512 });
    call(&host, "bdev_ram_create", ram.clone());
    call(&host, "stack_part_create", part("high", 1024, 3072));
    assert_eq!(sorted(&host), ["base", "high", "low"]);
    assert_eq!(bdev(&host, "high")["num_blocks"], 3072);

    assert!(probe(&host, "low", &[write(8, 1)])[0].success);
    assert!(probe(&host, "high", &[write(8, 2)])[0].success);
    assert_eq!((data(&host, "low", 8), data(&host, "high", 8)), (1, 2));

    let error = host.call::<Value>("stack_part_create", part("none", 4000, 97)).unwrap_err();
    assert!(error.to_string().contains("no part of bdev base, which has 4096"), "{error}");
    assert_eq!(bdev(&host, "base")["claimed"], true);

    // The claim stays until the last one goes.
    call(&host, "stack_part_delete", json!({ "name": "low" }));
    assert_eq!(bdev(&host, "base")["claimed"], true);
    assert_eq!(data(&host, "high", 8), 2);
    call(&host, "stack_part_delete", json!({ "name": "high" }));
    assert_eq!(bdev(&host, "base")["claimed"], false);
    assert_eq!((data(&host, "base", 8), data(&host, "base", 1032)), (1, 2));

    // Both go with the base, and come with it.
    call(&host, "stack_part_create", part("low", 0, 1024));
    call(&host, "stack_part_create", part("high", 1024, 3072));
    call(&host, "bdev_ram_delete", json!({ "name": "base" }));
    assert_eq!(bdevs(&host), Vec::<String>::new());
    call(&host, "bdev_ram_create", ram);
    assert_eq!(sorted(&host), ["base", "high", "low"]);
    host.shutdown().unwrap();
    let log = host.log();
    assert!(errors(&log).is_empty() && !log.contains("still"), "{log}");
}

#[test]
fn what_was_made_is_found_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let aio = json!({ "name": "disk", "filename": file.path(), "block_size": 512 });
    for round in 1..=3 {
        let mut host = start();
        call(&host, "bdev_aio_create", aio.clone());
        if round == 1 {
            let create = json!({ "name": "found", "base": "disk" });
            call(&host, "stack_found_create", create);
            assert!(probe(&host, "found", &[write(16, 7)])[0].success);
        } else {
            until("finding it", || bdevs(&host).len() == 2);
        }
        assert_eq!(sorted(&host), ["disk", "found"]);
        assert_eq!(bdev(&host, "found")["driver_specific"]["stack_found"]["built"], round);
        assert_eq!(data(&host, "found", 16), 7);
        host.shutdown().unwrap();
        let log = host.log();
        assert!(errors(&log).is_empty(), "{log}");
        // Before 21.10 nobody waits for the second.
        let steps = ["has started", "is about to stop", "lets go of disk", "has stopped"];
        for (at, step) in steps.into_iter().enumerate() {
            assert!(log.contains(step) || at == 1 && !at_least(21, 10), "{step}\n{log}");
        }
    }
}
