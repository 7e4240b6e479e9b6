//! A disk that another process uses over NVMe/TCP.

use std::net::TcpListener;

use serde_json::{Value, json};
use spdk_plugin_tests::{Bdevperf, Config, Program, bdevs, in_every_program, ios, spdk, until};

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

fn serve(program: Program) -> (spdk_plugin_tests::Host, Bdevperf) {
    let host = program.start();
    let call = |method: &str, params: Value| {
        let _: Value = host.call(method, params).unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    };
    let port = free_port();
    call("bdev_ram_create", json!({ "name": "disk", "num_blocks": 65536, "block_size": 512 }));
    call("nvmf_create_transport", json!({ "trtype": "TCP" }));
    call("nvmf_create_subsystem", json!({ "nqn": NQN, "allow_any_host": true }));
    let namespace = json!({ "nqn": NQN, "namespace": { "bdev_name": "disk" } });
    call("nvmf_subsystem_add_ns", namespace);
    let address =
        json!({ "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port });
    call("nvmf_subsystem_add_listener", json!({ "nqn": NQN, "listen_address": address }));

    let attach = json!({
        "name": "nvme", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port,
        "subnqn": NQN,
    });
    let config = Config::new().bdev("bdev_nvme_attach_controller", attach);
    (host, Bdevperf::new(spdk(), "verify").config(config).queue_depth(64))
}

in_every_program! {
    fn data_are_verified(program) {
        let (mut host, perf) = serve(program);
        let perf = perf.seconds(2).run().unwrap();
        assert!(perf.errors.is_empty() && perf.iops > 100.0, "{perf:?}");
        host.shutdown().unwrap();
    }
}

/// The namespace goes under the initiator's load, and the target lives.
#[test]
fn the_disk_is_deleted() {
    let (mut host, perf) = serve(Program::SpdkTgt);
    let perf = perf.args(["-f"]).seconds(3).serve().unwrap();
    let running = perf.start().unwrap();
    until("I/O", || ios(&host) > 1000);
    assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": "disk" })).unwrap());
    assert!(bdevs(&host).is_empty());
    // What becomes of the initiator is its own affair.
    let _ = running.finish();
    drop(perf);
    host.shutdown().unwrap();
}
