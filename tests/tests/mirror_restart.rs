//! What `mirror` knows after a restart: which legs may be read, and what they lack.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::mirror::{CREATE, Files, becomes, does, kill, leg, mirror, state};
use spdk_plugin_tests::{
    Config, Host, Verify, bdevs, modules, rounds, seed, spdk, try_verify, until, verifier, verify,
};

fn start(config: Config, cores: usize) -> Host {
    let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier()]);
    builder.config(config).cores(cores).start().unwrap()
}

fn next(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

const CHANGES: [&str; 3] = ["write", "write_zeroes", "flush"];

/// Killed at any time, also with a leg that has just gone, nothing that was acknowledged is lost, and legs are alike
/// once they were synced.
#[test]
#[ignore = "not reliable yet"]
fn killed_while_writing() {
    let rounds = std::env::var_os("SPDK_PLUGIN_TEST_ROUNDS").map_or(5, |_| rounds());
    let files = Files::new(2, 24);
    let journal = files.dir().join("journal");
    let mut random = seed();
    let (mut dirty, mut degraded) = (0, 0);
    for round in 0..=rounds {
        let order: &[usize] = if next(&mut random, 2) == 0 { &[0, 1] } else { &[1, 0] };
        let mut host = start(files.some(order).bdev(CREATE, mirror(&["leg0", "leg1"])), 2);
        dirty += state(&host)["dirty_regions"].as_u64().unwrap();
        // Before all is copied, too, what is read is what was acknowledged.
        if round > 0 {
            let found = verify(&host, "m0", Verify::new().operations(0).journal(&journal));
            assert!(found.blocks_swept > 100, "{found:?}");
        }
        becomes(&host, "online");
        files.equal(&[0, 1]);
        if round == rounds {
            host.shutdown().unwrap();
            break;
        }
        let stop = Duration::from_millis(30 + next(&mut random, 600));
        let without = (next(&mut random, 3) == 0).then(|| next(&mut random, 2));
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let load = Verify::new().cores(2).depth(16).kinds(&CHANGES).longest(32 << 10);
                let _ = try_verify(&host, "m0", load.seconds(60).journal(&journal));
                ended.store(true, Ordering::SeqCst);
            });
            thread::sleep(stop / 2);
            if let Some(slot) = without {
                degraded += 1;
                does(&host, "bdev_aio_delete", json!({ "name": format!("leg{slot}") }));
            }
            thread::sleep(stop / 2);
            assert!(!ended.load(Ordering::SeqCst), "{}", host.log());
            kill(&host);
        });
        assert!(host.shutdown().is_err());
    }
    println!("{rounds} rounds, {degraded} of them degraded, {dirty} dirty regions found");
    assert!(dirty > 0);
}

/// Writes while a leg is away; then starts with the stale one first, the good one first, and each alone.
#[test]
#[ignore = "takes too long in some runs"]
fn a_stale_leg_is_not_read() {
    let files = Files::new(2, 24);
    let config = |legs: &[usize]| files.some(legs).bdev(CREATE, mirror(&["leg0", "leg1"]));
    let journal = files.dir().join("journal");
    for (round, stale) in [0, 1, 1].into_iter().enumerate() {
        let good = 1 - stale;
        let mut host = start(config(&[0, 1]), 1);
        becomes(&host, "online");
        let load = || Verify::new().depth(8).kinds(&CHANGES).journal(&journal);
        verify(&host, "m0", load().operations(300));
        does(&host, "bdev_aio_delete", json!({ "name": format!("leg{stale}") }));
        verify(&host, "m0", load().operations(300));
        if round % 2 == 0 {
            kill(&host);
            assert!(host.shutdown().is_err());
        } else {
            host.shutdown().unwrap();
        }
        // Alone, the stale one does not start.
        let mut host = start(config(&[stale]), 1);
        assert_eq!(state(&host)["state"], "waiting");
        assert!(host.log().contains("may have newer data"), "{}", host.log());
        // With the good one it does, and is not read.
        let _: Value = host.call("bdev_aio_create", files.aio(good)).unwrap();
        until("the mirror", || bdevs(&host).contains(&"m0".into()));
        verify(&host, "m0", Verify::new().operations(0).journal(&journal));
        becomes(&host, "online");
        files.equal(&[0, 1]);
        host.shutdown().unwrap();
    }
    // The good one alone knows that the other was lost.
    let mut host = start(config(&[0, 1]), 1);
    becomes(&host, "online");
    does(&host, "bdev_aio_delete", json!({ "name": "leg0" }));
    verify(&host, "m0", Verify::new().operations(300).kinds(&CHANGES).journal(&journal));
    host.shutdown().unwrap();
    let mut host = start(config(&[1]), 1);
    assert_eq!(state(&host)["state"], "degraded");
    verify(&host, "m0", Verify::new().operations(0).journal(&journal));
    // The stale one comes, and gets what it missed.
    let _: Value = host.call("bdev_aio_create", files.aio(0)).unwrap();
    until("the leg's return", || leg(&host, 0) == "active");
    let copied = state(&host)["copied_blocks"].as_u64().unwrap();
    verify(&host, "m0", Verify::new().operations(0).journal(&journal));
    files.equal(&[0, 1]);
    println!("{copied} of {} blocks copied", state(&host)["num_blocks"]);
    host.shutdown().unwrap();
}

/// Started with one leg each, they are not put together again.
#[test]
#[ignore = "takes too long in some runs"]
fn halves_that_were_used_alone() {
    let files = Files::new(2, 16);
    let config = |legs: &[usize]| files.some(legs).bdev(CREATE, mirror(&["leg0", "leg1"]));
    let mut host = start(config(&[0, 1]), 1);
    becomes(&host, "online");
    host.shutdown().unwrap();
    for leg in [0, 1] {
        let mut params = mirror(&["leg0", "leg1"]);
        params["degraded"] = true.into();
        let mut host = start(files.some(&[leg]).bdev(CREATE, params), 1);
        assert_eq!(state(&host)["state"], "degraded");
        host.shutdown().unwrap();
    }
    // The one that comes first takes the other for failed, and does not take it back.
    let mut host = start(files.all(), 1);
    until("the mirror", || bdevs(&host).contains(&"m0".into()));
    until("the refusal", || host.log().contains("it was written without the others"));
    assert_eq!(state(&host)["state"], "degraded");
    host.shutdown().unwrap();
}

/// A clean stop leaves nothing to compare, and a mirror is found without a configuration.
#[test]
fn found_by_its_superblocks() {
    let files = Files::new(3, 16);
    let journal = files.dir().join("journal");
    let params = mirror(&["leg0", "leg1", "leg2"]);
    let mut host = start(files.all().bdev(CREATE, params), 1);
    verify(&host, "m0", Verify::new().operations(200).kinds(&CHANGES).journal(&journal));
    becomes(&host, "online");
    host.shutdown().unwrap();
    for order in [[0, 1, 2], [2, 0, 1]] {
        let mut host = start(files.some(&order), 1);
        until("the mirror", || bdevs(&host).contains(&"m0".into()));
        assert_eq!(state(&host)["state"], "online");
        assert_eq!(state(&host)["dirty_regions"], 0);
        verify(&host, "m0", Verify::new().operations(0).journal(&journal));
        host.shutdown().unwrap();
    }
    files.equal(&[0, 1, 2]);
}
