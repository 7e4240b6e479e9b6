//! A tokio server with SPDK inside: it serves the blocks of a bdev as lines of text. SPDK's thread is a
//! task like any other, and the connections await its bdev.
//!
//! `tokio_host --json bdev.json --listen 127.0.0.1:7070 Malloc0`
//!
//! ```text
//! put 3 some text
//! ok
//! get 3
//! some text
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use spdk_plugin::runtime::poller_task;
use spdk_plugin::{BdevDesc, DmaBuf, IoChannel, Result, SpdkEnv, SpdkThread, Subsystems};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

/// What a connection may say, in bytes.
const LIMIT: u64 = 1 << 20;

/// Serve the blocks of a bdev
#[derive(Parser)]
struct Args {
    /// The bdev
    bdev: String,
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
    /// Where SPDK's own RPC server listens
    #[arg(short = 'r', long)]
    rpc_socket: Option<String>,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
}

struct Disk {
    desc: BdevDesc,
    channel: IoChannel,
}

impl Disk {
    fn open(name: &str) -> Result<Self> {
        let desc = BdevDesc::open(name, true)?;
        let channel = desc.get_io_channel()?;
        Ok(Self { desc, channel })
    }

    /// Does what a line says.
    async fn answer(&self, line: &str) -> Result<String, Box<dyn Error>> {
        let mut words = line.splitn(3, ' ');
        let (verb, block) = (words.next(), words.next().unwrap_or_default().parse()?);
        let size = self.desc.block_size() as usize;
        let mut buf = DmaBuf::alloc_zeroed(size, self.desc.alignment())?;
        match (verb, words.next()) {
            (Some("get"), None) => {
                self.desc.read_blocks(&self.channel, &mut buf, block, 1).await?;
                let end = buf.iter().position(|byte| *byte == 0).unwrap_or(size);
                Ok(String::from_utf8_lossy(&buf[..end]).into_owned())
            }
            (Some("put"), Some(text)) if text.len() <= size => {
                buf[..text.len()].copy_from_slice(text.as_bytes());
                self.desc.write_blocks(&self.channel, &mut buf, block, 1).await?;
                Ok("ok".into())
            }
            _ => {
                Err(format!("say 'get BLOCK', or 'put BLOCK TEXT' with up to {size} bytes").into())
            }
        }
    }
}

async fn serve(disk: Rc<Disk>, mut stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(LIMIT)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = disk.answer(&line).await;
        let answer = answer.unwrap_or_else(|error| format!("error: {error}"));
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn accept(args: &Args) -> Result<(), Box<dyn Error>> {
    let disk = Rc::new(Disk::open(&args.bdev)?);
    let listener = TcpListener::bind(args.listen).await?;
    println!("{} is served on {}", args.bdev, listener.local_addr()?);
    // Dropped on the way out, with the connections and what they hold of the bdev.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn_local(serve(Rc::clone(&disk), stream));
            }
            Some(_) = connections.join_next() => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                connections.shutdown().await;
                return Ok(());
            }
        }
    }
}

async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut builder = Subsystems::builder().config_file(&args.json);
    if let Some(socket) = &args.rpc_socket {
        builder = builder.rpc_addr(socket);
    }
    let subsystems = builder.start().await?;
    let result = accept(args).await;
    subsystems.stop().await?;
    println!("stopped in order");
    result
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _env = SpdkEnv::builder()
        .name("tokio_host")
        .core_mask(&*args.cpumask)
        .mem_size_mb(args.mem_size)
        .no_huge(args.no_huge)
        .no_pci(true)
        .init()?;
    let thread = SpdkThread::current("main")?;
    let tasks = LocalSet::new();
    let driver = tasks.spawn_local(poller_task(&thread));
    let result = tasks.block_on(&runtime, run(&args));
    drop(thread);
    tasks.block_on(&runtime, driver)?;
    result
}
