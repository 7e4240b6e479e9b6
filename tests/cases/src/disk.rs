//! A bdev module of the cases' own: `bdev_null` with a size, a life and properties that a case chooses.

use spdk_plugin::module::{Bdev, BdevBuilder, BdevHandle, BdevIo, IoResult};
use spdk_plugin::{Result, bdev_module};

spdk_plugin::spdk_plugin! { modules: [] }

/// See the module's page.
pub(crate) struct Disk;

#[bdev_module(name = "case_disk")]
impl Bdev for Disk {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn read(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        io.bufs_mut().for_each(|buf| buf.fill(0));
        Ok(())
    }

    async fn write(&self, _: &(), _: BdevIo<'_>) -> IoResult {
        Ok(())
    }

    async fn unmap(&self, _: &(), _: BdevIo<'_>) -> IoResult {
        Ok(())
    }
}

/// A disk of blocks of 512 bytes.
pub(crate) async fn disk(name: &str, blocks: u64) -> BdevHandle<Disk> {
    BdevBuilder::new(name, 512, blocks).register(Disk).await.unwrap()
}
