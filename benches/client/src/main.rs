//! Reads a bdev at random for some seconds, and prints how many reads a second those were: what
//! `bdevperf -w randread` does, through the client.
//!
//! `bench_client [SPDK's options] bdev=null0 depth=32 seconds=1`: reads of 4 KiB on one core.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use spdk_plugin::runtime::{sleep, spawn_local};
use spdk_plugin::{BdevDesc, DmaBuf, Error, IoChannel, Result, SpdkApp};

/// Bytes of a read.
const SIZE: u64 = 4096;

struct Job {
    bdev: String,
    depth: u32,
    seconds: u64,
}

impl Job {
    fn parse(operands: &[String]) -> Result<Self> {
        let mut job = Self { bdev: "null0".into(), depth: 32, seconds: 1 };
        for operand in operands {
            let wrong = || Error::Invalid(format!("'{operand}' is no operand of this program"));
            let (name, value) = operand.split_once('=').ok_or_else(wrong)?;
            match name {
                "bdev" => job.bdev = value.into(),
                "depth" => job.depth = value.parse().map_err(|_| wrong())?,
                "seconds" => job.seconds = value.parse().map_err(|_| wrong())?,
                _ => return Err(wrong()),
            }
        }
        Ok(job)
    }
}

/// What the readers share.
struct Shared {
    desc: BdevDesc,
    channel: IoChannel,
    done: Cell<u64>,
    stop: Cell<bool>,
}

/// Keeps one read in flight until it is told to stop.
async fn reader(shared: Rc<Shared>, mut seed: u64) -> Result<()> {
    let Shared { desc, channel, done, stop } = &*shared;
    let mut buf = DmaBuf::alloc_zeroed(SIZE as usize, desc.alignment().max(4096))?;
    let places = desc.size() / SIZE;
    while !stop.get() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        desc.read(channel, &mut buf, seed % places * SIZE, SIZE).await?;
        done.set(done.get() + 1);
    }
    Ok(())
}

async fn run(job: Job) -> Result<f64> {
    let desc = BdevDesc::open(&job.bdev, false)?;
    if desc.size() < SIZE {
        return Err(Error::Invalid(format!("bdev {} has less than {SIZE} bytes", job.bdev)));
    }
    let channel = desc.get_io_channel()?;
    let (done, stop) = (Cell::new(0), Cell::new(false));
    let shared = Rc::new(Shared { desc, channel, done, stop });
    let start = Instant::now();
    let readers: Vec<_> = (1..=u64::from(job.depth))
        .map(|n| spawn_local(reader(Rc::clone(&shared), n * 0x9e37_79b9_7f4a_7c15)))
        .collect();
    sleep(Duration::from_secs(job.seconds)).await;
    shared.stop.set(true);
    for reader in readers {
        reader.await??;
    }
    Ok(shared.done.get() as f64 / start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let (operands, options): (Vec<String>, Vec<String>) =
        std::env::args().partition(|arg| arg.contains('=') && !arg.starts_with('-'));
    let job = Job::parse(&operands)?;
    let iops = SpdkApp::builder().name("bench_client").args(options).block_on(run(job))?;
    println!("{iops:.0} IOPS");
    Ok(())
}
