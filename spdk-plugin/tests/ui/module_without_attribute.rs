use spdk_plugin::Result;
use spdk_plugin::module::Bdev;

struct Disk;

impl Bdev for Disk {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
