//! Copies a bdev to another. Each core of the program has descriptors, channels and tasks of its own, and
//! takes the next piece when it is done with one.
//!
//! `copy -m 0x3 --json bdevs.json from=Malloc0 to=Malloc1`, with any of SPDK's usual options.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use spdk_plugin::runtime::{for_each_core, spawn_local};
use spdk_plugin::{BdevDesc, DmaBuf, Error, IoChannel, Result};

/// Bytes of a piece.
const PIECE: u64 = 128 << 10;
/// Pieces that a core has in flight.
const DEPTH: usize = 8;

/// What all cores share.
struct Job {
    from: String,
    to: String,
    num_blocks: u64,
    /// The first block that nobody has taken yet.
    next: AtomicU64,
    bar: ProgressBar,
}

impl Job {
    fn new() -> Result<Self> {
        let operand = |name: &str| {
            let prefix = format!("{name}=");
            let found =
                std::env::args().find_map(|arg| Some(arg.strip_prefix(&prefix)?.to_owned()));
            found.ok_or_else(|| Error::Invalid(format!("{prefix}BDEV is missing")))
        };
        let (from, to) = (operand("from")?, operand("to")?);
        let (source, target) = (BdevDesc::open(&from, false)?, BdevDesc::open(&to, true)?);
        if source.block_size() != target.block_size() || source.size() > target.size() {
            return Err(Error::Invalid(format!(
                "{from} has {} blocks of {} bytes, and {to} {} of {}: it does not fit",
                source.num_blocks(),
                source.block_size(),
                target.num_blocks(),
                target.block_size()
            )));
        }
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
        let bar = ProgressBar::new(source.size());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Ok(Self { from, to, num_blocks: source.num_blocks(), next: AtomicU64::new(0), bar })
    }

    /// Nobody takes any more.
    fn give_up(&self) {
        self.next.store(self.num_blocks, Ordering::Relaxed);
    }
}

/// What the tasks of a core share.
struct Ends {
    from: (BdevDesc, IoChannel),
    to: (BdevDesc, IoChannel),
}

/// Copies pieces until there are none left. Gives the number of bytes.
async fn copy_pieces(job: Arc<Job>, ends: Rc<Ends>) -> Result<u64> {
    let ((source, source_channel), (target, target_channel)) = (&ends.from, &ends.to);
    let block = u64::from(source.block_size());
    let piece = (PIECE / block).max(1);
    let align = source.alignment().max(target.alignment());
    let mut buf = DmaBuf::alloc((piece * block) as usize, align)?;
    let mut copied = 0;
    loop {
        let at = job.next.fetch_add(piece, Ordering::Relaxed);
        if at >= job.num_blocks {
            return Ok(copied);
        }
        let count = piece.min(job.num_blocks - at);
        source.read_blocks(source_channel, &mut buf, at, count).await?;
        target.write_blocks(target_channel, &mut buf, at, count).await?;
        copied += count * block;
        job.bar.inc(count * block);
    }
}

/// What each core does.
async fn copy_on_core(job: Arc<Job>) -> Result<u64> {
    let open = |name: &str, write| -> Result<_> {
        let desc = BdevDesc::open(name, write)?;
        let channel = desc.get_io_channel()?;
        Ok((desc, channel))
    };
    let ends = Rc::new(Ends { from: open(&job.from, false)?, to: open(&job.to, true)? });
    let spawn = |_| spawn_local(copy_pieces(Arc::clone(&job), Rc::clone(&ends)));
    let tasks: Vec<_> = (0..DEPTH).map(spawn).collect();
    let mut copied = 0;
    for task in tasks {
        copied += task.await?.inspect_err(|_| job.give_up())?;
    }
    Ok(copied)
}

#[spdk_plugin::main(name = "copy")]
async fn main() -> Result<()> {
    let job = Arc::new(Job::new()?);
    let shared = Arc::clone(&job);
    let cores = for_each_core(move |_| copy_on_core(Arc::clone(&shared))).await?;
    job.bar.finish();
    for (core, copied) in cores {
        println!("core {core}: {} bytes", copied?);
    }
    println!("copied {} to {}", job.from, job.to);
    Ok(())
}
