//! `rnull`: its blocks' metadata and protection information.

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevperf, Config, Host, at_least, bdev, modules, spdk};

fn params(extra: Value) -> Value {
    let mut params = json!({ "name": "null", "num_blocks": 65536, "block_size": 4096 });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    params
}

/// `bdevperf` makes the protection information of what it writes, and later releases check that of what they read.
#[test]
fn protection_information_is_right() {
    let mut kinds = Vec::new();
    for dif_type in 1..=3 {
        for (md_size, head) in [(8, false), (16, true), (64, false)] {
            kinds.push(
                json!({ "md_size": md_size, "dif_type": dif_type, "dif_is_head_of_md": head }),
            );
        }
    }
    if at_least(24, 9) {
        kinds.push(json!({ "md_size": 16, "dif_type": 1, "dif_pi_format": 1 }));
        kinds.push(json!({ "md_size": 16, "dif_type": 1, "dif_pi_format": 2 }));
    }
    let disks = kinds.iter().enumerate().fold(Config::new(), |config, (i, kind)| {
        let mut params = params(kind.clone());
        params["name"] = format!("null{i}").into();
        config.bdev("bdev_rnull_create", params)
    });
    for workload in ["randread", "randwrite"] {
        let perf = Bdevperf::new(spdk(), workload).plugin(modules()).config(disks.clone());
        let perf = perf.queue_depth(8).run().unwrap();
        assert!(perf.errors.is_empty(), "{:?}", perf.errors);
        assert_eq!(perf.jobs.len(), kinds.len());
        assert!(perf.jobs.iter().all(|job| job.iops > 10.0), "{perf:?}");
    }
}

#[test]
fn it_tells_what_it_is() {
    let mut host = Host::builder(spdk(), "spdk_tgt").plugin(modules()).start().unwrap();
    let create = |extra: Value| host.call::<String>("bdev_rnull_create", params(extra));
    create(json!({ "md_size": 16, "dif_type": 1, "dif_is_head_of_md": true })).unwrap();
    let null = bdev(&host, "null");
    // A block has its metadata in it.
    assert_eq!((&null["block_size"], &null["num_blocks"]), (&4112.into(), &65536.into()));
    assert_eq!((&null["md_size"], &null["md_interleave"]), (&16.into(), &true.into()));
    assert_eq!((&null["dif_type"], &null["dif_is_head_of_md"]), (&1.into(), &true.into()));
    assert_eq!(null["product_name"], "Null disk in Rust");
    let supported = |kind: &str| null["supported_io_types"][kind].as_bool();
    assert_eq!(supported("read"), Some(true));
    assert_eq!(supported("write_zeroes"), Some(true));
    assert_eq!(supported("reset"), Some(true));
    assert_eq!(supported("unmap"), Some(false));
    assert!(host.call::<bool>("bdev_rnull_delete", json!({ "name": "null" })).unwrap());

    // What a release does not have, it says.
    let formatted = create(json!({ "md_size": 16, "dif_type": 1, "dif_pi_format": 1 }));
    if at_least(24, 9) {
        assert_eq!(formatted.unwrap(), "null");
    } else {
        let error = formatted.unwrap_err();
        assert_eq!(error.code(), Some(-95));
        assert!(error.to_string().contains("needs SPDK 24.09"), "{error}");
    }
    host.shutdown().unwrap();
}
