//! SPDK threads that move from core to core while their requests wait.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevperf, Config, Host, RpcClient, chaos, ios, modules, spdk, until};

/// The threads of `bdevperf`'s jobs.
fn jobs(host: &Host) -> Vec<u64> {
    let stats: Value = host.call("thread_get_stats", ()).unwrap();
    let threads = stats["threads"].as_array().unwrap().iter();
    let jobs = threads.filter(|thread| thread["name"].as_str().unwrap().starts_with("disk"));
    jobs.map(|thread| thread["id"].as_u64().unwrap()).collect()
}

/// Each SPDK thread with the core that it runs on; one that is on its way is on none.
fn places(client: &mut RpcClient) -> Vec<(u64, u64)> {
    let all: Value = client.call("framework_get_reactors", ()).unwrap();
    let reactors = all["reactors"].as_array().unwrap().iter();
    let threads = reactors.flat_map(|reactor| {
        let threads = reactor["lw_threads"].as_array().unwrap().iter();
        threads.map(|thread| (thread["id"].as_u64().unwrap(), reactor["lcore"].as_u64().unwrap()))
    });
    threads.collect()
}

/// Verifies data while each thread is sent to the one core and to the other.
#[track_caller]
fn moved(config: Config) {
    let perf = Bdevperf::new(spdk(), "verify").plugins([modules(), chaos()]).config(config);
    let perf = perf.queue_depth(64).seconds(4).host(|host| host.core_mask("0x3")).every_core();
    let mut server = perf.serve().unwrap();
    let running = server.start().unwrap();
    until("I/O", || ios(server.host()) > 1000);
    let jobs = jobs(server.host());
    assert_eq!(jobs.len(), 2);
    let mut client = server.host().rpc().unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    let mut seen = HashSet::new();
    let mut moves = 0;
    while Instant::now() < end {
        for (i, job) in jobs.iter().enumerate() {
            let cpumask = ["1", "2"][(moves + i) % 2];
            let params = json!({ "id": job, "cpumask": cpumask });
            assert!(client.call::<bool>("thread_set_cpumask", params).unwrap());
        }
        moves += 1;
        seen.extend(places(&mut client).into_iter().filter(|(thread, _)| jobs.contains(thread)));
    }
    assert!(moves >= 10, "{moves} moves of each thread");
    assert_eq!(seen.len(), 4, "each thread on both cores: {seen:?}");
    let perf = running.finish().unwrap();
    assert!(perf.errors.is_empty(), "{:?}", perf.errors);
    server.host_mut().shutdown().unwrap();
}

fn disk(create: &str, extra: Value) -> Config {
    let mut disk = json!({ "name": "disk", "num_blocks": 1 << 18, "block_size": 512 });
    disk.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Config::new().bdev(create, disk)
}

#[test]
fn ram() {
    moved(disk("bdev_ram_create", json!({})));
}

#[test]
fn handlers_that_wait() {
    moved(disk("bdev_chaos_create", json!({ "delay_us": 100 })));
}

#[test]
fn handlers_that_are_woken_from_elsewhere() {
    moved(disk("bdev_chaos_create", json!({ "delay_us": 100, "foreign": true })));
}
