use spdk_plugin::module::Bdev;
use spdk_plugin::{Result, bdev_module};

struct Unnamed;

#[bdev_module]
impl Bdev for Unnamed {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }
}

struct Unknown;

#[bdev_module(name = "unknown", version = "1")]
impl Bdev for Unknown {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }
}

struct Twice;

#[bdev_module(name = "a", name = "b")]
impl Bdev for Twice {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }
}

struct Empty;

#[bdev_module(name = "")]
impl Bdev for Empty {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }
}

struct Inherent;

#[bdev_module(name = "inherent")]
impl Inherent {}

#[bdev_module(name = "not_an_impl")]
struct NotAnImpl;

fn main() {}
