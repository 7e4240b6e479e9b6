//! The two bases as one thread reaches them, and requests as the cache sees them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use spdk_plugin::dma::{DmaBuf, DmaPool, IoVec};
use spdk_plugin::module::{BaseChannel, BdevIo, IoError, IoKind, IoResult};
use spdk_plugin_tier_core::{Dev, Discard, Disks, Request};

/// What the cache is answered for data that cannot be had.
pub(crate) const LOST: IoError = IoError::UNRECOVERED_READ;

/// A thread's ways to both bases. The fast one may go.
pub(crate) struct Ports {
    fast: RefCell<Option<Rc<BaseChannel>>>,
    slow: Rc<BaseChannel>,
    lines: DmaPool,
    blocks: DmaPool,
    block_size: usize,
    /// Whether what is volatile is flushed where the order matters.
    barriers: bool,
    flushes: [Flushes; 2],
}

impl Ports {
    pub(crate) fn new(
        fast: Option<BaseChannel>,
        slow: BaseChannel,
        lines: DmaPool,
        blocks: DmaPool,
        barriers: bool,
    ) -> Self {
        let block_size = slow.base().block_size() as usize;
        let (fast, slow) = (RefCell::new(fast.map(Rc::new)), Rc::new(slow));
        Self { fast, slow, lines, blocks, block_size, barriers, flushes: Default::default() }
    }

    /// The fast base is gone: what is in flight keeps its channel until it ends.
    pub(crate) fn drop_fast(&self) {
        drop(self.fast.take());
    }

    #[inline]
    fn channel(&self, dev: Dev) -> IoResult<Rc<BaseChannel>> {
        match dev {
            Dev::Fast => self.fast.borrow().clone().ok_or(LOST),
            Dev::Slow => Ok(Rc::clone(&self.slow)),
        }
    }

    /// Memory for a line, of the pool or not.
    pub(crate) fn line(&self, len: usize) -> IoResult<DmaBuf> {
        match self.lines.get() {
            Some(buf) => Ok(buf),
            None => DmaBuf::alloc(len, 4096).map_err(|_| IoError::Failed),
        }
    }

    fn count(&self, bytes: usize) -> u64 {
        (bytes / self.block_size) as u64
    }

    /// Ends what both bases have in flight.
    pub(crate) async fn reset(&self) -> IoResult {
        let mut result = Ok(());
        for dev in [Dev::Fast, Dev::Slow] {
            if let Ok(base) = self.channel(dev)
                && let Err(error) = base.reset().await
            {
                result = Err(IoError::from(error));
            }
        }
        result
    }
}

impl Disks for Ports {
    type Buf = DmaBuf;
    type Error = IoError;

    fn line_buf(&self) -> Option<DmaBuf> {
        self.lines.get()
    }

    fn block_buf(&self) -> IoResult<DmaBuf> {
        match self.blocks.get() {
            Some(buf) => Ok(buf),
            // Not "no memory": nothing that the bdev layer could wait for will give it back.
            None => DmaBuf::alloc(self.block_size, 4096).map_err(|_| IoError::Failed),
        }
    }

    fn lost(&self) -> IoError {
        LOST
    }

    async fn read(&self, dev: Dev, buf: &mut DmaBuf, block: u64) -> IoResult {
        let count = self.count(buf.len());
        Ok(self.channel(dev)?.read_blocks(buf, block, count).await?)
    }

    async fn write(&self, dev: Dev, buf: &mut DmaBuf, block: u64) -> IoResult {
        let count = self.count(buf.len());
        Ok(self.channel(dev)?.write_blocks(buf, block, count).await?)
    }

    async fn write_all(&self, dev: Dev, bufs: Vec<DmaBuf>, block: u64) -> (IoResult, Vec<DmaBuf>) {
        let mut list = IoVec::from(bufs);
        let count = self.count(list.len());
        let result = match self.channel(dev) {
            Ok(base) => base.writev_blocks(&mut list, block, count).await.map_err(IoError::from),
            Err(error) => Err(error),
        };
        (result, list.into_bufs())
    }

    async fn flush(&self, dev: Dev) -> IoResult {
        let base = self.channel(dev)?;
        if !base.base().supports(IoKind::Flush) {
            return Ok(());
        }
        self.flushes[dev as usize].flush(&base).await
    }

    fn is_volatile(&self, dev: Dev) -> bool {
        let has_cache = |base: &BaseChannel| base.base().has_write_cache();
        self.barriers && self.channel(dev).is_ok_and(|base| has_cache(&base))
    }

    async fn discard(&self, dev: Dev, how: Discard, block: u64, blocks: u64) -> IoResult {
        let base = self.channel(dev)?;
        if how == Discard::Unmap && base.base().supports(IoKind::Unmap) {
            base.unmap_blocks(block, blocks).await?;
        } else {
            base.write_zeroes_blocks(block, blocks).await?;
        }
        Ok(())
    }
}

/// The flushes of a base by one thread: who comes while one is on its way shares the next.
#[derive(Default)]
struct Flushes {
    started: Cell<u64>,
    done: Cell<u64>,
    failed: Cell<Option<(u64, IoError)>>,
    running: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
}

impl Flushes {
    async fn flush(&self, base: &BaseChannel) -> IoResult {
        let wanted = self.started.get() + 1;
        let outcome = poll_fn(|cx| {
            if self.done.get() >= wanted {
                return Poll::Ready(Some(Ok(())));
            }
            if let Some((number, error)) = self.failed.get()
                && number >= wanted
            {
                return Poll::Ready(Some(Err(error)));
            }
            if self.running.get() {
                self.waiters.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            self.running.set(true);
            Poll::Ready(None)
        })
        .await;
        if let Some(result) = outcome {
            return result;
        }
        let number = self.started.get() + 1;
        self.started.set(number);
        let result = base.flush_blocks(0, base.base().num_blocks()).await.map_err(IoError::from);
        match result {
            Ok(()) => self.done.set(number),
            Err(error) => self.failed.set(Some((number, error))),
        }
        self.running.set(false);
        let woken = self.waiters.take();
        woken.into_iter().for_each(Waker::wake);
        result
    }
}

/// A read or a write that lies in one line.
pub(crate) struct Io<'io> {
    pub(crate) io: BdevIo<'io>,
    pub(crate) first: u32,
    pub(crate) streams: bool,
}

impl Request<Ports> for Io<'_> {
    #[inline]
    async fn forward(&mut self, ports: &Ports, dev: Dev, block: u64) -> IoResult {
        let base = ports.channel(dev)?;
        self.io.forward_at(&base, block).await
    }

    #[inline]
    fn blocks(&self) -> (u32, u32) {
        (self.first, self.io.num_blocks() as u32)
    }

    fn fill(&mut self, from: &[u8]) {
        let mut rest = from;
        for buf in self.io.bufs_mut() {
            let (now, later) = rest.split_at(buf.len().min(rest.len()));
            buf[..now.len()].copy_from_slice(now);
            rest = later;
        }
    }

    fn copy(&self, into: &mut [u8]) {
        let mut rest = into;
        for buf in self.io.bufs() {
            let (now, later) = rest.split_at_mut(buf.len().min(rest.len()));
            now.copy_from_slice(&buf[..now.len()]);
            rest = later;
        }
    }

    fn streams(&self) -> bool {
        self.streams
    }
}

/// Tells reads in a row from others, for a few rows at once.
#[derive(Default)]
pub(crate) struct Streams {
    /// Where each row goes on, and how many blocks long it is.
    rows: [Cell<(u64, u64)>; 4],
    next: Cell<u8>,
}

impl Streams {
    /// How many blocks in a row there are with these.
    #[inline]
    pub(crate) fn row(&self, first: u64, count: u64) -> u64 {
        for row in &self.rows {
            let (at, len) = row.get();
            if at == first && len > 0 {
                row.set((first + count, len + count));
                return len + count;
            }
        }
        let next = usize::from(self.next.get());
        self.next.set(((next + 1) % self.rows.len()) as u8);
        self.rows[next].set((first + count, count));
        count
    }
}
