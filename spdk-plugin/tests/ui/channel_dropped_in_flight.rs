//! A channel that a future borrows is not dropped. Its descriptor may be: the channel keeps it open.

use spdk_plugin::Result;
use spdk_plugin::bdev::{BdevDesc, IoChannel};
use spdk_plugin::dma::DmaBuf;

async fn read(desc: BdevDesc, channel: IoChannel, mut buf: DmaBuf) -> Result<()> {
    let read = desc.read(&channel, &mut buf, 0, 4096);
    drop(desc);
    drop(channel);
    read.await
}

fn main() {}
