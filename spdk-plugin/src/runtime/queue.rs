//! What waits to run on an SPDK thread: nodes, which are tasks or I/O requests, and the FIFO that they
//! go through.

use std::cell::Cell;
use std::ptr;
use std::task::{Context, Poll, Waker};

use super::waker::Slot;

/// What a queue goes through. It lies at the start of what is queued.
#[repr(C)]
pub(crate) struct Link {
    next: Cell<*const Link>,
}

impl Link {
    #[inline]
    pub(crate) fn new() -> Self {
        Self { next: Cell::new(ptr::null()) }
    }

    /// The one behind it in its queue, null for the last.
    #[inline]
    pub(crate) fn next(&self) -> *const Link {
        self.next.get()
    }
}

/// A singly linked FIFO. It stays in its place once it is in use.
pub(super) struct Fifo {
    head: Cell<*const Link>,
    /// Where the next link goes: into the last link, or into `head`. Null before the first use.
    end: Cell<*const Cell<*const Link>>,
}

impl Fifo {
    pub(super) const fn new() -> Self {
        Self { head: Cell::new(ptr::null()), end: Cell::new(ptr::null()) }
    }

    /// Makes the queue ready for use in the place where it now is.
    pub(super) fn settle(&'static self) {
        self.end.set(&raw const self.head);
    }

    /// Queues a link. The queue was [settled](Self::settle).
    ///
    /// # Safety
    /// The link is on no queue and stays alive until it was popped. The pointer reaches all of what it is
    /// part of.
    #[inline]
    pub(super) unsafe fn push(&self, link: *const Link) {
        // SAFETY: the link is alive, and so is what is queued, whose last link `end` may be in.
        unsafe {
            (*link).next.set(ptr::null());
            let end = self.end.replace(&raw const (*link).next);
            (*end).set(link);
        }
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<*const Link> {
        let link = self.head.get();
        if link.is_null() {
            return None;
        }
        // SAFETY: as in `push`: whatever is queued is alive.
        let next = unsafe { (*link).next.get() };
        self.head.set(next);
        if next.is_null() {
            self.end.set(&raw const self.head);
        }
        Some(link)
    }

    /// Empties the queue and gives its first link, from which the others follow.
    pub(super) fn take(&self) -> *const Link {
        self.end.set(&raw const self.head);
        self.head.replace(ptr::null())
    }

    /// The links in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = *const Link> {
        let mut at = self.head.get();
        std::iter::from_fn(move || {
            let link = Some(at).filter(|link| !link.is_null())?;
            // SAFETY: as in `push`.
            at = unsafe { (*link).next.get() };
            Some(link)
        })
    }

    /// The link that was queued last, if there is any.
    pub(super) fn last(&self) -> *const Link {
        // A link is its `next`.
        self.end.get().cast()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head.get().is_null()
    }
}

/// Polls what the node belongs to, whose marks were those given when it was woken. `Ready`: it has ended, and the
/// function is called next.
pub(crate) type PollFn = unsafe fn(*const Node, u64, &mut Context<'_>) -> Poll<DisposeFn>;
/// Ends a node's life, be it by completing an I/O or by freeing a task.
pub(crate) type DisposeFn = unsafe fn(*const Node);

/// The schedulable part of a task or of an I/O request. It lies at the start of either.
///
/// ```text
///            park                 schedule
///   RUNNING -------> (no mark) -----------> QUEUED --- poll ---> RUNNING
///      |  ^
///      +--+ schedule: WOKEN, and queued again by park
/// ```
/// A node that does not exist yet, or no longer, is RUNNING: wakes pass it by.
#[repr(C)]
pub(crate) struct Node {
    link: Link,
    /// The scheduler's marks in the low byte; the rest is for the node's owner.
    marks: Cell<u64>,
    slot: Slot,
    poll: Cell<PollFn>,
}

/// It is polled just now.
pub(crate) const RUNNING: u64 = 1;
const QUEUED: u64 = 1 << 1;
const WOKEN: u64 = 1 << 2;
/// Whoever polls it is to see whether it should end.
pub(crate) const ASKED: u64 = 1 << 3;
/// The first mark of the owner's.
pub(crate) const OWNERS: u64 = 1 << 8;

impl Node {
    /// A node that is about to be polled for the first time and is found by the wakers of `slot`.
    pub(super) fn new(slot: Slot) -> Self {
        let (marks, poll) = (Cell::new(RUNNING), Cell::new(not_parked as PollFn));
        Self { link: Link::new(), marks, slot, poll }
    }

    #[inline]
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// The waker that has the node polled.
    #[inline]
    pub(crate) fn waker(&self) -> &'static Waker {
        self.slot.waker()
    }

    /// As [`waker`](Self::waker), and leaves the mark [`ASKED`].
    pub(super) fn asking_waker(&self) -> Waker {
        self.slot.asking_waker()
    }

    #[inline]
    pub(crate) fn marks(&self) -> u64 {
        self.marks.get()
    }

    /// Sets all marks. Its owner does so before the first poll alone.
    #[inline]
    pub(crate) fn set_marks(&self, marks: u64) {
        self.marks.set(marks);
    }

    /// How it is polled.
    #[inline]
    pub(super) fn poll_fn(&self) -> PollFn {
        self.poll.get()
    }

    /// Names the function that polls it from now on.
    pub(super) fn set_poll_fn(&self, poll: PollFn) {
        self.poll.set(poll);
    }

    /// It is to be polled without a way over the queue. Gives its marks; `None`: it is being polled, or queued.
    #[inline]
    pub(super) fn run_at_once(&self) -> Option<u64> {
        let marks = self.marks.get();
        if marks & (RUNNING | QUEUED) != 0 {
            return None;
        }
        self.marks.set(marks | RUNNING);
        Some(marks)
    }

    /// It was taken from the queue and is polled. Gives its marks.
    #[inline]
    pub(super) fn run(&self) -> u64 {
        let marks = self.marks.get();
        self.marks.set((marks & !QUEUED) | RUNNING);
        marks
    }

    /// It has been polled and waits; `true` if it was woken meanwhile.
    #[inline]
    pub(super) fn wait(&self) -> bool {
        let marks = self.marks.get();
        self.marks.set(marks & !(RUNNING | WOKEN));
        marks & WOKEN != 0
    }

    /// It was woken; `true` if it has to be queued.
    #[inline]
    pub(super) fn wake(&self) -> bool {
        let marks = self.marks.get();
        if marks & RUNNING != 0 {
            self.marks.set(marks | WOKEN);
        } else if marks & QUEUED == 0 {
            self.marks.set(marks | QUEUED);
            return true;
        }
        false
    }

    /// Has whoever polls it see whether it should end.
    pub(super) fn ask(&self) {
        self.marks.set(self.marks.get() | ASKED);
    }
}

/// How a node is polled that waits for nothing yet, which is never.
unsafe fn not_parked(_: *const Node, _: u64, _: &mut Context<'_>) -> Poll<DisposeFn> {
    Poll::Pending
}
