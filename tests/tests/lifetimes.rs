//! Ends that come at a bad time: the program's, a device's, a connection's.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{Host, RpcError, bdevs, chaos, errors, modules, spdk};

/// Longer than SPDK itself waits for threads that do not end.
const SOON: Duration = Duration::from_secs(20);

fn target() -> Host {
    Host::builder(spdk(), "spdk_tgt").plugins([modules(), chaos()]).start().unwrap()
}

/// SIGTERM ends it, well and soon.
#[track_caller]
fn ends_well(mut host: Host) {
    host.terminate().unwrap();
    let status = host.wait_exit(SOON).unwrap();
    assert!(status.success(), "{status}\n{}", host.log());
}

#[test]
fn the_program_ends_while_a_method_waits() {
    for ms in [0, 20, 200, 60_000] {
        let host = target();
        let mut client = host.rpc().unwrap();
        client.send("chaos_wait", json!({ "ms": ms })).unwrap();
        // The next answer on another connection shows that the first request was taken.
        let _: Value = host.call("rpc_get_methods", ()).unwrap();
        ends_well(host);
    }
}

#[test]
fn the_program_ends_while_tasks_wait() {
    for foreign in [false, true] {
        let host = target();
        for ms in [0, 5, 20, 50, 100, 200, 500, 1000, 60_000] {
            let params = json!({ "ms": ms, "foreign": foreign });
            assert!(host.call::<bool>("chaos_task", params).unwrap());
        }
        ends_well(host);
    }
}

#[test]
fn the_program_ends_while_a_bdev_is_deleted() {
    for _ in 0..3 {
        let host = target();
        for i in 0..20 {
            let params = json!({ "name": format!("r{i}"), "num_blocks": 2048, "block_size": 512 });
            let _: String = host.call("bdev_ram_create", params).unwrap();
        }
        let mut client = host.rpc().unwrap();
        for i in 0..20 {
            client.send("bdev_ram_delete", json!({ "name": format!("r{i}") })).unwrap();
        }
        ends_well(host);
    }
}

#[test]
fn a_connection_ends_while_a_method_waits() {
    let mut host = target();
    for ms in [0, 1, 5, 20, 50] {
        let mut client = host.rpc().unwrap();
        client.send("chaos_wait", json!({ "ms": ms })).unwrap();
        drop(client);
        let _: Value = host.call("rpc_get_methods", ()).unwrap();
    }
    assert!(host.call::<bool>("chaos_wait", json!({ "ms": 100 })).unwrap());
    host.shutdown().unwrap();
}

/// Every call gets an answer, whichever comes first.
#[test]
fn a_bdev_is_resized_and_deleted_at_once() {
    let mut host = target();
    let call = |method: &'static str, params: Value| {
        let mut client = host.rpc().unwrap();
        thread::spawn(move || client.call::<bool>(method, params))
    };
    for round in 0..100 {
        let params = json!({ "name": "disk", "num_blocks": 2048, "block_size": 512 });
        let _: String = host.call("bdev_ram_create", params).unwrap();
        let resize = json!({ "name": "disk", "num_blocks": 4096 });
        let resizes = [call("bdev_ram_resize", resize.clone()), call("bdev_ram_resize", resize)];
        let deletes = [(); 2].map(|()| call("bdev_ram_delete", json!({ "name": "disk" })));
        let mut deleted = 0;
        for (i, call) in resizes.into_iter().chain(deletes).enumerate() {
            match call.join().unwrap() {
                Ok(true) => deleted += u32::from(i >= 2),
                // It has gone, or is on its way.
                Err(RpcError::Remote { code: -19 | -16, .. }) => {}
                other => panic!("round {round}: {other:?}\n{}", host.log()),
            }
        }
        assert_eq!(deleted, 1, "round {round}\n{}", host.log());
        assert!(bdevs(&host).is_empty());
    }
    host.shutdown().unwrap();
    let log = host.log();
    assert_eq!(errors(&log), Vec::<&str>::new());
}
