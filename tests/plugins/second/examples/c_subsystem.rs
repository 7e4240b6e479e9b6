//! A subsystem of SPDK's own.

spdk_plugin::spdk_plugin! { modules: [] }

/// Would be there if the plugin were.
#[spdk_plugin::rpc(name = "taken_was_loaded")]
async fn was_loaded() -> Result<bool, spdk_plugin::rpc::RpcError> {
    Ok(true)
}

struct Taken;

#[spdk_plugin::subsystem(name = "bdev")]
impl spdk_plugin::Subsystem for Taken {}
