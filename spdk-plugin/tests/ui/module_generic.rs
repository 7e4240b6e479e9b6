use spdk_plugin::module::Bdev;
use spdk_plugin::{Result, bdev_module};

struct Disk<T>(T);

#[bdev_module(name = "disk")]
impl<T: Send + Sync + 'static> Bdev for Disk<T> {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
