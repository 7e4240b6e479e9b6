use spdk_plugin::module::{Bdev, BdevIo, IoResult};
use spdk_plugin::{Result, bdev_module};

struct Disk;

#[bdev_module(name = "disk")]
impl Bdev for Disk {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn zcopy_start(&self, _: &(), _: BdevIo<'_>) -> IoResult {
        Ok(())
    }
}

fn main() {}
