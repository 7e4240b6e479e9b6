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
        std::thread::scope(|scope| {
            scope.spawn(|| println!("{} blocks", io.num_blocks()));
        });
        Ok(())
    }

    async fn flush(&self, _: &(), io: BdevIo<'_>) -> IoResult {
        std::thread::scope(|scope| {
            scope.spawn(move || drop(io));
        });
        Ok(())
    }
}

fn main() {}
