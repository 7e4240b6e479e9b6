//! What a device may have, and the requests that tell it.

use std::cell::{Cell, RefCell};

use fastrand::Rng;

use super::sim::SimDisk;
use crate::device::Device;
use crate::disk::{Disk, Result};

/// What a block was to become. The stamp 0 is zeroes.
#[derive(Clone, Copy, Debug)]
struct Version {
    stamp: u64,
    lost: bool,
}

#[derive(Clone, Debug)]
struct Block {
    versions: Vec<Version>,
    /// The newest that was answered.
    answered: usize,
    /// The oldest that may be there after a crash.
    certain: usize,
}

/// What each block may have.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    blocks: Vec<Block>,
    next_stamp: u64,
    block_size: usize,
}

fn data(stamp: u64, lba: u64, block_size: usize) -> Vec<u8> {
    if stamp == 0 {
        return vec![0; block_size];
    }
    let mut data = vec![stamp as u8; block_size];
    data[..8].copy_from_slice(&stamp.to_le_bytes());
    data[8..16].copy_from_slice(&lba.to_le_bytes());
    data
}

impl Reference {
    pub(crate) fn new(blocks: u64, block_size: u32) -> Self {
        let unwritten = Version { stamp: 0, lost: false };
        let block = Block { versions: vec![unwritten], answered: 0, certain: 0 };
        Self {
            blocks: vec![block; blocks as usize],
            next_stamp: 1,
            block_size: block_size as usize,
        }
    }

    fn begin(&mut self, stamp: u64, lba: u64, blocks: u64) -> Vec<usize> {
        let range = &mut self.blocks[lba as usize..(lba + blocks) as usize];
        let begin = |block: &mut Block| {
            block.versions.push(Version { stamp, lost: false });
            block.versions.len() - 1
        };
        range.iter_mut().map(begin).collect()
    }

    fn end(&mut self, lba: u64, at: &[usize], certain: bool) {
        for (block, &at) in self.blocks[lba as usize..].iter_mut().zip(at) {
            block.answered = block.answered.max(at);
            if certain {
                block.certain = block.certain.max(at);
            }
        }
    }

    /// The write under way to this block is lost.
    pub(crate) fn lost(&mut self, lba: u64) {
        if let Some(last) = self.blocks[lba as usize].versions.last_mut() {
            last.lost = true;
        }
    }

    /// All that was answered is certain, as of a process that was killed.
    pub(crate) fn answered_is_certain(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.certain = block.certain.max(block.answered));
    }

    /// All that was ever to become of the blocks, of which as much is certain as in `other`.
    pub(crate) fn as_certain_as(&self, other: &Self) -> Self {
        let mut this = self.clone();
        for (block, other) in this.blocks.iter_mut().zip(&other.blocks) {
            block.certain = other.certain;
        }
        this
    }

    fn answered(&self) -> Vec<usize> {
        self.blocks.iter().map(|block| block.answered).collect()
    }

    fn flushed(&mut self, answered: &[usize]) {
        for (block, &at) in self.blocks.iter_mut().zip(answered) {
            block.certain = block.certain.max(at);
        }
    }

    /// Why what was read of a block cannot be; `None` for a block that could not be read.
    pub(crate) fn wrong(&self, lba: u64, read: Option<&[u8]>, harm: bool) -> Option<String> {
        let block = &self.blocks[lba as usize];
        let may = &block.versions[block.certain..];
        let fine = match read {
            Some(read) => may
                .iter()
                .any(|version| !version.lost && data(version.stamp, lba, self.block_size) == read),
            None => harm || may.iter().any(|version| version.lost),
        };
        (!fine).then(|| {
            let stamp = read.map(|read| u64::from_le_bytes(read[..8].try_into().unwrap()));
            format!("block {lba} reads {stamp:?}, of {:?} from {}", block.versions, block.certain)
        })
    }

    /// From now on the blocks have what was read.
    fn settle(&mut self, lba: u64, read: Option<&[u8]>) {
        let block = &mut self.blocks[lba as usize];
        let stamp = |read: &[u8]| u64::from_le_bytes(read[..8].try_into().unwrap());
        // What cannot be read counts as lost, until it is written again.
        let version = Version { stamp: read.map_or(u64::MAX, stamp), lost: read.is_none() };
        *block = Block { versions: vec![version], answered: 0, certain: 0 };
    }

    fn stamp(&mut self) -> u64 {
        self.next_stamp += 1;
        self.next_stamp - 1
    }
}

/// Reads one block through the device; `None` if it is bad.
pub(crate) async fn read(device: &Device, disk: &SimDisk, lba: u64) -> Result<Option<Vec<u8>>> {
    read_blocks(device, disk, lba, 1).await
}

async fn read_blocks(
    device: &Device,
    disk: &SimDisk,
    lba: u64,
    blocks: u64,
) -> Result<Option<Vec<u8>>> {
    let layout = device.layout();
    let mut buf = vec![0; blocks as usize * layout.block_size as usize];
    let pages = device.pages(disk, lba, blocks).await?;
    if device.is_unwritten(&pages, lba, blocks) {
        return Ok(Some(buf));
    }
    disk.read(layout.data + lba, blocks, &mut buf).await?;
    if device.check(&pages, lba, buf.chunks_mut(100)).is_ok() {
        return Ok(Some(buf));
    }
    let _ticket = device.lock(lba..lba + blocks).await;
    disk.read(layout.data + lba, blocks, &mut buf).await?;
    Ok(device.confirm(&pages, lba, buf.chunks_mut(100)).is_ok().then_some(buf))
}

/// Requests of a device and what they may have made of it.
pub(crate) struct Workload<'a> {
    pub(crate) device: &'a Device,
    pub(crate) disk: &'a SimDisk,
    pub(crate) reference: &'a RefCell<Reference>,
    /// Blocks that are used.
    pub(crate) span: u64,
    pub(crate) longest: u64,
    /// Damage was done to the records: any block may be unreadable, none may be wrong.
    pub(crate) harm: &'a Cell<bool>,
    pub(crate) write_cache: bool,
}

impl Workload<'_> {
    pub(crate) async fn write(&self, lba: u64, blocks: u64) -> bool {
        let stamp = self.reference.borrow_mut().stamp();
        let size = self.device.layout().block_size as usize;
        let mut bytes: Vec<u8> =
            (lba..lba + blocks).flat_map(|lba| data(stamp, lba, size)).collect();
        let _ticket = self.device.lock(lba..lba + blocks).await;
        let pages = self.device.pages(self.disk, lba, blocks).await.unwrap();
        let at = self.reference.borrow_mut().begin(stamp, lba, blocks);
        let mut sums = Vec::new();
        self.device.sums(lba, bytes.chunks(77), &mut sums);
        let first = self.device.layout().data + lba;
        let forward = self.disk.write(first, blocks, &mut bytes);
        let written = self.device.write(self.disk, &pages, lba, sums, forward).await;
        let done = matches!(written, Ok((_, Ok(()))));
        if done {
            self.reference.borrow_mut().end(lba, &at, !self.write_cache);
        }
        done
    }

    pub(crate) async fn zero(&self, lba: u64, blocks: u64) -> bool {
        let _ticket = self.device.lock(lba..lba + blocks).await;
        let at = self.reference.borrow_mut().begin(0, lba, blocks);
        let done = self.device.zero(self.disk, lba, blocks).await.is_ok();
        if done {
            self.reference.borrow_mut().end(lba, &at, true);
        }
        done
    }

    pub(crate) async fn flush(&self) -> bool {
        let answered = self.reference.borrow().answered();
        let done = self.device.flush().await.is_ok();
        if done {
            self.reference.borrow_mut().flushed(&answered);
        }
        done
    }

    async fn read(&self, lba: u64, blocks: u64) {
        let floor = self.reference.borrow().answered();
        let Some(read) = read_blocks(self.device, self.disk, lba, blocks).await.unwrap() else {
            let reference = self.reference.borrow();
            let lost = |lba: u64| {
                let block = &reference.blocks[lba as usize];
                block.versions[block.certain..].iter().any(|version| version.lost)
            };
            let excused = self.harm.get() || (lba..lba + blocks).any(lost);
            assert!(excused, "false alarm in {blocks} blocks at {lba}");
            return;
        };
        let reference = self.reference.borrow();
        for (lba, read) in (lba..).zip(read.chunks(reference.block_size)) {
            let block = &reference.blocks[lba as usize];
            let may = &block.versions[floor[lba as usize]..];
            let fits = |stamp| data(stamp, lba, reference.block_size) == read;
            assert!(may.iter().any(|version| fits(version.stamp)), "block {lba}: stale or wrong");
        }
    }

    /// Requests one after another, without end.
    pub(crate) async fn run(&self, mut rng: Rng) {
        loop {
            let blocks = rng.u64(1..=self.longest);
            let lba = rng.u64(..=self.span - blocks);
            match rng.u8(..16) {
                0..=8 => drop(self.write(lba, blocks).await),
                9 => drop(self.zero(lba, blocks).await),
                10 => drop(self.flush().await),
                11 if rng.u8(..4) == 0 => drop(self.device.checkpoint().await),
                _ => self.read(lba, blocks).await,
            }
        }
    }

    /// Reads all blocks, which must be what they may be, and takes that as what they are.
    pub(crate) async fn check(&self) -> Result<(), String> {
        for lba in 0..self.span {
            let read =
                read(self.device, self.disk, lba).await.map_err(|error| error.to_string())?;
            let mut reference = self.reference.borrow_mut();
            if let Some(wrong) = reference.wrong(lba, read.as_deref(), self.harm.get()) {
                return Err(wrong);
            }
            reference.settle(lba, read.as_deref());
        }
        Ok(())
    }
}
