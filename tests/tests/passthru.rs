//! `rpassthru`, and by it the life of every virtual bdev.

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevperf, Config, Host, at_least, bdev, bdevs, errors, ios, modules, probe, prober, rounds,
    spdk, until,
};

const CREATE: &str = "bdev_rpassthru_create";
const DELETE: &str = "bdev_rpassthru_delete";

fn on(base: &str, name: &str) -> Value {
    json!({ "name": name, "base_bdev_name": base })
}

fn ram(name: &str) -> Value {
    json!({ "name": name, "num_blocks": 1 << 16, "block_size": 512 })
}

/// A bdev on SPDK's own memory disk.
fn top() -> Config {
    Config::new().malloc("base", 1 << 17, 512).bdev(CREATE, on("base", "top"))
}

fn host(config: Config) -> Host {
    let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), prober()]);
    builder.config(config).start().unwrap()
}

fn create(host: &Host, base: &str, name: &str) {
    assert_eq!(host.call::<String>(CREATE, on(base, name)).unwrap(), name);
}

fn delete(host: &Host, name: &str) {
    assert!(host.call::<bool>(DELETE, json!({ "name": name })).unwrap());
}

fn sorted(host: &Host) -> Vec<String> {
    let mut names = bdevs(host);
    names.sort();
    names
}

#[track_caller]
fn ends_well(host: Host) {
    let log = stops(host);
    assert!(errors(&log).is_empty(), "{log}");
}

/// Ends a host that was made to log errors.
#[track_caller]
fn stops(mut host: Host) -> String {
    host.shutdown().unwrap();
    let log = host.log();
    for word in ["not unregistered", "leak", "still", "panicked"] {
        assert!(!log.contains(word), "'{word}' in the log:\n{log}");
    }
    log
}

#[test]
fn every_workload() {
    for workload in ["randrw", "unmap", "flush", "write_zeroes", "reset"] {
        let perf = Bdevperf::new(spdk(), workload).plugin(modules()).config(top()).bdev("top");
        let perf = perf.queue_depth(32).seconds(1);
        let perf = if workload == "randrw" { perf.args(["-M", "50"]) } else { perf };
        let perf = perf.run().unwrap();
        assert!(perf.errors.is_empty(), "{workload}: {perf:?}");
    }
}

/// SPDK's requests run out in every layer.
#[test]
fn requests_are_short() {
    let config = Config::new()
        .call(
            "bdev",
            "bdev_set_options",
            json!({ "bdev_io_pool_size": 64, "bdev_io_cache_size": 8 }),
        )
        .malloc("base", 1 << 17, 512)
        .bdev(CREATE, on("base", "middle"))
        .bdev(CREATE, on("middle", "top"));
    let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(config).bdev("top");
    let perf = perf.queue_depth(24).seconds(3).run().unwrap();
    assert!(perf.errors.is_empty() && perf.iops > 100.0, "{perf:?}");
}

#[test]
fn its_base_comes_before_and_after() {
    let host = host(Config::new());
    create(&host, "base", "top");
    create(&host, "top", "above");
    assert_eq!(bdevs(&host), Vec::<String>::new());
    let waiting: Vec<Value> = host.call("bdev_rpassthru_get_bdevs", ()).unwrap();
    assert_eq!(waiting[0], json!({ "name": "top", "base_bdev_name": "base", "ready": false }));

    let _: String = host.call("bdev_ram_create", ram("base")).unwrap();
    assert_eq!(sorted(&host), ["above", "base", "top"]);
    create(&host, "above", "later");
    assert_eq!(sorted(&host), ["above", "base", "later", "top"]);

    // What sits on it goes with it, and comes again with it.
    assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": "base" })).unwrap());
    assert_eq!(bdevs(&host), Vec::<String>::new());
    let _: String = host.call("bdev_ram_create", ram("base")).unwrap();
    assert_eq!(sorted(&host), ["above", "base", "later", "top"]);

    // What was deleted does not.
    delete(&host, "above");
    assert_eq!(sorted(&host), ["base", "top"]);
    assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": "base" })).unwrap());
    let _: String = host.call("bdev_ram_create", ram("base")).unwrap();
    assert_eq!(sorted(&host), ["base", "top"]);
    create(&host, "top", "above");
    assert_eq!(sorted(&host), ["above", "base", "later", "top"]);
    ends_well(host);
}

/// The base is named by its alias or its UUID.
#[test]
fn its_base_has_other_names() {
    let uuid = "0d1b8a1e-7b0f-4a6e-9d35-0f6a0e2b4c11";
    let host = host(Config::new());
    create(&host, uuid, "top");
    let mut base = ram("base");
    base["uuid"] = uuid.into();
    let _: String = host.call("bdev_ram_create", &base).unwrap();
    assert_eq!(sorted(&host), ["base", "top"]);
    ends_well(host);
}

#[test]
fn the_same_devices_whatever_comes_first() {
    let bases = |config: Config| config.bdev("bdev_ram_create", ram("base"));
    let tops =
        |config: Config| config.bdev(CREATE, on("top", "above")).bdev(CREATE, on("base", "top"));
    let mut seen = Vec::new();
    for config in [tops(bases(Config::new())), bases(tops(Config::new()))] {
        let host = host(config);
        let mut described = Vec::new();
        for name in sorted(&host) {
            let bdev = bdev(&host, &name);
            // A `ram` without one has another UUID every time, and so have those on it.
            described.push((name, bdev["num_blocks"].clone(), bdev["claimed"].clone()));
        }
        seen.push(described);
        ends_well(host);
    }
    assert_eq!(seen[0].len(), 3);
    assert_eq!(seen[0], seen[1]);
}

/// Nobody else writes to a base, and a name is taken once.
#[test]
fn claims() {
    let host = host(Config::new());
    let _: String = host.call("bdev_ram_create", ram("base")).unwrap();
    create(&host, "base", "top");
    let fails = |base: &str, name: &str, why: &str| {
        let error = host.call::<Value>(CREATE, on(base, name)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    fails("base", "other", "claimed");
    fails("base", "top", "already");
    fails("nowhere", "base", "already");
    fails("nobody", "nobody", "itself");
    fails("base", "", "name");
    assert_eq!(sorted(&host), ["base", "top"]);
    // Nothing of the failures is left.
    let listed: Vec<Value> = host.call("bdev_rpassthru_get_bdevs", ()).unwrap();
    assert_eq!(listed.len(), 1);
    delete(&host, "top");
    create(&host, "base", "other");
    let error = host.call::<Value>(DELETE, json!({ "name": "base" })).unwrap_err().to_string();
    assert!(error.contains("belongs to module ram"), "{error}");
    stops(host);
}

#[test]
fn grows_with_its_base() {
    let host = host(Config::new());
    let _: String = host.call("bdev_ram_create", ram("base")).unwrap();
    create(&host, "base", "top");
    let resize = json!({ "name": "base", "num_blocks": 100_000 });
    assert!(host.call::<bool>("bdev_ram_resize", resize).unwrap());
    until("the resize", || bdev(&host, "top")["num_blocks"] == 100_000);
    ends_well(host);
}

/// Of a base that fails, the status is what it was.
#[test]
fn errors_pass_through() {
    let error = json!({ "base_name": "base" });
    let config = Config::new().malloc("base", 1 << 12, 512).bdev("bdev_error_create", error);
    let host = host(config.bdev(CREATE, on("EE_base", "top")));
    let inject = |io: &str, kind: &str| {
        let params = json!({ "name": "EE_base", "io_type": io, "error_type": kind, "num": 1 });
        let _: Value = host.call("bdev_error_inject_error", params).unwrap();
    };
    inject("read", "failure");
    let read = json!({ "kind": "read", "offset": 0, "blocks": 8 });
    let outcome = &probe(&host, "top", std::slice::from_ref(&read))[0];
    assert!(outcome.failed(), "{outcome:?}");
    let outcome = &probe(&host, "top", std::slice::from_ref(&read))[0];
    assert!(outcome.success, "{outcome:?}");
    // The lower layer is out of resources: it is tried again.
    if at_least(21, 1) {
        inject("write", "nomem");
    }
    let write = json!({ "kind": "write", "offset": 0, "blocks": 8, "fill": 7 });
    let outcomes = probe(&host, "top", &[write, read]);
    assert!(outcomes.iter().all(|outcome| outcome.success), "{outcomes:?}");
    // What the base never ends, an abort or a reset does.
    inject("write", "pending");
    let stuck = json!({ "kind": "write", "offset": 0, "blocks": 8, "fill": 7 });
    let outcomes = probe(&host, "top", &[stuck, json!({ "kind": "reset" })]);
    assert!(outcomes[0].failed() && outcomes[1].success, "{outcomes:?}");
    stops(host);
}

/// The base vanishes while I/O is in flight, again and again in one process, on one reactor and on two.
#[test]
fn the_base_is_removed_under_load() {
    for cores in [1, 2] {
        removed_under_load(cores, rounds().div_ceil(2));
    }
}

fn removed_under_load(cores: usize, rounds: u32) {
    const PER_PROCESS: u32 = 50;
    for done in (0..rounds).step_by(PER_PROCESS as usize) {
        let mut jobs = String::new();
        for i in 0..cores {
            jobs += &format!("[job{i}]\nfilename=top\n");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), jobs).unwrap();
        let perf = Bdevperf::new(spdk(), "randrw").plugin(modules()).queue_depth(64).seconds(60);
        let perf = perf.args(["-M", "50", "-f", "-j", file.path().to_str().unwrap()]);
        let perf = perf.cores(cores).host(|host| host.mem_mb(512));
        let mut server = perf.serve().unwrap();
        create(server.host(), "base", "top");
        for round in done..(done + PER_PROCESS).min(rounds) {
            let name: String = server
                .host()
                .call(
                    "bdev_malloc_create",
                    json!({ "name": "base", "num_blocks": 8192, "block_size": 512 }),
                )
                .unwrap();
            assert_eq!(name, "base");
            assert_eq!(sorted(server.host()), ["base", "top"]);
            let running = server.start().unwrap();
            until("I/O", || ios(server.host()) > 1000);
            let gone: bool =
                server.host().call("bdev_malloc_delete", json!({ "name": "base" })).unwrap();
            assert!(gone);
            let perf = running.finish().unwrap();
            assert!(perf.errors.is_empty(), "round {round}: {perf:?}\n{}", server.host().log());
            assert_eq!(bdevs(server.host()), Vec::<String>::new(), "round {round}");
        }
        delete(server.host(), "top");
        server.host_mut().shutdown().unwrap();
        let log = server.host().log();
        for word in ["not unregistered", "leak", "still", "panicked"] {
            assert!(!log.contains(word), "'{word}' in the log:\n{log}");
        }
    }
}

/// A stack is taken down from every end.
#[test]
fn deleted_in_every_order() {
    let orders: [[&str; 3]; 6] = [
        ["base", "top", "above"],
        ["base", "above", "top"],
        ["top", "base", "above"],
        ["top", "above", "base"],
        ["above", "top", "base"],
        ["above", "base", "top"],
    ];
    for order in orders {
        let host = host(Config::new());
        create(&host, "top", "above");
        let _: String = host.call("bdev_ram_create", ram("base")).unwrap();
        create(&host, "base", "top");
        assert_eq!(sorted(&host), ["above", "base", "top"]);
        for name in order {
            if name == "base" {
                assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": name })).unwrap());
            } else {
                delete(&host, name);
            }
        }
        assert_eq!(bdevs(&host), Vec::<String>::new(), "{order:?}");
        let listed: Vec<Value> = host.call("bdev_rpassthru_get_bdevs", ()).unwrap();
        assert!(listed.is_empty(), "{listed:?}");
        ends_well(host);
    }
}

#[test]
fn zero_copy() {
    let config = Config::new().bdev("bdev_ram_create", ram("base")).bdev(CREATE, on("base", "top"));
    let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(config).bdev("top");
    let perf = perf.zcopy(true).queue_depth(64).seconds(2).run().unwrap();
    assert!(perf.errors.is_empty() && perf.iops > 1000.0, "{perf:?}");
}
