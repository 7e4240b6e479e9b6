//! `measure_bdev`: how long reads or writes take, as whoever submits them sees it.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

use crate::disk::Disk;

/// The most operations: each has its time kept.
const MOST: usize = 10_000_000;

#[derive(Deserialize)]
struct Measure {
    name: String,
    #[serde(default)]
    write: bool,
    operations: usize,
    depth: usize,
}

/// Times in microseconds.
#[derive(Serialize)]
struct Latencies {
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

#[rpc(name = "measure_bdev")]
async fn measure(params: Measure) -> Result<Latencies, RpcError> {
    let Measure { name, write, operations, depth } = params;
    if operations == 0 || operations > MOST || depth == 0 {
        return Err(RpcError::invalid_params(format!(
            "'operations' must be from 1 to {MOST}, and 'depth' above 0"
        )));
    }
    let disk = Disk::open(&name, write)?;
    let (begun, times) = (Cell::new(0), RefCell::new(Vec::with_capacity(operations)));
    let worker = || async {
        let mut buf = DmaBuf::alloc_zeroed(disk.block_size, 4096)?;
        while begun.get() < operations {
            begun.set(begun.get() + 1);
            let (block, start) = (begun.get() as u64 % disk.desc.num_blocks(), Instant::now());
            if write {
                disk.desc.write_blocks(&disk.channel, &mut buf, block, 1).await?;
            } else {
                disk.desc.read_blocks(&disk.channel, &mut buf, block, 1).await?;
            }
            times.borrow_mut().push(start.elapsed());
        }
        Ok::<_, RpcError>(())
    };
    let ended = join_all((0..depth).map(|_| worker())).await;
    ended.into_iter().collect::<Result<Vec<()>, _>>()?;
    let mut times = times.into_inner();
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let percentile = |percent: usize| micros(times[(times.len() * percent).div_ceil(100) - 1]);
    Ok(Latencies {
        mean: micros(times.iter().sum()) / times.len() as f64,
        p50: percentile(50),
        p99: percentile(99),
        max: percentile(100),
    })
}
