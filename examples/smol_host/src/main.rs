//! A smol program with SPDK inside: it stores a file in a bdev, and compares. smol reads the file, SPDK
//! writes the bdev, and both are awaited in one function.
//!
//! `smol_host --json bdev.json --file some.img Malloc0`

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use smol::io::AsyncReadExt;
use smol::{LocalExecutor, fs::File};
use spdk_plugin::runtime::{poller_task, unaffinitized};
use spdk_plugin::{BdevDesc, DmaBuf, Result, SpdkEnv, SpdkThread, Subsystems};

/// Store a file in a bdev
#[derive(Parser)]
struct Args {
    /// The bdev
    bdev: String,
    /// The file
    #[arg(long)]
    file: PathBuf,
    /// SPDK's JSON configuration
    #[arg(short = 'c', long)]
    json: PathBuf,
    /// The cores of SPDK
    #[arg(short = 'm', long, default_value = "0x1")]
    cpumask: String,
    /// DMA memory in MiB
    #[arg(short = 's', long, default_value_t = 512)]
    mem_size: u32,
    /// Use ordinary memory
    #[arg(long)]
    no_huge: bool,
}

/// Fills the buffer from the file, with zeroes behind its end. Gives the number of bytes of the file.
async fn fill(buf: &mut DmaBuf, file: &mut File) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read(&mut buf[filled..]).await? {
            0 => break,
            len => filled += len,
        }
    }
    buf[filled..].fill(0);
    Ok(filled)
}

/// Gives the number of bytes.
async fn store(args: &Args) -> Result<u64, Box<dyn Error>> {
    // The threads with which smol reads files are not to share SPDK's core.
    let mut file = unaffinitized(|| File::open(&args.file)).await?;
    let desc = BdevDesc::open(&args.bdev, true)?;
    let channel = desc.get_io_channel()?;
    let block = desc.block_size() as usize;
    let mut buf = DmaBuf::alloc(block * 128, desc.alignment())?;
    let (mut at, mut stored) = (0, 0);
    loop {
        let len = fill(&mut buf, &mut file).await?;
        let blocks = len.div_ceil(block) as u64;
        if blocks == 0 {
            return Ok(stored);
        }
        desc.write_blocks(&channel, &mut buf, at, blocks).await?;
        desc.compare_blocks(&channel, &mut buf, at, blocks).await?;
        at += blocks;
        stored += len as u64;
    }
}

async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let subsystems = Subsystems::builder().config_file(&args.json).start().await?;
    let stored = store(args).await;
    subsystems.stop().await?;
    println!("{} bytes are in {}", stored?, args.bdev);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let _env = SpdkEnv::builder()
        .name("smol_host")
        .core_mask(&*args.cpumask)
        .mem_size_mb(args.mem_size)
        .no_huge(args.no_huge)
        .no_pci(true)
        .init()?;
    let thread = SpdkThread::current("main")?;
    let executor = LocalExecutor::new();
    let driver = executor.spawn(poller_task(&thread));
    let result = smol::block_on(executor.run(run(&args)));
    drop(thread);
    smol::block_on(executor.run(driver));
    result
}
