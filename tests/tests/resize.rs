//! A bdev changes its size while I/O is in flight.

use serde_json::json;
use spdk_plugin_tests::{Bdevperf, Config, bdev, modules, spdk};

#[test]
fn a_bdev_grows_under_load() {
    let params = json!({ "name": "r0", "num_blocks": 4096, "block_size": 512 });
    let config = Config::new().bdev("bdev_ram_create", params);
    let server = Bdevperf::new(spdk(), "verify")
        .plugin(modules())
        .config(config)
        .queue_depth(32)
        .seconds(3)
        .serve()
        .unwrap();
    let running = server.start().unwrap();
    for blocks in (8192..=65536).step_by(8192) {
        let grown = json!({ "name": "r0", "num_blocks": blocks });
        assert!(server.host().call::<bool>("bdev_ram_resize", grown).unwrap());
    }
    assert_eq!(bdev(server.host(), "r0")["num_blocks"], 65536);
    let shrunk = json!({ "name": "r0", "num_blocks": 4096 });
    let error = server.host().call::<bool>("bdev_ram_resize", shrunk).unwrap_err();
    assert!(error.to_string().contains("cannot shrink"), "{error}");
    let perf = running.finish().unwrap();
    assert!(perf.errors.is_empty(), "{:?}", perf.errors);
}
