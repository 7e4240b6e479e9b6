//! What the cases share.

use std::path::PathBuf;

use spdk_plugin::{SpdkApp, SpdkAppBuilder};

/// DMA memory of a case in MiB.
pub(crate) const MEMORY: u32 = 512;

/// An app on one core, without hugepages and PCI devices, and with a socket of its own.
pub(crate) fn app() -> SpdkAppBuilder {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = std::process::id() as usize % cores;
    SpdkApp::builder()
        .name("cases")
        .reactor_mask(format!("[{core}]"))
        .mem_size_mb(MEMORY)
        .no_pci(true)
        .no_huge(no_huge())
        .no_core_locks(true)
        .limit_core_dumps(true)
        .trace_entries(1)
        .rpc_addr(socket().to_string_lossy())
}

/// Whether a program has to ask for ordinary memory: on older releases the rig sees to it.
pub(crate) fn no_huge() -> bool {
    std::env::var_os("SPDK_RIG_NO_HUGE").is_none()
}

/// Where the app's RPC server listens.
pub(crate) fn socket() -> PathBuf {
    std::env::temp_dir().join(format!("spdk-case-{}.sock", std::process::id()))
}
