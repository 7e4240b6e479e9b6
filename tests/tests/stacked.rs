//! SPDK's own modules stacked on the project's disks.

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevperf, Config, Host, at_least, bdevs, ios, modules, spdk, until};

fn rams() -> Config {
    let ram = |name: &str| json!({ "name": name, "num_blocks": 1 << 17, "block_size": 512 });
    let create = "bdev_ram_create";
    Config::new().bdev(create, ram("ram0")).bdev(create, ram("ram1"))
}

fn raid() -> Config {
    let raid = json!({
        "name": "top", "strip_size_kb": 64, "raid_level": "raid0", "base_bdevs": ["ram0", "ram1"],
    });
    rams().bdev("bdev_raid_create", raid)
}

#[track_caller]
fn verifies(config: Config, bdev: &str) {
    let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(config).bdev(bdev);
    let perf = perf.queue_depth(64).io_size(16 << 10).seconds(2).run().unwrap();
    assert!(perf.errors.is_empty() && perf.iops > 100.0, "{perf:?}");
}

#[test]
fn raid_of_two() {
    verifies(raid(), "top");
}

#[test]
fn logical_volume() {
    let store = json!({ "bdev_name": "ram0", "lvs_name": "store" });
    let size = if at_least(22, 9) { "size_in_mib" } else { "size" };
    let bytes = if at_least(22, 9) { 32 } else { 32 << 20 };
    let volume = json!({ "lvs_name": "store", "lvol_name": "volume", size: bytes });
    let config = rams().bdev("bdev_lvol_create_lvstore", store).bdev("bdev_lvol_create", volume);
    verifies(config, "store/volume");
}

#[test]
fn passthrough() {
    let passthrough = json!({ "base_bdev_name": "ram0", "name": "top" });
    verifies(rams().bdev("bdev_passthru_create", passthrough), "top");
}

/// What stands on a disk goes with it.
#[test]
fn the_base_is_deleted() {
    let mut host =
        Host::builder(spdk(), "spdk_tgt").plugin(modules()).config(raid()).start().unwrap();
    assert!(bdevs(&host).contains(&"top".into()));
    assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": "ram0" })).unwrap());
    assert_eq!(bdevs(&host), ["ram1"]);
    assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": "ram1" })).unwrap());
    host.shutdown().unwrap();
}

#[test]
fn the_base_is_deleted_under_load() {
    let perf = Bdevperf::new(spdk(), "randrw").plugin(modules()).config(raid()).bdev("top");
    let perf = perf.queue_depth(128).seconds(30).args(["-M", "50", "-f"]);
    let mut server = perf.serve().unwrap();
    let running = server.start().unwrap();
    until("I/O", || ios(server.host()) > 10_000);
    let deleted = server.host().call::<Value>("bdev_ram_delete", json!({ "name": "ram0" }));
    assert_eq!(deleted.unwrap(), true);
    running.finish().unwrap();
    assert_eq!(bdevs(server.host()), ["ram1"]);
    server.host_mut().shutdown().unwrap();
}
