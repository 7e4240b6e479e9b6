//! RPC methods and tasks that panic.

use std::time::Duration;

use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::{sleep, spawn_local};

use crate::mischief::{Bomb, wait_for_a_thread};

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
        })
        .detach(),
        _ => {}
    }
    Ok(params.panic)
}

/// A result that cannot be written.
struct Unwritable {
    panics: bool,
}

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        assert!(!self.panics, "chaos in a result");
        Err(S::Error::custom("no JSON for this"))
    }
}

#[rpc(name = "chaos_result")]
async fn result(params: When) -> Result<Unwritable, RpcError> {
    Ok(Unwritable { panics: params.panic == "now" })
}

/// Starts a task that outlives the call by so long; `foreign`: it is woken from another thread.
#[rpc(name = "chaos_task")]
async fn task(params: Task) -> Result<bool, RpcError> {
    let delay = Duration::from_millis(params.ms);
    spawn_local(async move {
        if params.foreign {
            wait_for_a_thread(delay).await;
        } else {
            sleep(delay).await;
        }
    });
    Ok(true)
}

#[derive(Deserialize)]
struct Task {
    ms: u64,
    foreign: bool,
}

/// Answers late.
#[rpc(name = "chaos_wait", state = "any")]
async fn wait(params: Wait) -> Result<bool, RpcError> {
    sleep(Duration::from_millis(params.ms)).await;
    Ok(true)
}

#[derive(Deserialize)]
struct Wait {
    ms: u64,
}
