//! A future that does I/O stays on its SPDK thread.

use spdk_plugin::Result;
use spdk_plugin::bdev::BdevDesc;
use spdk_plugin::dma::DmaBuf;

fn spawn(_: impl Future<Output = Result<()>> + Send) {}

async fn read() -> Result<()> {
    let desc = BdevDesc::open("Malloc0", false)?;
    let channel = desc.get_io_channel()?;
    let mut buf = DmaBuf::alloc(4096, 4096)?;
    desc.read(&channel, &mut buf, 0, 4096).await
}

fn main() {
    spawn(read());
}
