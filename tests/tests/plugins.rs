//! Two plugins in one target.

use std::path::PathBuf;

use serde_json::{Value, json};
use spdk_plugin_tests::{Build, Host, bdevs, modules, spdk};

/// The second plugin, with a feature that gives it a name that is taken.
fn second(feature: Option<&str>) -> PathBuf {
    let build = Build::package("spdk-plugin-test-second");
    let Some(feature) = feature else { return build.cdylib(spdk()).unwrap() };
    let built = build.args(["--features", feature]).cdylib(spdk()).unwrap();
    // The next feature's build takes its place.
    let copy = built.with_file_name(format!("libsecond-{feature}.so"));
    std::fs::copy(built, &copy).unwrap();
    copy
}

#[test]
fn two_plugins_work_side_by_side() {
    let plugins = [modules(), second(None)];
    let mut host = Host::builder(spdk(), "spdk_tgt").plugins(plugins).start().unwrap();
    let ram = json!({ "name": "ram0", "num_blocks": 2048, "block_size": 512 });
    let _: String = host.call("bdev_ram_create", ram).unwrap();
    let _: String = host.call("bdev_ones_create", json!({ "name": "ones0" })).unwrap();
    assert_eq!(bdevs(&host), ["ram0", "ones0"]);
    host.shutdown().unwrap();
}

#[test]
fn a_name_that_is_taken_is_refused_with_both_owners() {
    let cases = [
        ("like-ram", vec!["module ram", "spdk-plugin-test-second", "spdk-plugin-ram"]),
        ("like-c", vec!["module malloc", "spdk-plugin-test-second", "libspdk_bdev_malloc.so"]),
        ("like-method", vec!["bdev_get_bdevs", "spdk-plugin-test-second", "SPDK's own"]),
    ];
    for (feature, texts) in cases {
        // The loader constructs those first that were named last.
        let plugins = [second(Some(feature)), modules()];
        let mut host = Host::builder(spdk(), "spdk_tgt").plugins(plugins).start().unwrap();
        let log = host.log();
        let line = log.lines().find(|line| line.contains("is not loaded"));
        let line = line.unwrap_or_else(|| panic!("{feature}: nothing was refused:\n{log}"));
        for text in texts {
            assert!(line.contains(text), "'{text}' is missing in: {line}");
        }
        // The first plugin and SPDK's own are as they were.
        let ram = json!({ "name": "ram0", "num_blocks": 2048, "block_size": 512 });
        let _: String = host.call("bdev_ram_create", ram).unwrap();
        let malloc = json!({ "name": "m0", "num_blocks": 2048, "block_size": 512 });
        let _: Value = host.call("bdev_malloc_create", malloc).unwrap();
        assert_eq!(bdevs(&host), ["ram0", "m0"]);
        host.shutdown().unwrap();
    }
}
