//! One I/O request of ours, while its handler runs and until it is completed. Stands on
//! `spdk/bdev_module.h`.
//!
//! ```text
//!  submit_request                    (1) build the handler's future in a frame, poll it
//!       |
//!       +-- (2) ready --> ended, (6) to the batch that the home's poller completes
//!       |
//!       +-- (3) pending, on the channel's list
//!               |
//!               +-- (4) woken, polled --> ended --+-- children in flight: (5) the last one settles
//!                                                 |
//!                                                 +-- otherwise: (7) completed here and now
//! ```
//! Cancelling (an abort, a reset) is a wake with the `cancelled` mark: the poll drops the future
//! instead. So a future is only ever dropped by its own poll, and never while it runs.
//!
//! The frame, [`IoCell`] and future, lies in the channel's slab, whose last freed place is the next one
//! taken: a handler that never waits runs in memory that is in the cache, in a cell that keeps its waker
//! and its channel from one request to the next. The request itself, one of many in flight, is touched
//! for its [`Record`] alone, when it has ended.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::channel::ChannelCore;
use super::io::BdevIo;
use super::kind::IoKind;
use super::record::{Record, complete};
use super::slab::Slab;
use super::status::{IoError, IoResult};
use crate::guard::catch;
use crate::runtime::home::Home;
use crate::runtime::queue::{DisposeFn, Node, OWNERS, PollFn, RUNNING};

/// A request while its handler runs. The future lies behind it. The cell stays in its place of the slab
/// when the request has ended, for the next one.
#[repr(C, align(16))]
pub(crate) struct IoCell {
    pub(crate) node: Node,
    /// Null in the hot frame while it is free.
    io: Cell<*mut sys::spdk_bdev_io>,
    channel: *const ChannelCore,
    /// How it ends, once it has.
    outcome: Cell<IoResult>,
    /// The neighbours on the channel's list of pending requests, while it is there.
    prev: Cell<*const IoCell>,
    next: Cell<*const IoCell>,
    cdw0: Cell<u32>,
}

type DropFn = unsafe fn(NonNull<u8>);

/// What a frame takes beyond its future.
pub(crate) const FRAME: usize = size_of::<IoCell>();

/// Requests of a channel that can wait at once. The bdev layer retries what finds the slab full.
const FRAMES: usize = 1024;
/// More of them, for those who come to free the others.
const RESERVE: usize = 8;

const CANCELLED: u64 = OWNERS;
/// The future is over.
const ENDED: u64 = OWNERS << 1;
/// The frame is one of the reserve.
const RESERVED: u64 = OWNERS << 2;
/// Its completion has a loan to see to.
const ZCOPY: u64 = OWNERS << 3;
/// Its success comes with a `cdw0`.
const CDW0: u64 = OWNERS << 4;
/// It did not begin in the hot frame.
const COLD: u64 = OWNERS << 5;
/// One of the calls into SPDK whose callback has yet to come: they are counted from here up.
const CHILD: u64 = 1 << 32;

/// A channel's frames.
pub(crate) struct Frames {
    /// The frame of reads and writes that end in their first poll. It is on no list; while it
    /// has an `io`, somebody uses it. Dangles until [`heat`](Self::heat).
    hot: Cell<NonNull<IoCell>>,
    usual: Slab,
    reserve: Slab,
}

impl Frames {
    /// Room for futures of `future` bytes. `None`: no memory.
    pub(crate) fn new(future: usize) -> Option<Self> {
        let size = FRAME + future;
        let (usual, reserve) = (Slab::new(size, FRAMES)?, Slab::new(size, RESERVE)?);
        Some(Self { hot: Cell::new(NonNull::dangling()), usual, reserve })
    }

    /// The hot frame, for a read or a write that was just submitted, if it is free.
    #[inline]
    pub(crate) fn hot(&self, io: *mut sys::spdk_bdev_io) -> Option<&IoCell> {
        // SAFETY: the frame lies in our slab and holds a cell: requests come when the channel is complete.
        let cell = unsafe { self.hot.get().as_ref() };
        if !cell.io.get().is_null() {
            return None;
        }
        cell.io.set(io);
        Some(cell)
    }

    /// Finds a hot frame: for a new channel, which now is in its place, and when the request in the last one
    /// has to wait.
    pub(crate) fn heat(&self, channel: &ChannelCore) {
        // With no frame left the place stays taken.
        if let Some(place) = self.usual.take().or_else(|| IoCell::fresh(channel, &self.usual)) {
            let cell = place.cast::<IoCell>();
            self.hot.set(cell);
            // SAFETY: `fresh` made a cell there, and it is free.
            unsafe { cell.as_ref() }.rest();
        }
    }

    /// Takes a frame back.
    fn give(&self, cell: &IoCell) {
        if self.hot.get() == NonNull::from(cell) {
            return cell.rest();
        }
        let slab = if cell.has(RESERVED) { &self.reserve } else { &self.usual };
        slab.give(NonNull::from(cell).cast());
    }

    /// The channel goes: no waker finds a cell any more.
    pub(crate) fn detach(&self, home: &Home) {
        for place in self.usual.used().chain(self.reserve.used()) {
            // SAFETY: `IoCell::fresh` made a cell there.
            home.detach(unsafe { &place.cast::<IoCell>().as_ref().node });
        }
    }
}

impl IoCell {
    /// The cell of a request that was just submitted to `channel`. `None`: as many requests wait there as
    /// may.
    ///
    /// # Safety
    /// `io` was submitted to us and not yet completed; the channel lives until it is completed.
    pub(crate) unsafe fn new(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        kind: Option<IoKind>,
    ) -> Option<&IoCell> {
        let Frames { usual, reserve, .. } = &channel.frames;
        let take = |slab: &Slab| slab.take().or_else(|| Self::fresh(channel, slab));
        let (place, mark) = match (take(usual), kind) {
            (Some(place), Some(IoKind::Zcopy)) => (place, ZCOPY),
            (Some(place), _) => (place, 0),
            // What frees the others must not wait for them.
            (None, Some(IoKind::Reset | IoKind::Abort)) => (take(reserve)?, RESERVED),
            (None, _) => return None,
        };
        // SAFETY: `fresh` made a cell there, and it is free.
        let cell = unsafe { place.cast::<Self>().as_ref() };
        cell.node.set_marks(RUNNING | COLD | mark);
        cell.io.set(io);
        Some(cell)
    }

    /// Makes a cell in a frame that was never used.
    #[cold]
    fn fresh(channel: &ChannelCore, slab: &Slab) -> Option<NonNull<u8>> {
        let place = slab.fresh()?;
        let cell = place.cast::<Self>();
        // SAFETY: the slab's places are as large and as aligned as a frame; this one is ours alone.
        unsafe {
            cell.write(Self {
                node: channel.home().attach(cell.as_ptr().cast()),
                io: Cell::new(ptr::null_mut()),
                channel,
                outcome: Cell::new(Ok(())),
                prev: Cell::new(ptr::null()),
                next: Cell::new(ptr::null()),
                cdw0: Cell::new(0),
            });
        }
        Some(place)
    }

    /// It is the hot cell, without a request.
    fn rest(&self) {
        self.node.set_marks(RUNNING);
        self.io.set(ptr::null_mut());
    }

    /// The neighbours on the list of pending requests, while it is there.
    pub(crate) fn neighbours(&self) -> (*const IoCell, *const IoCell) {
        (self.prev.get(), self.next.get())
    }

    pub(crate) fn set_prev(&self, prev: *const IoCell) {
        self.prev.set(prev);
    }

    pub(crate) fn set_next(&self, next: *const IoCell) {
        self.next.set(next);
    }

    /// The request.
    #[inline]
    pub(crate) fn io(&self) -> *mut sys::spdk_bdev_io {
        self.io.get()
    }

    /// The number of the request's kind.
    #[inline]
    pub(crate) fn kind(&self) -> u8 {
        // SAFETY: the request is with us.
        unsafe { BdevIo::kind_of(self.io()) }
    }

    #[inline]
    pub(crate) fn channel(&self) -> &ChannelCore {
        // SAFETY: the frames are the channel's.
        unsafe { &*self.channel }
    }

    #[inline]
    fn has(&self, mark: u64) -> bool {
        self.node.marks() & mark != 0
    }

    #[inline]
    fn mark(&self, mark: u64) {
        self.node.set_marks(self.node.marks() | mark);
    }

    #[inline]
    pub(crate) fn has_children(&self) -> bool {
        self.node.marks() >= CHILD
    }

    pub(crate) fn set_cdw0(&self, cdw0: u32) {
        self.cdw0.set(cdw0);
        self.mark(CDW0);
    }

    /// A call into SPDK starts whose callback will name this request.
    pub(crate) fn child_started(&self) {
        self.node.set_marks(self.node.marks() + CHILD);
    }

    /// SPDK did not take the call.
    pub(crate) fn child_refused(&self) {
        self.node.set_marks(self.node.marks() - CHILD);
    }

    /// Such a callback has come for a handler that waits for it and is about to be polled.
    #[inline]
    pub(crate) fn child_done(&self) {
        self.node.set_marks(self.node.marks() - CHILD);
    }

    /// Such a callback has come: wakes the handler, or ends the request if that is all it waited for.
    ///
    /// # Safety
    /// The request may be completed in here and must not be touched afterwards.
    pub(crate) unsafe fn child_ended(&self) {
        self.node.set_marks(self.node.marks() - CHILD);
        if !self.has(ENDED) {
            self.channel().home().schedule(&self.node);
        } else if !self.has_children() {
            // SAFETY: the future is gone and so is the last child.
            unsafe { self.settle() };
        }
    }

    /// Ready once no child is in flight; the last one's callback polls again.
    pub(crate) fn poll_children(&self) -> Poll<()> {
        if self.has_children() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Where the future lies. The reference to the cell reaches only the cell, so the pointer is made
    /// anew: the slab has exposed its block.
    #[inline]
    fn future(&self) -> NonNull<u8> {
        let place = ptr::with_exposed_provenance_mut(ptr::from_ref(self).addr() + FRAME);
        // SAFETY: behind the cell in the same block.
        unsafe { NonNull::new_unchecked(place) }
    }

    /// Builds the handler's future in its place, polls it once, and sees to the request if that ends it.
    ///
    /// # Safety
    /// Called once for a cell of the channel's, in its `submit_request`. What the future borrows outlives the request. The
    /// cell must not be touched afterwards.
    #[inline]
    pub(crate) unsafe fn start<F: Future<Output = IoResult>>(
        &self,
        channel: &ChannelCore,
        make: impl FnOnce() -> F,
    ) {
        const { assert!(align_of::<F>() <= 16, "a handler's future may be aligned to 16 at most") };
        debug_assert!(FRAME + size_of::<F>() <= self.channel().frames.usual.place());
        let place = self.future();
        let alive = Cell::new(false);
        let waker = self.node.waker();
        let polled = catch("an I/O handler", || {
            // SAFETY: the slab's places are as large as the module's largest future, and this one
            // is ours alone. The future does not move until it is dropped there.
            unsafe {
                place.cast::<F>().write(make());
                alive.set(true);
                let future = Pin::new_unchecked(place.cast::<F>().as_mut());
                let polled = future.poll(&mut Context::from_waker(waker));
                if polled.is_ready() {
                    alive.set(false);
                    place.cast::<F>().drop_in_place();
                }
                polled
            }
        });
        match polled {
            Ok(Poll::Ready(Ok(()))) if self.node.marks() == RUNNING => {
                let io = self.io.replace(ptr::null_mut());
                // SAFETY: the future is gone, no child is in flight, and nobody looks at the cell again.
                unsafe { channel.home().push_done(Record::note_success(io, channel)) };
            }
            Ok(Poll::Pending) => self.wait(poll::<F>),
            // SAFETY: the future is gone.
            Ok(Poll::Ready(outcome)) => unsafe { self.end_first(outcome) },
            // SAFETY: `broken` drops what is left of the future.
            Err(_) => unsafe {
                let left = alive.get().then_some(drop_future::<F> as DropFn);
                self.end_first(self.broken(left));
            },
        }
    }

    /// The first poll has left something to wait for.
    fn wait(&self, poll: PollFn) {
        let channel = self.channel();
        channel.request_waits();
        channel.pending.push(self);
        if channel.frames.hot.get() == NonNull::from(self) {
            channel.frames.heat(channel);
        }
        channel.home().park(&self.node, poll);
    }

    /// The first poll has ended the future, and there is more to see to than its success.
    ///
    /// # Safety
    /// The future is gone. The cell must not be touched afterwards.
    #[cold]
    #[inline(never)]
    unsafe fn end_first(&self, outcome: IoResult) {
        self.end(outcome);
        if self.has_children() {
            self.channel().request_waits();
        } else {
            // SAFETY: the future is gone, no child is in flight, and nobody looks at the cell again.
            unsafe {
                let (io, channel, outcome) = self.free();
                Record::end_in_submit(io, channel, outcome);
            }
        }
    }

    /// The future is gone: notes how the request ends.
    fn end(&self, outcome: IoResult) {
        self.outcome.set(outcome);
        self.mark(ENDED);
    }

    /// The handler has panicked: drops what is left of its future and fails the request.
    #[cold]
    fn broken(&self, left: Option<DropFn>) -> IoResult {
        self.channel().device().poison();
        if let Some(drop_future) = left {
            // SAFETY: the place holds the future, and this is its one drop.
            let _ = catch("an I/O handler's drop", || unsafe { drop_future(self.future()) });
        }
        Err(IoError::Failed)
    }

    /// Asks for the request to end as aborted. False if it has ended already.
    pub(crate) fn cancel(&self) -> bool {
        if self.has(ENDED) {
            return false;
        }
        self.mark(CANCELLED);
        self.channel().home().schedule(&self.node);
        true
    }

    /// Gives the frame back and tells what is needed to complete the request.
    ///
    /// # Safety
    /// The request has ended, no child is in flight, and the cell must not be touched afterwards.
    unsafe fn free<'a>(&self) -> (*mut sys::spdk_bdev_io, &'a ChannelCore, Option<IoResult>) {
        let outcome = match self.outcome.get() {
            Ok(()) if self.has(CDW0) && self.cdw0.get() != 0 => {
                Some(Err(IoError::Nvme { cdw0: self.cdw0.get(), sct: 0, sc: 0 }))
            }
            Ok(()) => self.has(ZCOPY).then_some(Ok(())),
            Err(error) => Some(Err(error.or_failed())),
        };
        // SAFETY: the channel outlives the request.
        let (io, channel) = (self.io(), unsafe { &*self.channel });
        channel.frames.give(self);
        (io, channel, outcome)
    }

    /// Completes a request that has waited, if nothing of it is in flight.
    ///
    /// # Safety
    /// It has ended. The cell must not be touched afterwards.
    unsafe fn settle(&self) {
        if self.has_children() {
            return;
        }
        // SAFETY: says the caller; the record is completed once.
        unsafe {
            let (io, channel, outcome) = self.free();
            complete(Record::note(io, channel, outcome));
            ChannelCore::request_ended(channel);
        }
    }
}

/// # Safety
/// There is an `F`, which is not used again.
unsafe fn drop_future<F>(place: NonNull<u8>) {
    // SAFETY: says the caller.
    unsafe { place.cast::<F>().drop_in_place() };
}

unsafe fn poll<F: Future<Output = IoResult>>(
    node: *const Node,
    _: u64,
    cx: &mut Context<'_>,
) -> Poll<DisposeFn> {
    // SAFETY: the node is the first field of a cell whose request is with us.
    let cell = unsafe { &*node.cast::<IoCell>() };
    let place = cell.future();
    let alive = Cell::new(true);
    let polled = catch("an I/O handler", || {
        let polled = if cell.has(CANCELLED) {
            Poll::Ready(Err(IoError::Aborted))
        } else {
            // SAFETY: the place holds the future, which does not move until it is dropped there; only
            // its poll, which does not nest, makes a reference to it.
            unsafe { Pin::new_unchecked(place.cast::<F>().as_mut()) }.poll(cx)
        };
        if polled.is_ready() {
            alive.set(false);
            // SAFETY: nobody looks there again.
            unsafe { drop_future::<F>(place) };
        }
        polled
    });
    let broken = |_| Poll::Ready(cell.broken(alive.get().then_some(drop_future::<F> as DropFn)));
    polled.unwrap_or_else(broken).map(|outcome| {
        cell.end(outcome);
        cell.channel().pending.remove(cell);
        settle as DisposeFn
    })
}

unsafe fn settle(node: *const Node) {
    // SAFETY: the node is the first field of a cell that `poll` has just ended.
    unsafe { (*node.cast::<IoCell>()).settle() };
}
