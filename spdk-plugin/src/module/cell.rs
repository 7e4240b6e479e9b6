//! One I/O request of ours: what lies in its `driver_ctx`. Stands on `spdk/bdev_module.h`.
//!
//! ```text
//!  submit_request                    (1) build the handler's future in place, poll it
//!       |
//!       +-- (2) ready -------------> ended --+-- children in flight: (5) the last one settles
//!       |                              ^     |
//!       +-- (3) pending, on the        |     +-- inside its own submit_request: (6) done batch,
//!             channel's list           |     |      which the home's poller completes
//!               |                      |     |
//!               +-- (4) woken, polled -+     +-- otherwise: (7) completed here and now
//! ```
//! Cancelling (an abort, a reset) is a wake with the `cancelled` mark: the poll drops the future
//! instead. So a future is only ever dropped by its own poll, and never while it runs.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;
use sys::{
    SPDK_BDEV_IO_STATUS_ABORTED as ABORTED, SPDK_BDEV_IO_STATUS_FAILED as FAILED,
    SPDK_BDEV_IO_STATUS_MISCOMPARE as MISCOMPARE, SPDK_BDEV_IO_STATUS_NOMEM as NOMEM,
    SPDK_BDEV_IO_STATUS_SUCCESS as SUCCESS,
};

use super::channel::ChannelCore;
use super::status::{IoError, IoResult};
use crate::dma::DmaRegion;
use crate::guard::catch;
use crate::runtime::home::{DisposeFn, Node, Rest};

/// What the bdev layer reserves of every request for us. It is the maximum over all modules of the
/// process times a pool of 64 Ki requests.
pub(crate) const DRIVER_CTX: usize = 256;
/// A future up to this size lies in the request itself, a larger one in the channel's slab.
pub(crate) const INLINE: usize = DRIVER_CTX - size_of::<IoCell>() - size_of::<Tail>();

/// What we keep of a request that is with us. The future lies behind it and the [`Tail`] at the end,
/// so that a request that never waits touches two cache lines.
#[repr(C)]
pub(crate) struct IoCell {
    pub(crate) node: Node,
    channel: *const ChannelCore,
    outcome: Cell<IoResult>,
    cdw0: Cell<u32>,
    /// Calls into SPDK whose callback has yet to come.
    children: Cell<u32>,
    marks: Cell<u8>,
    /// Memory that a zcopy lends to the submitter, held from its start to its end.
    pub(crate) lent: Cell<Option<DmaRegion>>,
}

/// What only a request that waits has.
#[repr(C)]
struct Tail {
    rest: Rest,
    future: NonNull<u8>,
    drop_future: unsafe fn(NonNull<u8>),
    prev: Cell<*const IoCell>,
    next: Cell<*const IoCell>,
}

/// `driver_ctx` is aligned to 8 bytes in SPDK 20.07 and to a cache line from 24.09.
const _: () = assert!(align_of::<IoCell>() <= 8 && align_of::<Tail>() <= 8);
const _: () = assert!(size_of::<IoCell>() == 64);

const IN_SUBMIT: u8 = 1;
const LISTED: u8 = 2;
const CANCELLED: u8 = 4;
const ENDED: u8 = 8;
const IN_SLAB: u8 = 16;
/// The tail is set and its future alive.
const WAITS: u8 = 32;

impl IoCell {
    /// Makes the cell of a request that was just submitted to `channel`.
    ///
    /// # Safety
    /// `io` was submitted to us and not yet completed; the channel lives until it is completed.
    #[inline]
    pub(crate) unsafe fn init(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        lent: Option<DmaRegion>,
    ) -> &IoCell {
        // SAFETY: `driver_ctx` is ours while the request is, is as long as `ctx_size` told, and is
        // aligned to 8.
        unsafe {
            let cell = Self::of(io);
            cell.write(Self {
                node: Node::new(),
                channel,
                outcome: Cell::new(Ok(())),
                cdw0: Cell::new(0),
                children: Cell::new(0),
                marks: Cell::new(IN_SUBMIT),
                lent: Cell::new(lent),
            });
            &*cell
        }
    }

    /// The cell's place in a request of ours.
    #[inline]
    pub(crate) fn of(io: *mut sys::spdk_bdev_io) -> *mut IoCell {
        io.cast::<u8>().wrapping_add(sys::SPDKP_IO_DRIVER_CTX as usize).cast()
    }

    /// The request that the cell lies in.
    #[inline]
    pub(crate) fn io(&self) -> *mut sys::spdk_bdev_io {
        let at = ptr::from_ref(self).addr() - sys::SPDKP_IO_DRIVER_CTX as usize;
        ptr::with_exposed_provenance_mut(at)
    }

    #[inline]
    pub(crate) fn channel(&self) -> &ChannelCore {
        // SAFETY: `init`'s caller promised that the channel outlives the request.
        unsafe { &*self.channel }
    }

    #[inline]
    fn has(&self, mark: u8) -> bool {
        self.marks.get() & mark != 0
    }

    #[inline]
    fn mark(&self, mark: u8) {
        self.marks.set(self.marks.get() | mark);
    }

    #[inline]
    fn unmark(&self, mark: u8) {
        self.marks.set(self.marks.get() & !mark);
    }

    pub(crate) fn set_cdw0(&self, cdw0: u32) {
        self.cdw0.set(cdw0);
    }

    /// A call into SPDK starts whose callback will name this request.
    pub(crate) fn child_started(&self) {
        self.children.set(self.children.get() + 1);
    }

    /// Such a callback has come: wakes the handler, or ends the request if that is all it waited for.
    ///
    /// # Safety
    /// The request may be completed in here and must not be touched afterwards.
    pub(crate) unsafe fn child_ended(&self) {
        self.children.set(self.children.get() - 1);
        if !self.has(ENDED) {
            self.channel().home().schedule(&self.node);
        } else if self.children.get() == 0 {
            // SAFETY: the future is gone and so is the last child.
            unsafe { self.settle() };
        }
    }

    /// Ready once no child is in flight; the last one's callback polls again.
    pub(crate) fn poll_children(&self) -> Poll<()> {
        if self.children.get() > 0 { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Builds the handler's future in its place and polls it once. True: the request has ended.
    ///
    /// # Safety
    /// Called once for a cell, in its `submit_request`. What the future borrows outlives the request.
    #[inline]
    pub(crate) unsafe fn start<F: Future<Output = IoResult>>(
        &self,
        make: impl FnOnce() -> F,
    ) -> bool {
        let Some(place) = self.place::<F>() else {
            // SAFETY: there is no future and no child.
            return unsafe { self.end_now(Err(IoError::NoMemory)) };
        };
        // SAFETY: given a place that holds an `F`, once.
        let drop_future: unsafe fn(NonNull<u8>) = |place| unsafe { place.cast::<F>().drop_in_place() };
        let alive = Cell::new(false);
        let first = |cx: &mut Context<'_>| {
            let polled = catch("an I/O handler", || {
                // SAFETY: the place is as large and as aligned as `F` asks, and ours alone. The future
                // does not move until it is dropped there.
                unsafe {
                    place.cast::<F>().write(make());
                    alive.set(true);
                    let polled = Pin::new_unchecked(place.cast::<F>().as_mut()).poll(cx);
                    if polled.is_ready() {
                        alive.set(false);
                        place.cast::<F>().drop_in_place();
                    }
                    polled
                }
            });
            match polled {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(outcome)) => self.end(place, outcome),
                Err(_) => self.broken(place, alive.get().then_some(drop_future)),
            }
        };
        let keep = |rest| {
            self.mark(WAITS);
            let (prev, next) = (Cell::new(ptr::null()), Cell::new(ptr::null()));
            // SAFETY: the tail's room is ours alone and aligned, as its size and the context's are
            // multiples of 8.
            unsafe {
                self.tail().write(Tail { rest, future: place, drop_future, prev, next });
                &raw const (*self.tail()).rest
            }
        };
        // SAFETY: the node was just made and belongs to the channel's home, on whose thread we are.
        let ended = unsafe { self.channel().home().poll_first(&self.node, first, keep, poll::<F>) };
        if ended {
            self.ended_in_submit();
        }
        ended
    }

    /// Puts an ended request on the batch, as completing it within its own `submit_request` would cost a
    /// message, or leaves it to the callback of its last child.
    #[inline]
    fn ended_in_submit(&self) {
        if self.children.get() == 0 {
            self.channel().home().push_done(&self.node);
        }
    }

    fn tail(&self) -> *mut Tail {
        self.at(DRIVER_CTX - size_of::<Tail>()).cast()
    }

    /// The byte of `driver_ctx` at `offset`. The reference to the cell reaches only the cell, so the
    /// pointer is made anew: SPDK's memory is exposed, as it came from C.
    #[inline]
    fn at(&self, offset: usize) -> *mut u8 {
        ptr::with_exposed_provenance_mut(ptr::from_ref(self).addr() + offset)
    }

    /// The tail of a request that has one.
    fn waiting(&self) -> &Tail {
        assert!(self.has(WAITS), "a request that waits has a tail");
        // SAFETY: set by `start` before the request was first seen waiting.
        unsafe { &*self.tail() }
    }

    /// The future is over and dropped: notes how the request ends.
    #[inline]
    fn end(&self, place: NonNull<u8>, outcome: IoResult) -> Poll<()> {
        self.outcome.set(outcome);
        if self.has(IN_SLAB) {
            self.channel().slab.give(place);
        }
        self.mark(ENDED);
        Poll::Ready(())
    }

    /// The handler has panicked: drops what is left of its future and fails the request.
    #[cold]
    fn broken(
        &self,
        place: NonNull<u8>,
        drop_future: Option<unsafe fn(NonNull<u8>)>,
    ) -> Poll<()> {
        self.channel().device().poison();
        if let Some(drop_future) = drop_future {
            // SAFETY: the place holds the future, and this is its one drop.
            let _ = catch("an I/O handler's drop", || unsafe { drop_future(place) });
        }
        self.end(place, Err(IoError::Failed))
    }

    /// Ends a request that has no future, in its `submit_request`. True, as [`start`](Self::start).
    ///
    /// # Safety
    /// As for [`start`](Self::start).
    #[inline]
    pub(crate) unsafe fn end_now(&self, outcome: IoResult) -> bool {
        self.outcome.set(outcome);
        self.mark(ENDED);
        self.ended_in_submit();
        true
    }

    /// `submit_request` returns with the request not ended: from here on it is completed where it ends.
    pub(crate) fn left_submit(&self) {
        self.unmark(IN_SUBMIT);
        if !self.has(ENDED) {
            self.mark(LISTED);
            self.channel().pending.push(self);
        }
    }

    #[inline]
    fn place<F>(&self) -> Option<NonNull<u8>> {
        const { assert!(align_of::<F>() <= 16, "a handler's future may be aligned to 16 at most") };
        if size_of::<F>() <= INLINE && align_of::<F>() <= align_of::<IoCell>() {
            return NonNull::new(self.at(size_of::<Self>()));
        }
        let place = self.channel().slab.take()?;
        self.mark(IN_SLAB);
        Some(place)
    }

    /// The neighbours on the channel's list of pending requests.
    pub(crate) fn links(&self) -> (&Cell<*const IoCell>, &Cell<*const IoCell>) {
        let tail = self.waiting();
        (&tail.prev, &tail.next)
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

    /// Lets go of what was lent, unless that is what a zcopy has just started with.
    #[cold]
    fn end_loan(&self) {
        // SAFETY: the request is with us.
        let flags = unsafe { sys::spdkp_io_zcopy_flags(self.io()) };
        if flags & sys::SPDKP_ZCOPY_START == 0 || self.outcome.get().is_err() {
            self.lent.set(None);
        }
    }

    /// Completes the request if nothing of it is in flight: now, or in the batch when it ended within
    /// its own `submit_request`, where completing would cost a message.
    ///
    /// # Safety
    /// The future is gone. The request must not be touched afterwards.
    #[inline]
    unsafe fn settle(&self) {
        if self.children.get() > 0 {
            return;
        }
        if self.has(LISTED) {
            self.unmark(LISTED);
            self.channel().pending.remove(self);
        }
        if self.has(IN_SUBMIT) {
            self.channel().home().push_done(&self.node);
        } else {
            // SAFETY: ended, without children, and on no list.
            unsafe { complete(&self.node) };
        }
    }
}

unsafe fn poll<F: Future<Output = IoResult>>(
    node: *const Node,
    cx: &mut Context<'_>,
) -> Poll<DisposeFn> {
    // SAFETY: the node is the first field of a cell whose request is with us.
    let cell = unsafe { &*node.cast::<IoCell>() };
    let (place, drop_future) = (cell.waiting().future, cell.waiting().drop_future);
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
            unsafe { drop_future(place) };
        }
        polled
    });
    let ended = match polled {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(outcome)) => cell.end(place, outcome),
        Err(_) => cell.broken(place, alive.get().then_some(drop_future)),
    };
    ended.map(|()| settle as DisposeFn)
}

unsafe fn settle(node: *const Node) {
    // SAFETY: the node is the first field of a cell that `poll` has just ended.
    unsafe { (*node.cast::<IoCell>()).settle() };
}

/// Tells the bdev layer how the request ended.
///
/// # Safety
/// The node is of a request that has ended, has no child and is on no list. It is gone afterwards.
pub(crate) unsafe fn complete(node: *const Node) {
    // SAFETY: says the caller.
    let cell = unsafe { &*node.cast::<IoCell>() };
    let io = cell.io();
    let outcome = cell.outcome.get();
    let cdw0 = cell.cdw0.get();
    // SAFETY: nobody else looks into the cell.
    if unsafe { (*cell.lent.as_ptr()).is_some() } {
        cell.end_loan();
    }
    // SAFETY: the request is ours, and this is its one completion. The channel lives on, as it counts
    // the request until the end of this function.
    unsafe {
        let channel = cell.channel;
        match outcome {
            Ok(()) if cdw0 == 0 => sys::spdk_bdev_io_complete(io, SUCCESS),
            Ok(()) => sys::spdk_bdev_io_complete_nvme_status(io, cdw0, 0, 0),
            Err(error) => complete_failed(io, error),
        }
        ChannelCore::request_ended(channel);
    }
}

#[cold]
unsafe fn complete_failed(io: *mut sys::spdk_bdev_io, error: IoError) {
    // SAFETY: as in `complete`.
    unsafe {
        match error {
            IoError::Failed => sys::spdk_bdev_io_complete(io, FAILED),
            IoError::NoMemory => sys::spdk_bdev_io_complete(io, NOMEM),
            IoError::Aborted => sys::spdk_bdev_io_complete(io, ABORTED),
            IoError::Miscompare => sys::spdk_bdev_io_complete(io, MISCOMPARE),
            IoError::Nvme { cdw0, sct, sc } => {
                sys::spdk_bdev_io_complete_nvme_status(io, cdw0, sct.into(), sc.into());
            }
            IoError::Scsi { sc, sk, asc, ascq } => {
                sys::spdk_bdev_io_complete_scsi_status(io, sc.into(), sk.into(), asc, ascq);
            }
            IoError::Errno(errno) => sys::spdkp_io_complete_errno(io, errno),
        }
    }
}
