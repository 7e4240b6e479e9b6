use std::rc::Rc;

use spdk_plugin::module::{Bdev, BdevIo, IoResult};
use spdk_plugin::{Result, bdev_module};

struct Disk(Rc<u32>);

#[bdev_module(name = "disk")]
impl Bdev for Disk {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn write(&self, _: &(), _: BdevIo<'_>) -> IoResult {
        println!("{}", self.0);
        Ok(())
    }
}

fn main() {}
