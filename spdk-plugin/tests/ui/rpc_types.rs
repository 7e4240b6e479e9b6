use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

struct NoSerde;

#[rpc]
async fn params_without_deserialize(_: NoSerde) -> Result<bool, RpcError> {
    Ok(true)
}

#[rpc]
async fn result_without_serialize() -> Result<NoSerde, RpcError> {
    Ok(NoSerde)
}

#[rpc]
async fn another_error() -> Result<bool, String> {
    Ok(true)
}

fn main() {}
