//! A disk that reads as ones, in a plugin of its own.

#![forbid(unsafe_code)]

use serde::Deserialize;
use spdk_plugin::module::{Bdev, BdevBuilder, BdevIo, IoResult};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Result, bdev_module, rpc};

spdk_plugin::spdk_plugin! { modules: [] }

struct Ones;

#[bdev_module(name = "ones")]
impl Bdev for Ones {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn read(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        io.bufs_mut().for_each(|buf| buf.fill(1));
        Ok(())
    }
}

#[derive(Deserialize)]
struct Create {
    name: String,
}

#[rpc(name = "bdev_ones_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    Ok(BdevBuilder::new(params.name, 512, 1024).register(Ones).await?.name().to_owned())
}
