//! A method of SPDK's own.

spdk_plugin::spdk_plugin! { modules: [] }

/// Would be there if the plugin were.
#[spdk_plugin::rpc(name = "taken_was_loaded")]
async fn was_loaded() -> Result<bool, spdk_plugin::rpc::RpcError> {
    Ok(true)
}

#[spdk_plugin::rpc(name = "bdev_get_bdevs")]
async fn taken() -> Result<bool, spdk_plugin::rpc::RpcError> {
    Ok(true)
}
