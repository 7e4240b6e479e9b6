use std::cell::RefCell;

use spdk_plugin::module::{Bdev, BdevIo, IoResult};
use spdk_plugin::{Result, bdev_module};

struct Disk;

#[bdev_module(name = "disk")]
impl Bdev for Disk {
    type Channel = RefCell<Vec<BdevIo<'static>>>;

    fn channel(&self) -> Result<Self::Channel> {
        Ok(RefCell::default())
    }

    async fn write(&self, later: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        later.borrow_mut().push(io);
        Ok(())
    }
}

fn main() {}
