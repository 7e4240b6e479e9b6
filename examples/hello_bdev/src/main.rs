//! Writes a bdev, reads it back and compares.
//!
//! `hello_bdev --json bdev.json`, with any of SPDK's usual options.

#![forbid(unsafe_code)]

use spdk_plugin::{BdevDesc, DmaBuf, Result};

#[spdk_plugin::main(name = "hello_bdev")]
async fn main() -> Result<()> {
    let desc = BdevDesc::open("Malloc0", true)?;
    let channel = desc.get_io_channel()?;
    let block = u64::from(desc.block_size());
    let mut buf = DmaBuf::alloc_zeroed(block as usize, desc.alignment())?;

    let hello = b"Hello from Rust";
    buf[..hello.len()].copy_from_slice(hello);
    desc.write(&channel, &mut buf, 0, block).await?;

    buf.fill(0);
    desc.read(&channel, &mut buf, 0, block).await?;
    assert_eq!(buf[..hello.len()], hello[..]);
    println!("{} says: {}", desc.name(), String::from_utf8_lossy(hello));
    Ok(())
}
