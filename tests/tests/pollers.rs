//! Pollers tell honestly whether they had something to do, and go with their owner.

use std::time::Instant;

use serde_json::{Value, json};
use spdk_plugin_tests::{Host, chaos, modules, spdk, until};

/// A poller as `thread_get_pollers` shows it.
#[derive(Debug)]
struct Poller {
    timed: bool,
    runs: u64,
    busy: u64,
}

/// This crate's pollers.
fn pollers(host: &Host) -> Vec<Poller> {
    let threads: Value = host.call("thread_get_pollers", ()).unwrap();
    let mut found = Vec::new();
    for thread in threads["threads"].as_array().unwrap() {
        for (list, timed) in [("active_pollers", false), ("timed_pollers", true)] {
            for poller in thread[list].as_array().unwrap() {
                if poller["name"].as_str().unwrap().starts_with("spdk_plugin") {
                    let count = |key: &str| poller[key].as_u64().unwrap();
                    let (runs, busy) = (count("run_count"), count("busy_count"));
                    found.push(Poller { timed, runs, busy });
                }
            }
        }
    }
    found
}

/// Waits until the one poller has run so often.
fn the_one(host: &Host, runs: u64) -> Poller {
    let mut found = pollers(host);
    until("the poller", || {
        found = pollers(host);
        found.len() == 1 && found[0].runs >= runs
    });
    found.remove(0)
}

fn target() -> Host {
    Host::builder(spdk(), "spdk_tgt").plugins([modules(), chaos()]).start().unwrap()
}

#[test]
fn they_are_honest_and_go_with_their_bdev() {
    let mut host = target();
    assert!(pollers(&host).is_empty());
    for (period, busy) in [(0, false), (0, true), (1000, false), (1000, true)] {
        let params = json!({
            "name": "disk", "num_blocks": 2048, "block_size": 512, "poller_us": period,
            "poller_busy": busy,
        });
        let _: String = host.call("bdev_chaos_create", params).unwrap();
        let started = Instant::now();
        let poller = the_one(&host, 100);
        assert_eq!(poller.timed, period > 0);
        assert_eq!(poller.busy, if busy { poller.runs } else { 0 }, "{poller:?}");
        if period > 0 {
            // Not more often than it was asked for; the first look may have come late.
            assert!(poller.runs <= 200 + started.elapsed().as_millis() as u64, "{poller:?}");
        }
        assert!(host.call::<bool>("bdev_chaos_delete", json!({ "name": "disk" })).unwrap());
        assert!(pollers(&host).is_empty());
    }
    host.shutdown().unwrap();
}

/// Those who have a disk open and do nothing cost no work. An NVMe-oF subsystem opens a channel to each namespace.
#[test]
fn an_open_disk_is_idle() {
    let mut host = target();
    let call = |method: &str, params: Value| {
        let _: Value = host.call(method, params).unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    };
    let nqn = "nqn.2016-06.io.spdk:cnode1";
    call("bdev_ram_create", json!({ "name": "disk", "num_blocks": 2048, "block_size": 512 }));
    call("nvmf_create_transport", json!({ "trtype": "TCP" }));
    call("nvmf_create_subsystem", json!({ "nqn": nqn, "allow_any_host": true }));
    let namespace = json!({ "nqn": nqn, "namespace": { "bdev_name": "disk" } });
    call("nvmf_subsystem_add_ns", namespace);
    // The disk was looked at when it came, which was work.
    let before = the_one(&host, 1);
    let after = the_one(&host, before.runs + 1000);
    assert_eq!(after.busy, before.busy, "{before:?} {after:?}");
    // The namespace goes with its disk.
    call("bdev_ram_delete", json!({ "name": "disk" }));
    assert!(pollers(&host).is_empty(), "{:?}", pollers(&host));
    host.shutdown().unwrap();
}
