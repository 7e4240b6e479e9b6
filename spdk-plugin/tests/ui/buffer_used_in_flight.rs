//! What an operation has borrowed is not looked at before it has ended.

use spdk_plugin::Result;
use spdk_plugin::bdev::{BdevDesc, IoChannel};
use spdk_plugin::dma::DmaBuf;

async fn read(desc: &BdevDesc, channel: &IoChannel, mut buf: DmaBuf) -> Result<()> {
    let mut read = desc.read(channel, &mut buf, 0, 4096);
    read.start();
    println!("{}", buf[0]);
    read.await
}

async fn two(desc: &BdevDesc, channel: &IoChannel, mut buf: DmaBuf) -> Result<()> {
    let write = desc.write(channel, &mut buf, 0, 4096);
    let read = desc.read(channel, &mut buf, 0, 4096);
    write.await?;
    read.await
}

fn main() {}
