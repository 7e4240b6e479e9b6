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
use crate::runtime::home::{DisposeFn, Node, PollFn};

/// What the bdev layer reserves of every request for us. It is the maximum over all modules of the
/// process times a pool of 64 Ki requests.
const DRIVER_CTX: usize = 256;
/// A future up to this size lies in the request itself, a larger one in the channel's slab.
pub(crate) const INLINE: usize = DRIVER_CTX - size_of::<IoCell>();

/// What we keep of a request that is with us.
#[repr(C)]
pub(crate) struct IoCell {
    pub(crate) node: Node,
    channel: *const ChannelCore,
    /// Where the future lies, null when there is none (any more).
    future: Cell<*mut u8>,
    drop_future: Cell<unsafe fn(*mut u8)>,
    outcome: Cell<IoResult>,
    cdw0: Cell<u32>,
    /// Calls into SPDK whose callback has yet to come.
    children: Cell<u32>,
    marks: Cell<u8>,
    /// The channel's list of pending requests.
    pub(crate) prev: Cell<*const IoCell>,
    pub(crate) next: Cell<*const IoCell>,
    /// Memory that a zcopy lends to the submitter, held from its start to its end.
    pub(crate) lent: Cell<Option<DmaRegion>>,
}

/// `driver_ctx` is aligned to 8 bytes in SPDK 20.07 and to a cache line from 24.09.
const _: () = assert!(align_of::<IoCell>() <= 8);

const IN_SUBMIT: u8 = 1;
const LISTED: u8 = 2;
const CANCELLED: u8 = 4;
const ENDED: u8 = 8;
const IN_SLAB: u8 = 16;

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
                node: Node::new(poll_nothing),
                channel,
                future: Cell::new(ptr::null_mut()),
                drop_future: Cell::new(|_| ()),
                outcome: Cell::new(Ok(())),
                cdw0: Cell::new(0),
                children: Cell::new(0),
                marks: Cell::new(IN_SUBMIT),
                prev: Cell::new(ptr::null()),
                next: Cell::new(ptr::null()),
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
        let this = ptr::from_ref(self).cast_mut().cast::<u8>();
        this.wrapping_sub(sys::SPDKP_IO_DRIVER_CTX as usize).cast()
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

    /// Builds the handler's future in its place and polls it once.
    ///
    /// # Safety
    /// Called once for a cell, in its `submit_request`. What the future borrows outlives the request.
    #[inline]
    pub(crate) unsafe fn start<F: Future<Output = IoResult>>(&self, make: impl FnOnce() -> F) {
        let Some(place) = self.place::<F>() else {
            // SAFETY: there is no future and no child.
            return unsafe { self.end_now(Err(IoError::NoMemory)) };
        };
        self.node.poll.set(const { poll::<F> as PollFn });
        let first = |cx: &mut Context<'_>| {
            self.step(|| {
                // SAFETY: the place is as large and as aligned as `F` asks, and ours alone.
                let future = unsafe {
                    place.cast::<F>().write(make());
                    &mut *place.cast::<F>().as_ptr()
                };
                self.future.set(place.as_ptr());
                // SAFETY: `drop_future` is only ever given a place that holds an `F`.
                self.drop_future.set(|place| unsafe { place.cast::<F>().drop_in_place() });
                // SAFETY: the future does not move until it is dropped in its place.
                unsafe { Pin::new_unchecked(future) }.poll(cx)
            })
        };
        // SAFETY: the node was just made and belongs to the channel's home, on whose thread we are.
        unsafe { self.channel().home().poll_with(&self.node, first) };
    }

    /// Runs one poll of the future; when that ends it, drops it and notes the outcome.
    #[inline]
    fn step(&self, poll: impl FnOnce() -> Poll<IoResult>) -> Poll<DisposeFn> {
        let polled = catch("an I/O handler", || {
            let Poll::Ready(outcome) = poll() else { return Poll::Pending };
            self.drop_future();
            Poll::Ready(outcome)
        });
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => self.outcome.set(outcome),
            Err(_) => {
                self.channel().device().poison();
                // What is left of the future, if it was its poll that panicked.
                let _ = catch("an I/O handler's drop", || self.drop_future());
                self.outcome.set(Err(IoError::Failed));
            }
        }
        self.mark(ENDED);
        Poll::Ready(settle)
    }

    /// Drops the future if there is one.
    #[inline]
    fn drop_future(&self) {
        let place = self.future.replace(ptr::null_mut());
        let Some(place) = NonNull::new(place) else { return };
        // The place goes back also when the future's drop panics: what is left of it is never touched.
        let _give = self.has(IN_SLAB).then(|| GiveBack { slab: &self.channel().slab, place });
        // SAFETY: the place holds the future, and as the cell has forgotten it, this is its one drop.
        unsafe { (self.drop_future.get())(place.as_ptr()) };
    }

    /// Ends a request that has no future, in its `submit_request`.
    ///
    /// # Safety
    /// As for [`start`](Self::start).
    #[inline]
    pub(crate) unsafe fn end_now(&self, outcome: IoResult) {
        self.outcome.set(outcome);
        self.mark(ENDED);
        // SAFETY: there is no future and no child.
        unsafe { self.settle() };
    }

    /// `submit_request` returns: from here on the request is completed where it ends.
    #[inline]
    pub(crate) fn left_submit(&self) {
        if !self.has(ENDED) {
            self.mark(LISTED);
            self.channel().pending.push(self);
        }
        self.unmark(IN_SUBMIT);
    }

    #[inline]
    fn place<F>(&self) -> Option<NonNull<u8>> {
        const { assert!(align_of::<F>() <= 16, "a handler's future may be aligned to 16 at most") };
        if size_of::<F>() <= INLINE && align_of::<F>() <= align_of::<IoCell>() {
            let place = ptr::from_ref(self).wrapping_add(1).cast_mut().cast();
            return NonNull::new(place);
        }
        self.mark(IN_SLAB);
        self.channel().slab.take()
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

unsafe fn poll_nothing(_: *const Node, _: &mut Context<'_>) -> Poll<DisposeFn> {
    Poll::Pending
}

unsafe fn poll<F: Future<Output = IoResult>>(
    node: *const Node,
    cx: &mut Context<'_>,
) -> Poll<DisposeFn> {
    // SAFETY: the node is the first field of a cell whose request is with us.
    let cell = unsafe { &*node.cast::<IoCell>() };
    cell.step(|| {
        if cell.has(CANCELLED) {
            return Poll::Ready(Err(IoError::Aborted));
        }
        // SAFETY: the place holds the future, which does not move until it is dropped there; only
        // its poll, which does not nest, makes a reference to it.
        unsafe { Pin::new_unchecked(&mut *cell.future.get().cast::<F>()) }.poll(cx)
    })
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

/// Gives a future's place back to the slab when it goes out of scope.
struct GiveBack<'a> {
    slab: &'a super::slab::Slab,
    place: NonNull<u8>,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.slab.give(self.place);
    }
}
