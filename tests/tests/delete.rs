//! A bdev is deleted while I/O is in flight.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevperf, Heap, bdevs, chaos, counting, errors, ios, rounds, spdk, until};

const DEPTH: u32 = 128;

/// Rounds in one process. bdevperf makes threads in each and keeps them, and 20.07 crashes when it has too many.
const PER_PROCESS: u32 = 50;

fn delete_under_load(plugin: PathBuf, module: &str, extra: Value, threads: usize, rounds: u32) {
    for done in (0..rounds).step_by(PER_PROCESS as usize) {
        let rounds = PER_PROCESS.min(rounds - done);
        delete_in_one_process(&plugin, module, &extra, threads, rounds);
    }
}

/// Makes a bdev, has bdevperf drive it from so many threads, deletes it when I/O flows, and so on again in the same
/// process.
fn delete_in_one_process(plugin: &Path, module: &str, extra: &Value, threads: usize, rounds: u32) {
    let (create, delete) = (format!("bdev_{module}_create"), format!("bdev_{module}_delete"));
    let mut params = json!({ "name": "victim", "num_blocks": 32768, "block_size": 512 });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());

    // Of a bdev that it was not told of by such a file, 20.07 forgets the name with the bdev.
    let mut jobs = tempfile::NamedTempFile::new().unwrap();
    for i in 0..threads {
        writeln!(jobs, "[job{i}]\nfilename=victim").unwrap();
    }
    let perf = Bdevperf::new(spdk(), "randrw").plugin(plugin).queue_depth(DEPTH).seconds(60);
    let perf = perf.args(["-M", "50", "-f", "-j", jobs.path().to_str().unwrap()]).cores(threads);
    // That many disks would not fit side by side.
    let mut server = perf.host(|host| host.mem_mb(512)).serve().unwrap();

    let mut live = Vec::new();
    for round in 0..rounds {
        let _: String = server.host().call(&create, &params).unwrap();
        let running = server.start().unwrap();
        until("I/O", || ios(server.host()) > u64::from(2 * DEPTH));
        assert!(server.host().call::<bool>(&delete, json!({ "name": "victim" })).unwrap());
        let perf = running.finish().unwrap();
        assert!(
            perf.errors.is_empty(),
            "round {round}: {:?}\n{}",
            perf.errors,
            server.host().log()
        );
        assert_eq!(bdevs(server.host()), Vec::<String>::new(), "round {round}");
        if module == "ram" {
            live.push(Heap::of(server.host()).live);
        }
    }
    // What a round takes it gives back, but for what is kept for each thread.
    if let (Some(first), Some(last)) = (live.get(live.len() / 10), live.last()) {
        assert!(last - first <= 8192, "bytes in use, round by round: {live:?}");
    }
    server.host_mut().shutdown().unwrap();
    let log = server.host().log();
    // 20.07 calls the format of the file of jobs deprecated.
    let errors: Vec<_> = errors(&log).into_iter().filter(|line| !line.contains("INI")).collect();
    assert!(errors.is_empty(), "{errors:?}\n{log}");
    for word in ["not unregistered", "leak", "still"] {
        assert!(!log.contains(word), "'{word}' in the log:\n{log}");
    }
}

#[test]
fn ram_on_one_core() {
    delete_under_load(counting(), "ram", json!({}), 1, rounds());
}

#[test]
fn ram_on_two_cores() {
    delete_under_load(counting(), "ram", json!({}), 2, rounds().div_ceil(4));
}

/// Its handlers wait when the bdev goes.
#[test]
fn handlers_that_wait() {
    delete_under_load(chaos(), "chaos", json!({ "delay_us": 2000 }), 2, rounds().div_ceil(4));
}

#[test]
fn handlers_that_are_woken_from_elsewhere() {
    let extra = json!({ "delay_us": 100, "foreign": true });
    delete_under_load(chaos(), "chaos", extra, 2, rounds().div_ceil(20));
}

/// It has a poller, and the last to close it is not the thread that made it.
#[test]
fn a_poller_of_its_own() {
    let extra = json!({ "delay_us": 100, "poller_us": 0 });
    delete_under_load(chaos(), "chaos", extra, 2, rounds().div_ceil(10));
}
