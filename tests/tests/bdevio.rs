//! SPDK's suite of functional tests, on the project's disks.

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevio, Config, Report, modules, spdk};

/// Cases of the suite in the oldest release; later ones have one more.
const CASES: usize = 22;

fn run(method: &str, extra: Value) -> Report {
    let mut params = json!({ "name": "disk", "num_blocks": 65536, "block_size": 512 });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let config = Config::new().bdev(method, params);
    Bdevio::new(spdk()).plugin(modules()).config(config).report("disk").unwrap()
}

#[track_caller]
fn passes(extra: Value) {
    let report = run("bdev_ram_create", extra);
    assert!(report.failed().is_empty(), "{:?}\n{}", report.failed(), report.log);
    assert!(report.passed() >= CASES, "{}", report.log);
}

#[test]
fn plain() {
    passes(json!({}));
}

#[test]
fn large_blocks() {
    passes(json!({ "block_size": 4096, "num_blocks": 8192 }));
}

#[test]
fn write_unit_of_four_blocks() {
    passes(json!({ "write_unit_size": 4 }));
}

#[test]
fn write_unit_of_eight_blocks() {
    passes(json!({ "write_unit_size": 8 }));
}

#[test]
fn optimal_boundary() {
    passes(json!({ "optimal_io_boundary": 16 }));
}

/// Of a disk that stores nothing, what reads back what it wrote fails, and nothing else does.
#[test]
fn null_is_no_store() {
    let report = run("bdev_rnull_create", json!({}));
    assert!(report.cases.len() >= CASES, "{}", report.log);
    let failed = report.failed();
    assert!(
        failed.contains(&"blockdev writev readv 4k")
            || failed.contains(&"blockdev writev readv block"),
        "{failed:?}"
    );
    for case in failed {
        assert!(case.contains("read") || case.contains("compare"), "{case}\n{}", report.log);
    }
}
