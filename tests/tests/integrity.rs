//! `integrity`: what was damaged, lost or misplaced beneath it is found, and nothing else.

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevio, Bdevperf, Config, Host, Verify, at_least, bdev, check, errors, fill, modules, rounds,
    seconds, seed, spdk, try_verify, until, verifier, verify,
};

const CREATE: &str = "bdev_integrity_create";

fn on(base: &str, name: &str) -> Value {
    json!({ "name": name, "base_bdev_name": base })
}

/// A bdev on SPDK's own memory disk of 64 MiB.
fn top(block_size: u32, more: Value) -> Config {
    let mut params = on("base", "top");
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Config::new()
        .malloc("base", (64 << 20) / u64::from(block_size), block_size)
        .bdev(CREATE, params)
}

fn host(config: Config) -> Host {
    let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier()]);
    builder.config(config).cores(2).start().unwrap()
}

/// What it has counted.
fn counts(host: &Host, name: &str) -> Value {
    let mut errors: Value =
        host.call("bdev_integrity_get_errors", json!({ "name": name })).unwrap();
    errors["counts"].take()
}

#[track_caller]
fn no_alarm(host: &Host, name: &str) {
    let counts = counts(host, name);
    for name in ["mismatches", "no_checksum", "lost_pages", "repaired", "log_holes"] {
        assert_eq!(counts[name], 0, "{name}: {counts}");
    }
}

#[track_caller]
fn ends_well(mut host: Host) {
    host.shutdown().unwrap();
    let log = host.log();
    assert!(errors(&log).is_empty(), "{log}");
    for word in ["not unregistered", "leak", "still", "panicked"] {
        assert!(!log.contains(word), "'{word}' in the log:\n{log}");
    }
}

#[test]
fn bdevio() {
    for block_size in [512, 4096] {
        let bdevio = Bdevio::new(spdk()).plugin(modules()).config(top(block_size, json!({})));
        let report = bdevio.report("top").unwrap();
        assert!(report.failed().is_empty() && report.passed() >= 22, "{}", report.log);
    }
}

#[test]
fn verifies() {
    for (io_size, cores, more) in [
        (4096, 1, json!({})),
        (4096, 2, json!({})),
        (64 << 10, 2, json!({})),
        (4096, 2, json!({ "write_cache": false, "barriers": false })),
    ] {
        let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(top(4096, more));
        let perf = perf.bdev("top").queue_depth(128).io_size(io_size);
        let perf = perf.seconds(seconds().div_ceil(4)).cores(cores);
        let perf = if cores > 1 { perf.every_core() } else { perf }.run().unwrap();
        assert!(perf.errors.is_empty() && perf.iops > 1000.0, "{perf:?}");
        assert_eq!(perf.jobs.len(), cores);
    }
}

#[test]
fn every_workload() {
    for workload in ["randrw", "unmap", "flush", "write_zeroes", "reset"] {
        let perf = Bdevperf::new(spdk(), workload).plugin(modules()).config(top(4096, json!({})));
        let perf = perf.bdev("top").queue_depth(32).seconds(1);
        let perf = if workload == "randrw" { perf.args(["-M", "50"]) } else { perf };
        let perf = perf.run().unwrap();
        assert!(perf.errors.is_empty(), "{workload}: {perf:?}");
    }
}

/// Random requests of all kinds on two cores, overlapping too, against a model.
#[test]
fn against_a_model() {
    for (block_size, more) in [
        (512, json!({})),
        (4096, json!({ "write_cache": false })),
        (4096, json!({ "cache_mb": 1 })),
    ] {
        let host = host(top(block_size, more));
        // What is compared is read into the bdev layer's own buffers, which are short in 20.07.
        let longest = if at_least(20, 10) { 256 << 10 } else { 60 << 10 };
        let options = Verify::new().seconds(3.0).cores(2).depth(16).longest(longest);
        let run = verify(&host, "top", options);
        assert!(run.total() > 1000 && run.blocks_checked > 10_000, "{run:?}");
        no_alarm(&host, "top");
        ends_well(host);
    }
}

fn aio(file: &Path, more: Value) -> Config {
    let mut params = on("base", "top");
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let aio = json!({ "name": "base", "filename": file, "block_size": 4096 });
    // It is listed before its base.
    Config::new().bdev(CREATE, params).bdev("bdev_aio_create", aio)
}

/// Whatever a killed target was doing, the next one has all that was answered, and no alarm.
fn killed(more: &Value) {
    let dir = tempfile::tempdir().unwrap();
    let (file, journal) = (dir.path().join("disk"), dir.path().join("journal"));
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let seed = seed();
    let mut recovered = 0;
    for round in 0..u64::from(rounds() / 20).max(3) {
        let mut host = host(aio(&file, more.clone()));
        until("the device", || ready(&host));
        // First what was there is checked.
        let options = || Verify::new().blocks(0, 2000).longest(60 << 10).journal(&journal);
        let found = verify(&host, "top", options().operations(0));
        assert!(round == 0 || found.blocks_swept > 50, "{found:?}");
        no_alarm(&host, "top");
        recovered += counts(&host, "top")["recovered"].as_u64().unwrap();
        thread::scope(|scope| {
            let options = options().seed(seed ^ round).seconds(60).cores(2).depth(16);
            scope.spawn(|| try_verify(&host, "top", options));
            thread::sleep(Duration::from_millis(200 + (seed ^ (round * 7919)) % 800));
            let pid = libc::pid_t::try_from(host.pid()).unwrap();
            // SAFETY: a signal to a child of ours that was not waited for yet.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        });
        assert!(host.shutdown().is_err());
    }
    println!("{recovered} blocks were under way at the kills");
    assert!(recovered > 0);
}

#[test]
fn killed_with_a_write_cache() {
    killed(&json!({}));
}

#[test]
fn killed_and_writes_go_through() {
    killed(&json!({ "write_cache": false, "barriers": false }));
}

/// What `save_config` writes makes it again, with its data; formatting is done once.
#[test]
fn a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk");
    std::fs::write(&file, vec![0xee; 16 << 20]).unwrap();
    // Not over what is someone else's, unless told so.
    let refused = host(aio(&file, json!({})));
    assert!(!ready(&refused));
    refused.log().contains("pass \"format\": true").then_some(()).unwrap();
    drop(refused);
    let mut first = host(aio(&file, json!({ "format": true, "cache_mb": 8 })));
    until("the device", || ready(&first));
    let seed = seed();
    let blocks = fill(&first, "top", seed);
    let shown = bdev(&first, "top");
    let size = 16 << 20 >> 12;
    assert!(blocks < size && blocks > size * 7 / 10, "{blocks}");
    let saved: Value = first.call("framework_get_config", json!({ "name": "bdev" })).unwrap();
    let ours = saved.as_array().unwrap().iter().find(|call| call["method"] == CREATE).unwrap();
    assert_eq!(
        ours["params"],
        json!({ "name": "top", "base_bdev_name": "base", "cache_mb": 8 }),
        "{saved}"
    );
    first.shutdown().unwrap();

    let config = json!({ "subsystems": [{ "subsystem": "bdev", "config": saved }] });
    let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier()]);
    let mut second = builder.config(&config).start().unwrap();
    until("the device", || ready(&second));
    assert_eq!(check(&second, "top", seed), blocks);
    no_alarm(&second, "top");
    assert_eq!(counts(&second, "top")["recovered"], 0);
    assert_eq!(bdev(&second, "top")["uuid"], shown["uuid"]);

    // The base goes and comes.
    let _: Value = second.call("bdev_aio_delete", json!({ "name": "base" })).unwrap();
    until("the end", || !ready(&second));
    let aio = json!({ "name": "base", "filename": file, "block_size": 4096 });
    let _: Value = second.call("bdev_aio_create", aio).unwrap();
    until("the device", || ready(&second));
    assert_eq!(check(&second, "top", seed), blocks);
    let _: Value = second.call("bdev_integrity_delete", json!({ "name": "top" })).unwrap();
    second.shutdown().unwrap();
}

fn ready(host: &Host) -> bool {
    let listed: Vec<Value> = host.call("bdev_integrity_get_bdevs", ()).unwrap();
    listed.first().is_some_and(|bdev| bdev["ready"] == true)
}
