//! Formatting a base, and starting from what lies on one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crate::check::{self, BAD, Checker, UNWRITTEN};
use crate::checkpoint::Last;
use crate::device::{Device, Options};
use crate::disk::{Disk, Error, Result};
use crate::entry::{self, Entry, Kind};
use crate::layout::{Layout, Root};
use crate::locks::Locks;
use crate::log::{Log, Position, Start};
use crate::page::{self, Address};
use crate::report::{Report, count};
use crate::table::{Table, Version};

/// Checkpoints whose numbers are left out at a start: one of them may have been cut short by a crash, and its
/// pages must not pass for those of another one.
const SKIPPED: u64 = 1024;
/// Units of the log that are read at once.
const AT_ONCE: u64 = 16;

/// The checksums that a block may have: the one that is certain to have been valid, and those that were written
/// later. Each has the id of its write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Possible {
    floor: (u64, u32),
    later: Vec<(u64, u32)>,
}

impl Possible {
    /// Of writes with an id below `first`, the end says nothing if it is not known that they were under way: it
    /// may be older than the checkpoint.
    fn add(&mut self, kind: Kind, id: u64, sum: u32, first: u64) {
        let stale = kind == Kind::Close && id < first && !self.has(id);
        if id < self.floor.0 || stale {
            return;
        }
        match kind {
            Kind::Open if id > self.floor.0 => {
                if !self.has(id) {
                    self.later.push((id, sum));
                }
            }
            Kind::Open => {}
            Kind::Close | Kind::Zero => {
                self.floor = (id, sum);
                self.later.retain(|&(later, _)| later > id);
            }
        }
    }

    fn has(&self, id: u64) -> bool {
        self.later.iter().any(|&(known, _)| known == id)
    }

    /// The one that holds, given that of the data.
    fn decide(&self, is: u32) -> u32 {
        let mut newest_first = self.later.iter().rev().chain([&self.floor]).map(|&(_, sum)| sum);
        newest_first.find(|&sum| sum == is || sum == UNWRITTEN).unwrap_or(BAD)
    }
}

impl Device {
    /// Makes a device of nothing but unwritten blocks.
    ///
    /// # Errors
    /// The base has failed.
    pub async fn format<D: Disk>(disk: &D, layout: Layout, id: u64) -> Result<Root> {
        let (number, unit) = (1, layout.unit());
        let mut buf = disk.buf(unit)?;
        for no in 0..layout.tables() {
            page::encode(&mut buf, id, Address::Table(no), number, std::iter::empty());
            disk.write(layout.table_page(no, 0), layout.unit_blocks, &mut buf).await?;
        }
        disk.flush().await?;
        let table_sum = Table::new(layout.pages(), 0).sum();
        let root =
            Root { id, epoch: 1, checkpoint: number, log_seq: 1, first_id: 1, table_sum, layout };
        disk.store_root(&root.encode()).await?;
        Ok(root)
    }

    /// Starts from what the base has, and brings in order what a crash has left.
    ///
    /// # Errors
    /// The base has failed, or the table is damaged.
    pub async fn open<D: Disk>(disk: &D, root: Root, options: Options) -> Result<Self> {
        let layout = root.layout.clone();
        let table = Table::new(layout.pages(), options.cached_pages);
        let table_slots = read_table(disk, &root, &table).await?;
        let report = Report::default();
        let (next_seq, units) = read_log(disk, &root, &report).await?;
        let number = root.checkpoint + SKIPPED;
        let device = Self {
            id: root.id,
            epoch: root.epoch + 1,
            options,
            checker: Checker::new(root.id, layout.block_size),
            table,
            locks: Locks::default(),
            log: Log::new(layout.unit(), layout.log_units, options.barriers),
            report,
            position: Mutex::new(Some(Position::new(next_seq))),
            last: Mutex::new(Last { root, number, table_slots, unsure: false }),
            layout,
        };
        device.replay(disk, &units).await?;
        device.checkpoint_at(disk, Start { seq: next_seq, id: 1 }).await?;
        Ok(device)
    }

    /// Brings the pages up to what the log says.
    async fn replay<D: Disk>(&self, disk: &D, entries: &[Entry]) -> Result<()> {
        let (per_page, first_id) = (self.layout.per_page(), self.last().root.first_id);
        let mut by_page: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            let pages = entry.lba / per_page..(entry.lba + entry.count).div_ceil(per_page);
            pages.for_each(|no| by_page.entry(no).or_default().push(entry));
        }
        let mut buf = disk.buf(self.layout.block_size as usize)?;
        for (no, entries) in by_page {
            let page = self.page(disk, no).await?;
            let first = no * per_page;
            let mut blocks: Vec<Possible> = (0..page.sums.len())
                .map(|at| Possible { floor: (0, check::load(&page.sums, at)), later: Vec::new() })
                .collect();
            for entry in entries {
                let end = (entry.lba + entry.count).min(first + blocks.len() as u64);
                for lba in entry.lba.max(first)..end {
                    let sum = entry.sum((lba - entry.lba) as usize);
                    blocks[(lba - first) as usize].add(entry.kind, entry.id, sum, first_id);
                }
            }
            for (at, block) in blocks.into_iter().enumerate() {
                let sum = if block.later.is_empty() {
                    block.floor.1
                } else {
                    count(&self.report.counters.recovered);
                    let lba = first + at as u64;
                    disk.read(self.layout.data + lba, 1, &mut buf).await?;
                    let data = &buf[..self.layout.block_size as usize];
                    block.decide(self.checker.block(lba, data))
                };
                page.sums[at].store(sum, Ordering::Release);
            }
            self.table.touch(&page);
        }
        Ok(())
    }
}

/// Reads the newest whole version of each page of the table. Gives the places where they lie.
async fn read_table<D: Disk>(disk: &D, root: &Root, table: &Table) -> Result<Vec<u64>> {
    let layout = &root.layout;
    let (mut buf, mut slots) = (disk.buf(layout.unit())?, Vec::new());
    for no in 0..layout.tables() {
        let mut newest = None;
        for slot in [0, 1] {
            disk.read(layout.table_page(no, slot), layout.unit_blocks, &mut buf).await?;
            let written = page::decode(&buf[..layout.unit()], root.id, Address::Table(no));
            let Some(number) = written.filter(|&number| number <= root.checkpoint) else {
                continue;
            };
            if newest.is_none_or(|(newest, _)| newest < number) {
                newest = Some((number, slot));
                let first = no * layout.per_page();
                let pages = layout.pages().min(first + layout.per_page());
                for (no, version) in (first..pages).zip(page::values(&buf[..layout.unit()])) {
                    table.set_version(no, Version(version));
                }
            }
        }
        let damaged = || Error::Damaged(format!("page {no} of the table of checksums is damaged"));
        slots.push(newest.ok_or_else(damaged)?.1);
    }
    if table.sum() != root.table_sum {
        return Err(Error::Damaged("the table of checksums is not that of the superblock".into()));
    }
    Ok(slots)
}

/// Reads the log since the last checkpoint. Gives the number of the next unit, and the entries.
async fn read_log<D: Disk>(disk: &D, root: &Root, report: &Report) -> Result<(u64, Vec<Entry>)> {
    let layout = &root.layout;
    let unit = layout.unit();
    let mut buf = disk.buf(AT_ONCE as usize * unit)?;
    let mut units = BTreeMap::new();
    let mut durable = root.log_seq;
    for half in [0, 1] {
        for first in (0..layout.log_units).step_by(AT_ONCE as usize) {
            let count = AT_ONCE.min(layout.log_units - first);
            disk.read(layout.log_unit(half, first), count * layout.unit_blocks, &mut buf).await?;
            for bytes in buf[..count as usize * unit].chunks(unit) {
                let Some(header) = entry::read(bytes) else { continue };
                let ours = header.id == root.id && header.epoch == root.epoch;
                if ours && header.seq >= root.log_seq {
                    durable = durable.max(header.durable);
                    let entries: Vec<_> = entry::entries(bytes, layout.blocks).collect();
                    units.insert(header.seq, entries);
                }
            }
        }
    }
    let next = units.last_key_value().map_or(root.log_seq, |(&last, _)| last + 1).max(durable);
    let there = units.range(..durable).count() as u64;
    report.counters.log_holes.store(durable - root.log_seq - there, Ordering::Relaxed);
    Ok((next, units.into_values().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_possible() {
        let mut block = Possible { floor: (0, 10), later: Vec::new() };
        block.add(Kind::Open, 1, 11, 0);
        block.add(Kind::Open, 3, 13, 0);
        block.add(Kind::Open, 3, 13, 0);
        assert_eq!([10, 11, 13, 14].map(|is| block.decide(is)), [10, 11, 13, BAD]);
        block.add(Kind::Close, 1, 11, 0);
        assert_eq!([10, 11, 13].map(|is| block.decide(is)), [BAD, 11, 13]);
        // Cleared meanwhile; what is late says nothing.
        block.add(Kind::Zero, 5, UNWRITTEN, 0);
        block.add(Kind::Close, 3, 13, 0);
        block.add(Kind::Open, 3, 13, 0);
        assert_eq!(block, Possible { floor: (5, UNWRITTEN), later: Vec::new() });
        block.add(Kind::Open, 6, 16, 0);
        assert_eq!([16, 13].map(|is| block.decide(is)), [16, UNWRITTEN]);
        // The checkpoint may have what came after 6.
        block.add(Kind::Close, 7, 17, 8);
        assert_eq!(block.floor, (5, UNWRITTEN));
        block.add(Kind::Close, 6, 16, 8);
        assert_eq!(block, Possible { floor: (6, 16), later: Vec::new() });
    }
}
