//! RPC methods that try out tasks, time and pollers on SPDK's threads. One that finds a fault panics.

mod joins;
mod pollers;
mod stress;
mod threads;
mod times;

use std::future::Future;
use std::pin::Pin;

use serde::Deserialize;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

spdk_plugin::spdk_plugin! { modules: [] }

#[derive(Deserialize)]
struct Which {
    case: String,
}

type Case = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs one case.
#[rpc(name = "tasks_case")]
async fn case(which: Which) -> Result<bool, RpcError> {
    let tables: [&[(&str, Case)]; 3] = [joins::CASES, times::CASES, pollers::CASES];
    let found = tables.iter().copied().flatten().find(|(name, _)| *name == which.case);
    let Some((_, run)) = found else {
        return Err(RpcError::invalid_params(format!("there is no case {}", which.case)));
    };
    run().await;
    Ok(true)
}
