use serde::Deserialize;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

#[derive(Deserialize)]
struct Params {}

#[rpc]
fn not_async(_: Params) -> Result<bool, RpcError> {
    Ok(true)
}

#[rpc]
async fn two_params(_: Params, _: Params) -> Result<bool, RpcError> {
    Ok(true)
}

#[rpc(state = "sometimes")]
async fn wrong_state(_: Params) -> Result<bool, RpcError> {
    Ok(true)
}

#[rpc(names = "unknown")]
async fn unknown_argument(_: Params) -> Result<bool, RpcError> {
    Ok(true)
}

#[rpc(aliases = "one")]
async fn aliases_not_a_list(_: Params) -> Result<bool, RpcError> {
    Ok(true)
}

#[rpc]
async fn borrowed_params(name: &str) -> Result<bool, RpcError> {
    Ok(name.is_empty())
}

#[rpc]
async fn generic<T>(params: T) -> Result<bool, RpcError> {
    drop(params);
    Ok(true)
}

struct Service;

impl Service {
    #[rpc]
    async fn method(&self) -> Result<bool, RpcError> {
        Ok(true)
    }
}

fn main() {}
