//! Unmap and write-zeroes, which may be of any length.

use std::future::poll_fn;
use std::ops::Range;
use std::task::{Context, Poll};

use crate::cache::Cache;
use crate::ports::{Dev, Discard, Disks};
use crate::set::{Claim, State};
use crate::stats::Counters;

/// A line that is kept busy meanwhile.
struct Held {
    set: u64,
    way: usize,
    line: u64,
    dirty: bool,
    whole: bool,
}

enum Plan {
    /// Not in the cache.
    Open,
    /// Busy from now on, and to be drained.
    Held(usize),
    Lost,
}

impl Cache {
    /// Discards blocks on both disks.
    ///
    /// Lines that are clean are forgotten before the slow disk is touched, as they would be older than it;
    /// those that are dirty after that, as it would be older than they are.
    ///
    /// # Errors
    /// A disk's. Parts of the range may be discarded then.
    pub async fn discard<D: Disks>(
        &self,
        disks: &D,
        how: Discard,
        blocks: Range<u64>,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let line_blocks = u64::from(self.geometry.line_blocks);
        let step = self.geometry.sets.clamp(1024, 16384) * line_blocks;
        let mut at = blocks.start;
        while at < blocks.end {
            let end = (at / step + 1).saturating_mul(step).min(blocks.end);
            self.discard_part(disks, how, at..end, counters).await?;
            at = end;
        }
        Ok(())
    }

    async fn discard_part<D: Disks>(
        &self,
        disks: &D,
        how: Discard,
        blocks: Range<u64>,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let line_blocks = u64::from(self.geometry.line_blocks);
        let lines = blocks.start / line_blocks..blocks.end.div_ceil(line_blocks);
        let mut held = Vec::new();
        let mut result = Ok(());
        let mut locked = lines.start;
        // Always from the first line to the last: two that overlap do not wait for each other.
        for line in lines.clone() {
            let set = self.geometry.set_of(line);
            let plan = poll_fn(|cx| self.plan_discard(set, line, cx)).await;
            match plan {
                Plan::Open => {}
                Plan::Held(way) => {
                    self.drain(set, way).await;
                    let start = line * line_blocks;
                    let whole = blocks.start <= start && start + line_blocks <= blocks.end;
                    let dirty = self.set(set).ways[way].dirty;
                    held.push(Held { set, way, line, dirty, whole });
                }
                Plan::Lost => {
                    result = Err(disks.lost());
                    break;
                }
            }
            locked = line + 1;
        }
        if result.is_ok() {
            result = self.discard_held(disks, how, &blocks, &mut held, counters).await;
        }
        for line in &held {
            self.change(line.set, line.way, |way| way.state = State::Valid);
        }
        for line in lines.start..locked {
            self.end_around(self.geometry.set_of(line));
        }
        result
    }

    fn plan_discard(&self, set: u64, line: u64, cx: &Context<'_>) -> Poll<Plan> {
        let mut state = self.set(set);
        let gone = self.is_fast_gone();
        if !self.accepts_writes() {
            return Poll::Ready(Plan::Lost);
        }
        let mut plan = Plan::Open;
        if let Some(at) = state.find(line) {
            let way = &mut state.ways[at];
            match way.state {
                State::Valid if gone && way.dirty => return Poll::Ready(Plan::Lost),
                State::Valid if gone => {}
                State::Valid => {
                    way.state = State::Busy;
                    plan = Plan::Held(at);
                }
                State::Busy => {
                    state.wait(cx);
                    return Poll::Pending;
                }
                State::Filling | State::Free => way.doomed = true,
            }
        }
        // Nothing is brought in from what is being discarded.
        state.arounds += 1;
        Poll::Ready(plan)
    }

    /// Takes from `held` what it makes free.
    async fn discard_held<D: Disks>(
        &self,
        disks: &D,
        how: Discard,
        blocks: &Range<u64>,
        held: &mut Vec<Held>,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        self.forget_all(disks, held, |line| !line.dirty, counters).await?;
        let line_blocks = u64::from(self.geometry.line_blocks);
        for line in held.iter().filter(|line| !line.whole) {
            let start = line.line * line_blocks;
            let part = blocks.start.max(start)..blocks.end.min(start + line_blocks);
            let at = self.geometry.fast_block(line.set, line.way) + (part.start - start);
            self.change(line.set, line.way, |way| way.touch());
            let zeroed = disks.discard(Dev::Fast, Discard::Zero, at, part.end - part.start).await;
            if zeroed.is_err() {
                counters.fast_errors.add(1);
                return zeroed;
            }
        }
        let discarded =
            disks.discard(Dev::Slow, how, blocks.start, blocks.end - blocks.start).await;
        if discarded.is_err() {
            counters.slow_errors.add(1);
            return discarded;
        }
        if held.iter().any(|line| line.whole) && disks.is_volatile(Dev::Slow) {
            disks.flush(Dev::Slow).await?;
        }
        self.forget_all(disks, held, |line| line.whole, counters).await
    }

    /// Has the disk forget those of `held` that `which` picks, and makes them free.
    async fn forget_all<D: Disks>(
        &self,
        disks: &D,
        held: &mut Vec<Held>,
        which: impl Fn(&Held) -> bool,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let mut pages = Vec::new();
        let mut before = Vec::new();
        for line in held.iter().filter(|line| which(line)) {
            let known = {
                let state = self.set(line.set);
                let way = &state.ways[line.way];
                way.claim != Claim::None || !way.settled
            };
            if known {
                pages.push(self.geometry.page_of(line.set));
                before.push(self.unclaim(line.set, line.way));
            } else {
                before.push(Claim::None);
            }
        }
        pages.sort_unstable();
        pages.dedup();
        let mut result = Ok(());
        for page in &pages {
            result = self.commit(disks, *page, counters).await;
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() && !pages.is_empty() {
            result = self.fence(disks).await;
        }
        if result.is_err() {
            for (line, before) in held.iter().filter(|line| which(line)).zip(before) {
                let mut state = self.set(line.set);
                state.ways[line.way].claim = before;
            }
            return result;
        }
        held.retain(|line| {
            let forgotten = which(line);
            if forgotten {
                self.change(line.set, line.way, |way| {
                    self.make_clean(way);
                    way.clear();
                });
            }
            !forgotten
        });
        Ok(())
    }
}
