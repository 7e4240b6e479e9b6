//! The task on the app thread that alone changes superblocks, bitmap and the set of legs.
//!
//! It serves one command after another; requests for bits that came meanwhile are served together.

use std::array;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::join_all;
use spdk_plugin::Result;
use spdk_plugin::module::{Base, BdevHandle, IoError, IoResult};
use spdk_plugin_mirror_core::{Legs, MAX_LEGS, Record, SlotState};
use uuid::Uuid;

use crate::Mirror;
use crate::disk::Disk;
use crate::shared::{Leg, Shared};

/// A write that did not succeed everywhere.
pub(crate) struct Missed {
    /// Those that it was meant for.
    pub(crate) legs: Legs,
    /// Which of a slot's legs it was sent to.
    pub(crate) turns: [Option<u32>; MAX_LEGS],
    /// Those that have it.
    pub(crate) ok: Legs,
}

/// What the owner is asked to do.
pub(crate) enum Command {
    /// Set the bits of regions that are to be written.
    Dirty { regions: Range<usize>, reply: oneshot::Sender<IoResult> },
    /// Legs missed a write. Answers whether it may be acknowledged.
    Missed { missed: Missed, reply: oneshot::Sender<bool> },
    /// A leg failed to read what another could.
    Unreadable { slot: usize, regions: Range<usize> },
    /// A base has gone. Answers whether the mirror goes on without it.
    Leave { base: Base, reply: oneshot::Sender<bool> },
    /// The leg on the base of this name is to go.
    Remove { base: String, forget: bool, reply: oneshot::Sender<Result<()>> },
    /// Take a leg.
    Join { base: Base, terms: Terms, reply: oneshot::Sender<Result<()>> },
    /// See who is rebuilt.
    Rebuilt { reply: oneshot::Sender<()> },
    /// Clear bits of what is quiet.
    Sweep,
    /// End.
    Stop { reply: Option<oneshot::Sender<()>> },
}

/// Which leg a base may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terms {
    /// Only the one that it was.
    Returning,
    /// A new one, too, if it is blank.
    New,
    /// A new one, whatever is on it.
    Overwrite,
}

pub(crate) type Disks = Rc<RefCell<[Option<Rc<Disk>>; MAX_LEGS]>>;

pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) record: Record,
    pub(crate) disks: Disks,
}

pub(crate) fn nonce() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

impl Owner {
    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut queue = VecDeque::new();
        loop {
            if queue.is_empty() {
                let Some(command) = commands.next().await else { return };
                queue.push_back(command);
            }
            while let Ok(command) = commands.try_recv() {
                queue.push_back(command);
            }
            match queue.pop_front() {
                Some(Command::Dirty { regions, reply }) => {
                    let mut waiting = vec![(regions, reply)];
                    queue = queue
                        .into_iter()
                        .filter_map(|command| match command {
                            Command::Dirty { regions, reply } => {
                                waiting.push((regions, reply));
                                None
                            }
                            other => Some(other),
                        })
                        .collect();
                    let wanted = waiting.iter().flat_map(|(regions, _)| regions.clone()).collect();
                    let set = self.set_bits(wanted).await;
                    for (_, reply) in waiting {
                        let _ = reply.send(if set { Ok(()) } else { Err(IoError::Failed) });
                    }
                }
                Some(Command::Missed { missed, reply }) => {
                    let _ = reply.send(self.missed(missed).await);
                }
                Some(Command::Unreadable { slot, regions }) => self.unreadable(slot, regions).await,
                Some(Command::Leave { base, reply }) => {
                    let _ = reply.send(self.leave(&base).await);
                }
                Some(Command::Remove { base, forget, reply }) => {
                    let _ = reply.send(self.remove(&base, forget).await);
                }
                Some(Command::Join { base, terms, reply }) => {
                    let _ = reply.send(self.join(base, terms).await);
                }
                Some(Command::Rebuilt { reply }) => {
                    self.rebuilt().await;
                    let _ = reply.send(());
                }
                Some(Command::Sweep) => self.sweep(false).await,
                Some(Command::Stop { reply }) => {
                    // What still asks is told that nobody answers.
                    drop(queue);
                    self.end().await;
                    if let Some(reply) = reply {
                        let _ = reply.send(());
                    }
                    return;
                }
                None => (),
            }
        }
    }

    pub(crate) fn disk(&self, slot: usize) -> Option<Rc<Disk>> {
        self.disks.borrow()[slot].clone()
    }

    /// The legs that can be reached.
    pub(crate) fn present(&self) -> Legs {
        let disks = self.disks.borrow();
        (0..MAX_LEGS).filter(|slot| disks[*slot].is_some()).collect()
    }

    /// Does the same on several legs at once, and gives those where it failed.
    pub(crate) async fn on_all<F: Future<Output = Result<()>>>(
        &self,
        legs: Legs,
        what: &str,
        op: impl Fn(usize, Rc<Disk>) -> F,
    ) -> Legs {
        let all = legs.iter().map(|slot| {
            let op = self.disk(slot).map(|disk| op(slot, disk));
            async move {
                let outcome = match op {
                    Some(op) => op.await,
                    None => return Some(slot),
                };
                let error = outcome.err()?;
                log::error!("mirror {}: {what} on leg {slot}: {error}", self.shared.name);
                Some(slot)
            }
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    pub(crate) fn publish(&self) {
        *self.shared.record() = self.record.clone();
    }

    /// Stores an event on all legs; those that do not take it fail. False: it is not on all trusted legs, and
    /// nothing that depends on it may be acknowledged.
    pub(crate) async fn commit(&mut self, mut next: Record) -> bool {
        loop {
            self.record = next;
            self.publish();
            // Those that a start depends on come first: no other leg may know of an event that they do not.
            let (active, trusted) = (self.record.active(), self.shared.trusted());
            let groups = [active & trusted, active - trusted, self.record.rebuilding()];
            let mut failed = Legs::NONE;
            for group in groups {
                let group = group & self.present();
                failed = self
                    .on_all(group, "storing the superblock", |slot, disk| {
                        let record = self.record.clone();
                        async move { disk.store(&record, record.slots[slot].leg).await }
                    })
                    .await;
                if !failed.is_empty() {
                    break;
                }
            }
            if failed.is_empty() {
                self.shared.set_trusted(active);
                return true;
            }
            next = match self.failing(failed) {
                Some(next) => next,
                None => return false,
            };
        }
    }

    /// Takes legs from those that are read and written, and gives the event that says so. `None`: no trusted
    /// leg would be left (invariant 7).
    fn failing(&self, legs: Legs) -> Option<Record> {
        let shared = &self.shared;
        if (shared.trusted() & (self.record.active() - legs)).is_empty() {
            log::error!(
                "mirror {}: leg {} is the last one with all data and stays",
                shared.name,
                legs.first().unwrap_or(0)
            );
            return None;
        }
        shared.set_readable(shared.readable() - legs);
        shared.set_written(shared.written() - legs);
        shared.regions.leave(legs);
        for slot in legs.iter() {
            let base = &self.record.slots[slot].base;
            log::error!("mirror {}: leg {slot} ({base}) has failed", shared.name);
        }
        Some(self.record.fail(legs, nonce()))
    }

    /// Fails legs. False: that could not be stored, and they are still trusted.
    pub(crate) async fn fail(&mut self, legs: Legs) -> bool {
        let legs = legs & (self.record.active() | self.record.rebuilding());
        if legs.is_empty() {
            return true;
        }
        let Some(next) = self.failing(legs) else { return false };
        let stored = self.commit(next).await;
        self.let_go().await;
        stored
    }

    /// Lets go of the bases of legs that have failed.
    pub(crate) async fn let_go(&mut self) {
        let gone = self.present() - self.record.active() - self.record.rebuilding();
        for slot in gone.iter() {
            let leg = self.shared.legs()[slot].take();
            let disk = self.disks.borrow_mut()[slot].take();
            let turn = leg.as_ref().map_or(0, |leg| leg.turn);
            if let Ok(bdev) = BdevHandle::<Mirror>::find(&self.shared.name) {
                let left = bdev.for_each_channel(move |channel| channel.leave(slot, turn)).await;
                if let Err(error) = left {
                    log::warn!("mirror {}: leg {slot} goes: {error}", self.shared.name);
                }
            }
            drop(disk);
            if let Some(leg) = leg {
                leg.base.close();
            }
        }
    }

    /// Sets bits on all written legs, before any of the regions is written.
    pub(crate) async fn set_bits(&mut self, wanted: BTreeSet<usize>) -> bool {
        let shared = Arc::clone(&self.shared);
        loop {
            let new: BTreeSet<_> =
                wanted.iter().copied().filter(|region| !shared.regions.is_dirty(*region)).collect();
            if new.is_empty() {
                return true;
            }
            let pages: BTreeSet<_> =
                new.iter().map(|region| shared.geometry.page_of(*region)).collect();
            let set = |region: usize| shared.regions.is_dirty(region) || new.contains(&region);
            let failed = self.write_pages(shared.written() & self.present(), &pages, set).await;
            if failed.is_empty() {
                let away = self.record.failed();
                new.iter().for_each(|region| shared.regions.set_dirty(*region, away));
                return true;
            }
            if !self.fail(failed).await {
                return false;
            }
        }
    }

    /// Writes pages to legs and makes them durable. Gives the legs where that failed.
    pub(crate) async fn write_pages(
        &self,
        legs: Legs,
        pages: &BTreeSet<usize>,
        set: impl Fn(usize) -> bool,
    ) -> Legs {
        let (shared, array, set) = (&self.shared, self.record.array, &set);
        self.on_all(legs, "writing the bitmap", |_, disk| async move {
            for page in pages {
                disk.write_page(&shared.geometry, array, *page, set).await?;
            }
            disk.flush_pages().await
        })
        .await
    }

    async fn missed(&mut self, missed: Missed) -> bool {
        let shared = Arc::clone(&self.shared);
        let mine = |slot: &usize| {
            let turn = shared.legs()[*slot].as_ref().map(|leg| leg.turn);
            missed.turns[*slot].is_none_or(|sent| Some(sent) == turn)
        };
        if (shared.trusted() & missed.ok).is_empty() {
            // Nobody is to blame, or all are.
            return false;
        }
        // One that has become trusted since has it from the copier.
        let lacking = || {
            let since = (shared.trusted() & shared.written()) - missed.legs;
            shared.trusted() - missed.ok - since
        };
        let others: Legs = (missed.legs - missed.ok).iter().filter(mine).collect();
        let mut stored = self.fail(lacking() | others).await;
        if stored && !lacking().is_empty() {
            // An earlier try to say so had failed.
            stored = self.commit(self.record.next(nonce())).await;
            self.let_go().await;
        }
        stored && lacking().is_empty()
    }

    async fn unreadable(&mut self, slot: usize, regions: Range<usize>) {
        let shared = Arc::clone(&self.shared);
        if !shared.readable().has(slot) {
            return;
        }
        let errors = shared.counters[slot].read_errors.fetch_add(1, Ordering::Relaxed) + 1;
        if errors > shared.max_read_errors.load(Ordering::Relaxed) {
            self.fail(Legs::one(slot)).await;
            return;
        }
        // The copier writes it anew.
        if shared.readable().len() > 1 {
            regions.for_each(|region| shared.regions.set_behind(region, Legs::one(slot)));
            shared.counters[slot].repairs.fetch_add(1, Ordering::Relaxed);
            shared.kick();
        }
    }

    async fn rebuilt(&mut self) {
        let shared = Arc::clone(&self.shared);
        for slot in self.record.rebuilding().iter() {
            if shared.regions.is_behind(slot) || !shared.written().has(slot) {
                continue;
            }
            let flush = |_, disk: Rc<Disk>| async move { disk.flush().await };
            let failed = self.on_all(Legs::one(slot), "a flush", flush).await;
            if !failed.is_empty() {
                self.fail(failed).await;
                continue;
            }
            let next = self.record.set(Legs::one(slot), SlotState::Active, nonce());
            let stored = self.commit(next).await;
            if stored && shared.trusted().has(slot) {
                shared.set_readable(shared.readable() | Legs::one(slot));
                shared.counters[slot].read_errors.store(0, Ordering::Relaxed);
                log::info!("mirror {}: leg {slot} has all data", shared.name);
            } else if self.record.slots[slot].state == SlotState::Active {
                self.record.slots[slot].state = SlotState::Rebuilding;
                self.publish();
            }
            self.let_go().await;
        }
    }

    /// Clears the bits of regions that are quiet, or of all that can be.
    async fn sweep(&mut self, all: bool) {
        let shared = Arc::clone(&self.shared);
        let regions = &shared.regions;
        let mut clear = Vec::new();
        for region in 0..regions.len() {
            let quiet = regions.is_quiet(region) || (all && regions.is_quiet(region));
            if !quiet || !regions.begin_clear(region) {
                continue;
            }
            if shared.locks.is_held(shared.geometry.blocks_of(region)) {
                regions.keep(region);
                continue;
            }
            clear.push(region);
        }
        if clear.is_empty() {
            return;
        }
        let legs = shared.written() & self.present();
        let flush = |_, disk: Rc<Disk>| async move { disk.flush().await };
        let failed = self.on_all(legs, "a flush", flush).await;
        if !failed.is_empty() {
            clear.iter().for_each(|region| regions.keep(*region));
            self.fail(failed).await;
            return;
        }
        let pages = clear.iter().map(|region| shared.geometry.page_of(*region)).collect();
        let failed = self.write_pages(legs, &pages, |region| regions.is_dirty(region)).await;
        if !failed.is_empty() {
            // Where it is set it does no harm, and nothing differs where it is clear.
            self.fail(failed).await;
        }
    }

    async fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.sweep(true).await;
        if self.shared.wipe.load(Ordering::SeqCst) {
            let wipe = |_, disk: Rc<Disk>| async move { disk.wipe().await };
            self.on_all(self.present(), "wiping the superblock", wipe).await;
        }
        *self.disks.borrow_mut() = array::from_fn(|_| None);
    }

    /// A leg that is to be written from now on: every thread has it when this ends.
    pub(crate) async fn take_in(&mut self, slot: usize, disk: Disk) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let base = disk.base.clone();
        self.disks.borrow_mut()[slot] = Some(Rc::new(disk));
        let leg = {
            let mut turns = shared.turns();
            turns[slot] += 1;
            Leg { base, turn: turns[slot] }
        };
        shared.legs()[slot] = Some(leg.clone());
        if let Ok(bdev) = BdevHandle::<Mirror>::find(&shared.name) {
            bdev.for_each_channel(move |channel| channel.join(slot, &leg)).await?;
        }
        shared.set_written(shared.written() | Legs::one(slot));
        Ok(())
    }
}
