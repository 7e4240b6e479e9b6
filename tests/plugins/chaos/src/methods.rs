//! RPC methods and tasks that panic.

use std::time::Duration;

use serde::Deserialize;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::{sleep, spawn_local};

use crate::mischief::Bomb;

#[derive(Deserialize)]
struct When {
    /// `now`, `later`, `drop`, `task` or `payload`; anything else is no panic.
    panic: String,
}

#[rpc(name = "chaos_call", aliases = ["chaos_alias"])]
async fn call(params: When) -> Result<String, RpcError> {
    let _bomb = (params.panic == "drop").then(|| Bomb);
    match params.panic.as_str() {
        "now" => panic!("chaos in a method"),
        "later" => {
            sleep(Duration::from_millis(1)).await;
            panic!("chaos in a method after an await");
        }
        "payload" => std::panic::panic_any(Bomb),
        "task" => spawn_local(async {
            sleep(Duration::from_millis(1)).await;
            panic!("chaos in a task");
        })?,
        _ => {}
    }
    Ok(params.panic)
}

/// Never answers by itself: its task waits for what does not come.
#[rpc(name = "chaos_wait", state = "any")]
async fn wait(params: Wait) -> Result<bool, RpcError> {
    sleep(Duration::from_millis(params.ms)).await;
    Ok(true)
}

#[derive(Deserialize)]
struct Wait {
    ms: u64,
}
