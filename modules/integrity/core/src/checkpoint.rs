//! Checkpoints: the pages that have changed are written to their other places, then the table, then the root.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::check::{UNWRITTEN, load};
use crate::device::Device;
use crate::disk::{Disk, Error, Result};
use crate::layout::Root;
use crate::log::Start;
use crate::page::{self, Address};
use crate::report::count;
use crate::table::{Page, Version};

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// How often something is written again that is not there afterwards, and how often the root is tried.
const TRIES: usize = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The state of the last checkpoint, and what only the next one changes.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) root: Root,
    /// The number that was used last, also for one that came to nothing.
    pub(crate) number: u64,
    /// In which of its places each page of the table lies.
    pub(crate) table_slots: Vec<u64>,
    /// It is not known which root the base has, so nothing may be overwritten any more.
    pub(crate) unsure: bool,
}

impl Device {
    /// Makes checkpoints, until [`stop`](Self::stop). Runs once, beside everything else.
    pub async fn run_checkpoints<D: Disk>(&self, disk: &D) {
        while let Some(start) = self.log.next_checkpoint().await {
            let done = self.checkpoint_at(disk, start).await;
            if done.is_err() {
                disk.pause(PAUSE).await;
            }
            self.log.checkpoint_ended(done.is_ok());
        }
    }

    /// Makes a checkpoint.
    pub(crate) async fn checkpoint_at<D: Disk>(&self, disk: &D, start: Start) -> Result<()> {
        let (root, number, table_slots) = {
            let mut last = self.last();
            if last.unsure {
                return Err(Error::Io("the superblock could not be written".into()));
            }
            last.number = Version::next_checkpoint(last.number);
            (last.root.clone(), last.number, last.table_slots.clone())
        };
        let pages = self.table.take_changed();
        let before: Vec<_> = pages.iter().map(|page| self.table.version(page.no)).collect();
        match self.write_all(disk, root, number, table_slots, &pages, start).await {
            Ok(()) => {
                count(&self.report.counters.checkpoints);
                Ok(())
            }
            Err(error) => {
                for (page, version) in pages.iter().zip(before) {
                    self.table.set_version(page.no, version);
                    self.table.touch(page);
                }
                Err(error)
            }
        }
    }

    async fn write_all<D: Disk>(
        &self,
        disk: &D,
        mut root: Root,
        number: u64,
        mut table_slots: Vec<u64>,
        pages: &[Arc<Page>],
        start: Start,
    ) -> Result<()> {
        let layout = &self.layout;
        stream::iter(pages)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |page| self.write_page(disk, page, number))
            .await?;
        let tables: BTreeSet<_> = pages.iter().map(|page| page.no / layout.per_page()).collect();
        for &no in &tables {
            let slot = &mut table_slots[no as usize];
            *slot = 1 - *slot;
            let versions = self.table.versions(no * layout.per_page());
            let lba = layout.table_page(no, *slot);
            self.put(disk, lba, Address::Table(no), number, versions).await?;
        }
        if self.options.barriers {
            disk.flush().await?;
        }
        root.checkpoint = number;
        root.log_seq = start.seq;
        root.first_id = start.id;
        root.epoch = self.epoch;
        root.table_sum = self.table.sum();
        let mut stored = disk.store_root(&root.encode()).await;
        for _ in 1..TRIES {
            if stored.is_ok() {
                break;
            }
            disk.pause(PAUSE).await;
            stored = disk.store_root(&root.encode()).await;
        }
        let mut last = self.last();
        last.unsure = stored.is_err();
        if stored.is_ok() {
            (last.root, last.table_slots) = (root, table_slots);
        }
        stored
    }

    /// Writes a page to its other place. One that is all unwritten needs none.
    async fn write_page<D: Disk>(&self, disk: &D, page: &Page, number: u64) -> Result<()> {
        let values: Vec<_> = (0..page.sums.len()).map(|at| load(&page.sums, at)).collect();
        if values.iter().all(|&sum| sum == UNWRITTEN) {
            self.table.set_version(page.no, Version::NONE);
            return Ok(());
        }
        let slot = self.table.version(page.no).other_slot();
        let lba = self.layout.page(page.no, slot);
        self.put(disk, lba, Address::Sums(page.no), number, values.into_iter()).await?;
        self.table.set_version(page.no, Version::new(number, slot));
        Ok(())
    }

    /// Writes a unit, and looks whether it is there.
    pub(crate) async fn put<D: Disk>(
        &self,
        disk: &D,
        lba: u64,
        address: Address,
        number: u64,
        values: impl Iterator<Item = u32>,
    ) -> Result<()> {
        let (len, blocks) = (self.layout.unit(), self.layout.unit_blocks);
        let (mut buf, mut there) = (disk.buf(len)?, disk.buf(len)?);
        page::encode(&mut buf, self.id, address, number, values);
        for _ in 0..TRIES {
            disk.write(lba, blocks, &mut buf).await?;
            disk.read(lba, blocks, &mut there).await?;
            if buf[..len] == there[..len] {
                return Ok(());
            }
            count(&self.report.counters.repaired);
        }
        Err(Error::Io(format!("block {lba} of the base does not keep what is written to it")))
    }
}
