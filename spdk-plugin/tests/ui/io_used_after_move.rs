use spdk_plugin::module::{Bdev, BdevIo, IoResult};
use spdk_plugin::{Result, bdev_module};

struct Disk;

#[bdev_module(name = "disk")]
impl Bdev for Disk {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn write(&self, _: &(), io: BdevIo<'_>) -> IoResult {
        store(io);
        let first = io.bufs().next();
        if first.is_some() { Ok(()) } else { Err(spdk_plugin::module::IoError::Failed) }
    }
}

fn store(_io: BdevIo<'_>) {}

fn main() {}
