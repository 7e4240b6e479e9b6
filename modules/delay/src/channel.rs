//! What a thread that uses the bdev has.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use spdk_plugin::Result;
use spdk_plugin::module::{BaseChannel, Forward, IoResult};
use spdk_plugin::runtime::{PollStatus, Poller};

use crate::latency::{Draw, Latency};
use crate::queue::Queue;

/// Which latency a request has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// The latencies of reads and of writes.
pub(crate) type Latencies = [Latency; 2];

/// A way to the base, and the requests that wait on it.
pub(crate) struct Channel {
    pub(crate) base: BaseChannel,
    latencies: Cell<Latencies>,
    draws: RefCell<[Draw; 2]>,
    waiting: Rc<Waiting>,
}

/// Requests that wait, and the poller that ends their waiting. It rests while there are none.
struct Waiting {
    queue: RefCell<Queue>,
    poller: OnceCell<Poller>,
}

impl Channel {
    pub(crate) fn new(base: BaseChannel, latencies: Latencies, seed: u64) -> Result<Self> {
        let waiting = Rc::new(Waiting { queue: RefCell::default(), poller: OnceCell::new() });
        let weak = Rc::downgrade(&waiting);
        let poller = Poller::builder().name("rdelay").register(move || Waiting::poll(&weak))?;
        poller.pause()?;
        let _ = waiting.poller.set(poller);
        let draws = RefCell::new([Draw::new(seed), Draw::new(!seed)]);
        Ok(Self { base, latencies: Cell::new(latencies), draws, waiting })
    }

    /// From now on requests have these.
    pub(crate) fn set_latencies(&self, latencies: Latencies) {
        self.latencies.set(latencies);
        self.waiting.queue.borrow_mut().part();
    }

    /// Has a request take as long as it is to. What the base takes is part of it.
    pub(crate) async fn delay(&self, direction: Direction, forward: Forward<'_>) -> IoResult {
        let Some(wait) = self.begin(direction) else { return forward.await };
        let outcome = forward.await;
        wait.await;
        outcome
    }

    fn begin(&self, direction: Direction) -> Option<Wait<'_>> {
        let latency = self.latencies.get()[direction as usize];
        if latency.is_zero() {
            return None;
        }
        let (latency, slow) = self.draws.borrow_mut()[direction as usize].next(&latency);
        let line = 2 * direction as usize + usize::from(slow);
        let place = self.waiting.queue.borrow_mut().add(line, Instant::now() + latency);
        // It fails on another thread only.
        let _ = self.waiting.poller.get().map(Poller::resume);
        Some(Wait { queue: &self.waiting.queue, place })
    }
}

impl Waiting {
    fn poll(weak: &Weak<Self>) -> PollStatus {
        let Some(this) = weak.upgrade() else { return PollStatus::Idle };
        if this.queue.borrow().is_empty() {
            let _ = this.poller.get().map(Poller::pause);
            return PollStatus::Idle;
        }
        let (now, mut status) = (Instant::now(), PollStatus::Idle);
        loop {
            let due = this.queue.borrow_mut().take_due(now);
            let Some(waker) = due else { return status };
            status = PollStatus::Busy;
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// A place in the queue, until it is due.
struct Wait<'a> {
    queue: &'a RefCell<Queue>,
    place: u32,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.queue.borrow_mut().is_due(self.place, cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.queue.borrow_mut().leave(self.place);
    }
}
