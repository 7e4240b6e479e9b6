//! The runtime's own sources, built on loom's primitives, and models that run them in every order that
//! threads may take.

#[path = "../../../spdk-plugin/src/error.rs"]
#[allow(dead_code, unreachable_pub, reason = "the models use a part of it")]
mod error;
#[path = "../../../spdk-plugin/src/rpc/error.rs"]
#[allow(dead_code, unreachable_pub, reason = "what is tested uses a part of it")]
mod rpc_error;
#[path = "../../../spdk-plugin/src/module/status.rs"]
#[allow(dead_code, unreachable_pub, reason = "what is tested uses a part of it")]
mod status;

/// What an error may carry.
mod module {
    pub(crate) use crate::status::IoError;
}

/// What an error may carry.
mod rpc {
    pub(crate) use crate::rpc_error::RpcError;
}
#[path = "../../../spdk-plugin/src/runtime/inbox.rs"]
#[allow(dead_code, reason = "the models use a part of it")]
mod inbox;
#[path = "../../../spdk-plugin/src/runtime/join.rs"]
#[allow(dead_code, unreachable_pub, reason = "the models use a part of it")]
mod join;
pub mod models;

/// What `runtime/sync.rs` is in the crate itself.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
}
