//! The task on the app thread that gives legs the data that they lack.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use spdk_plugin::Result;
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::runtime::sleep;
use spdk_plugin_mirror_core::{Legs, MAX_LEGS, Work};

use crate::disk::Disk;
use crate::owner::{Command, Disks, Missed};
use crate::shared::{Check, Shared};

/// What is copied at a time, and locked meanwhile.
const CHUNK: u64 = 1 << 20;
/// How often an idle copier looks.
const IDLE: Duration = Duration::from_millis(20);
/// How long it waits where it cannot go on.
const STUCK: Duration = Duration::from_millis(500);

pub(crate) struct Copier {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disks: Disks,
}

impl Copier {
    pub(crate) async fn run(self) {
        let shared = &self.shared;
        while !shared.stops() {
            if shared.check_wanted.swap(false, Ordering::SeqCst) {
                self.check().await;
            }
            if !shared.kick.swap(false, Ordering::SeqCst) {
                sleep(IDLE).await;
                continue;
            }
            let mut stuck = false;
            for region in 0..shared.regions.len() {
                if shared.stops() {
                    return;
                }
                if let Some(work) = shared.regions.work(region, shared.written()) {
                    stuck |= !self.copy(region, work).await;
                }
            }
            if stuck {
                sleep(STUCK).await;
                shared.kick();
            } else if !(shared.written() - shared.readable()).is_empty() {
                let _ = shared.ask(|reply| Command::Rebuilt { reply }).await;
                if !(shared.written() - shared.readable()).is_empty() {
                    // A write has come between.
                    sleep(IDLE).await;
                    shared.kick();
                }
            }
        }
    }

    fn disk(&self, slot: usize) -> Option<Rc<Disk>> {
        self.disks.borrow()[slot].clone()
    }

    /// Copies a region. False: that has to be tried again.
    async fn copy(&self, region: usize, work: Work) -> bool {
        let shared = &self.shared;
        let chunk = shared.geometry.blocks_in(CHUNK).max(1);
        shared.regions.begin_copy(region);
        let blocks = shared.geometry.blocks_of(region);
        let (mut given, mut synced, mut at) = (work.behind, work.unsynced, blocks.start);
        while at < blocks.end && !shared.stops() {
            let end = (at + chunk).min(blocks.end);
            let began = Instant::now();
            let Some((to, all)) = self.copy_chunk(region, work, at..end).await else {
                return false;
            };
            given = given & to;
            synced &= all;
            self.rest(end - at, began).await;
            at = end;
        }
        if at < blocks.end {
            return false;
        }
        let whole = shared.regions.copied(region, given, synced);
        whole && given == work.behind && synced == work.unsynced
    }

    /// Copies some blocks of a region. Gives the legs that have them now, and whether those are all that are
    /// written. `None`: nobody could be read.
    async fn copy_chunk(
        &self,
        region: usize,
        work: Work,
        blocks: std::ops::Range<u64>,
    ) -> Option<(Legs, bool)> {
        let shared = &self.shared;
        let _held = shared.locks.acquire(blocks.clone()).await;
        // Whoever writes these blocks after this knows the legs that we see now (invariant 4).
        let written = shared.written();
        if work.unsynced && work.behind.is_empty() && written.len() == 1 {
            // There is nobody to differ from.
            return Some((written, true));
        }
        let bytes = ((blocks.end - blocks.start) * u64::from(shared.geometry.block_size)) as usize;
        let mut data = DmaBuf::alloc(bytes, 4096).ok()?;
        let (source, unread) = self.read(region, &blocks, &mut data).await?;
        let mut targets = (work.behind | unread) & written;
        if work.unsynced {
            targets = written;
        }
        let targets = targets - Legs::one(source);
        let failed = self.write(targets, &blocks, &data).await;
        shared.copied_blocks.fetch_add(blocks.end - blocks.start, Ordering::Relaxed);
        if !failed.is_empty() {
            let turns = self.turns();
            let missed = Missed {
                legs: written & (targets | Legs::one(source)),
                turns,
                ok: written - failed,
            };
            let _ = shared.ask(|reply| Command::Missed { missed, reply }).await;
        }
        let have = (targets - failed) | Legs::one(source);
        Some((have, (shared.written() - have).is_empty()))
    }

    fn turns(&self) -> [Option<u32>; MAX_LEGS] {
        let legs = self.shared.legs();
        std::array::from_fn(|slot| legs[slot].as_ref().map(|leg| leg.turn))
    }

    /// Reads blocks from a leg that may be read, and tells which, and which could not.
    async fn read(
        &self,
        region: usize,
        blocks: &std::ops::Range<u64>,
        data: &mut DmaBuf,
    ) -> Option<(usize, Legs)> {
        let shared = &self.shared;
        let (mut unread, readable) = (Legs::NONE, shared.readable());
        loop {
            let sources = shared.regions.sources(region..region + 1, readable, shared.source());
            let sources = if (sources - unread).is_empty() { readable } else { sources } - unread;
            let slot = sources.first()?;
            let at = shared.geometry.data_offset + blocks.start;
            if let Some(disk) = self.disk(slot) {
                let read = disk.channel.read_blocks(data, at, blocks.end - blocks.start).await;
                let Err(error) = read.map(drop) else { return Some((slot, unread)) };
                log::error!("mirror {}: copying from leg {slot}: {error}", shared.name);
            }
            unread.add(slot);
        }
    }

    /// Writes blocks to legs, and gives those where that failed.
    async fn write(&self, legs: Legs, blocks: &std::ops::Range<u64>, data: &DmaBuf) -> Legs {
        let at = self.shared.geometry.data_offset + blocks.start;
        let count = blocks.end - blocks.start;
        let all = legs.iter().map(|slot| async move {
            let write = async {
                let Some(disk) = self.disk(slot) else { return Ok(false) };
                let mut copy = DmaBuf::alloc(data.len(), disk.base.alignment().max(4096))?;
                copy.copy_from_slice(data);
                disk.channel.write_blocks(&mut copy, at, count).await?;
                Ok(true)
            };
            let outcome: Result<bool> = write.await;
            match outcome {
                Ok(true) => None,
                Ok(false) => Some(slot),
                Err(error) => {
                    log::error!("mirror {}: copying to leg {slot}: {error}", self.shared.name);
                    Some(slot)
                }
            }
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    /// Keeps to the rate limit.
    async fn rest(&self, blocks: u64, began: Instant) {
        let limit = u64::from(self.shared.rebuild_mb_per_sec.load(Ordering::Relaxed)) << 20;
        if limit == 0 {
            return;
        }
        let bytes = blocks * u64::from(self.shared.geometry.block_size);
        let due = Duration::from_secs_f64(bytes as f64 / limit as f64);
        let left = due.saturating_sub(began.elapsed());
        if !left.is_zero() {
            sleep(left).await;
        }
    }

    /// Compares all legs that are read.
    async fn check(&self) {
        let shared = &self.shared;
        *shared.check() = Check { running: true, ..Check::default() };
        let chunk = shared.geometry.blocks_in(CHUNK).max(1);
        let mut at = 0;
        while at < shared.geometry.num_blocks && !shared.stops() {
            let began = Instant::now();
            let end = (at + chunk).min(shared.geometry.num_blocks);
            match self.differing(at..end).await {
                Ok(differing) => {
                    let mut check = shared.check();
                    check.blocks = end;
                    check.differing += differing;
                }
                Err(error) => {
                    log::error!("mirror {}: checking block {at}: {error}", shared.name);
                    shared.check().running = false;
                    return;
                }
            }
            self.rest(end - at, began).await;
            at = end;
        }
        let mut check = shared.check();
        (check.running, check.done) = (false, true);
    }

    /// How many of the blocks are not the same on all legs.
    async fn differing(&self, blocks: std::ops::Range<u64>) -> Result<u64> {
        let shared = &self.shared;
        let _held = shared.locks.acquire(blocks.clone()).await;
        let (count, size) = (blocks.end - blocks.start, shared.geometry.block_size as usize);
        let at = shared.geometry.data_offset + blocks.start;
        let mut first: Option<DmaBuf> = None;
        let mut differs = vec![false; count as usize];
        for slot in shared.readable().iter() {
            let Some(disk) = self.disk(slot) else { continue };
            let mut data = DmaBuf::alloc(count as usize * size, 4096)?;
            disk.channel.read_blocks(&mut data, at, count).await?;
            let Some(first) = &first else {
                first = Some(data);
                continue;
            };
            let pairs = first.chunks(size).zip(data.chunks(size));
            for ((a, b), differs) in pairs.zip(&mut differs) {
                *differs |= a != b;
            }
        }
        Ok(differs.into_iter().filter(|differs| *differs).count() as u64)
    }
}
