//! The executor's own sources on a stub of SPDK, and the tests that run them, natively, under a sanitizer,
//! or in Miri where there is one: `cargo +nightly miri test -p spdk-plugin-test-executor`.

#[path = "../../../spdk-plugin/src/error.rs"]
#[allow(dead_code, unreachable_pub, reason = "what is tested uses a part of it")]
mod error;
#[path = "../../../spdk-plugin/src/guard.rs"]
#[allow(dead_code, reason = "what is tested uses a part of it")]
mod guard;
pub mod runs;

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

/// As much of `log.rs` as is used.
mod log {
    #[allow(dead_code, reason = "as in the original")]
    pub(crate) enum Level {
        Error,
    }

    pub(crate) fn write(_: Level, _: &str, _: u32, _: &str) {}
}

#[allow(dead_code, unreachable_pub, reason = "what is tested uses a part of it")]
mod runtime;
