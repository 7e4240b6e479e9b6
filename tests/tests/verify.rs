//! What was written is what is read: `bdevperf -w verify` through `ram`.

use serde_json::json;
use spdk_plugin_tests::{Bdevperf, Config, Perf, at_least, modules, seconds, spdk};

/// The longest I/O that `bdevperf` verifies: 20.07 refuses more than 64 KiB.
fn large() -> u32 {
    if at_least(20, 10) { 128 << 10 } else { 64 << 10 }
}

fn ram() -> Config {
    let params = json!({ "name": "ram", "num_blocks": 1 << 18, "block_size": 512 });
    Config::new().bdev("bdev_ram_create", params)
}

fn perf(workload: &str) -> Bdevperf {
    Bdevperf::new(spdk(), workload).plugin(modules()).config(ram()).queue_depth(128)
}

/// Any error is one too many.
#[track_caller]
fn clean(perf: Bdevperf) -> Perf {
    let perf = perf.run().unwrap();
    assert!(perf.errors.is_empty(), "{:?}", perf.errors);
    assert!(perf.iops > 1000.0, "{perf:?}");
    perf
}

#[track_caller]
fn verify(io_size: u32, cores: usize) {
    let perf = perf("verify").io_size(io_size).seconds(seconds()).cores(cores);
    let jobs = clean(if cores > 1 { perf.every_core() } else { perf }).jobs.len();
    assert_eq!(jobs, cores);
}

#[test]
fn small_on_one_core() {
    verify(4096, 1);
}

#[test]
fn large_on_one_core() {
    verify(large(), 1);
}

#[test]
fn small_on_two_cores() {
    verify(4096, 2);
}

#[test]
fn large_on_two_cores() {
    verify(large(), 2);
}

#[test]
fn larger_than_bdevperf_verifies() {
    if at_least(20, 10) {
        return;
    }
    let error = perf("verify").io_size(128 << 10).run().unwrap_err();
    assert!(error.to_string().contains("Unable to exceed max I/O size"), "{error}");
}

/// Through the device's own memory.
#[test]
fn zero_copy() {
    clean(perf("verify").zcopy(true).seconds(2));
    clean(perf("verify").zcopy(true).cores(2).every_core().seconds(2));
}

#[test]
fn every_other_workload() {
    for workload in ["randrw", "unmap", "flush", "write_zeroes"] {
        let perf = perf(workload);
        clean(if workload == "randrw" { perf.args(["-M", "70"]) } else { perf });
    }
}
