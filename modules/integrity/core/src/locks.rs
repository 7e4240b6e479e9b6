//! Locks on ranges of blocks: who overlaps with one that came before waits for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

#[derive(Debug)]
struct Entry {
    no: u64,
    range: Range<u64>,
    waker: Option<Waker>,
}

impl Entry {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// Those that hold and those that wait, in the order in which they came. One holds when none
    /// before it overlaps.
    entries: VecDeque<Entry>,
}

impl Queue {
    fn find(&self, no: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&no, |entry| entry.no).ok()
    }
}

/// The locks of one device.
#[derive(Debug, Default)]
pub struct Locks(Mutex<Queue>);

/// A place in the queue, left when it is dropped.
#[derive(Debug)]
#[must_use = "the range is locked while this lives"]
pub struct Ticket<'a> {
    locks: &'a Locks,
    no: u64,
}

impl Locks {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that overlap with `range` and came before, and keeps away those that come later.
    pub async fn lock(&self, range: Range<u64>) -> Ticket<'_> {
        let no = {
            let mut queue = self.queue();
            let no = queue.next;
            queue.next += 1;
            queue.entries.push_back(Entry { no, range, waker: None });
            no
        };
        let ticket = Ticket { locks: self, no };
        poll_fn(|cx| {
            let mut queue = self.queue();
            let Some(at) = queue.find(no) else { return Poll::Ready(()) };
            let range = queue.entries[at].range.clone();
            if queue.entries.range(..at).any(|entry| entry.overlaps(&range)) {
                queue.entries[at].waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        ticket
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut next = self.no + 1;
        let range = {
            let mut queue = self.locks.queue();
            let Some(at) = queue.find(self.no) else { return };
            let Some(entry) = queue.entries.remove(at) else { return };
            entry.range
        };
        // One at a time, so that no waker is called under the lock and nothing is allocated.
        loop {
            let mut queue = self.locks.queue();
            let later = queue.entries.iter_mut().filter(|entry| entry.no >= next);
            let mut waiting = later.filter(|entry| entry.overlaps(&range));
            let Some(entry) = waiting.find(|entry| entry.waker.is_some()) else { return };
            next = entry.no + 1;
            let waker = entry.waker.take();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn later_ones_wait_for_earlier_ones_that_overlap() {
        let locks = Locks::default();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut first = pin!(locks.lock(0..10));
        let mut second = pin!(locks.lock(5..15));
        let mut third = pin!(locks.lock(12..20));
        let mut apart = pin!(locks.lock(20..30));
        let Poll::Ready(held) = first.as_mut().poll(&mut cx) else { panic!() };
        assert!(second.as_mut().poll(&mut cx).is_pending());
        // It waits for one that waits itself.
        assert!(third.as_mut().poll(&mut cx).is_pending());
        let Poll::Ready(other) = apart.as_mut().poll(&mut cx) else { panic!() };
        drop(held);
        let Poll::Ready(held) = second.as_mut().poll(&mut cx) else { panic!() };
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop((held, other));
        assert!(third.as_mut().poll(&mut cx).is_ready());
        assert!(locks.queue().entries.is_empty());
    }

    #[test]
    fn one_that_gives_up_is_not_waited_for() {
        let locks = Locks::default();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut first = pin!(locks.lock(0..10));
        let Poll::Ready(held) = first.as_mut().poll(&mut cx) else { panic!() };
        {
            let mut second = pin!(locks.lock(5..15));
            assert!(second.as_mut().poll(&mut cx).is_pending());
        }
        let mut third = pin!(locks.lock(12..20));
        assert!(third.as_mut().poll(&mut cx).is_ready());
        drop(held);
    }
}
