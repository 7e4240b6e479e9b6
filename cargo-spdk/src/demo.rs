//! `cargo spdk demo`: a Rust bdev in a stock `spdk_tgt`, under load.

use std::net::TcpListener;
use std::process::ExitCode;

use serde_json::{Value, json};
use spdk_plugin_build::Spdk;
use spdk_plugin_rig::{Bdevperf, Config, Host, Perf};

use crate::error::{Error, Result};
use crate::setup::describe;
use crate::table::table;
use crate::{print, workspace};

/// Watch a bdev in Rust serve I/O inside a stock spdk_tgt
///
/// Sets up what is missing, builds the modules, starts spdk_tgt with them, creates a RAM disk by JSON-RPC, exports it
/// over NVMe/TCP on the loopback interface, and has SPDK's bdevperf write and verify it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds for each workload
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

const NQN: &str = "nqn.2026-11.io.spdk-plugin:demo";
const BDEV: &str = "ram0";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let spdk = workspace::spdk()?;
    let plugin = workspace::modules(&spdk)?;
    eprintln!("Starting spdk_tgt of SPDK {}", describe(&spdk));
    let mut target =
        Host::builder(&spdk, "spdk_tgt").plugin(&plugin).start().map_err(workspace::rig)?;
    let port = free_port()?;
    export(&target, port)?;
    eprintln!("{BDEV}, 64 MiB, in spdk_tgt (pid {}), is on 127.0.0.1:{port}", target.pid());

    let mut rows = Vec::new();
    let mut failed = false;
    let mut show = |device: &str, workload: &str, perf: Perf| {
        failed |= !perf.errors.is_empty();
        perf.errors.iter().take(3).for_each(|error| eprintln!("{device}: {error}"));
        rows.push([
            device.to_owned(),
            workload.to_owned(),
            format!("{:.0}", perf.iops),
            format!("{:.1} us", perf.latency_us),
            perf.errors.len().to_string(),
        ]);
    };
    for size in [4096, 65536] {
        eprintln!("bdevperf writes and verifies {} KiB blocks over NVMe/TCP", size / 1024);
        let perf = load(&spdk, "verify", size, args.seconds)
            .config(initiator(port))
            .queue_depth(32)
            .report()
            .map_err(workspace::rig)?;
        show("ram0 over NVMe/TCP", &format!("verify, {} KiB, QD 32", size / 1024), perf);
    }
    let _: bool = call(&target, "bdev_ram_delete", json!({ "name": BDEV }))?;
    target.shutdown().map_err(workspace::rig)?;

    eprintln!("bdevperf drives the modules in its own process");
    for (device, workload, config) in inside() {
        let perf = load(&spdk, workload, 4096, args.seconds)
            .plugin(&plugin)
            .config(config)
            .queue_depth(128)
            .report()
            .map_err(workspace::rig)?;
        show(&format!("{device} in bdevperf"), &format!("{workload}, 4 KiB, QD 128"), perf);
    }
    print(&table(["device", "workload", "IOPS", "latency", "errors"], &rows));
    match failed {
        false => Ok(ExitCode::SUCCESS),
        true => Err(Error::new("there were I/O errors, see above")),
    }
}

fn load(spdk: &Spdk, workload: &str, size: u32, seconds: u32) -> Bdevperf {
    Bdevperf::new(spdk, workload).io_size(size).seconds(seconds)
}

/// The bdevs that bdevperf itself makes.
fn inside() -> [(&'static str, &'static str, Config); 2] {
    let params = |name| json!({ "name": name, "num_blocks": 131_072, "block_size": 512 });
    [
        ("ram0", "verify", Config::new().bdev("bdev_ram_create", params(BDEV))),
        ("null0", "randread", Config::new().bdev("bdev_rnull_create", params("null0"))),
    ]
}

/// Creates the RAM disk and makes it a namespace.
fn export(target: &Host, port: u16) -> Result<()> {
    let params = json!({ "name": BDEV, "num_blocks": 131_072, "block_size": 512 });
    let _: String = call(target, "bdev_ram_create", params)?;
    let _: Value = call(target, "nvmf_create_transport", json!({ "trtype": "TCP" }))?;
    let params = json!({ "nqn": NQN, "allow_any_host": true });
    let _: Value = call(target, "nvmf_create_subsystem", params)?;
    let params = json!({ "nqn": NQN, "namespace": { "bdev_name": BDEV } });
    let _: Value = call(target, "nvmf_subsystem_add_ns", params)?;
    let listen = json!({ "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port.to_string() });
    let params = json!({ "nqn": NQN, "listen_address": listen });
    let _: Value = call(target, "nvmf_subsystem_add_listener", params)?;
    Ok(())
}

fn initiator(port: u16) -> Config {
    let params = json!({
        "name": "Nvme0", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
        "trsvcid": port.to_string(), "subnqn": NQN,
    });
    Config::new().bdev("bdev_nvme_attach_controller", params)
}

fn call<T: serde::de::DeserializeOwned>(host: &Host, method: &str, params: Value) -> Result<T> {
    host.call(method, params).map_err(|error| Error::new(format!("{method}: {error}")))
}

/// A TCP port of the loopback interface that nobody listens on.
fn free_port() -> Result<u16> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| {
        Error::new(format!("no TCP port can be had on 127.0.0.1 ({error}): bring up `lo`"))
    })
}
