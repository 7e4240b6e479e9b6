//! A bdev that keeps a CRC-32C of every block apart from the data, and checks it on every read: against
//! bit rot, misdirected writes and lost writes.
//!
//! `docs/modules/integrity.md` tells how; what needs no SPDK is in `spdk-plugin-integrity-core`.

#![forbid(unsafe_code)]

mod create;
mod disk;
mod rpc;
mod scrub;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use disk::BaseDisk;
use futures_channel::oneshot;
use scrub::Running;
use serde_json::{Value, json};
use spdk_plugin::module::{Base, Bdev, BdevIo, IoError, IoKind, IoResult};
use spdk_plugin::runtime::spawn_local;
use spdk_plugin::{Result, bdev_module};
use spdk_plugin_integrity_core::{Bad, Cause, Device, Disk, Error, Pages};

/// A device and what works for it on the app thread.
pub(crate) struct Integrity {
    name: String,
    base: Base,
    device: Arc<Device>,
    /// They end when the tasks that work for the device have ended.
    ends: Mutex<Vec<oneshot::Receiver<()>>>,
    scrub: Mutex<Option<Running>>,
    /// When a bad block was logged last, and how many were not since then.
    started: Instant,
    logged: AtomicU64,
    unlogged: AtomicU64,
}

/// What a thread uses the device with.
pub(crate) struct Channel {
    disk: BaseDisk,
    /// Memory for checksums.
    spare: RefCell<Vec<Vec<u32>>>,
}

fn io_error(error: Error) -> IoError {
    match error {
        Error::Stopped => IoError::Aborted,
        Error::Invalid(_) => IoError::INVALID_FIELD,
        Error::Io(_) | Error::Damaged(_) => IoError::Failed,
    }
}

#[bdev_module(name = "integrity")]
impl Bdev for Integrity {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        Ok(Channel { disk: BaseDisk::new(&self.base)?, spare: RefCell::default() })
    }

    async fn read(&self, channel: &Channel, mut io: BdevIo<'_>) -> IoResult {
        let (lba, blocks) = (io.offset_blocks(), io.num_blocks());
        let pages = self.device.pages(&channel.disk, lba, blocks).await.map_err(io_error)?;
        if self.device.is_unwritten(&pages, lba, blocks) {
            io.bufs_mut().for_each(|buf| buf.fill(0));
            return Ok(());
        }
        let at = self.device.layout().data + lba;
        io.forward_at(&channel.disk.channel, at).await?;
        if self.device.check(&pages, lba, io.bufs_mut()).is_ok() {
            return Ok(());
        }
        Box::pin(self.read_again(channel, &pages, io)).await
    }

    async fn write(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let (lba, blocks) = (io.offset_blocks(), io.num_blocks());
        let _ticket = self.device.lock(lba..lba + blocks).await;
        let pages = self.device.pages(&channel.disk, lba, blocks).await.map_err(io_error)?;
        let mut sums = channel.spare.borrow_mut().pop().unwrap_or_default();
        self.device.sums(lba, io.bufs(), &mut sums);
        let at = self.device.layout().data + lba;
        let data = io.forward_at(&channel.disk.channel, at);
        let written = self.device.write(&channel.disk, &pages, lba, sums, data).await;
        let (mut sums, done) = written.map_err(io_error)?;
        sums.clear();
        channel.spare.borrow_mut().push(sums);
        done
    }

    async fn flush(&self, channel: &Channel, _: BdevIo<'_>) -> IoResult {
        self.device.flush().await.map_err(io_error)?;
        channel.disk.flush().await.map_err(io_error)
    }

    /// The base may forget the data when the checksums are gone. It need not.
    async fn unmap(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let (lba, blocks) = (io.offset_blocks(), io.num_blocks());
        let _ticket = self.device.lock(lba..lba + blocks).await;
        self.device.zero(&channel.disk, lba, blocks).await.map_err(io_error)?;
        if self.base.supports(IoKind::Unmap) {
            let at = self.device.layout().data + lba;
            let _ = io.forward_at(&channel.disk.channel, at).await;
        }
        Ok(())
    }

    async fn write_zeroes(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let (lba, blocks) = (io.offset_blocks(), io.num_blocks());
        let _ticket = self.device.lock(lba..lba + blocks).await;
        self.device.zero(&channel.disk, lba, blocks).await.map_err(io_error)
    }

    /// The base ends what it has. No handler is dropped by it, or by an abort: a write that was given to the base
    /// stays locked until it is known what has become of it.
    async fn reset(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        if self.base.supports(IoKind::Reset) {
            io.forward(&channel.disk.channel).await?;
        }
        let _all = self.device.lock(0..self.device.layout().blocks).await;
        Ok(())
    }

    async fn abort(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        Err(IoError::Failed)
    }

    async fn destruct(&self) {
        let scrub = self.scrub().take();
        if let Some(scrub) = scrub {
            scrub.end().await;
        }
        if !self.base.is_removed()
            && let Err(error) = self.device.checkpoint().await
        {
            log::warn!("{}: {error}; the next start will recover", self.name);
        }
        self.device.stop();
        let ends = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
        for end in ends {
            // Its sender is dropped at the end of the task, whatever ends it.
            let _ = end.await;
        }
    }

    fn dump_info(&self) -> Option<Value> {
        Some(json!({ "base_bdev_name": self.base.name() }))
    }
}

impl Integrity {
    /// With the log and the checkpoints running. On the app thread.
    fn start(name: &str, base: Base, device: Device) -> Result<Self> {
        let device = Arc::new(device);
        let (log, checkpoints) = (BaseDisk::new(&base)?, BaseDisk::new(&base)?);
        let (log_ends, log_end) = oneshot::channel::<()>();
        let (checkpoints_end, checkpoint_end) = oneshot::channel::<()>();
        let (logger, checkpointer) = (Arc::clone(&device), Arc::clone(&device));
        let text = name.to_owned();
        spawn_local(async move {
            let _ends = log_ends;
            if let Err(error) = logger.run_log(&log).await {
                log::error!("{text}: {error}");
                logger.stop();
            }
        });
        spawn_local(async move {
            let _ends = checkpoints_end;
            checkpointer.run_checkpoints(&checkpoints).await;
        });
        Ok(Self {
            name: name.to_owned(),
            base,
            device,
            ends: Mutex::new(vec![log_end, checkpoint_end]),
            scrub: Mutex::default(),
            started: Instant::now(),
            logged: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
        })
    }

    fn scrub(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads once more what did not match: it may have met a write.
    async fn read_again(&self, channel: &Channel, pages: &Pages, mut io: BdevIo<'_>) -> IoResult {
        let (lba, blocks) = (io.offset_blocks(), io.num_blocks());
        let _ticket = self.device.lock(lba..lba + blocks).await;
        let at = self.device.layout().data + lba;
        io.forward_at(&channel.disk.channel, at).await?;
        self.device.confirm(pages, lba, io.bufs_mut()).map_err(|bad| {
            self.log(bad);
            match bad.cause {
                Cause::Mismatch => IoError::Nvme { cdw0: 0, sct: 2, sc: 0x82 },
                Cause::NoChecksum => IoError::UNRECOVERED_READ,
            }
        })
    }

    /// Once a second.
    fn log(&self, bad: Bad) {
        let now = self.started.elapsed().as_secs() + 1;
        if self.logged.swap(now, Ordering::Relaxed) == now {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (name, Bad { lba, cause }) = (&self.name, bad);
        let more = match self.unlogged.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            more => format!(", and {more} reads before it failed"),
        };
        let why = match cause {
            Cause::Mismatch => "does not match its checksum",
            Cause::NoChecksum => "has lost its checksum",
        };
        log::error!("{name}: block {lba} {why}{more}");
    }
}

impl Drop for Integrity {
    fn drop(&mut self) {
        self.device.stop();
    }
}
