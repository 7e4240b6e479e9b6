//! The cache: its paths under load, its end in every way, and what it says of itself.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevio, Bdevperf, Config, Host, RpcError, Verify, assert_logged, bdev, bdevs, check, fill,
    modules, probe, prober, rounds, seconds, seed, spdk, try_verify, until, verifier, verify,
};

/// Blocks of the slow disk, of 512 bytes, and of the cache, which has about a sixth of them.
const SLOW: u64 = 24 << 10;
const FAST: u64 = 4 << 10;

fn params(change: Value) -> Value {
    let mut params = json!({
        "name": "tier", "fast": "fast", "slow": "slow", "line_size": 4096, "format": true,
        "high_watermark": 30, "low_watermark": 10,
    });
    params.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    params
}

/// A tier over SPDK's own memory disks.
fn over_malloc(change: Value) -> Config {
    mallocs().bdev("bdev_tier_create", params(change))
}

fn mallocs() -> Config {
    Config::new().malloc("fast", FAST, 512).malloc("slow", SLOW, 512)
}

/// Disks in two files.
fn files(dir: &Path) -> Config {
    let file = |name: &str, blocks: u64| {
        let path = dir.join(name);
        File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(blocks * 512).unwrap();
        json!({ "name": name, "filename": path, "block_size": 512 })
    };
    Config::new()
        .bdev("bdev_aio_create", file("fast", FAST))
        .bdev("bdev_aio_create", file("slow", SLOW))
}

fn over_files(dir: &Path, change: Value) -> Config {
    files(dir).bdev("bdev_tier_create", params(change))
}

fn start(config: impl ToString) -> Host {
    let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier(), prober()]);
    builder.config(config).cores(2).start().unwrap()
}

fn stats(host: &Host) -> Value {
    let tiers: Vec<Value> = host.call("bdev_tier_get_bdevs", json!({ "name": "tier" })).unwrap();
    tiers[0].clone()
}

fn stat(host: &Host, key: &str) -> u64 {
    stats(host)[key].as_u64().unwrap()
}

fn call(host: &Host, method: &str, change: Value) -> Result<Value, RpcError> {
    let mut params = json!({ "name": "tier" });
    params.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    host.call(method, params)
}

#[track_caller]
fn refused(result: Result<Value, RpcError>, text: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

fn create(host: &Host, change: Value) -> Result<Value, RpcError> {
    host.call("bdev_tier_create", params(change))
}

/// Writes `blocks` blocks full of a byte.
#[track_caller]
fn write(host: &Host, offset: u64, blocks: u64, fill: u8) {
    let op = json!({ "kind": "write", "offset": offset, "blocks": blocks, "fill": fill });
    assert!(probe(host, "tier", &[op])[0].success);
}

/// What all of the blocks have, or `None` if they cannot be read.
fn read(host: &Host, offset: u64, blocks: u64) -> Option<Option<u8>> {
    let op = json!({ "kind": "read", "offset": offset, "blocks": blocks });
    let outcome = probe(host, "tier", &[op]).remove(0);
    outcome.success.then_some(outcome.data)
}

#[test]
fn bdevio() {
    for (mode, line_size) in [("write_back", 4096), ("write_through", 65536)] {
        let config = over_malloc(json!({ "mode": mode, "line_size": line_size }));
        let report = Bdevio::new(spdk()).plugin(modules()).config(config).run("tier").unwrap();
        assert!(report.passed() >= 22, "{report:?}");
    }
}

#[test]
fn bdevperf_verifies_on_two_cores() {
    for (line_size, io_size) in [(4096, 4096), (65536, 4096), (4096, 65536)] {
        let config = over_malloc(json!({ "line_size": line_size }));
        let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(config).bdev("tier");
        let perf = perf.queue_depth(64).io_size(io_size).cores(2).every_core();
        let perf = perf.seconds(seconds().div_ceil(5)).run().unwrap();
        assert!(perf.errors.is_empty() && perf.iops > 100.0, "{perf:?}");
    }
}

#[test]
fn verified_in_every_mode() {
    for (mode, line_size) in
        [("write_back", 4096), ("write_back", 65536), ("write_through", 4096), ("pass", 4096)]
    {
        let mut host = start(over_malloc(json!({ "mode": mode, "line_size": line_size })));
        let options = Verify::new().seconds(f64::from(seconds()) / 4.0).cores(2).depth(16);
        let run = verify(&host, "tier", options);
        assert!(run.total() > 1000 && run.blocks_checked > 10_000, "{run:?}");
        let stats = stats(&host);
        if mode == "write_back" {
            for key in ["evictions", "write_backs", "read_hits", "read_misses", "write_hits"] {
                assert!(stats[key].as_u64().unwrap() > 0, "{key} in {stats}");
            }
        } else {
            assert_eq!(stats["dirty_lines"], 0, "{stats}");
        }
        host.shutdown().unwrap();
    }
}

/// Everything is changed that can be while it is used.
#[test]
fn verified_while_it_is_changed() {
    let mut host = start(over_malloc(json!({})));
    let time = f64::from(seconds()) / 2.0;
    std::thread::scope(|scope| {
        let options = Verify::new().seconds(time).cores(2).depth(16);
        let run = scope.spawn(|| verify(&host, "tier", options));
        while !run.is_finished() {
            for mode in ["write_through", "pass", "write_back"] {
                call(&host, "bdev_tier_set", json!({ "mode": mode })).unwrap();
                if mode != "write_back" {
                    assert_eq!(stat(&host, "dirty_lines"), 0);
                }
                call(&host, "bdev_tier_flush", json!({})).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        assert!(run.join().unwrap().total() > 1000);
    });
    // What is written back is what was written.
    call(&host, "bdev_tier_delete", json!({ "flush": true })).unwrap();
    host.shutdown().unwrap();
}

/// The process is killed while it writes, again and again.
#[test]
fn nothing_acknowledged_is_lost_when_it_is_killed() {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let rounds = rounds().div_ceil(20);
    let (mut recovered, mut checked) = (0, 0);
    for round in 0..rounds {
        // Flushes take long, and do not matter to a process that dies.
        let barriers = round % 4 == 0;
        let mode = if round % 5 == 4 { "write_through" } else { "write_back" };
        let mut host = start(over_files(dir.path(), json!({ "barriers": barriers, "mode": mode })));
        recovered += stat(&host, "dirty_lines");
        let seed = seed.wrapping_add(u64::from(round));
        let found = verify(&host, "tier", Verify::new().seed(seed).operations(0).journal(&journal));
        std::thread::scope(|scope| {
            let options = Verify::new().seed(seed).seconds(60).cores(2).depth(8);
            let run = scope.spawn(|| try_verify(&host, "tier", options.journal(&journal)));
            // Some of them in the middle of the first lines, some when all is in full swing.
            std::thread::sleep(Duration::from_millis(50 + seed % 700));
            let pid = i32::try_from(host.pid()).unwrap();
            // SAFETY: our own child, which was not waited for.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
            assert!(run.join().unwrap().is_err(), "it was not killed in time");
        });
        host.kill().unwrap();
        checked += found.blocks_checked;
    }
    assert!(checked > 0, "none of {rounds} rounds has written anything");
    let mut host = start(over_files(dir.path(), json!({})));
    verify(&host, "tier", Verify::new().seed(seed).operations(0).journal(&journal));
    assert!(recovered > 0, "there was never anything dirty");
    // The same without the cache.
    call(&host, "bdev_tier_flush", json!({})).unwrap();
    call(&host, "bdev_tier_set", json!({ "mode": "pass" })).unwrap();
    verify(&host, "tier", Verify::new().seed(seed).operations(0).journal(&journal));
    host.shutdown().unwrap();
}

#[test]
fn a_restart_finds_it_warm() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = start(over_files(dir.path(), json!({ "barriers": false })));
    let blocks = fill(&host, "tier", 7);
    write(&host, 0, 512, 0x5a);
    assert_eq!(read(&host, 0, 512), Some(Some(0x5a)));
    let before = stats(&host);
    let (uuid, size) =
        (bdev(&host, "tier")["uuid"].clone(), bdev(&host, "tier")["num_blocks"].clone());
    assert_eq!(size.as_u64(), Some(blocks));
    assert!(before["dirty_lines"].as_u64().unwrap() > 0, "{before}");
    host.shutdown().unwrap();

    // What save_config would write: no leave to format.
    let again = json!({ "format": false, "barriers": false });
    let mut host = start(over_files(dir.path(), again.clone()));
    assert_eq!(bdev(&host, "tier")["uuid"], uuid);
    let after = stats(&host);
    assert_eq!(after["cached_lines"], before["cached_lines"], "{after}");
    // SPDK's own modules have looked at it, and made some lines give way.
    let (hits, misses) = (stat(&host, "read_hits"), stat(&host, "read_misses"));
    assert_eq!(read(&host, 0, 512), Some(Some(0x5a)));
    let (hits, misses) = (stat(&host, "read_hits") - hits, stat(&host, "read_misses") - misses);
    assert!(hits + misses == 64 && hits > 40, "{hits} hits, {misses} misses, {}", stats(&host));
    write(&host, 0, 512, 0x5a);
    host.shutdown().unwrap();

    let mut host =
        start(over_files(dir.path(), json!({ "barriers": false, "flush_on_exit": true })));
    assert_eq!(fill(&host, "tier", 8), blocks);
    assert_eq!(check(&host, "tier", 8), blocks);
    host.shutdown().unwrap();
    // All of it is on the slow disk, at its place.
    let mut host = start(files(dir.path()));
    let op = json!({ "kind": "read", "offset": 0, "blocks": 1 });
    assert!(probe(&host, "slow", &[op])[0].success);
    refused(create(&host, json!({ "fast": "slow", "slow": "fast" })), "is the slow one of a tier");
    create(&host, json!({ "format": false })).unwrap();
    assert_eq!(stat(&host, "dirty_lines"), 0);
    assert_eq!(check(&host, "tier", 8), blocks);
    host.shutdown().unwrap();
}

#[test]
fn what_was_unmapped_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let barriers = json!({ "barriers": false });
    for (kind, clean) in [("unmap", true), ("write_zeroes", false)] {
        {
            let mut host = start(over_files(dir.path(), barriers.clone()));
            write(&host, 0, 256, 0x77);
            if clean {
                call(&host, "bdev_tier_flush", json!({})).unwrap();
                // They are on record as clean then.
                let commits = stat(&host, "commits");
                until("the records", || stat(&host, "commits") > commits);
            }
            // From the middle of a line to the middle of another.
            let op = json!({ "kind": kind, "offset": 13, "blocks": 200 });
            assert!(probe(&host, "tier", &[op])[0].success);
            host.kill().unwrap();
            let mut host = start(over_files(dir.path(), barriers.clone()));
            for round in 0..2 {
                assert_eq!(read(&host, 0, 13), Some(Some(0x77)), "{kind}, {clean}, {round}");
                assert_eq!(read(&host, 13, 200), Some(Some(0)), "{kind}, {clean}, {round}");
                assert_eq!(read(&host, 213, 43), Some(Some(0x77)), "{kind}, {clean}, {round}");
                // The second time without the cache.
                call(&host, "bdev_tier_set", json!({ "mode": "pass" })).unwrap();
            }
            host.shutdown().unwrap();
        }
    }
}

/// SPDK's own bdev that fails what it is told to, over a base.
fn failing(base: &str, change: Value) -> Config {
    let name = format!("EE_{base}");
    let mut change = change;
    change[base] = json!(name);
    mallocs()
        .bdev("bdev_error_create", json!({ "base_name": base }))
        .bdev("bdev_tier_create", params(change))
}

fn inject(host: &Host, base: &str, kind: &str, count: u32) {
    let params = json!({
        "name": format!("EE_{base}"), "io_type": kind, "error_type": "failure", "num": count,
    });
    let _: Value = host.call("bdev_error_inject_error", params).unwrap();
}

#[test]
fn a_slow_disk_that_fails() {
    let mut host = start(failing("slow", json!({})));
    let blocks = fill(&host, "tier", 3);
    inject(&host, "slow", "write", 100_000);
    write(&host, 0, 64, 0x11);
    let dirty = stat(&host, "dirty_lines");
    assert!(dirty > 0);
    refused(call(&host, "bdev_tier_flush", json!({})), "cannot be written back");
    refused(call(&host, "bdev_tier_delete", json!({})), "only in its cache");
    refused(call(&host, "bdev_tier_delete", json!({ "flush": true })), "cannot be written back");
    assert_eq!(stat(&host, "dirty_lines"), dirty);
    assert_logged(&host, &["cannot be written back now, and stay dirty"]);
    assert_eq!(read(&host, 0, 64), Some(Some(0x11)));
    inject(&host, "slow", "write", 0);
    inject(&host, "slow", "clear", 1);
    until("the slow disk", || call(&host, "bdev_tier_flush", json!({})).is_ok());
    assert_eq!(stat(&host, "dirty_lines"), 0);
    assert_eq!(read(&host, 0, 64), Some(Some(0x11)));
    assert_eq!(fill(&host, "tier", 4), blocks);
    assert_eq!(check(&host, "tier", 4), blocks);
    host.shutdown().unwrap();
}

#[test]
fn disks_that_fail_now_and_then() {
    for base in ["fast", "slow"] {
        let mut host = start(failing(base, json!({})));
        std::thread::scope(|scope| {
            let options = Verify::new().seconds(f64::from(seconds()) / 4.0).cores(2).depth(8);
            // SPDK takes any failure of the first half of a compare-and-write for a difference.
            let kinds = ["read", "write", "flush", "unmap", "write_zeroes", "compare"];
            let options = options.kinds(&kinds).may_fail();
            let run = scope.spawn(|| verify(&host, "tier", options));
            while !run.is_finished() {
                for kind in ["write", "read"] {
                    inject(&host, base, kind, 3);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            let run = run.join().unwrap();
            assert!(run.total() > 500, "{run:?}");
        });
        let stats = stats(&host);
        let errors = stats[format!("{base}_errors")].as_u64().unwrap();
        assert!(errors > 10, "{stats}");
        host.shutdown().unwrap();
    }
}

#[test]
fn the_fast_disk_goes() {
    let mut host = start(over_malloc(json!({ "high_watermark": 100, "low_watermark": 100 })));
    write(&host, 0, 64, 0x11);
    call(&host, "bdev_tier_flush", json!({})).unwrap();
    write(&host, 64, 64, 0x22);
    assert_eq!(stat(&host, "dirty_lines"), 8);
    let deleted: Value = host.call("bdev_malloc_delete", json!({ "name": "fast" })).unwrap();
    assert_eq!(deleted, true);
    until("the loss", || stats(&host)["state"] == "fast_lost");
    assert_eq!(read(&host, 0, 64), Some(Some(0x11)));
    assert_eq!(read(&host, 64, 64), None);
    until("the note", || {
        let op = json!({ "kind": "write", "offset": 0, "blocks": 64, "fill": 0x33 });
        probe(&host, "tier", &[op])[0].success
    });
    let over = json!({ "kind": "write", "offset": 64, "blocks": 8, "fill": 0x33 });
    assert!(probe(&host, "tier", &[over])[0].failed());
    assert_eq!(read(&host, 0, 64), Some(Some(0x33)));
    refused(call(&host, "bdev_tier_delete", json!({})), "only in its cache");
    refused(call(&host, "bdev_tier_delete", json!({ "flush": true })), "cannot be written back");
    call(&host, "bdev_tier_delete", json!({ "discard_dirty": true })).unwrap();
    assert_eq!(bdevs(&host), ["slow"]);
    host.shutdown().unwrap();
}

/// It comes back, with what only it had; what it called clean is out of date.
#[test]
fn the_fast_disk_goes_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let change = json!({ "barriers": false, "high_watermark": 100, "low_watermark": 100 });
    let mut host = start(over_files(dir.path(), change.clone()));
    write(&host, 0, 64, 0x11);
    call(&host, "bdev_tier_flush", json!({})).unwrap();
    let commits = stat(&host, "commits");
    until("the records", || stat(&host, "commits") > commits);
    write(&host, 64, 64, 0x22);
    let _: Value = host.call("bdev_aio_delete", json!({ "name": "fast" })).unwrap();
    until("the loss", || stats(&host)["state"] == "fast_lost");
    until("the note", || {
        let op = json!({ "kind": "write", "offset": 0, "blocks": 64, "fill": 0x33 });
        probe(&host, "tier", &[op])[0].success
    });
    host.kill().unwrap();
    let mut host = start(over_files(dir.path(), change));
    assert_eq!(read(&host, 0, 64), Some(Some(0x33)));
    assert_eq!(read(&host, 64, 64), Some(Some(0x22)));
    host.shutdown().unwrap();
}

#[test]
fn the_slow_disk_goes() {
    let mut host = start(over_malloc(json!({})));
    write(&host, 0, 64, 0x11);
    let _: Value = host.call("bdev_malloc_delete", json!({ "name": "slow" })).unwrap();
    assert_eq!(bdevs(&host), ["fast"]);
    host.shutdown().unwrap();
}

#[test]
fn a_pair_is_not_broken_without_a_word() {
    let mut host = start(mallocs().malloc("other", FAST, 512).malloc("odd", 512, 4096));
    refused(create(&host, json!({ "format": false })), "neither disk has a superblock");
    refused(create(&host, json!({ "line_size": 5000 })), "line_size is 5000");
    refused(create(&host, json!({ "low_watermark": 50 })), "high_watermark is 30");
    refused(create(&host, json!({ "fast": "odd" })), "must be the same");
    refused(create(&host, json!({ "fast": "slow" })), "two bdevs");
    create(&host, json!({})).unwrap();
    refused(create(&host, json!({})), "");
    write(&host, 0, 64, 0x11);
    // It is dissolved, and nothing is left of it but the data.
    call(&host, "bdev_tier_delete", json!({ "flush": true })).unwrap();
    refused(create(&host, json!({ "format": false })), "neither disk has a superblock");
    create(&host, json!({ "fast": "other" })).unwrap();
    assert_eq!(read(&host, 0, 64), Some(Some(0x11)));
    write(&host, 0, 64, 0x22);
    refused(call(&host, "bdev_tier_delete", json!({})), "8 lines that are only in its cache");
    call(&host, "bdev_tier_delete", json!({ "discard_dirty": true })).unwrap();
    create(&host, json!({})).unwrap();
    assert_eq!(read(&host, 0, 64), Some(Some(0x11)));
    host.shutdown().unwrap();
}

/// Reads that hit, against the fast disk alone, in turns.
#[test]
#[ignore = "a measurement: run it alone"]
fn what_a_hit_costs() {
    for depth in [1, 32] {
        let run = |bdev: &str, config: Config| {
            let perf =
                Bdevperf::new(spdk(), "randread").plugin(modules()).config(config).bdev(bdev);
            perf.queue_depth(depth).seconds(seconds().div_ceil(4)).run().unwrap().iops
        };
        let disks = || Config::new().malloc("fast", 1 << 17, 512).malloc("slow", 1 << 16, 512);
        let tier = json!({ "sequential_cutoff_kb": 0 });
        let mut ratios: Vec<f64> = (0..5)
            .map(|_| {
                let alone = run("fast", disks());
                let hits = run("tier", disks().bdev("bdev_tier_create", params(tier.clone())));
                println!(
                    "depth {depth}: fast {alone:.0}, tier {hits:.0} IOPS, {:.3}",
                    hits / alone
                );
                hits / alone
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("depth {depth}: median {:.3}", ratios[2]);
    }
}
