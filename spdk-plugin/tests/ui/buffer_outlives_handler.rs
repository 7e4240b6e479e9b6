use std::cell::Cell;

use spdk_plugin::module::{Bdev, BdevIo, IoResult};
use spdk_plugin::{Result, bdev_module};

struct Disk;

#[bdev_module(name = "disk")]
impl Bdev for Disk {
    type Channel = Cell<&'static [u8]>;

    fn channel(&self) -> Result<Self::Channel> {
        Ok(Cell::default())
    }

    async fn write(&self, last: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        io.bufs().for_each(|buf| last.set(buf));
        Ok(())
    }
}

fn main() {}
