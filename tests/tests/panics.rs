//! A callback of a module panics: the I/O or the call fails, and the program answers the next.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevio, Bdevperf, Config, Host, assert_logged, at_least, bdev, bdevs, chaos, probe, prober,
    spdk, until,
};

const SOON: Duration = Duration::from_secs(10);

fn params(name: &str, panic: &str) -> Value {
    json!({ "name": name, "num_blocks": 16384, "block_size": 512, "panic": panic })
}

fn create(host: &Host, method: &str, name: &str, panic: &str) {
    let created: String = host.call(method, params(name, panic)).unwrap();
    assert_eq!(created, name);
}

fn delete(host: &Host, name: &str) {
    assert!(host.call::<bool>("bdev_chaos_delete", json!({ "name": name })).unwrap());
}

fn target() -> Host {
    Host::builder(spdk(), "spdk_tgt").plugins([chaos(), prober()]).start().unwrap()
}

/// Drives three disks with one workload: one whose handler panics at once, one whose handler panics after an await, and
/// a sound one beside them.
#[track_caller]
fn handler_panics(workload: &str, kind: &str, zcopy: bool) {
    let later = format!("{kind} later");
    let config = Config::new()
        .bdev("bdev_chaos_create", params("sound", ""))
        .bdev("bdev_chaos_create", params("now", kind))
        .bdev("bdev_chaos_create", params("later", &later));
    let perf = Bdevperf::new(spdk(), workload).plugin(chaos()).config(config).zcopy(zcopy);
    let mut server = perf.args(["-f"]).serve().unwrap();

    let perf = server.start().unwrap().finish().unwrap();
    let fails = |name: &str| {
        let job = perf.jobs.iter().find(|job| job.name.starts_with(name));
        let job = job.unwrap_or_else(|| panic!("no figures for {name}: {perf:?}"));
        (job.iops > 0.0, job.fails_per_s > 0.0)
    };
    assert_eq!(fails("sound"), (true, false), "{perf:?}");
    assert!(fails("now").1 && fails("later").1, "{perf:?}");

    let host = server.host();
    assert_eq!(bdevs(host).len(), 3);
    for name in ["sound", "now", "later"] {
        delete(host, name);
    }
    assert!(bdevs(host).is_empty());
    let (now, later) = (format!("chaos in {kind}\n"), format!("chaos in {kind} after an await\n"));
    assert_logged(host, &[&now, &later, "bdev now: a handler panicked", "bdev later: a handler"]);
    server.host_mut().shutdown().unwrap();
}

#[test]
fn read() {
    handler_panics("read", "read", false);
}

#[test]
fn write() {
    handler_panics("write", "write", false);
}

#[test]
fn unmap() {
    handler_panics("unmap", "unmap", false);
}

#[test]
fn flush() {
    handler_panics("flush", "flush", false);
}

#[test]
fn write_zeroes() {
    handler_panics("write_zeroes", "write_zeroes", false);
}

#[test]
fn zcopy_start() {
    handler_panics("read", "zcopy_start", true);
}

#[test]
fn zcopy_end() {
    handler_panics("read", "zcopy_end", true);
}

/// Submits one request to disks whose handler panics, before and after an await; it fails, and so do all further ones.
#[track_caller]
fn request_panics(module: &str, kind: &str, op: Value) {
    let mut host = target();
    for panic in [kind.to_owned(), format!("{kind} later")] {
        create(&host, &format!("bdev_{module}_create"), &panic, &panic);
        let fails = |op: &Value| probe(&host, &panic, std::slice::from_ref(op))[0].failed();
        assert!(fails(&op) && fails(&op), "{}", host.log());
        // Only the module's own code is not run any more.
        assert!(!fails(&json!({ "kind": "reset" })) && fails(&op), "{}", host.log());
        assert_logged(&host, &[&format!("bdev {panic}: a handler panicked")]);
    }
    assert_logged(&host, &[&format!("chaos in {kind}\n"), &format!("chaos in {kind} after")]);
    host.shutdown().unwrap();
}

#[test]
fn compare() {
    request_panics("chaos", "compare", json!({ "kind": "compare", "blocks": 8 }));
}

#[test]
fn copy() {
    // Releases before 23.01 have none.
    if at_least(23, 1) {
        let op = json!({ "kind": "copy", "blocks": 8, "source": 8 });
        request_panics("chaos", "copy", op);
    }
}

#[test]
fn submit() {
    request_panics("chaos_submit", "submit", json!({ "kind": "unmap", "blocks": 8 }));
}

/// Only SPDK's suite sends NVMe commands: the case that does fails, the suite goes on to its end, and the program ends
/// well.
#[track_caller]
fn suite_survives(kind: &str, case: &str) {
    for panic in [kind.to_owned(), format!("{kind} later")] {
        let config = Config::new().bdev("bdev_chaos_create", params("bad", &panic));
        let report = Bdevio::new(spdk()).plugin(chaos()).config(config).report("bad").unwrap();
        let failed = report.failed();
        assert!(failed.contains(&case), "{case} did not fail: {failed:?}\n{}", report.log);
        assert!(report.cases.len() >= 22, "{}", report.log);
        assert!(report.log.contains(&format!("chaos in {kind}")), "{}", report.log);
    }
}

#[test]
fn nvme_io() {
    suite_survives("nvme_io", "blockdev nvme passthru rw");
}

#[test]
fn nvme_admin() {
    suite_survives("nvme_admin", "blockdev nvme admin passthru");
}

/// SPDK looks at each new bdev, to see what others have left on it: that opens a channel, reads, and closes it.
#[test]
fn channels() {
    let mut host = target();
    for panic in ["channel", "channel drop", "channel poller", "read", "read later"] {
        create(&host, "bdev_chaos_create", "bad", panic);
        assert_eq!(bdevs(&host), ["bad"]);
        delete(&host, "bad");
        assert!(bdevs(&host).is_empty());
    }
    let poller = "chaos in a channel's poller";
    assert_logged(&host, &["chaos in channel\n", "chaos in a drop", poller, "chaos in read\n"]);
    host.shutdown().unwrap();
}

#[test]
fn what_a_bdev_tells() {
    let mut host = target();
    create(&host, "bdev_chaos_create", "sound", "");
    create(&host, "bdev_chaos_create", "dump", "dump_info");
    create(&host, "bdev_chaos_create", "config", "config");
    create(&host, "bdev_chaos_submit_create", "supports", "supports");

    let specific = |name| bdev(&host, name)["driver_specific"]["chaos"].clone();
    assert_eq!(specific("sound"), json!({ "delay_us": 0 }));
    assert_eq!(specific("dump"), Value::Null);
    assert_eq!(bdev(&host, "supports")["supported_io_types"]["unmap"], false);

    let calls: Vec<Value> = host.call("framework_get_config", json!({ "name": "bdev" })).unwrap();
    let created = calls.iter().filter(|call| call["method"] == "bdev_chaos_create");
    let created: Vec<_> = created.map(|call| call["params"]["name"].clone()).collect();
    assert_eq!(created, ["sound", "dump"]);

    assert_logged(&host, &["chaos in dump_info", "chaos in config", "chaos in supports"]);
    host.shutdown().unwrap();
}

#[test]
fn the_end_of_a_bdev() {
    let mut host = target();
    create(&host, "bdev_chaos_create", "bad", "bdev drop");
    // The method's handler has the last share in the bdev.
    let deleted = host.call::<bool>("bdev_chaos_delete", json!({ "name": "bad" }));
    assert_eq!(deleted.unwrap_err().code(), Some(-32603));
    assert!(bdevs(&host).is_empty());
    // Again, and this time it is SPDK's shutdown that ends it.
    create(&host, "bdev_chaos_create", "bad", "bdev drop");
    host.shutdown().unwrap();
    assert_eq!(host.log().matches("chaos in a drop").count(), 2);
}

#[test]
fn pollers() {
    let mut host = target();
    let mut params = params("bad", "poller");
    params["poller_us"] = 100.into();
    let _: String = host.call("bdev_chaos_create", params).unwrap();
    host.wait_log("chaos in poller", SOON).unwrap();
    delete(&host, "bad");
    // It is not called again.
    assert_eq!(host.log().matches("chaos in poller").count(), 1);
    host.shutdown().unwrap();
}

#[test]
fn methods() {
    let mut host = target();
    let mut rpc = host.rpc().unwrap();
    let mut call =
        |method: &str, panic: &str| rpc.call::<String>(method, json!({ "panic": panic }));
    for panic in ["now", "later", "payload", "drop"] {
        for method in ["chaos_call", "chaos_alias"] {
            let error = call(method, panic).unwrap_err();
            assert_eq!(error.code(), Some(-32603), "{panic}: {error}");
            assert_eq!(call(method, "not").unwrap(), "not");
        }
    }
    assert_eq!(call("chaos_call", "task").unwrap(), "task");
    host.wait_log("chaos in a task", SOON).unwrap();
    assert_logged(&host, &["chaos in a method\n", "after an await", "chaos in a drop"]);

    for panic in ["now", "not"] {
        let error = call("chaos_result", panic).unwrap_err();
        assert_eq!(error.code(), Some(-32603), "{panic}: {error}");
        assert_eq!(call("chaos_call", "not").unwrap(), "not");
    }
    assert_logged(&host, &["chaos in a result"]);
    host.shutdown().unwrap();
}

/// A call on the channels of a disk that one has open.
#[test]
fn calls_on_channels() {
    let mut params = params("slow", "");
    params["delay_us"] = 1000.into();
    let config = Config::new().bdev("bdev_chaos_create", params);
    let perf = Bdevperf::new(spdk(), "randread").plugin(chaos()).config(config).seconds(2);
    let mut server = perf.serve().unwrap();
    let call = |name: &str| {
        server.host().call::<bool>("bdev_chaos_for_each_channel", json!({ "name": name }))
    };
    // There is no channel yet.
    assert!(call("slow").unwrap());
    let running = server.start().unwrap();
    until("the start", || server.host().log().contains("Running I/O"));
    let error = call("slow").unwrap_err();
    assert_eq!(error.code(), Some(-32603), "{error}");
    assert_eq!(call("none").unwrap_err().code(), Some(-19));
    assert!(running.finish().unwrap().errors.is_empty());
    assert_logged(server.host(), &["chaos in a call on a channel"]);
    server.host_mut().shutdown().unwrap();
}
