//! What the cases share.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, Result, SpdkApp, SpdkAppBuilder, SpdkEnv, SpdkEnvBuilder};
use spdk_plugin_sys as sys;

/// DMA memory of a case in MiB.
const MEMORY: u32 = 512;

/// An app on one core, without hugepages and PCI devices, and with a socket of its own.
pub(crate) fn app() -> SpdkAppBuilder {
    SpdkApp::builder()
        .name("cases")
        .reactor_mask(core())
        .mem_size_mb(MEMORY)
        .no_pci(true)
        .no_huge(no_huge())
        .no_core_locks(true)
        .limit_core_dumps(true)
        // 20.07 has one always, as shared memory.
        .trace_entries(1)
        .rpc_addr(socket().to_string_lossy())
}

/// An environment on one core, without hugepages and PCI devices.
pub(crate) fn env() -> SpdkEnvBuilder {
    SpdkEnv::builder()
        .name("cases")
        .core_mask(core())
        .mem_size_mb(MEMORY)
        .no_pci(true)
        .no_huge(no_huge())
}

/// Cases that run side by side take turns at the CPUs.
fn core() -> String {
    format!("[{}]", std::process::id() as usize % cpus())
}

/// How many CPUs the case may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether a program has to ask for ordinary memory: on older releases the rig sees to it.
pub(crate) fn no_huge() -> bool {
    std::env::var_os("SPDK_RIG_NO_HUGE").is_none()
}

/// Where the app's RPC server listens.
pub(crate) fn socket() -> PathBuf {
    std::env::temp_dir().join(format!("spdk-case-{}.sock", std::process::id()))
}

/// A configuration of one call for each bdev.
pub(crate) fn bdevs(calls: &[(&str, Value)]) -> String {
    let calls: Vec<Value> = calls
        .iter()
        .map(|(method, params)| json!({ "method": method, "params": params }))
        .collect();
    json!({ "subsystems": [{ "subsystem": "bdev", "config": calls }] }).to_string()
}

/// `bdev_malloc_create` of 64 blocks of 512 bytes.
pub(crate) fn malloc(name: &str) -> (&'static str, Value) {
    ("bdev_malloc_create", json!({ "name": name, "num_blocks": 64, "block_size": 512 }))
}

/// `bdev_delay_create` over another, with this latency of everything.
pub(crate) fn delay(name: &str, base: &str, latency: Duration) -> (&'static str, Value) {
    let micros = latency.as_micros() as u64;
    let params = json!({ "name": name, "base_bdev_name": base, "avg_read_latency": micros,
        "p99_read_latency": micros, "avg_write_latency": micros, "p99_write_latency": micros });
    ("bdev_delay_create", params)
}

/// Calls a method of this process from a thread of its own, as a foreign client would.
pub(crate) async fn rpc(method: &str, params: Value) -> Value {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let client = std::thread::spawn(move || -> std::io::Result<Value> {
        let mut stream = UnixStream::connect(socket())?;
        stream.write_all(call.as_bytes())?;
        let reply = serde_json::Deserializer::from_reader(stream).into_iter().next();
        reply.expect("a reply").map_err(Into::into)
    });
    while !client.is_finished() {
        sleep(Duration::from_millis(1)).await;
    }
    client.join().unwrap().unwrap()
}

/// Polls a future once, and says whether it is ready.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Waits until `done` is true.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: still not after 20 s");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs a case in an app whose bdevs are configured by these calls.
pub(crate) fn with_bdevs(config: &[(&str, Value)], case: impl AsyncFnOnce() -> Result<()>) {
    app().json_data(bdevs(config)).block_on(case()).unwrap();
}

/// Whether a case can go on, or the release has said what it lacks.
pub(crate) fn supported<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Unsupported { needs, .. }) => {
            let release = format!("{:02}.{:02}", sys::VERSION_MAJOR, sys::VERSION_MINOR);
            assert!(needs > release.as_str(), "{release} is no earlier than {needs}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
/// A configuration with one bdev, `disk`, of 8 blocks.
pub(crate) const DISK: &str = r#"{ "subsystems": [{ "subsystem": "bdev", "config": [
    { "method": "bdev_null_create", "params": { "name": "disk", "num_blocks": 8, "block_size": 512 } }
] }] }"#;
