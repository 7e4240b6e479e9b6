//! A bdev is deleted while I/O is in flight.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevperf, BdevperfServer, Heap, bdevs, chaos, counting, errors, rounds, spdk,
};

const DEPTH: u32 = 128;

/// I/Os of all bdevs that have ended.
fn ios(server: &BdevperfServer) -> u64 {
    let stat: Value = server.host().call("bdev_get_iostat", ()).unwrap();
    let list = stat.get("bdevs").unwrap_or(&stat).as_array().unwrap();
    let ops = |stat: &Value, key: &str| stat[key].as_u64().unwrap_or(0);
    list.iter().map(|stat| ops(stat, "num_read_ops") + ops(stat, "num_write_ops")).sum()
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::yield_now();
    }
}

/// Makes a bdev, has bdevperf drive it, deletes it when I/O flows, and so on again in the same process.
fn delete_under_load(server: &mut BdevperfServer, module: &str, extra: Value, rounds: u32) {
    let create = format!("bdev_{module}_create");
    let delete = format!("bdev_{module}_delete");
    let mut params = json!({ "name": "victim", "num_blocks": 8192, "block_size": 512 });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut heap = None;
    for round in 0..rounds {
        let _: String = server.host().call(&create, &params).unwrap();
        let started = ios(server);
        let running = server.start().unwrap();
        wait("I/O", || ios(server) > started + u64::from(2 * DEPTH));
        assert!(server.host().call::<bool>(&delete, json!({ "name": "victim" })).unwrap());
        let perf = running.finish().unwrap();
        assert!(
            perf.errors.is_empty(),
            "round {round}: {:?}\n{}",
            perf.errors,
            server.host().log()
        );
        assert_eq!(bdevs(server.host()), Vec::<String>::new(), "round {round}");
        // What a round has taken, it has given back.
        if module == "ram" {
            let now = Heap::of(server.host()).live;
            if round > rounds / 10 {
                assert_eq!(*heap.get_or_insert(now), now, "bytes in use after round {round}");
            }
        }
    }
    server.host_mut().shutdown().unwrap();
    let log = server.host().log();
    assert_eq!(errors(&log), Vec::<&str>::new(), "{log}");
    for word in ["not unregistered", "leak", "still"] {
        assert!(!log.contains(word), "'{word}' in the log:\n{log}");
    }
}

fn perf(cores: usize) -> Bdevperf {
    let perf = Bdevperf::new(spdk(), "randrw").args(["-M", "50", "-f"]);
    let perf = perf.queue_depth(DEPTH).seconds(60).cores(cores);
    // Two hundred disks of 4 MiB that stay would not fit.
    let perf = perf.host(|host| host.mem_mb(512));
    if cores > 1 { perf.every_core() } else { perf }
}

#[test]
fn ram_on_one_core() {
    let mut server = perf(1).plugin(counting()).serve().unwrap();
    delete_under_load(&mut server, "ram", json!({}), rounds());
}

#[test]
fn ram_on_two_cores() {
    let mut server = perf(2).plugin(counting()).serve().unwrap();
    delete_under_load(&mut server, "ram", json!({}), rounds().div_ceil(4));
}

/// Its handlers wait when the bdev goes.
#[test]
fn handlers_that_wait() {
    let mut server = perf(2).plugin(chaos()).serve().unwrap();
    delete_under_load(&mut server, "chaos", json!({ "delay_us": 2000 }), rounds().div_ceil(4));
}

#[test]
fn handlers_that_are_woken_from_elsewhere() {
    let mut server = perf(1).plugin(chaos()).serve().unwrap();
    let extra = json!({ "delay_us": 100, "foreign": true });
    delete_under_load(&mut server, "chaos", extra, rounds().div_ceil(20));
}
