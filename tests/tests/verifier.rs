//! The project's verifier finds nothing where nothing is wrong, and what is wrong where something is.

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Config, Host, Verified, Verify, at_least, check, fill, modules, seed, spdk, try_verify, until,
    verifier, verify,
};

const DISK: u64 = 1 << 16;

fn ram(extra: Value) -> Config {
    let mut params = json!({ "name": "disk", "num_blocks": DISK, "block_size": 512 });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Config::new().bdev("bdev_ram_create", params)
}

fn start(config: Config) -> Host {
    let host = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier()]);
    host.config(config).cores(2).start().unwrap()
}

/// Nothing is wrong, and a good part of the disk was looked at.
#[track_caller]
fn right(host: &Host, options: Verify) -> Verified {
    let run = verify(host, "disk", options);
    eprintln!("{run:?}");
    assert!(run.total() > 1000 && run.blocks_checked > 10_000 && run.blocks_swept > 500, "{run:?}");
    run
}

#[test]
fn malloc() {
    let mut host = start(Config::new().malloc("disk", DISK, 512));
    right(&host, Verify::new().operations(20_000));
    right(&host, Verify::new().seconds(1).cores(2).depth(16));
    host.shutdown().unwrap();
}

/// Metadata in a buffer of their own are checked, too.
#[test]
fn metadata() {
    if !at_least(23, 9) {
        return eprintln!("its memory disk has none");
    }
    let disk = json!({ "name": "disk", "num_blocks": DISK, "block_size": 512, "md_size": 16 });
    let mut host = start(Config::new().bdev("bdev_malloc_create", disk));
    let run = right(&host, Verify::new().seconds(1).cores(2));
    assert!(!run.operations.contains_key("copy"), "{run:?}");
    host.shutdown().unwrap();
}

#[test]
fn ram_of_every_shape() {
    let shapes = [
        json!({}),
        json!({ "block_size": 4096, "num_blocks": DISK / 8 }),
        json!({ "write_unit_size": 8, "optimal_io_boundary": 32 }),
        json!({ "num_blocks": 1009, "optimal_io_boundary": 7 }),
    ];
    for shape in shapes {
        let mut host = start(ram(shape));
        let run = right(&host, Verify::new().seconds(1).cores(2));
        for kind in ["read", "write", "unmap", "write_zeroes", "flush", "compare"] {
            assert!(run.operations[kind] > 10, "{run:?}");
        }
        assert_eq!(run.unsupported, if at_least(23, 1) { vec![] } else { vec!["copy"] });
        right(&host, Verify::new().seconds(0.5).even_buffers().kinds(&["read", "write"]));
        host.shutdown().unwrap();
    }
}

/// The same seed does the same, and a run can go on where another has ended.
#[test]
fn again_and_on() {
    let mut host = start(ram(json!({})));
    let once = || Verify::new().seed(7).operations(5000).depth(1);
    let (one, other) = (right(&host, once()), right(&host, once()));
    assert_eq!(one.operations, other.operations);
    assert_eq!(one.blocks_checked, other.blocks_checked);
    let before = right(&host, Verify::new().operations(5000));
    let only_check = verify(&host, "disk", Verify::new().operations(0).resume());
    assert!(only_check.blocks_swept >= before.blocks_swept, "{only_check:?}");
    assert!(try_verify(&host, "disk", Verify::new().resume().blocks(0, 8)).is_err());
    host.shutdown().unwrap();
}

/// A journal outlives a host that is killed.
#[test]
#[ignore = "in some runs on an aio bdev nothing more is written after a while"]
fn a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (file, journal) = (dir.path().join("disk"), dir.path().join("journal"));
    std::fs::File::create(&file).unwrap().set_len(DISK * 512).unwrap();
    let aio = json!({ "name": "disk", "filename": file, "block_size": 512 });
    for round in 0..3 {
        let mut host = start(Config::new().bdev("bdev_aio_create", &aio));
        // First what was there is checked.
        let found = verify(&host, "disk", Verify::new().operations(0).journal(&journal));
        assert!(round == 0 || found.blocks_swept > 50, "{found:?}");
        std::thread::scope(|scope| {
            scope.spawn(|| try_verify(&host, "disk", Verify::new().seconds(60).journal(&journal)));
            let long = || std::fs::metadata(&journal).map_or(0, |file| file.len());
            let enough = long() + (64 << 10);
            until("the journal", || long() > enough);
            let pid = libc::pid_t::try_from(host.pid()).unwrap();
            // SAFETY: a signal to a child of ours that was not waited for yet.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        });
        assert!(host.shutdown().is_err());
    }
    // What is changed behind its back is found.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..1 << 20].reverse();
    std::fs::write(&file, bytes).unwrap();
    let mut host = start(Config::new().bdev("bdev_aio_create", &aio));
    let found = try_verify(&host, "disk", Verify::new().operations(0).journal(&journal)).unwrap();
    assert!(found.failure.unwrap().get("mismatch").is_some());
    host.shutdown().unwrap();
}

/// What is filled is there; what is overwritten is missed.
#[test]
fn a_pattern() {
    let mut host = start(ram(json!({ "num_blocks": 5001 })));
    let seed = seed();
    assert_eq!(fill(&host, "disk", seed), 5001);
    assert_eq!(check(&host, "disk", seed), 5001);
    let checked = |seed: u64| -> Value {
        host.call("check_bdev", json!({ "name": "disk", "seed": seed })).unwrap()
    };
    assert_eq!(checked(seed ^ 1)["wrong"], 5001);
    let other = json!({ "name": "disk", "seed": seed ^ 1, "first": 77, "blocks": 3 });
    let _: Value = host.call("fill_bdev", other).unwrap();
    let found = checked(seed);
    assert_eq!((&found["wrong"], &found["blocks"]), (&json!(3), &json!(4998)), "{found}");
    assert_eq!(found["first_wrong"][0], 77);
    host.shutdown().unwrap();
}

/// What a run finds to be wrong.
#[track_caller]
fn wrong(host: &Host, bdev: &str) -> Value {
    let options = Verify::new().operations(5000).kinds(&["read", "write", "write_zeroes"]);
    let run = try_verify(host, bdev, options).unwrap();
    run.failure.unwrap_or_else(|| panic!("nothing was found"))
}

/// It stores nothing.
#[test]
fn null_is_found_out() {
    let mut host = start(Config::new().null("disk", DISK, 512));
    let failure = wrong(&host, "disk");
    let mismatch = &failure["mismatch"];
    assert!(mismatch["block"].is_u64() && !mismatch["history"].as_array().unwrap().is_empty());
    host.shutdown().unwrap();
}

/// I/O that fails is an error, unless it may.
#[test]
fn failing_io() {
    let base = Config::new().malloc("base", DISK, 512);
    let mut host = start(base.bdev("bdev_error_create", json!({ "base_name": "base" })));
    let inject = |count: u64| {
        let params = json!({
            "name": "EE_base", "io_type": "write", "error_type": "failure", "num": count,
        });
        let _: Value = host.call("bdev_error_inject_error", params).unwrap();
    };
    inject(1);
    let failure = wrong(&host, "EE_base");
    assert!(failure["operation"].as_str().unwrap().contains("I/O failed"), "{failure}");
    inject(100);
    // 20.07 has it fail all others.
    let options = Verify::new().operations(5000).kinds(&["read", "write"]).may_fail();
    let run = verify(&host, "EE_base", options);
    assert_eq!(run.failed, 100, "{run:?}");
    host.shutdown().unwrap();
}
