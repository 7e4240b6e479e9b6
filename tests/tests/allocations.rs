//! In steady state an I/O costs no heap allocation.

use std::time::{Duration, Instant};

use serde_json::json;
use spdk_plugin_tests::{Bdevperf, Config, Heap, counting, spdk};

/// Calls that a whole run may cost: its channel, two RPCs, what is kept for a thread.
const CALLS_PER_RUN: u64 = 64;
/// What is kept for a thread, for the next one.
const BYTES_KEPT: i64 = 8192;
/// Whether a thread finds what another one has left is chance.
const JITTER: u64 = 8;
/// I/Os without which a run says nothing.
const ENOUGH: f64 = 20_000.0;

/// Calls of the allocator in one run of so many seconds.
#[track_caller]
fn run(create: &str, workload: &str, zcopy: bool, seconds: u32) -> u64 {
    let params = json!({ "name": "disk", "num_blocks": 65536, "block_size": 512 });
    let perf = Bdevperf::new(spdk(), workload)
        .plugin(counting())
        .config(Config::new().bdev(create, params))
        .queue_depth(128)
        .zcopy(zcopy)
        .seconds(seconds);
    let mut server = perf.serve().unwrap();
    let before = Heap::of(server.host());
    let perf = server.run().unwrap();
    let after = Heap::of(server.host());
    // bdevperf's threads put their channels when they next run.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut live = after.live;
    while live - before.live > BYTES_KEPT && Instant::now() < deadline {
        live = Heap::of(server.host()).live;
    }
    server.host_mut().shutdown().unwrap();

    let (calls, ios) = (after.calls - before.calls, perf.iops * f64::from(seconds));
    assert!(ios > ENOUGH, "{ios} I/Os are too few");
    assert!(calls <= CALLS_PER_RUN, "{calls} calls of the allocator for {ios} I/Os");
    let grown = live - before.live;
    assert!(grown <= BYTES_KEPT, "{grown} bytes more are in use");
    calls
}

/// Three times the I/Os cost no call more.
#[track_caller]
fn nothing_per_io(create: &str, workload: &str, zcopy: bool) {
    let (short, long) = (run(create, workload, zcopy, 1), run(create, workload, zcopy, 3));
    assert!(long <= short + JITTER, "{short} calls in 1 s, {long} in 3 s");
}

#[test]
fn null_reads() {
    nothing_per_io("bdev_rnull_create", "randread", false);
}

#[test]
fn null_writes() {
    nothing_per_io("bdev_rnull_create", "randwrite", false);
}

#[test]
fn ram_reads() {
    nothing_per_io("bdev_ram_create", "randread", false);
}

#[test]
fn ram_writes() {
    nothing_per_io("bdev_ram_create", "randwrite", false);
}

/// Its reads have no buffer in some releases.
#[test]
fn ram_verifies() {
    nothing_per_io("bdev_ram_create", "verify", false);
}

#[test]
fn ram_lends() {
    nothing_per_io("bdev_ram_create", "randread", true);
}
