//! How an app ends that is told to from outside.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{Build, Host, Memory, RpcClient, spdk};

const SOON: Duration = Duration::from_secs(30);

fn start(program: &str, socket: &str) -> Host {
    let path = Build::package("spdk-plugin-test-cases").bin(spdk(), "cases");
    let path = path.unwrap_or_else(|error| panic!("cannot build the cases: {error}"));
    let host =
        Host::builder(spdk(), path).bare().memory(Memory::NoHuge).env("CASES_SOCKET", socket);
    let mut host = host.args(["--program", program]).spawn().unwrap();
    host.wait_log("ready", SOON).unwrap();
    host
}

fn signal(host: &Host, signal: i32) {
    let pid = libc::pid_t::try_from(host.pid()).unwrap();
    // SAFETY: the host was not reaped, so the pid is its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[track_caller]
fn ends_in_order(mut host: Host) -> String {
    let status = host.wait_exit(SOON).unwrap();
    let log = host.log();
    assert!(status.success() && log.contains("stopped in order"), "{status}\n{log}");
    assert!(!log.contains("still has channel") && !log.contains("panicked"), "{log}");
    assert!(!log.contains("was not called on thread"), "{log}");
    log
}

#[test]
fn a_signal_drops_all_tasks_and_ends_the_app() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let host = start("pending", "");
        signal(&host, number);
        let log = ends_in_order(host);
        for what in ["future", "task"] {
            assert!(log.contains(&format!("{what} dropped, on the app thread: true")), "{log}");
        }
    }
}

#[test]
fn so_it_does_with_tasks_on_every_core() {
    let host = start("many", "");
    signal(&host, libc::SIGINT);
    let log = ends_in_order(host);
    assert!(log.contains("task dropped, on the app thread: false"), "{log}");
}

#[test]
fn so_it_does_with_operations_in_flight() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let host = start("busy", "");
        signal(&host, number);
        ends_in_order(host);
    }
}

#[test]
fn tasks_that_spawn_tasks_when_they_go_do_not_keep_it() {
    let host = start("stubborn", "");
    signal(&host, libc::SIGINT);
    ends_in_order(host);
}

#[test]
fn so_does_the_rpc_that_kills() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("rpc.sock");
    let host = start("served", socket.to_str().unwrap());
    let mut rpc = RpcClient::connect(&socket, SOON).unwrap();
    // The answer may come too late.
    let _ = rpc.call::<Value>("spdk_kill_instance", json!({ "sig_name": "SIGTERM" }));
    let log = ends_in_order(host);
    assert!(log.contains("future dropped"), "{log}");
}
