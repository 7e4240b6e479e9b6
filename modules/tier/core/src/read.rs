//! Reads.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::cache::{Cache, Mode};
use crate::ports::{Dev, Disks, Request};
use crate::set::{Claim, Room, State, Use, Way};
use crate::stats::Counters;

/// How to serve a read.
enum Plan {
    /// The line lies there, and is pinned.
    Hit(usize),
    /// From the slow disk.
    Slow,
    /// From the slow disk, and then to this way.
    Fill(usize),
    /// Make this way free, and look again.
    Evict(usize),
    /// The line was only on the fast disk, which is gone.
    Lost,
}

impl Cache {
    /// Serves a read of blocks of `line`.
    ///
    /// # Errors
    /// The disk's that has the data.
    #[inline]
    pub async fn read<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        line: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let set = self.geometry.set_of(line);
        let mut may_evict = true;
        loop {
            let fills = may_evict && !request.streams();
            let plan = poll_fn(|cx| self.plan_read(set, line, fills, cx)).await;
            match plan {
                Plan::Hit(way) => {
                    let at = self.geometry.fast_block(set, way) + u64::from(request.blocks().0);
                    let result = request.forward(disks, Dev::Fast, at).await;
                    self.unpin(set, way, Use::Read);
                    if result.is_ok() {
                        counters.read_hits.add(1);
                        return Ok(());
                    }
                    counters.fast_errors.add(1);
                    // What it held when we pinned it; a write since then may be missed by this read.
                    let is_only_there = {
                        let state = self.set(set);
                        let way = &state.ways[way];
                        way.line == line && way.state != State::Free && way.dirty
                    };
                    if is_only_there {
                        return result;
                    }
                    return self.read_slow(disks, request, line, counters).await;
                }
                Plan::Slow => return self.read_slow(disks, request, line, counters).await,
                Plan::Fill(way) => {
                    return self.read_and_fill(disks, request, set, way, line, counters).await;
                }
                Plan::Evict(way) => {
                    may_evict = self.evict(disks, set, way, counters).await;
                }
                Plan::Lost => return Err(disks.lost()),
            }
        }
    }

    /// Reads a whole line into `buf`, which is as long. The cache is not filled by it.
    ///
    /// # Errors
    /// The disk's that has the data.
    pub async fn read_line<D: Disks>(
        &self,
        disks: &D,
        buf: &mut D::Buf,
        line: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let mut request = Line { buf, blocks: self.geometry.line_blocks };
        self.read(disks, &mut request, line, counters).await
    }

    #[inline]
    fn plan_read(&self, set: u64, line: u64, fills: bool, cx: &Context<'_>) -> Poll<Plan> {
        let mut state = self.set(set);
        if let Some(at) = state.find(line) {
            let gone = self.is_fast_gone();
            let way = &mut state.ways[at];
            return match way.state {
                State::Valid if !gone && (way.dirty || self.mode() != Mode::Pass) => {
                    way.referenced = true;
                    self.pins(set).pin(at, Use::Read);
                    Poll::Ready(Plan::Hit(at))
                }
                State::Valid if way.dirty => Poll::Ready(Plan::Lost),
                State::Busy => {
                    state.wait(cx);
                    Poll::Pending
                }
                // The slow disk has it as well.
                _ => Poll::Ready(Plan::Slow),
            };
        }
        let fills = fills
            && state.arounds == 0
            && self.mode() != Mode::Pass
            && !self.is_failing()
            && !self.is_fast_gone();
        if !fills {
            return Poll::Ready(Plan::Slow);
        }
        Poll::Ready(match state.room(&self.pins(set)) {
            Room::Free(at) => {
                state.ways[at].take(line, State::Filling);
                Plan::Fill(at)
            }
            Room::Evict(at) => {
                state.ways[at].state = State::Busy;
                Plan::Evict(at)
            }
            Room::None => Plan::Slow,
        })
    }

    async fn read_slow<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        line: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        counters.read_misses.add(1);
        let at = self.geometry.slow_block(line) + u64::from(request.blocks().0);
        let result = request.forward(disks, Dev::Slow, at).await;
        if result.is_err() {
            counters.slow_errors.add(1);
        }
        result
    }

    /// Reads the whole line, answers, and keeps it.
    async fn read_and_fill<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        set: u64,
        at: usize,
        line: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let buf = match disks.line_buf() {
            Some(mut buf) => {
                let read = disks.read(Dev::Slow, &mut buf, self.geometry.slow_block(line)).await;
                read.map(|()| buf).ok()
            }
            None => None,
        };
        let Some(mut buf) = buf else {
            // No memory, or the line has a bad block, which need not be one that is asked for.
            self.change(set, at, Way::clear);
            return self.read_slow(disks, request, line, counters).await;
        };
        let block_size = self.geometry.block_size as usize;
        let (first, blocks) = request.blocks();
        let start = first as usize * block_size;
        request.fill(&buf[start..start + blocks as usize * block_size]);
        counters.read_misses.add(1);
        if !self.set(set).ways[at].doomed {
            let result = disks.write(Dev::Fast, &mut buf, self.geometry.fast_block(set, at)).await;
            if result.is_err() {
                counters.fast_errors.add(1);
                self.set_failing();
            }
            let kept = self.change(set, at, |way| {
                let keep = result.is_ok() && !way.doomed;
                if keep {
                    way.take(line, State::Valid)
                } else {
                    way.clear()
                }
                keep
            });
            if kept {
                counters.fills.add(1);
                self.unsaved.set(set);
            }
        } else {
            self.change(set, at, Way::clear);
        }
        Ok(())
    }

    /// Makes a way free that the caller has made busy. `false`: it stays, as the disk could not be told.
    pub(crate) async fn evict<D: Disks>(
        &self,
        disks: &D,
        set: u64,
        at: usize,
        counters: &Counters,
    ) -> bool {
        let before = self.unclaim(set, at);
        let result = self.commit_first(disks, set, counters).await;
        self.change(set, at, |way| match result {
            Ok(()) => way.clear(),
            Err(_) => {
                way.claim = before;
                way.state = State::Valid;
            }
        });
        if result.is_ok() {
            counters.evictions.add(1);
        }
        result.is_ok()
    }

    /// Has the next write of the record say nothing of a way.
    pub(crate) fn unclaim(&self, set: u64, at: usize) -> Claim {
        let mut state = self.set(set);
        let way = &mut state.ways[at];
        way.settled = false;
        std::mem::take(&mut way.claim)
    }
}

/// A read of a line into memory of our own.
struct Line<'a, B> {
    buf: &'a mut B,
    blocks: u32,
}

impl<D: Disks> Request<D> for Line<'_, D::Buf> {
    async fn forward(&mut self, disks: &D, dev: Dev, block: u64) -> Result<(), D::Error> {
        disks.read(dev, self.buf, block).await
    }

    fn blocks(&self) -> (u32, u32) {
        (0, self.blocks)
    }

    fn fill(&mut self, from: &[u8]) {
        self.buf.copy_from_slice(from);
    }

    /// It is no write.
    fn copy(&self, _: &mut [u8]) {}

    fn streams(&self) -> bool {
        true
    }
}
