//! Reads everything and looks whether it is right.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::check::{BAD, UNWRITTEN};
use crate::device::Device;
use crate::disk::{Disk, Result};
use crate::report::{Bad, count};
use crate::table::{Version, is_version};

/// Bytes that are read at once.
const AT_ONCE: usize = 128 << 10;
/// Bad blocks that are remembered.
const REMEMBERED: usize = 64;

/// One scrub, to be watched and stopped.
#[derive(Debug, Default)]
pub struct Scrub {
    stop: AtomicBool,
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
    checked: AtomicU64,
    passed: AtomicU64,
    bad: AtomicU64,
    repaired: AtomicU64,
    first_bad: Mutex<Vec<Bad>>,
}

/// How far a scrub is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Blocks that were looked at, or need not be.
    pub passed: u64,
    /// Blocks that were read and compared.
    pub checked: u64,
    /// Blocks that cannot be read.
    pub bad: u64,
    /// Pages of checksums that were damaged on the base and are to be written again from memory.
    pub repaired: u64,
    /// The first of the bad blocks.
    pub first_bad: Vec<Bad>,
}

impl Scrub {
    /// One that reads so many bytes a second; 0 is as many as it can.
    pub fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate), ..Self::default() }
    }

    /// Ends it soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            passed: get(&self.passed),
            checked: get(&self.checked),
            bad: get(&self.bad),
            repaired: get(&self.repaired),
            first_bad: self.first_bad.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn found(&self, bad: Bad) {
        count(&self.bad);
        let mut first = self.first_bad.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < REMEMBERED {
            first.push(bad);
        }
    }
}

impl Device {
    /// Checks all blocks and all pages of checksums.
    ///
    /// # Errors
    /// The base cannot be read.
    pub async fn scrub<D: Disk>(&self, disk: &D, scrub: &Scrub) -> Result<()> {
        let mut buf = disk.buf(AT_ONCE.max(self.layout.unit()))?;
        let began = Instant::now();
        for no in 0..self.layout.pages() {
            self.scrub_page(disk, scrub, &mut buf, no).await?;
            let first = no * self.layout.per_page();
            let end = self.layout.blocks.min(first + self.layout.per_page());
            let step = (buf.len() / self.layout.block_size as usize) as u64;
            for lba in (first..end).step_by(step as usize) {
                if scrub.is_stopped() {
                    return Ok(());
                }
                let blocks = step.min(end - lba);
                self.scrub_blocks(disk, scrub, &mut buf, lba, blocks).await?;
                scrub.passed.fetch_add(blocks, Ordering::Relaxed);
                self.keep_rate(disk, scrub, began).await;
            }
        }
        Ok(())
    }

    async fn keep_rate<D: Disk>(&self, disk: &D, scrub: &Scrub, began: Instant) {
        let rate = scrub.rate.load(Ordering::Relaxed);
        let bytes = scrub.checked.load(Ordering::Relaxed) * u64::from(self.layout.block_size);
        if rate == 0 {
            // Requests are served meanwhile.
            return disk.pause(Duration::ZERO).await;
        }
        let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
        // In small steps, so that it can be stopped.
        while let Some(early) = due.checked_sub(began.elapsed()).filter(|early| !early.is_zero()) {
            if scrub.is_stopped() {
                return;
            }
            disk.pause(early.min(Duration::from_millis(100))).await;
        }
    }

    /// Looks at a page on the base. If it is damaged and memory still has it, it is written again.
    async fn scrub_page<D: Disk>(
        &self,
        disk: &D,
        scrub: &Scrub,
        buf: &mut D::Buf,
        no: u64,
    ) -> Result<()> {
        let Some(page) = self.table.ready(no) else { return Ok(()) };
        let version = self.table.version(no);
        if version == Version::NONE {
            return Ok(());
        }
        let unit = self.layout.unit();
        disk.read(self.layout.page(no, version.slot()), self.layout.unit_blocks, buf).await?;
        let whole = is_version(&buf[..unit], self.id, no, version);
        // A checkpoint may have written it elsewhere meanwhile.
        let lost = (0..page.sums.len()).all(|at| crate::check::load(&page.sums, at) == BAD);
        if !whole && !lost && self.table.version(no) == version {
            count(&self.report.counters.repaired);
            count(&scrub.repaired);
            self.table.touch(&page);
            self.log.want_checkpoint();
        }
        Ok(())
    }

    async fn scrub_blocks<D: Disk>(
        &self,
        disk: &D,
        scrub: &Scrub,
        buf: &mut D::Buf,
        lba: u64,
        blocks: u64,
    ) -> Result<()> {
        let pages = self.pages(disk, lba, blocks).await?;
        if self.is_unwritten(&pages, lba, blocks) {
            return Ok(());
        }
        let len = blocks as usize * self.layout.block_size as usize;
        disk.read(self.layout.data + lba, blocks, buf).await?;
        let (mut wrong, mut checked) = (Vec::new(), 0);
        self.checker.compare(
            lba,
            [&mut buf[..len]].into_iter(),
            |lba| {
                let sum = pages.sum(lba);
                checked += u64::from(sum != UNWRITTEN);
                sum
            },
            |lba, _| wrong.push(lba),
        );
        for lba in wrong {
            let _ticket = self.lock(lba..lba + 1).await;
            disk.read(self.layout.data + lba, 1, buf).await?;
            let block = &mut buf[..self.layout.block_size as usize];
            if let Err(bad) = self.confirm(&pages, lba, [block].into_iter()) {
                scrub.found(bad);
            }
        }
        scrub.checked.fetch_add(checked, Ordering::Relaxed);
        Ok(())
    }
}
