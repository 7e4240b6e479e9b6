//! Hosts: start, RPC, shutdown, failure, side by side, and no process left behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk_plugin_rig::{Config, Error, Host, Memory, RpcError, free_hugepages_mb, spdk};

fn target() -> spdk_plugin_rig::HostBuilder {
    Host::builder(spdk(), "spdk_tgt")
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_target_starts_answers_and_shuts_down() {
    let mut host = target().start().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(host.dir()), 0o700);

    let methods: Vec<String> = host.call("rpc_get_methods", ()).unwrap();
    assert!(methods.iter().any(|name| name == "bdev_get_bdevs"));
    let params = json!({ "name": "M0", "num_blocks": 2048, "block_size": 512 });
    assert_eq!(host.call::<String>("bdev_malloc_create", params).unwrap(), "M0");

    let mut rpc = host.rpc().unwrap();
    let bdevs: Value = rpc.call("bdev_get_bdevs", json!({ "name": "M0" })).unwrap();
    assert_eq!(bdevs[0]["num_blocks"], 2048);
    let error = rpc.call::<Value>("no_such_method", ()).unwrap_err();
    assert_eq!(error.code(), Some(-32601), "{error}");
    let error = rpc.call::<u32>("bdev_get_bdevs", ()).unwrap_err();
    assert!(matches!(error, RpcError::Result { .. }), "{error}");

    let (pid, dir) = (host.pid(), host.dir().to_owned());
    host.shutdown().unwrap();
    assert!(!runs(pid));
    assert!(host.log().contains("Reactor started"), "{}", host.log());
    drop(host);
    assert!(!dir.exists());
}

#[test]
fn malformed_requests_get_an_error() {
    let host = target().start().unwrap();
    match host.rpc().unwrap().call_raw(b"{\"jsonrpc\":\"2.0\",\"id\":1,]") {
        Ok(reply) => assert_eq!(reply["error"]["code"], -32700, "{reply}"),
        // 20.07 closes the connection before it sends its reply.
        Err(error) => assert!(matches!(error, RpcError::Io { .. }), "{error}"),
    }
    let reply = host.rpc().unwrap().call_raw(b"{\"jsonrpc\":\"2.0\",\"id\":1}").unwrap();
    assert_eq!(reply["error"]["code"], -32600, "{reply}");
}

#[test]
fn a_configuration_is_loaded_before_the_host_is_ready() {
    let host = target().config(Config::new().malloc("M0", 2048, 512).null("N0", 64, 4096));
    let host = host.start().unwrap();
    let bdevs: Vec<Value> = host.call("bdev_get_bdevs", ()).unwrap();
    assert_eq!(bdevs.len(), 2, "{bdevs:?}");
}

#[test]
fn a_host_may_wait_for_rpcs() {
    let host = target().wait_for_rpc().start().unwrap();
    let error = host.call::<Value>("bdev_get_bdevs", ()).unwrap_err();
    assert_eq!(error.code(), Some(-1), "{error}");
    assert!(host.call::<bool>("framework_start_init", ()).unwrap());
    assert!(host.call::<bool>("framework_wait_init", ()).unwrap());
    assert!(host.call::<Vec<Value>>("bdev_get_bdevs", ()).unwrap().is_empty());
}

#[test]
fn hosts_run_side_by_side() {
    let start = |i: u64| {
        thread::spawn(move || {
            let mut host = target().config(Config::new().null("N0", 100 + i, 512)).start().unwrap();
            let bdevs: Value = host.call("bdev_get_bdevs", ()).unwrap();
            assert_eq!(bdevs[0]["num_blocks"], 100 + i);
            host.shutdown().unwrap();
        })
    };
    let threads: Vec<_> = (0..4).map(start).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_host_that_fails_shows_its_log() {
    let error = target().config("{ \"subsystems\": ]").start().unwrap_err();
    assert!(matches!(&error, Error::Exited { status, .. } if !status.success()), "{error}");
    assert!(error.to_string().contains("JSON"), "{error}");

    let config = Config::new().bdev("no_such_method", json!({ "name": "N0" }));
    let error = target().config(config).start().unwrap_err();
    assert!(matches!(&error, Error::Exited { status, .. } if !status.success()), "{error}");
    let log = error.to_string();
    assert!(log.contains("Method not found") || log.contains("was not found"), "{log}");

    let error = target().arg("--no-such-option").start().unwrap_err();
    assert!(matches!(&error, Error::Exited { status, .. } if !status.success()), "{error}");
    assert!(error.to_string().contains("no-such-option"), "{error}");
}

#[test]
fn hugepages_that_are_not_there_are_an_error() {
    if free_hugepages_mb() > 0 {
        return;
    }
    let error = target().memory(Memory::Huge).start().unwrap_err();
    assert!(matches!(&error, Error::Exited { status, .. } if !status.success()), "{error}");
    assert!(error.to_string().contains("Failed to initialize DPDK"), "{error}");
    assert_eq!(Memory::detect(1), Memory::NoHuge);
}

#[test]
fn a_host_that_hangs_is_killed() {
    let started = Instant::now();
    let program = Path::new("/bin/sleep");
    let host = Host::builder(spdk(), program).bare().arg("60");
    let error = host.ready_timeout(Duration::from_millis(300)).start().unwrap_err();
    assert!(matches!(error, Error::Hung { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_missing_program_or_plugin_is_named() {
    let error = Host::builder(spdk(), "no_such_tgt").start().unwrap_err();
    assert!(error.to_string().contains("'no_such_tgt'"), "{error}");
    let error = target().plugin("/no/such/plugin.so").start().unwrap_err();
    assert!(error.to_string().contains("/no/such/plugin.so"), "{error}");
}

#[test]
fn a_dropped_host_leaves_nothing() {
    let host = target().start().unwrap();
    let (pid, dir) = (host.pid(), host.dir().to_owned());
    drop(host);
    assert!(!runs(pid) && !dir.exists());

    let host = target().start().unwrap();
    let pid = host.pid();
    let panicked = thread::spawn(move || {
        let _host = host;
        panic!("this test's own");
    });
    panicked.join().unwrap_err();
    assert!(!runs(pid));
    let shared = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let mut left = shared.map(|entry| entry.file_name().into_string().unwrap());
    assert!(!left.any(|name| name.ends_with(&format!(".pid{pid}"))));
}

/// Not a test of its own: the process that `a_host_dies_with_its_process` kills.
#[test]
fn start_and_wait_to_be_killed() {
    let Some(file) = std::env::var_os("SPDK_RIG_TEST_PID_FILE") else { return };
    let host = target().start().unwrap();
    std::fs::write(file, host.pid().to_string()).unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_host_dies_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_and_wait_to_be_killed"])
        .env("SPDK_RIG_TEST_PID_FILE", &file)
        // Nobody is left to remove the host's directory.
        .env("TMPDIR", dir.path())
        .env("XDG_RUNTIME_DIR", dir.path())
        .spawn()
        .unwrap();
    let wait = |what: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !what() {
            assert!(Instant::now() < deadline, "waited for too long");
            thread::sleep(Duration::from_millis(10));
        }
    };
    let read = || std::fs::read_to_string(&file).ok()?.parse().ok();
    wait(&|| read().is_some());
    let pid = read().unwrap();
    assert!(runs(pid));
    test.kill().unwrap();
    test.wait().unwrap();
    wait(&|| !runs(pid));
    let _ = std::fs::remove_file(format!("/dev/shm/spdk_tgt_trace.pid{pid}"));
    let _ = std::fs::remove_dir_all(format!("/var/run/dpdk/spdk_pid{pid}"));
}
