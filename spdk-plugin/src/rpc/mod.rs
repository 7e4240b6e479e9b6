//! JSON-RPC methods in Rust (`spdk/rpc.h`, `spdk/jsonrpc.h`).
//!
//! A method is an `async fn` marked with [`#[rpc]`](macro@crate::rpc). It runs on the app thread and may
//! await; its reply is sent once, whatever happens to it. An [`RpcClient`] calls the methods of others.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use spdk_plugin::rpc::RpcError;
//!
//! #[derive(Deserialize)]
//! struct Add {
//!     a: u32,
//!     b: u32,
//! }
//!
//! #[spdk_plugin::rpc(name = "example_add")]
//! async fn add(params: Add) -> Result<u64, RpcError> {
//!     Ok(u64::from(params.a) + u64::from(params.b))
//! }
//! ```

mod client;
mod error;
mod method;
mod params;

pub use client::RpcClient;
pub use error::RpcError;
pub(crate) use method::allowed;
#[doc(hidden)]
pub use method::{Method, Params, Request, State, call, call_without_params};
