use spdk_plugin::{BdevDesc, Result};

async fn stats(desc: BdevDesc) -> Result<()> {
    let stats = desc.io_stats(Default::default());
    drop(desc);
    stats.await?;
    Ok(())
}

fn main() {}
