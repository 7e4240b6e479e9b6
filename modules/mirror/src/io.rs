//! The I/O path: reads from one leg, all that changes data to all of them.

use std::array;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use spdk_plugin::module::{BdevIo, Forward, IoError, IoKind, IoResult};
use spdk_plugin::runtime::sleep;
use spdk_plugin_mirror_core::{Held, Legs, MAX_LEGS};

use crate::channel::{Channel, Ways};
use crate::owner::{Command, Missed};
use crate::shared::Shared;

/// Requests on their way to several legs.
struct All<'a> {
    forwards: [Option<Forward<'a>>; MAX_LEGS],
    done: Done,
}

/// How they ended.
#[derive(Clone, Copy)]
struct Done {
    ok: Legs,
    error: IoError,
}

impl Future for All<'_> {
    type Output = Done;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let this = self.get_mut();
        let mut waits = false;
        for (slot, place) in this.forwards.iter_mut().enumerate() {
            let Some(forward) = place else { continue };
            match Pin::new(forward).poll(cx) {
                Poll::Pending => {
                    waits = true;
                    continue;
                }
                Poll::Ready(Ok(())) => this.done.ok.add(slot),
                Poll::Ready(Err(error)) => {
                    this.done.error = error;
                }
            }
            *place = None;
        }
        if waits { Poll::Pending } else { Poll::Ready(this.done) }
    }
}

/// Sends a request to legs. Those that do not know its kind count as if they had done it.
#[inline]
fn to_all<'a>(io: &'a BdevIo<'_>, ways: &'a Ways, at: u64, flush: bool) -> All<'a> {
    let mut done = Done { ok: Legs::NONE, error: IoError::Failed };
    let forwards = array::from_fn(|slot| {
        let way = ways[slot].as_ref()?;
        if flush && !way.base.base().supports(IoKind::Flush) {
            done.ok.add(slot);
            return None;
        }
        Some(io.forward_at(&way.base, at))
    });
    All { forwards, done }
}

/// A write that has not ended. What it leaves half-done is torn (invariant 5).
struct Writing<'a> {
    shared: &'a Shared,
    regions: Range<usize>,
    _held: Held<'a>,
    done: bool,
}

impl Drop for Writing<'_> {
    #[inline]
    fn drop(&mut self) {
        // The blocks are given back after this.
        if !self.done {
            self.shared.regions.tear(self.regions.clone());
            self.shared.kick();
        }
    }
}

impl Shared {
    /// Whatever changes a range: a write, an unmap, zeroes.
    pub(crate) async fn change(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let _busy = channel.busy();
        let blocks = io.blocks();
        let at = self.geometry.data_offset + blocks.start;
        let regions = self.geometry.regions_of(&blocks);
        let held = self.locks.acquire(blocks).await;
        if !self.regions.touch(regions.clone()) {
            let wanted = regions.clone();
            self.ask(|reply| Command::Dirty { regions: wanted, reply }).await??;
        }
        let legs = self.written();
        let ways = channel.to(legs);
        let mut writing = Writing { shared: self, regions, _held: held, done: false };
        let done = to_all(&io, &ways, at, false).await;
        self.settle(legs, &ways, done).await?;
        writing.done = true;
        Ok(())
    }

    pub(crate) async fn flush(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let _busy = channel.busy();
        let legs = self.written();
        let ways = channel.to(legs);
        let at = self.geometry.data_offset + io.offset_blocks();
        let done = to_all(&io, &ways, at, true).await;
        self.settle(legs, &ways, done).await
    }

    /// Sees to it that all who must have a write have it, or are no longer trusted (invariant 2). `legs` are
    /// those that it was meant for.
    #[inline]
    async fn settle(&self, legs: Legs, ways: &Ways, done: Done) -> IoResult {
        if !done.ok.is_empty() && ((legs | self.trusted()) - done.ok).is_empty() {
            return Ok(());
        }
        let turns = array::from_fn(|slot| ways[slot].as_ref().map(|way| way.turn));
        let missed = Missed { legs, turns, ok: done.ok };
        let settled = self.ask(|reply| Command::Missed { missed, reply }).await;
        if settled == Ok(true) { Ok(()) } else { Err(done.error) }
    }

    pub(crate) async fn read(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let _busy = channel.busy();
        let blocks = io.blocks();
        let at = self.geometry.data_offset + blocks.start;
        let regions = self.geometry.regions_of(&blocks);
        let (mut tried, mut error) = (Legs::NONE, IoError::Failed);
        loop {
            let readable = self.readable();
            let allowed = self.regions.sources(regions.clone(), readable, self.source()) - tried;
            let allowed = if allowed.is_empty() { readable - tried } else { allowed };
            let Some(slot) = channel.load.borrow_mut().choose(allowed, blocks.start) else {
                return Err(error);
            };
            let base = channel.ways.borrow()[slot].as_ref().map(|way| way.base.clone());
            let Some(base) = base else {
                tried.add(slot);
                continue;
            };
            channel.load.borrow_mut().sent(slot, blocks.end);
            let outcome = io.forward_at(&base, at).await;
            channel.load.borrow_mut().ended(slot);
            match outcome {
                Ok(()) => {
                    // What another could read, they should have been able to.
                    for slot in tried.iter() {
                        self.send(Command::Unreadable { slot, regions: regions.clone() });
                    }
                    return Ok(());
                }
                Err(other) => {
                    error = other;
                    tried.add(slot);
                }
            }
        }
    }

    /// Waits for all requests to end: legs that hang are for their own timeouts to deal with.
    pub(crate) async fn drain(&self) -> IoResult {
        while self.busy() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Whether it has been told to stop.
    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
