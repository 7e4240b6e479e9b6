//! `fill_bdev` and `check_bdev`: contents that follow from a seed and a block's number, so that they can be checked by
//! another program later.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use futures_util::future::join_all;
use serde::Serialize;
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;
use spdk_plugin_test_model::Stamp;

use crate::disk::Disk;
use crate::settings::Pattern;

/// What was filled or checked.
#[derive(Default, Serialize)]
struct Checked {
    /// Blocks that were written, or that hold what they should.
    blocks: u64,
    /// Blocks that do not.
    wrong: u64,
    /// The first of them, and what it holds.
    first_wrong: Option<(u64, String)>,
    seconds: f64,
}

#[rpc(name = "fill_bdev")]
async fn fill(pattern: Pattern) -> Result<Checked, RpcError> {
    run(pattern, true).await
}

#[rpc(name = "check_bdev")]
async fn check(pattern: Pattern) -> Result<Checked, RpcError> {
    run(pattern, false).await
}

async fn run(pattern: Pattern, writes: bool) -> Result<Checked, RpcError> {
    let begun = Instant::now();
    let disk = Disk::open(&pattern.name, writes)?;
    let geometry = disk.geometry(pattern.first, pattern.blocks, pattern.longest).await?;
    let unit = geometry.write_unit;
    let (most, next) = (geometry.most / unit * unit, Cell::new(geometry.blocks.start));
    let checked = RefCell::new(Checked::default());
    let worker = || async {
        let mut buf =
            DmaBuf::alloc_zeroed(most as usize * disk.block_size, disk.desc.alignment().max(4096))?;
        while next.get() < geometry.blocks.end {
            let start = next.get();
            let end = geometry.blocks.end.min(start + most);
            next.set(end);
            let bytes = (end - start) as usize * disk.block_size;
            if writes {
                for (block, data) in (start..end).zip(buf.chunks_mut(disk.block_size)) {
                    Stamp::new(pattern.seed, block).fill(data);
                }
                disk.desc.write_blocks(&disk.channel, &mut buf, start, end - start).await?;
                checked.borrow_mut().blocks += end - start;
            } else {
                buf[..bytes].fill(0xdb);
                disk.desc.read_blocks(&disk.channel, &mut buf, start, end - start).await?;
                let blocks = (start..end).zip(buf.chunks(disk.block_size));
                blocks.for_each(|(block, data)| {
                    checked.borrow_mut().check(pattern.seed, block, data)
                });
            }
        }
        Ok::<_, RpcError>(())
    };
    let ended = join_all((0..pattern.depth.max(1)).map(|_| worker())).await;
    ended.into_iter().collect::<Result<Vec<()>, _>>()?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Checked { seconds, ..checked.into_inner() })
}

impl Checked {
    fn check(&mut self, seed: u64, block: u64, data: &[u8]) {
        let Some(byte) = Stamp::new(seed, block).difference(data) else {
            self.blocks += 1;
            return;
        };
        self.wrong += 1;
        if self.first_wrong.as_ref().is_some_and(|(first, _)| *first < block) {
            return;
        }
        let stamp = Stamp::at_start_of(data).filter(|stamp| stamp.is_in(data));
        let found = match stamp {
            Some(stamp) if stamp.is_of(seed) => format!("what block {} should", stamp.serial()),
            Some(stamp) => format!("{stamp:?}"),
            None => format!("{:02x?} from byte {byte} on", &data[byte..data.len().min(byte + 16)]),
        };
        self.first_wrong = Some((block, found));
    }
}
