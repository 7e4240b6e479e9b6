//! The module `ram`, which the project's plugin has.

spdk_plugin::spdk_plugin! { modules: [] }

/// Would be there if the plugin were.
#[spdk_plugin::rpc(name = "taken_was_loaded")]
async fn was_loaded() -> Result<bool, spdk_plugin::rpc::RpcError> {
    Ok(true)
}

struct Taken;

#[spdk_plugin::bdev_module(name = "ram")]
impl spdk_plugin::module::Bdev for Taken {
    type Channel = ();

    fn channel(&self) -> spdk_plugin::Result<()> {
        Ok(())
    }
}
