//! What the cases share.

use std::path::PathBuf;

use spdk_plugin::{SpdkApp, SpdkAppBuilder, SpdkEnv, SpdkEnvBuilder};

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

/// A configuration with one bdev, `disk`, of 8 blocks.
pub(crate) const DISK: &str = r#"{ "subsystems": [{ "subsystem": "bdev", "config": [
    { "method": "bdev_null_create", "params": { "name": "disk", "num_blocks": 8, "block_size": 512 } }
] }] }"#;
