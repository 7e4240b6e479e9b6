//! The module `chaos_submit`: a disk that treats all I/O alike.

use spdk_plugin::module::{Bdev, BdevBuilder, BdevHandle, BdevIo, IoKind, IoResult, RpcCall};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Result, bdev_module, rpc};

use crate::mischief::{Create, Mischief};

struct Submit {
    mischief: Mischief,
}

#[bdev_module(name = "chaos_submit")]
impl Bdev for Submit {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    fn supports(&self, kind: IoKind) -> bool {
        self.mischief.at("supports");
        matches!(kind, IoKind::Read | IoKind::Write | IoKind::Unmap)
    }

    async fn submit(&self, _: &(), _: BdevIo<'_>) -> IoResult {
        self.mischief.handle("submit").await
    }

    fn config(&self, _: &BdevHandle<Self>) -> Option<RpcCall> {
        Some(RpcCall::new("bdev_chaos_submit_create", &self.mischief.params))
    }
}

#[rpc(name = "bdev_chaos_submit_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let bdev = BdevBuilder::new(&*params.name, params.block_size, params.num_blocks);
    let submit = Submit { mischief: Mischief::new(params) };
    Ok(bdev.register(submit).await?.name().to_owned())
}
