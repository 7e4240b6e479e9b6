//! A bdev changes its size while I/O is in flight.

use serde_json::json;
use spdk_plugin_tests::{Bdevperf, Config, bdev, ios, modules, spdk, until};

#[track_caller]
fn grows_under_load(cores: usize) {
    let params = json!({ "name": "disk", "num_blocks": 4096, "block_size": 512 });
    let config = Config::new().bdev("bdev_ram_create", params);
    let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(config);
    let perf = perf.queue_depth(32).seconds(2).cores(cores);
    let perf = if cores > 1 { perf.every_core() } else { perf };
    let mut server = perf.serve().unwrap();
    let running = server.start().unwrap();
    until("I/O", || ios(server.host()) > 1000);
    for blocks in (8192..=65536).step_by(8192) {
        let grown = json!({ "name": "disk", "num_blocks": blocks });
        assert!(server.host().call::<bool>("bdev_ram_resize", grown).unwrap());
        assert_eq!(bdev(server.host(), "disk")["num_blocks"], blocks);
    }
    let shrunk = json!({ "name": "disk", "num_blocks": 4096 });
    let error = server.host().call::<bool>("bdev_ram_resize", shrunk).unwrap_err();
    assert_eq!(error.code(), Some(-16), "{error}");
    assert!(error.to_string().contains("cannot shrink"), "{error}");
    assert_eq!(bdev(server.host(), "disk")["num_blocks"], 65536);
    let perf = running.finish().unwrap();
    assert!(perf.errors.is_empty() && perf.iops > 1000.0, "{perf:?}");
    server.host_mut().shutdown().unwrap();
}

#[test]
fn on_one_core() {
    grows_under_load(1);
}

#[test]
fn on_two_cores() {
    grows_under_load(2);
}
