//! Resets and aborts under the load of SPDK's own tools. `bdevperf` resets once in 10 seconds.

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevperf, Config, at_least, chaos, errors, modules, spdk};

const RESETS: u32 = 11;

fn slow(delay_us: u64) -> Config {
    let disk =
        json!({ "name": "disk", "num_blocks": 1 << 18, "block_size": 512, "delay_us": delay_us });
    Config::new().bdev("bdev_chaos_create", disk)
}

fn ram() -> Config {
    let disk = json!({ "name": "disk", "num_blocks": 1 << 18, "block_size": 512 });
    Config::new().bdev("bdev_ram_create", disk)
}

/// Runs I/O and resets; data that was read is right, and the disk works on.
#[track_caller]
fn resets(config: Config, depth: u32, io_size: u32, cores: usize) {
    let perf = Bdevperf::new(spdk(), "reset").plugins([modules(), chaos()]).config(config);
    let perf = perf.queue_depth(depth).io_size(io_size).seconds(RESETS).cores(cores);
    let perf = if cores > 1 { perf.every_core() } else { perf };
    let mut server = perf.serve().unwrap();
    let perf = server.start().unwrap().finish().unwrap();
    let wrong = |line: &&String| line.contains("mismatch") || line.contains("Reset");
    assert_eq!(perf.errors.iter().find(wrong), None, "{:?}", perf.errors);
    assert!(perf.iops > 100.0, "{perf:?}");
    assert_eq!(perf.jobs.len(), cores);
    let _: Value = server.host().call("bdev_get_bdevs", json!({ "name": "disk" })).unwrap();
    server.host_mut().shutdown().unwrap();
    let log = server.host().log();
    // If its last reset ends late, bdevperf leaves the poller for the next one behind.
    let errors: Vec<_> =
        errors(&log).into_iter().filter(|line| !line.contains("got timeout")).collect();
    assert!(errors.is_empty(), "{errors:?}\n{log}");
}

#[test]
fn ram_is_reset() {
    resets(ram(), 128, 4096, 2);
}

/// Its handlers wait.
#[test]
fn slow_is_reset() {
    resets(slow(500), 128, 4096, 2);
}

/// There are fewer buffers than requests, and 20.07 reads without.
#[test]
fn buffers_are_short() {
    resets(slow(2000), 1500, 65536, 1);
}

/// `bdevperf` aborts what takes longer than a second.
#[test]
fn what_takes_too_long_is_aborted() {
    if !at_least(20, 10) {
        return eprintln!("bdevperf of 20.07 forgets that it was told to abort");
    }
    let perf = Bdevperf::new(spdk(), "randread").plugin(chaos()).config(slow(4_000_000));
    let perf = perf.queue_depth(64).seconds(3).args(["-k", "1", "-X", "-f"]);
    let mut server = perf.serve().unwrap();
    let perf = server.start().unwrap().finish().unwrap();
    let job = &perf.jobs[0];
    // Not aborted, they would all have succeeded in the end. SPDK's walk over what takes too long ends at the first that
    // is aborted on the spot, so it is one a second.
    assert!(job.fails_per_s > 0.0 && job.timeouts_per_s > 0.0, "{perf:?}");
    server.host_mut().shutdown().unwrap();
}
