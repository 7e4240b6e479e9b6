//! Starts real SPDK programs on private sockets and talks JSON-RPC to them.
//!
//! A rig for the project's integration tests and for `cargo spdk demo` and `bench`:
//! - [`Host`] runs any SPDK application with plugins preloaded, and ends it when it is dropped;
//! - [`RpcClient`] calls its JSON-RPC server, [`PythonClient`] does so with SPDK's own client;
//! - [`python_with`] has a package of PyPI, for tests that compare with one;
//! - [`Bdevperf`] and [`Bdevio`] run SPDK's own tools and read what they print;
//! - [`Build`] makes the plugins and apps that are run.
//!
//! Hosts may run side by side, in one process or in several: nothing they use has a fixed name. They need neither root
//! nor hugepages (see [`Memory`]).

mod bdevio;
mod bdevperf;
mod builder;
mod config;
mod cores;
mod error;
mod host;
mod memory;
mod perf;
mod process;
mod python;
mod rpc;
mod tools;

pub use bdevio::{Bdevio, Report};
pub use bdevperf::{Bdevperf, BdevperfServer, Running};
pub use builder::HostBuilder;
pub use config::Config;
pub use cores::cpus;
pub use error::{Error, Result};
pub use host::{Host, Output};
pub use memory::{Memory, free_hugepages_mb};
pub use perf::{Job, Perf};
pub use python::{PythonClient, python_with};
pub use rpc::{RpcClient, RpcError};
pub use spdk_plugin_build::Spdk;
pub use tools::{Build, plugin, spdk};
