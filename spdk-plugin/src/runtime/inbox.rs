//! Wakes that come from other threads, on their way to the thread that they are for.
//!
//! ```text
//!   waking thread                            home thread
//!   mark the entry, return if it was         a message: take the batch, nothing is announced any more
//!   lock                                     for each entry:
//!     put the entry in the batch                 take its mark away
//!     announce it by a message,                  poll it
//!     unless one is on its way
//! ```
//! An entry is marked from its wake until just before its poll, so further wakes cost one atomic
//! operation. Both sides read and write the mark in one step with acquire and release: what a thread
//! wrote before it woke is seen by the poll, whether its wake was announced or found the mark set.
//!
//! A message is sent under the lock, to a target that is there: the home thread closes the inbox under the
//! same lock before SPDK may let go of that thread.

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock, yield_now};

/// What can be woken from other threads.
pub(crate) trait Entry: Clone {
    /// Whether it is in a batch.
    fn mark(&self) -> &AtomicBool;
}

/// See the module's page.
pub(crate) struct Inbox<E, T> {
    state: Mutex<State<E, T>>,
}

struct State<E, T> {
    batch: Vec<E>,
    /// A message that will take the batch is on its way.
    announced: bool,
    /// Where messages go, while there is somebody.
    target: Option<T>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It will arrive.
    Yes,
    /// There was no room for it; later there may be.
    Full,
    /// Nobody reads messages any more.
    Gone,
}

impl<E: Entry, T: Copy> Inbox<E, T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { batch: Vec::new(), announced: false, target: None }) }
    }

    /// From now on wakes go to `target`.
    pub(crate) fn open(&self, target: T) {
        lock(&self.state).target = Some(target);
    }

    /// From now on there is nobody to be woken, and no message is on its way to be sent.
    pub(crate) fn close(&self) {
        lock(&self.state).close();
    }

    /// Wakes the entry; `send` sends the target a message that makes it [`take`](Self::take).
    pub(crate) fn post(&self, entry: E, mut send: impl FnMut(T) -> Sent) {
        if entry.mark().swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = lock(&self.state);
        state.batch.push(entry);
        while !state.announced && !state.batch.is_empty() {
            match state.target.map_or(Sent::Gone, &mut send) {
                Sent::Yes => state.announced = true,
                Sent::Full => state = self.wait(state),
                Sent::Gone => state.close(),
            }
        }
    }

    /// Messages are a finite pool that the threads refill by running.
    #[cold]
    fn wait<'a>(&'a self, state: MutexGuard<'a, State<E, T>>) -> MutexGuard<'a, State<E, T>> {
        drop(state);
        yield_now();
        lock(&self.state)
    }

    /// Calls `send` with the target, which stays there meanwhile.
    pub(crate) fn with_target<R>(&self, send: impl FnOnce(T) -> R) -> Option<R> {
        let state = lock(&self.state);
        state.target.map(send)
    }

    /// The message has come: wakes what was posted, on the home thread. `batch` is an empty vector, and is
    /// left empty; to pass the same one again saves allocations.
    pub(crate) fn take(&self, batch: &mut Vec<E>, mut wake: impl FnMut(E)) {
        {
            let mut state = lock(&self.state);
            state.announced = false;
            std::mem::swap(&mut state.batch, batch);
        }
        for entry in batch.drain(..) {
            entry.mark().swap(false, Ordering::AcqRel);
            wake(entry);
        }
    }
}

impl<E: Entry, T> State<E, T> {
    fn close(&mut self) {
        self.target = None;
        self.announced = false;
        for entry in self.batch.drain(..) {
            entry.mark().store(false, Ordering::Release);
        }
    }
}
