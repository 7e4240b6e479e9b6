//! Writes.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::cache::{Cache, Mode};
use crate::ports::{Dev, Disks, Request};
use crate::set::{Claim, Room, State, Use};
use crate::stats::Counters;

/// How to serve a write. The way of the first three is pinned, that of the next three busy.
enum Plan {
    /// In place: the disk says already that it is dirty.
    InPlace(usize),
    /// The data, then the claim: the disk says nothing of the line.
    DataFirst(usize),
    /// The claim, then the data: the disk says, or may say, that the line is clean.
    ClaimFirst(usize),
    /// The line is not there, and this way is free.
    Insert(usize),
    /// Make this way free, and look again.
    Evict(usize),
    /// To both disks.
    Through(usize),
    /// To the slow disk, which is on record.
    Around,
    /// The line is only on the fast disk, which is gone.
    Lost,
}

/// What may still be tried.
#[derive(Clone, Copy)]
struct Tries {
    evictions: u32,
    insert: bool,
}

impl Cache {
    /// Serves a write of blocks of `line`.
    ///
    /// # Errors
    /// A disk's. The blocks then have what they had before or what was written, as a disk's would.
    #[inline]
    pub async fn write<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        line: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let set = self.geometry.set_of(line);
        let first = u64::from(request.blocks().0);
        let is_whole = request.blocks() == (0, self.geometry.line_blocks);
        let mut tries = Tries { evictions: 2, insert: true };
        loop {
            let plan = poll_fn(|cx| self.plan_write(set, line, is_whole, tries, cx)).await;
            match plan {
                Plan::InPlace(at) => {
                    let block = self.geometry.fast_block(set, at) + first;
                    let result = request.forward(disks, Dev::Fast, block).await;
                    self.unpin(set, at, Use::Write);
                    counters.write_hits.add(1);
                    if result.is_err() {
                        counters.fast_errors.add(1);
                    }
                    return result;
                }
                Plan::DataFirst(at) => {
                    counters.write_hits.add(1);
                    let result = self.write_data_first(disks, request, set, at, counters).await;
                    self.end_dirtying();
                    return result;
                }
                Plan::ClaimFirst(at) => {
                    counters.write_hits.add(1);
                    let mut result = self.commit_first(disks, set, counters).await;
                    if result.is_ok() {
                        self.settle(set, at);
                        let block = self.geometry.fast_block(set, at) + first;
                        result = request.forward(disks, Dev::Fast, block).await;
                    }
                    self.unpin(set, at, Use::Write);
                    return result;
                }
                Plan::Insert(at) => {
                    let inserted =
                        self.insert(disks, request, set, at, line, is_whole, counters).await;
                    self.end_dirtying();
                    match inserted {
                        Some(result) => return result,
                        None => tries.insert = false,
                    }
                }
                Plan::Evict(at) => {
                    tries.evictions -= 1;
                    tries.insert &= self.evict(disks, set, at, counters).await;
                }
                Plan::Through(at) => {
                    if let Some(result) =
                        self.write_through(disks, request, set, at, line, counters).await
                    {
                        counters.write_hits.add(1);
                        return result;
                    }
                }
                Plan::Around => {
                    counters.write_misses.add(1);
                    counters.write_arounds.add(1);
                    let block = self.geometry.slow_block(line) + first;
                    let result = request.forward(disks, Dev::Slow, block).await;
                    self.end_around(set);
                    if result.is_err() {
                        counters.slow_errors.add(1);
                    }
                    return result;
                }
                Plan::Lost => return Err(disks.lost()),
            }
        }
    }

    #[inline]
    fn plan_write(
        &self,
        set: u64,
        line: u64,
        is_whole: bool,
        tries: Tries,
        cx: &Context<'_>,
    ) -> Poll<Plan> {
        let mut state = self.set(set);
        let gone = self.is_fast_gone();
        if !self.accepts_writes() {
            return Poll::Ready(Plan::Lost);
        }
        if let Some(at) = state.find(line) {
            let way = &mut state.ways[at];
            match way.state {
                State::Valid if gone && way.dirty => return Poll::Ready(Plan::Lost),
                State::Valid if gone => {}
                State::Valid if way.dirty || self.writes_back() => {
                    way.touch();
                    self.pins(set).pin(at, Use::Write);
                    return Poll::Ready(match way.claim {
                        Claim::Dirty if way.settled => {
                            self.make_dirty(set, way);
                            Plan::InPlace(at)
                        }
                        Claim::None if way.settled => {
                            self.start_dirtying();
                            Plan::DataFirst(at)
                        }
                        _ => {
                            self.make_dirty(set, way);
                            way.claim = Claim::Dirty;
                            way.settled = false;
                            Plan::ClaimFirst(at)
                        }
                    });
                }
                State::Valid => {
                    way.state = State::Busy;
                    return Poll::Ready(Plan::Through(at));
                }
                State::Busy => {
                    state.wait(cx);
                    return Poll::Pending;
                }
                State::Filling | State::Free => way.doomed = true,
            }
        }
        // What is missing of the line must not be read while it may be on its way to the slow disk.
        let insert = tries.insert
            && !gone
            && self.writes_back()
            && !self.is_failing()
            && (is_whole || state.arounds == 0);
        let room = if insert { state.room(&self.pins(set)) } else { Room::None };
        Poll::Ready(match room {
            Room::Free(at) => {
                state.ways[at].take(line, State::Busy);
                self.start_dirtying();
                Plan::Insert(at)
            }
            Room::Evict(at) if tries.evictions > 0 => {
                state.ways[at].state = State::Busy;
                Plan::Evict(at)
            }
            _ => {
                if insert {
                    self.press();
                }
                state.arounds += 1;
                Plan::Around
            }
        })
    }

    /// The disk says what is claimed of a way that the caller has pinned.
    fn settle(&self, set: u64, at: usize) {
        let mut state = self.set(set);
        let way = &mut state.ways[at];
        way.settled |= way.claim == Claim::Dirty;
    }

    async fn write_data_first<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        set: u64,
        at: usize,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let block = self.geometry.fast_block(set, at) + u64::from(request.blocks().0);
        if let Err(error) = request.forward(disks, Dev::Fast, block).await {
            counters.fast_errors.add(1);
            self.drop_torn(set, at).await;
            return Err(error);
        }
        self.claim_dirty(disks, set, at, counters).await
    }

    /// Claims that a pinned line is dirty, whose data are written, and lets go of it.
    async fn claim_dirty<D: Disks>(
        &self,
        disks: &D,
        set: u64,
        at: usize,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let claimed = {
            let mut state = self.set(set);
            let way = &mut state.ways[at];
            self.make_dirty(set, way);
            if way.claim != Claim::Dirty {
                way.claim = Claim::Dirty;
                way.settled = false;
            }
            way.settled
        };
        let mut result = Ok(());
        if !claimed {
            result = self.commit(disks, self.geometry.page_of(set), counters).await;
            if result.is_ok() {
                self.settle(set, at);
            }
        }
        self.unpin(set, at, Use::Write);
        result
    }

    /// A write to a line that was clean has failed half-way: what is there is not what the slow disk has.
    async fn drop_torn(&self, set: u64, at: usize) {
        let ours = {
            let mut state = self.set(set);
            let way = &mut state.ways[at];
            let ours = way.state == State::Valid && way.claim == Claim::None;
            if ours {
                way.state = State::Busy;
            }
            ours
        };
        self.unpin(set, at, Use::Write);
        if ours {
            self.drain(set, at).await;
            // Another write to it may have gone well and been claimed meanwhile.
            self.change(set, at, |way| match way.claim {
                Claim::None => way.clear(),
                _ => way.state = State::Valid,
            });
        }
    }

    /// Brings a line in by a write. `None`: it could not be, and the way is free again.
    #[allow(clippy::too_many_arguments, reason = "a step of `write`, with what that has at hand")]
    async fn insert<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        set: u64,
        at: usize,
        line: u64,
        is_whole: bool,
        counters: &Counters,
    ) -> Option<Result<(), D::Error>> {
        let block = self.geometry.fast_block(set, at);
        let written = if is_whole {
            request.forward(disks, Dev::Fast, block).await.is_ok()
        } else {
            let Some(mut buf) = disks.line_buf() else {
                self.change(set, at, |way| way.clear());
                return None;
            };
            let slow = self.geometry.slow_block(line);
            if disks.read(Dev::Slow, &mut buf, slow).await.is_err() {
                counters.slow_errors.add(1);
                self.change(set, at, |way| way.clear());
                return None;
            }
            let block_size = self.geometry.block_size as usize;
            let (first, blocks) = request.blocks();
            let start = first as usize * block_size;
            request.copy(&mut buf[start..start + blocks as usize * block_size]);
            disks.write(Dev::Fast, &mut buf, block).await.is_ok()
        };
        if !written {
            counters.fast_errors.add(1);
            self.set_failing();
            self.change(set, at, |way| way.clear());
            return None;
        }
        counters.write_misses.add(1);
        self.change(set, at, |way| {
            way.state = State::Valid;
            way.touch();
            self.pins(set).pin(at, Use::Write);
        });
        Some(self.claim_dirty(disks, set, at, counters).await)
    }

    /// Writes to the slow disk, and to the line that the caller has made busy. `None`: it was dirty after
    /// all.
    async fn write_through<D: Disks, R: Request<D>>(
        &self,
        disks: &D,
        request: &mut R,
        set: u64,
        at: usize,
        line: u64,
        counters: &Counters,
    ) -> Option<Result<(), D::Error>> {
        self.drain(set, at).await;
        // A write that was under way may have made it so.
        let dirty = self.change(set, at, |way| {
            if way.dirty {
                way.state = State::Valid;
            }
            way.dirty
        });
        if dirty {
            return None;
        }
        if let Err(error) = self.forget(disks, set, at, counters).await {
            return Some(Err(error));
        }
        let first = u64::from(request.blocks().0);
        let slow = self.geometry.slow_block(line) + first;
        let result = request.forward(disks, Dev::Slow, slow).await;
        let mut keep = result.is_ok() && self.mode() != Mode::Pass;
        if result.is_err() {
            counters.slow_errors.add(1);
        }
        if keep {
            let fast = self.geometry.fast_block(set, at) + first;
            keep = request.forward(disks, Dev::Fast, fast).await.is_ok();
            if !keep {
                counters.fast_errors.add(1);
            }
        }
        if keep {
            self.unsaved.set(set);
        }
        self.change(set, at, |way| match keep {
            true => {
                way.touch();
                way.state = State::Valid;
            }
            false => way.clear(),
        });
        Some(result)
    }

    /// Has the disk forget a line that the caller has made busy and drained. If that fails the line is as
    /// before and no longer busy.
    async fn forget<D: Disks>(
        &self,
        disks: &D,
        set: u64,
        at: usize,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        {
            let state = self.set(set);
            let way = &state.ways[at];
            if way.claim == Claim::None && way.settled {
                return Ok(());
            }
        }
        let before = self.unclaim(set, at);
        let result = self.commit_first(disks, set, counters).await;
        match result {
            Ok(()) => self.set(set).ways[at].settled = true,
            Err(_) => self.change(set, at, |way| {
                way.claim = before;
                way.state = State::Valid;
            }),
        }
        result
    }
}
