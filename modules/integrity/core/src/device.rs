//! The device: what its requests do.

use std::future::Future;
use std::iter;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::check::{self, BAD, Checker, UNWRITTEN};
use crate::checkpoint::Last;
use crate::disk::{Disk, Error, Result};
use crate::entry::Kind;
use crate::layout::Layout;
use crate::locks::{Locks, Ticket};
use crate::log::{Log, Position, Run};
use crate::report::{Bad, Cause, Counts, Report, count};
use crate::table::{Page, Table};

/// Pages that are made unwritten in one step.
const ZERO_PAGES: u64 = 64;

/// How a device works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The base may lose what was not flushed.
    pub barriers: bool,
    /// Writes are answered before older checksums are given up, which a flush waits for.
    pub write_cache: bool,
    /// Pages of checksums that are kept in memory.
    pub cached_pages: usize,
}

/// A device that is in use. Any thread may call its methods, with a [`Disk`] of its own.
#[derive(Debug)]
pub struct Device {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) layout: Layout,
    pub(crate) options: Options,
    pub(crate) checker: Checker,
    pub(crate) table: Table,
    pub(crate) locks: Locks,
    pub(crate) log: Log,
    pub(crate) report: Report,
    pub(crate) last: Mutex<Last>,
    pub(crate) position: Mutex<Option<Position>>,
}

/// The pages of a range of blocks, in memory while this lives.
#[derive(Debug)]
pub struct Pages {
    first: Arc<Page>,
    rest: Vec<Arc<Page>>,
    per_page: u64,
}

impl Pages {
    fn at(&self, lba: u64) -> (&Arc<Page>, usize) {
        let page = lba / self.per_page - self.first.no;
        let page = if page == 0 { &self.first } else { &self.rest[page as usize - 1] };
        (page, (lba % self.per_page) as usize)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Page>> {
        iter::once(&self.first).chain(&self.rest)
    }

    pub(crate) fn sum(&self, lba: u64) -> u32 {
        let (page, at) = self.at(lba);
        check::load(&page.sums, at)
    }
}

impl Device {
    /// Where what lies on the base.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What was found wrong so far.
    pub fn counts(&self) -> Counts {
        self.report.counters.get()
    }

    /// The last bad blocks that were met, the newest at the end.
    pub fn last_bad(&self) -> Vec<Bad> {
        self.report.last()
    }

    pub(crate) fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_position(&self) -> Position {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        position.take().unwrap_or_else(|| Position::new(0))
    }

    /// Waits for requests that overlap with the range, and keeps others away while the ticket lives.
    pub async fn lock(&self, range: Range<u64>) -> Ticket<'_> {
        self.locks.lock(range).await
    }

    /// The pages of blocks that are to be read or written.
    ///
    /// # Errors
    /// The base cannot be read.
    pub async fn pages<D: Disk>(&self, disk: &D, lba: u64, blocks: u64) -> Result<Pages> {
        let per_page = self.layout.per_page();
        let first = self.page(disk, lba / per_page).await?;
        let mut rest = Vec::new();
        for no in lba / per_page + 1..(lba + blocks).div_ceil(per_page) {
            rest.push(self.page(disk, no).await?);
        }
        Ok(Pages { first, rest, per_page })
    }

    pub(crate) async fn page<D: Disk>(&self, disk: &D, no: u64) -> Result<Arc<Page>> {
        match self.table.ready(no) {
            Some(page) => Ok(page),
            None => self.table.page(disk, (&self.layout, self.id), &self.report, no).await,
        }
    }

    /// Whether all blocks are unwritten: they read as zeroes, and the base need not be asked.
    pub fn is_unwritten(&self, pages: &Pages, lba: u64, blocks: u64) -> bool {
        (lba..lba + blocks).all(|lba| pages.sum(lba) == UNWRITTEN)
    }

    /// Compares what was read, and makes zeroes of unwritten blocks. What does not match may have met a write:
    /// read it again under a [`lock`](Self::lock), and then call [`confirm`](Self::confirm).
    ///
    /// # Errors
    /// The first block that is bad.
    pub fn check<'a>(
        &self,
        pages: &Pages,
        lba: u64,
        bufs: impl Iterator<Item = &'a mut [u8]>,
    ) -> Result<(), Bad> {
        self.compare(pages, lba, bufs, |_| ())
    }

    /// As [`check`](Self::check), of what was read under a lock: what is bad is counted and remembered.
    ///
    /// # Errors
    /// The first block that is bad.
    pub fn confirm<'a>(
        &self,
        pages: &Pages,
        lba: u64,
        bufs: impl Iterator<Item = &'a mut [u8]>,
    ) -> Result<(), Bad> {
        self.compare(pages, lba, bufs, |bad| self.report.bad(bad))
            .inspect(|()| count(&self.report.counters.repeated))
    }

    fn compare<'a>(
        &self,
        pages: &Pages,
        lba: u64,
        bufs: impl Iterator<Item = &'a mut [u8]>,
        mut each: impl FnMut(Bad),
    ) -> Result<(), Bad> {
        let mut first = Ok(());
        self.checker.compare(
            lba,
            bufs,
            |lba| pages.sum(lba),
            |lba, sum| {
                let cause = if sum == BAD { Cause::NoChecksum } else { Cause::Mismatch };
                let bad = Bad { lba, cause };
                each(bad);
                if first.is_ok() {
                    first = Err(bad);
                }
            },
        );
        first
    }

    /// Puts the checksums of data at `lba` behind those in `sums`.
    pub fn sums<'a>(&self, lba: u64, bufs: impl Iterator<Item = &'a [u8]>, sums: &mut Vec<u32>) {
        self.checker.blocks(lba, bufs, |sum| sums.push(sum));
    }

    /// How many blocks can be written at once.
    pub fn most_blocks(&self) -> u64 {
        self.log.most_blocks()
    }

    /// Writes blocks whose checksums are `sums` by `data`, which is awaited when the log says that they are under way.
    /// The caller holds the range's lock until this has ended. Gives the memory of `sums` back.
    ///
    /// # Errors
    /// `Ok(Err)` is `data`'s error.
    pub async fn write<D: Disk, E>(
        &self,
        disk: &D,
        pages: &Pages,
        lba: u64,
        sums: Vec<u32>,
        data: impl Future<Output = Result<(), E>>,
    ) -> Result<(Vec<u32>, Result<(), E>)> {
        let blocks = sums.len() as u64;
        if blocks > self.most_blocks() {
            return Err(Error::Invalid(format!("{blocks} blocks are too many at once")));
        }
        let begun = self.log.begin(Kind::Open, (lba, blocks), sums, || self.table.is_crowded());
        let (run, committed) = begun.await?;
        committed.await?;
        let written = data.await;
        let is = match &written {
            Ok(()) => None,
            Err(_) => Some(Box::pin(self.look(disk, pages, lba, blocks)).await),
        };
        let wait = written.is_ok() && !self.options.write_cache;
        let (sums, closed) = self.log.end(run, wait, |run| {
            if let Some(is) = is {
                self.decide(pages, run, &is);
            }
            self.store(pages, run);
        });
        if let Some(closed) = closed {
            closed.await?;
        }
        self.checkpoint_if_due();
        Ok((sums, written))
    }

    /// The checksums of what the base has now; bad ones where it cannot be read.
    async fn look<D: Disk>(&self, disk: &D, pages: &Pages, lba: u64, blocks: u64) -> Vec<u32> {
        let mut is = vec![BAD; blocks as usize];
        let Ok(mut buf) = disk.buf(self.layout.block_size as usize) else { return is };
        for (lba, is) in (lba..).zip(&mut is) {
            if disk.read(self.layout.data + lba, 1, &mut buf).await.is_ok() {
                *is = self.checker.block(lba, &buf[..self.layout.block_size as usize]);
            } else if pages.sum(lba) == UNWRITTEN {
                *is = UNWRITTEN;
            }
        }
        is
    }

    /// After a failed write, takes for each block the checksum that its data have: the new or the old one.
    fn decide(&self, pages: &Pages, run: &mut Run, is: &[u32]) {
        for (lba, (sum, &is)) in (run.lba..).zip(run.sums.iter_mut().zip(is)) {
            let old = pages.sum(lba);
            if *sum != is {
                *sum = if old == is || old == UNWRITTEN { old } else { BAD };
            }
        }
    }

    fn store(&self, pages: &Pages, run: &Run) {
        let mut sums = run.sums.iter().copied();
        for page in pages.iter() {
            let first = page.no * pages.per_page;
            let start = run.lba.max(first) - first;
            let end =
                (run.lba + run.count).min(first + page.sums.len() as u64).saturating_sub(first);
            if start < end {
                for sum in &page.sums[start as usize..end as usize] {
                    sum.store(sums.next().unwrap_or(UNWRITTEN), Ordering::Release);
                }
                self.table.touch(page);
            }
        }
    }

    /// Makes blocks unwritten. The caller holds the range's lock until this has ended.
    ///
    /// # Errors
    /// The base has failed.
    pub async fn zero<D: Disk>(&self, disk: &D, mut lba: u64, blocks: u64) -> Result<()> {
        let end = lba + blocks;
        while lba < end {
            let step = (lba / self.layout.per_page() + ZERO_PAGES) * self.layout.per_page();
            let step = step.min(end) - lba;
            let pages = self.pages(disk, lba, step).await?;
            let crowded = || self.table.is_crowded();
            let begun = self.log.begin(Kind::Zero, (lba, step), Vec::new(), crowded);
            let (run, committed) = begun.await?;
            committed.await?;
            let _ = self.log.end(run, false, |run| self.store(&pages, run));
            self.checkpoint_if_due();
            lba += step;
        }
        Ok(())
    }

    /// Makes durable what was written, and gives older checksums up.
    ///
    /// # Errors
    /// The base has failed.
    pub async fn flush(&self) -> Result<()> {
        self.log.settle().await
    }

    fn checkpoint_if_due(&self) {
        if self.table.is_due() {
            self.log.want_checkpoint();
        }
    }

    /// Makes a checkpoint, so that the next start has nothing to recover. For the end, when there are no
    /// requests.
    ///
    /// # Errors
    /// The base has failed.
    pub async fn checkpoint(&self) -> Result<()> {
        self.log.checkpoint().await
    }

    /// Ends [`run_log`](Self::run_log) and [`run_checkpoints`](Self::run_checkpoints).
    pub fn stop(&self) {
        self.log.stop();
    }
}
