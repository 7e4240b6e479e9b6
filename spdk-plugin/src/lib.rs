//! Write [SPDK](https://spdk.io) block-device modules, subsystems and JSON-RPC methods in safe async
//! Rust, and load them into the stock `spdk_tgt`.
//!
//! - [`module`]: bdev modules, with [`#[bdev_module]`](bdev_module).
//! - [`rpc`](mod@rpc): JSON-RPC methods, with [`#[rpc]`](macro@rpc).
//! - [`Subsystem`]: subsystems, with [`#[subsystem]`](macro@subsystem).
//! - [`mod@bdev`]: the bdevs of whatever module, opened and used.
//! - [`dma`]: memory for I/O.
//! - [`keyring`]: keys that SPDK keeps.
//! - [`complete`]: futures of C callbacks.
//! - [`runtime`]: tasks, pollers and time on SPDK's threads.
//! - [`spdk_plugin!`]: makes a plugin or an app of the crates that hold all these.
//!
//! Every callback of SPDK's runs under a guard: a panic in a user's code goes to SPDK's log and fails
//! the one request it was about, and the program lives.

pub mod bdev;
pub mod complete;
pub mod dma;
mod error;
mod guard;
mod json;
pub mod keyring;
pub mod log;
pub mod module;
pub mod plugin;
pub mod rpc;
pub mod runtime;
mod subsystem;

pub use bdev::{Bdev, BdevDesc, IoChannel};
pub use dma::{DmaBuf, IoVec};
pub use error::{Error, Result};
pub use runtime::app::{SpdkApp, SpdkAppBuilder};
pub use runtime::env::{SpdkEnv, SpdkEnvBuilder};
pub use runtime::{CurrentThread, SpdkThread, Subsystems, ThreadHandle};
pub use spdk_plugin_macros::{bdev_module, main, rpc, subsystem};
pub use subsystem::Subsystem;

/// What the macros expand to. Nothing here is for use by hand.
#[doc(hidden)]
pub mod private {
    pub use linkme;

    pub use crate::module::Registration;
    pub use crate::module::{IoKinds, ModuleEntry, NoVbdev, Overrides, Probe};
    pub use crate::plugin::{ABI_LEN, METHODS, MODULES, SUBSYSTEMS, abi_record, claim, register};
    pub use crate::rpc::{Method, Params, Request, State, call, call_without_params};
    pub use crate::runtime::app::run_main;
    pub use crate::subsystem::{Lifecycle, Registered, SubsystemEntry};
}
