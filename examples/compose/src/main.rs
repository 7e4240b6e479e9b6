//! A RAID 0 of two disks: SPDK's own malloc bdev, and a RAM disk that is a module in Rust. SPDK's RAID
//! module cannot tell them apart.
//!
//! `compose`, with any of SPDK's usual options.

#![forbid(unsafe_code)]

use serde_json::json;
use spdk_plugin::bdev::Bdev;
use spdk_plugin::rpc::RpcClient;
use spdk_plugin::{BdevDesc, DmaBuf, Result};

spdk_plugin::spdk_plugin! { modules: [spdk_plugin_ram] }

/// Bytes that lie together on one disk.
const STRIP: u64 = 64 << 10;

#[spdk_plugin::main(name = "compose")]
async fn main() -> Result<()> {
    // As a JSON configuration would, but with names and sizes that the program chooses.
    let rpc = RpcClient::local();
    let disk = |name: &str| json!({ "name": name, "num_blocks": 4096, "block_size": 512 });
    let malloc: String = rpc.call("bdev_malloc_create", disk("Malloc0")).await?;
    let ram: String = rpc.call("bdev_ram_create", disk("Ram0")).await?;
    let raid = json!({ "name": "Raid0", "raid_level": "raid0", "strip_size_kb": STRIP >> 10,
        "base_bdevs": [malloc, ram] });
    let _: bool = rpc.call("bdev_raid_create", raid).await?;

    let raid = Bdev::find("Raid0").await?.open(true)?;
    let channel = raid.get_io_channel()?;
    let mut buf = DmaBuf::alloc(2 * STRIP as usize, 4096)?;
    buf[..STRIP as usize].fill(b'a');
    buf[STRIP as usize..].fill(b'b');
    raid.write(&channel, &mut buf, 0, 2 * STRIP).await?;

    for name in [malloc, ram] {
        let product = Bdev::find(&name).await?.product_name().to_owned();
        // The RAID has claimed it for writing; reading is free.
        let disk = BdevDesc::open(&name, false)?;
        let channel = disk.get_io_channel()?;
        disk.read(&channel, &mut buf, 0, STRIP).await?;
        println!("{name} ({product}) has a strip of '{}'", buf[0] as char);
    }
    Ok(())
}
