//! What is under way and what waits to be logged, and the loop that writes the log.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::select;
use slab::Slab;

use crate::device::Device;
use crate::disk::{Disk, Error, Result};
use crate::entry::{Header, Kind, Stream, seal};
use crate::report::count;

/// How long an entry that nobody waits for may wait for company.
const LINGER: Duration = Duration::from_millis(5);
/// Units that are written at once.
const AT_ONCE: usize = 16;

/// Blocks that are being written.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) lba: u64,
    pub(crate) count: u64,
    /// Those to come; none for [`Kind::Zero`].
    pub(crate) sums: Vec<u32>,
}

impl Run {
    fn cost(&self) -> u64 {
        Stream::cost(self.sums.len() as u64)
    }
}

/// One that waits for a commit.
#[derive(Debug)]
struct Waiter {
    commit: u64,
    done: Option<bool>,
    waker: Option<Waker>,
}

/// What a checkpoint leaves to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Units from this one on are not in it.
    pub(crate) seq: u64,
    /// Runs with lower ids are in it, but for those that the log says again are under way.
    pub(crate) id: u64,
}

/// How far a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    Idle,
    /// To be made.
    Asked(Start),
    Running,
}

#[derive(Debug)]
struct State {
    /// For the next commit.
    now: Stream,
    /// For the commit after the next flush.
    after_flush: Stream,
    under_way: Slab<Run>,
    cost: u64,
    next_id: u64,
    /// The commit that was started last.
    commit: u64,
    waiters: Slab<Waiter>,
    /// How many of the waiters still wait.
    waiting: usize,
    /// Those that wait for others to end, as the log has no room for more at once.
    crowd: VecDeque<Waker>,
    /// The log loop, and whoever waits for the state of checkpoints.
    wakers: Vec<Waker>,
    checkpoint: Checkpoint,
    checkpoints_ended: u64,
    last_failed: bool,
    /// The next commit shall repeat what is under way and ask for a checkpoint.
    wanted: bool,
    /// The other half of the log is not needed any more.
    other_free: bool,
    stop: bool,
}

/// The log's queue.
#[derive(Debug)]
pub(crate) struct Log {
    state: Mutex<State>,
    unit: usize,
    /// What may be under way at once, in bytes of the log.
    most: u64,
    /// Closing waits for a flush after the data.
    barriers: bool,
}

/// Where the next unit goes.
#[derive(Debug)]
pub(crate) struct Position {
    half: u64,
    used: u64,
    seq: u64,
    before: Before,
}

/// The units of the last commit.
#[derive(Debug, Default)]
struct Before {
    lba: u64,
    units: Vec<u8>,
}

impl Position {
    pub(crate) fn new(seq: u64) -> Self {
        Self { half: 0, used: 0, seq, before: Before::default() }
    }
}

/// The end of a commit.
#[must_use = "it waits only when it is awaited"]
pub(crate) struct Committed<'a> {
    log: &'a Log,
    key: usize,
}

impl Future for Committed<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.log.state();
        let waiter = &mut state.waiters[self.key];
        match waiter.done {
            Some(true) => Poll::Ready(Ok(())),
            Some(false) => Poll::Ready(Err(Error::Io("the log could not be written".into()))),
            None => {
                waiter.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Committed<'_> {
    fn drop(&mut self) {
        let mut state = self.log.state();
        let waiter = state.waiters.remove(self.key);
        state.waiting -= usize::from(waiter.done.is_none());
    }
}

/// A run under way. Dropped without [`Log::end`], it is forgotten.
pub(crate) struct UnderWay<'a> {
    log: &'a Log,
    key: usize,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.key != usize::MAX {
            self.log.forget(&mut self.log.state(), self.key);
        }
    }
}

impl Log {
    pub(crate) fn new(unit: usize, units: u64, barriers: bool) -> Self {
        let state = State {
            now: Stream::default(),
            after_flush: Stream::default(),
            under_way: Slab::new(),
            cost: 0,
            next_id: 1,
            commit: 0,
            waiters: Slab::new(),
            waiting: 0,
            crowd: VecDeque::new(),
            wakers: Vec::new(),
            checkpoint: Checkpoint::Idle,
            checkpoints_ended: 0,
            last_failed: false,
            wanted: false,
            other_free: true,
            stop: false,
        };
        Self { state: Mutex::new(state), unit, most: units * unit as u64 / 8, barriers }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the loops, which look at it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let wakers = mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Waits until the state gives something.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut state = self.state();
            if let Some(found) = look(&mut state) {
                return Poll::Ready(found);
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn wait(&self, state: &mut State, commit: u64) -> Committed<'_> {
        state.waiting += 1;
        let key = state.waiters.insert(Waiter { commit, done: None, waker: None });
        Committed { log: self, key }
    }

    /// How many blocks a run may have that is alone.
    pub(crate) fn most_blocks(&self) -> u64 {
        self.most * 2 / 5
    }

    /// Logs that blocks are being written, as soon as not too much else is; `crowded` may say so too. The future
    /// that it returns waits until that is on the base.
    pub(crate) async fn begin(
        &self,
        kind: Kind,
        (lba, count): (u64, u64),
        sums: Vec<u32>,
        crowded: impl Fn() -> bool,
    ) -> Result<(UnderWay<'_>, Committed<'_>)> {
        let cost = Stream::cost(sums.len() as u64);
        let mut sums = Some(sums);
        poll_fn(|cx| {
            let mut state = self.state();
            if state.stop {
                return Poll::Ready(Err(Error::Stopped));
            }
            if state.cost > 0 && (state.cost + cost > self.most || crowded()) {
                state.crowd.push_back(cx.waker().clone());
                return Poll::Pending;
            }
            let id = state.next_id;
            state.next_id += 1;
            state.cost += cost;
            let run = Run { kind, id, lba, count, sums: sums.take().unwrap_or_default() };
            state.now.push(self.unit, kind, id, (lba, count), &run.sums);
            let key = state.under_way.insert(run);
            let commit = state.commit + 1;
            let committed = self.wait(&mut state, commit);
            let wakers = mem::take(&mut state.wakers);
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
            Poll::Ready(Ok((UnderWay { log: self, key }, committed)))
        })
        .await
    }

    fn forget(&self, state: &mut State, key: usize) -> Run {
        let run = state.under_way.remove(key);
        state.cost -= run.cost();
        // All of them look again: how much room each needs is not known here.
        state.crowd.drain(..).for_each(Waker::wake);
        run
    }

    /// Ends a run. `apply` puts its checksums into the pages, before a checkpoint can miss them, and may correct
    /// them first. Gives their memory back, and with `wait` a future that waits until older checksums are
    /// given up on the base.
    pub(crate) fn end(
        &self,
        mut run: UnderWay<'_>,
        wait: bool,
        apply: impl FnOnce(&mut Run),
    ) -> (Vec<u32>, Option<Committed<'_>>) {
        let key = mem::replace(&mut run.key, usize::MAX);
        self.change(|state| {
            apply(&mut state.under_way[key]);
            let run = self.forget(state, key);
            if run.kind == Kind::Zero {
                return (run.sums, None);
            }
            let stream = if self.barriers { &mut state.after_flush } else { &mut state.now };
            stream.push(self.unit, Kind::Close, run.id, (run.lba, run.count), &run.sums);
            let commit = state.commit + 1 + u64::from(self.barriers);
            let committed = wait.then(|| self.wait(state, commit));
            (run.sums, committed)
        })
    }

    /// Waits until for all runs that have ended older checksums are given up, and their data are durable.
    pub(crate) fn settle(&self) -> Committed<'_> {
        self.change(|state| {
            let commit = state.commit + 1 + u64::from(self.barriers);
            self.wait(state, commit)
        })
    }

    /// Wants a checkpoint soon.
    pub(crate) fn want_checkpoint(&self) {
        let idle = |state: &State| state.checkpoint == Checkpoint::Idle && !state.wanted;
        if idle(&self.state()) {
            self.change(|state| state.wanted = true);
        }
    }

    /// Makes a checkpoint of all that has ended, and waits for it.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let before = self.change(|state| {
            state.wanted = true;
            // One that is running has not all of it.
            state.checkpoints_ended + u64::from(state.checkpoint != Checkpoint::Idle)
        });
        let failed = self
            .until(|state| {
                (state.stop || state.checkpoints_ended > before).then_some(state.last_failed)
            })
            .await;
        if failed { Err(Error::Io("the checkpoint could not be written".into())) } else { Ok(()) }
    }

    /// Ends the loops. What waits fails.
    pub(crate) fn stop(&self) {
        let wakers: Vec<_> = self.change(|state| {
            state.stop = true;
            Self::answer(state, u64::MAX, false).into_iter().chain(state.crowd.drain(..)).collect()
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The next checkpoint to make, or `None` at the end.
    pub(crate) async fn next_checkpoint(&self) -> Option<Start> {
        self.until(|state| match state.checkpoint {
            _ if state.stop => Some(None),
            Checkpoint::Asked(start) => {
                state.checkpoint = Checkpoint::Running;
                Some(Some(start))
            }
            _ => None,
        })
        .await
    }

    /// A checkpoint has ended.
    pub(crate) fn checkpoint_ended(&self, ok: bool) {
        self.change(|state| {
            state.checkpoint = Checkpoint::Idle;
            state.checkpoints_ended += 1;
            state.last_failed = !ok;
            state.other_free |= ok;
            state.wanted |= !ok;
            state.crowd.drain(..).for_each(Waker::wake);
        });
    }

    /// Tells all that wait for `commit` or an earlier one how it went.
    fn answer(state: &mut State, commit: u64, ok: bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut answered = 0;
        for (_, waiter) in &mut state.waiters {
            if waiter.done.is_none() && waiter.commit <= commit {
                waiter.done = Some(ok);
                answered += 1;
                wakers.extend(waiter.waker.take());
            }
        }
        state.waiting -= answered;
        wakers
    }

    /// Waits until there is something to write; `false` at the end.
    async fn work<D: Disk>(&self, disk: &D) -> bool {
        let look = |state: &mut State, lingered: bool| {
            let entries = !state.now.is_empty() || !state.after_flush.is_empty();
            let wanted = state.wanted && state.checkpoint == Checkpoint::Idle;
            match () {
                () if state.stop => Some(Some(false)),
                () if state.waiting > 0 || wanted || (lingered && entries) => Some(Some(true)),
                () => entries.then_some(None),
            }
        };
        if let Some(work) = self.until(|state| look(state, false)).await {
            return work;
        }
        let urgent = pin!(self.until(|state| look(state, false).flatten()));
        select(urgent, pin!(disk.pause(LINGER))).await;
        self.until(|state| look(state, true).flatten()).await
    }
}

impl Device {
    /// Writes the log, until [`stop`](Self::stop). Runs once, beside everything else.
    ///
    /// # Errors
    /// There is no memory for it.
    pub async fn run_log<D: Disk>(&self, disk: &D) -> Result<()> {
        let mut position = self.take_position();
        let mut buf = disk.buf(AT_ONCE * self.layout.unit())?;
        let (mut batch, mut arriving) = (Stream::default(), Stream::default());
        while self.log.work(disk).await {
            let commit = {
                let mut state = self.log.state();
                mem::swap(&mut batch, &mut state.now);
                mem::swap(&mut arriving, &mut state.after_flush);
                state.commit += 1;
                state.commit
            };
            let (used, seq) = (position.used, position.seq);
            let done = self.commit(disk, &mut position, &mut buf, &batch).await;
            if done.is_err() {
                // Written over by the next.
                position.used = position.used.min(used);
                position.seq = seq;
            }
            batch.clear();
            count(&self.report.counters.commits);
            let wakers = {
                let mut state = self.log.state();
                if done.is_err() {
                    // The entries are gone: checksums that should be given up are not, until the next
                    // checkpoint. Those who wait for the next commit have lost theirs too.
                    state.wanted = true;
                    arriving.clear();
                }
                state.now.append(&mut arriving);
                let lost = u64::from(done.is_err() && self.log.barriers);
                Log::answer(&mut state, commit + lost, done.is_ok())
            };
            wakers.into_iter().for_each(Waker::wake);
            if done.is_err() {
                disk.pause(LINGER).await;
            }
        }
        Ok(())
    }

    async fn commit<D: Disk>(
        &self,
        disk: &D,
        position: &mut Position,
        buf: &mut D::Buf,
        batch: &Stream,
    ) -> Result<()> {
        let unit = self.layout.unit();
        let mut packed = Vec::new();
        batch.pack(unit, &mut packed);
        let wanted = self.make_room(position, (packed.len() / unit) as u64).await?;
        let mut start = Start { seq: position.seq, id: 0 };
        if wanted {
            let mut again = Stream::default();
            {
                let state = self.log.state();
                start.id = state.next_id;
                for (_, run) in &state.under_way {
                    again.push(unit, run.kind, run.id, (run.lba, run.count), &run.sums);
                }
            }
            let mut units = Vec::new();
            again.pack(unit, &mut units);
            units.append(&mut packed);
            packed = units;
        }
        let units = (packed.len() / unit) as u64;
        if position.used + units > self.layout.log_units {
            return Err(full());
        }
        for unit in packed.chunks_mut(unit) {
            let (id, epoch, seq) = (self.id, self.epoch, position.seq);
            seal(unit, Header { id, epoch, seq, durable: start.seq });
            position.seq += 1;
        }
        let before = mem::take(&mut position.before);
        let lba = self.layout.log_unit(position.half, position.used);
        position.used += units;
        self.write_units(disk, buf, lba, &packed).await?;
        if !before.units.is_empty() {
            self.repair(disk, buf, &before).await?;
        }
        if self.log.barriers {
            disk.flush().await?;
        }
        position.before = Before { lba, units: packed };
        if wanted {
            self.log.change(|state| {
                state.wanted = false;
                state.checkpoint = Checkpoint::Asked(start);
            });
        }
        Ok(())
    }

    async fn write_units<D: Disk>(
        &self,
        disk: &D,
        buf: &mut D::Buf,
        mut lba: u64,
        units: &[u8],
    ) -> Result<()> {
        for units in units.chunks(AT_ONCE * self.layout.unit()) {
            let blocks = (units.len() / self.layout.block_size as usize) as u64;
            buf[..units.len()].copy_from_slice(units);
            disk.write(lba, blocks, buf).await?;
            lba += blocks;
        }
        Ok(())
    }

    /// Looks whether the units of the last commit are there, and writes them again if not: when a `close` is
    /// answered, its `open` is not lost.
    async fn repair<D: Disk>(&self, disk: &D, buf: &mut D::Buf, before: &Before) -> Result<()> {
        let mut lba = before.lba;
        for units in before.units.chunks(AT_ONCE * self.layout.unit()) {
            let blocks = (units.len() / self.layout.block_size as usize) as u64;
            disk.read(lba, blocks, buf).await?;
            if buf[..units.len()] != *units {
                count(&self.report.counters.repaired);
                buf[..units.len()].copy_from_slice(units);
                disk.write(lba, blocks, buf).await?;
            }
            lba += blocks;
        }
        Ok(())
    }

    /// Waits until `units` more can be written, if need be to the other half. Whether a checkpoint is to
    /// follow.
    async fn make_room(&self, position: &mut Position, units: u64) -> Result<bool> {
        let all = self.layout.log_units;
        self.log
            .until(|state| {
                let idle = state.checkpoint == Checkpoint::Idle;
                // The last quarter is for a second attempt at a checkpoint.
                let most = if state.wanted && idle { all } else { all - all / 4 };
                if position.used + units <= most {
                    return Some(Ok(state.wanted && idle));
                }
                if state.other_free && idle {
                    (position.half, position.used) = (1 - position.half, 0);
                    state.other_free = false;
                    state.wanted = true;
                    return Some(Ok(true));
                }
                (state.stop || idle).then(|| Err(full()))
            })
            .await
    }
}

fn full() -> Error {
    Error::Io("the log is full, and its checkpoint could not be written".into())
}
