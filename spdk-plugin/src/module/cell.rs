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
//! taken: a handler that never waits runs in memory that is in the cache. The request itself, one of
//! many in flight, is touched for its [`Record`] alone, when it has ended.

use std::cell::Cell;
use std::future::Future;
use std::mem::MaybeUninit;
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
use super::io::BdevIo;
use super::kind::IoKind;
use super::status::{IoError, IoResult};
use crate::dma::DmaRegion;
use crate::guard::catch;
use crate::runtime::home::{DisposeFn, Link, Node, Rest};

/// What lies in a request's `driver_ctx`: how it ended, and what a zcopy has lent.
#[repr(C)]
pub(crate) struct Record {
    link: Link,
    channel: *const ChannelCore,
    outcome: IoResult,
    /// Set for a zcopy alone, from its start to its end.
    lent: MaybeUninit<Cell<Option<DmaRegion>>>,
}

/// What the bdev layer reserves of every request for us: the maximum over all modules of the process,
/// times a pool of 64 Ki requests.
pub(crate) const DRIVER_CTX: usize = size_of::<Record>();

/// `driver_ctx` is aligned to 8 bytes in SPDK 20.07, with three words to the end of its cache line, and
/// to a cache line from 24.09.
const _: () = assert!(align_of::<Record>() <= 8 && std::mem::offset_of!(Record, lent) <= 24);

impl Record {
    /// The record's place in a request of ours.
    #[inline]
    pub(crate) fn of(io: *mut sys::spdk_bdev_io) -> *mut Self {
        io.cast::<u8>().wrapping_add(sys::SPDKP_IO_DRIVER_CTX as usize).cast()
    }

    /// What a zcopy has lent.
    ///
    /// # Safety
    /// The request is a zcopy that is with us, and [`init_lent`](Self::init_lent) was called at its
    /// start.
    #[inline]
    pub(crate) unsafe fn lent<'a>(io: *mut sys::spdk_bdev_io) -> &'a Cell<Option<DmaRegion>> {
        // SAFETY: says the caller.
        unsafe { (*Self::of(io)).lent.assume_init_ref() }
    }

    /// A zcopy starts, with nothing lent.
    ///
    /// # Safety
    /// The request is a zcopy that was just submitted to us.
    pub(crate) unsafe fn init_lent(io: *mut sys::spdk_bdev_io) {
        // SAFETY: `driver_ctx` is ours while the request is, as long as `ctx_size` told, and aligned.
        unsafe { (&raw mut (*Self::of(io)).lent).write(MaybeUninit::new(Cell::new(None))) };
    }

    /// Notes how the request ended, to be completed next.
    ///
    /// # Safety
    /// The request is with us.
    #[inline]
    unsafe fn note<'a>(
        io: *mut sys::spdk_bdev_io,
        channel: *const ChannelCore,
        outcome: IoResult,
    ) -> &'a Link {
        let record = Self::of(io);
        // SAFETY: as in `init_lent`; what is lent stays.
        unsafe {
            (&raw mut (*record).link).write(Link::new());
            (&raw mut (*record).channel).write(channel);
            (&raw mut (*record).outcome).write(outcome);
            &(*record).link
        }
    }

    /// Puts a request that ends in its `submit_request` on the batch: completing it there would cost the
    /// bdev layer a message.
    ///
    /// # Safety
    /// The request is with us, was counted by the channel, and nothing of it is in flight.
    #[inline]
    pub(crate) unsafe fn end_in_submit(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        outcome: IoResult,
    ) {
        // SAFETY: says the caller; it is completed once.
        unsafe {
            let link = Self::note(io, channel, outcome);
            if outcome == Err(IoError::NoMemory) && !channel.must_retry() {
                // The bdev layer queues it, and stops to submit what it had queued when it sees this.
                complete(link);
            } else {
                channel.home().push_done(link);
            }
        }
    }
}

/// A request while its handler runs. The future lies behind it.
#[repr(C, align(16))]
pub(crate) struct IoCell {
    pub(crate) node: Node,
    io: *mut sys::spdk_bdev_io,
    channel: *const ChannelCore,
    cdw0: Cell<u32>,
    /// Calls into SPDK whose callback has yet to come.
    children: Cell<u32>,
    marks: Cell<u8>,
    /// How it ends, once it has.
    outcome: Cell<MaybeUninit<IoResult>>,
    /// What only a request that waits has.
    rest: Cell<MaybeUninit<Rest>>,
    drop_future: Cell<MaybeUninit<DropFn>>,
    /// The neighbours on the channel's list of pending requests, while it is there.
    prev: Cell<MaybeUninit<*const IoCell>>,
    next: Cell<MaybeUninit<*const IoCell>>,
}

type DropFn = unsafe fn(NonNull<u8>);

/// What a frame takes beyond its future.
pub(crate) const FRAME: usize = size_of::<IoCell>();

const CANCELLED: u8 = 1;
/// The future is over.
const ENDED: u8 = 2;

impl IoCell {
    /// Makes the cell of a request that was just submitted to `channel`. `None`: as many requests wait
    /// there as may.
    ///
    /// # Safety
    /// `io` was submitted to us and not yet completed; the channel lives until it is completed.
    #[inline]
    pub(crate) unsafe fn new(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        kind: Option<IoKind>,
    ) -> Option<&IoCell> {
        let place = channel.slab.take().or_else(|| match kind {
            // What frees the others must not wait for them.
            Some(IoKind::Reset | IoKind::Abort) => channel.slab.take_reserve(),
            _ => None,
        });
        let cell = place?.cast::<Self>();
        // SAFETY: the slab's places are as large and as aligned as a frame; this one is ours alone.
        unsafe {
            cell.write(Self {
                node: Node::new(),
                io,
                channel,
                cdw0: Cell::new(0),
                children: Cell::new(0),
                marks: Cell::new(0),
                outcome: Cell::new(MaybeUninit::uninit()),
                rest: Cell::new(MaybeUninit::uninit()),
                drop_future: Cell::new(MaybeUninit::uninit()),
                prev: Cell::new(MaybeUninit::uninit()),
                next: Cell::new(MaybeUninit::uninit()),
            });
            Some(cell.as_ref())
        }
    }

    /// The neighbours on the list of pending requests.
    ///
    /// # Safety
    /// The cell is on the list.
    pub(crate) unsafe fn neighbours(&self) -> (*const IoCell, *const IoCell) {
        // SAFETY: set when it was put there.
        unsafe { (self.prev.get().assume_init(), self.next.get().assume_init()) }
    }

    pub(crate) fn set_prev(&self, prev: *const IoCell) {
        self.prev.set(MaybeUninit::new(prev));
    }

    pub(crate) fn set_next(&self, next: *const IoCell) {
        self.next.set(MaybeUninit::new(next));
    }

    /// The request.
    #[inline]
    pub(crate) fn io(&self) -> *mut sys::spdk_bdev_io {
        self.io
    }

    #[inline]
    pub(crate) fn channel(&self) -> &ChannelCore {
        // SAFETY: `new`'s caller promised that the channel outlives the request.
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
    /// Called once for a cell, in its `submit_request`. What the future borrows outlives the request. The
    /// cell must not be touched afterwards.
    #[inline]
    pub(crate) unsafe fn start<F: Future<Output = IoResult>>(&self, make: impl FnOnce() -> F) {
        const { assert!(align_of::<F>() <= 16, "a handler's future may be aligned to 16 at most") };
        debug_assert!(FRAME + size_of::<F>() <= self.channel().slab.place());
        let place = self.future();
        // SAFETY: given a place that holds an `F`, once.
        let drop_future: DropFn = |place| unsafe { place.cast::<F>().drop_in_place() };
        let alive = Cell::new(false);
        let first = |cx: &mut Context<'_>| {
            let polled = catch("an I/O handler", || {
                // SAFETY: the slab's places are as large as the module's largest future, and this one
                // is ours alone. The future does not move until it is dropped there.
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
            polled.unwrap_or_else(|_| self.broken(alive.get().then_some(drop_future)))
        };
        let keep = |rest| {
            self.rest.set(MaybeUninit::new(rest));
            self.drop_future.set(MaybeUninit::new(drop_future));
            self.rest.as_ptr().cast_const().cast::<Rest>()
        };
        // SAFETY: the node was just made and belongs to the channel's home, on whose thread we are.
        match unsafe { self.channel().home().poll_first(&self.node, first, keep, poll::<F>) } {
            Poll::Pending => self.channel().pending.push(self),
            Poll::Ready(outcome) if self.children.get() > 0 => self.end(outcome),
            // SAFETY: the future is gone, no child is in flight, and nobody looks at the cell again.
            Poll::Ready(outcome) => unsafe {
                let (io, channel, outcome) = self.free(outcome);
                Record::end_in_submit(io, channel, outcome);
            },
        }
    }

    /// The future is gone: notes how the request ends.
    fn end(&self, outcome: IoResult) {
        self.outcome.set(MaybeUninit::new(outcome));
        self.mark(ENDED);
    }

    /// The handler has panicked: drops what is left of its future and fails the request.
    #[cold]
    fn broken(&self, left: Option<DropFn>) -> Poll<IoResult> {
        self.channel().device().poison();
        if let Some(drop_future) = left {
            // SAFETY: the place holds the future, and this is its one drop.
            let _ = catch("an I/O handler's drop", || unsafe { drop_future(self.future()) });
        }
        Poll::Ready(Err(IoError::Failed))
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
    /// The future is gone, no child is in flight, and the cell must not be touched afterwards.
    #[inline]
    unsafe fn free<'a>(
        &self,
        outcome: IoResult,
    ) -> (*mut sys::spdk_bdev_io, &'a ChannelCore, IoResult) {
        let outcome = match outcome {
            Ok(()) if self.cdw0.get() != 0 => {
                Err(IoError::Nvme { cdw0: self.cdw0.get(), sct: 0, sc: 0 })
            }
            Ok(()) => Ok(()),
            Err(error) => Err(error.or_failed()),
        };
        // SAFETY: the channel outlives the request.
        let (io, channel) = (self.io, unsafe { &*self.channel });
        channel.slab.give(NonNull::from(self).cast());
        (io, channel, outcome)
    }

    /// Completes a request that has waited, if nothing of it is in flight.
    ///
    /// # Safety
    /// The future is gone. The cell must not be touched afterwards.
    unsafe fn settle(&self) {
        if self.children.get() > 0 {
            return;
        }
        // SAFETY: says the caller; `end` has set the outcome, and the record is completed once.
        unsafe {
            let (io, channel, outcome) = self.free(self.outcome.get().assume_init());
            complete(Record::note(io, channel, outcome));
        }
    }
}

unsafe fn poll<F: Future<Output = IoResult>>(
    node: *const Node,
    cx: &mut Context<'_>,
) -> Poll<DisposeFn> {
    // SAFETY: the node is the first field of a cell whose request is with us.
    let cell = unsafe { &*node.cast::<IoCell>() };
    let place = cell.future();
    // SAFETY: `start` has set it, before the cell first waited.
    let drop_future = unsafe { cell.drop_future.get().assume_init() };
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
    polled.unwrap_or_else(|_| cell.broken(alive.get().then_some(drop_future))).map(|outcome| {
        cell.end(outcome);
        cell.channel().pending.remove(cell);
        settle as DisposeFn
    })
}

unsafe fn settle(node: *const Node) {
    // SAFETY: the node is the first field of a cell that `poll` has just ended.
    unsafe { (*node.cast::<IoCell>()).settle() };
}

/// Tells the bdev layer how the request ended.
///
/// # Safety
/// The link is that of a [`Record`] that was noted and is on no list. It is gone afterwards.
pub(crate) unsafe fn complete(link: *const Link) {
    // SAFETY: says the caller. The request is ours, and this is its one completion. The channel lives
    // on, as it counts the request until the end of this function.
    unsafe {
        let record = link.cast::<Record>();
        let io = link
            .cast::<u8>()
            .wrapping_sub(sys::SPDKP_IO_DRIVER_CTX as usize)
            .cast_mut()
            .cast::<sys::spdk_bdev_io>();
        let (channel, outcome) = ((*record).channel, (*record).outcome);
        if outcome == Err(IoError::NoMemory) && (*channel).must_retry() {
            return ChannelCore::serve_again(channel, io);
        }
        if BdevIo::kind_of(io) == IoKind::Zcopy as u8 {
            end_loan(io, outcome);
        }
        match outcome {
            Ok(()) => sys::spdk_bdev_io_complete(io, SUCCESS),
            Err(error) => complete_failed(io, error),
        }
        ChannelCore::request_ended(channel);
    }
}

/// Lets go of what was lent, unless that is what a zcopy has just started with, or its end is to be
/// submitted again.
#[cold]
unsafe fn end_loan(io: *mut sys::spdk_bdev_io, outcome: IoResult) {
    // SAFETY: the request is a zcopy that is with us.
    unsafe {
        let starts = sys::spdkp_io_zcopy_flags(io) & sys::SPDKP_ZCOPY_START != 0;
        let stays = match outcome {
            Ok(()) | Err(IoError::Nvme { sct: 0, sc: 0, .. }) => starts,
            Err(error) => !starts && error == IoError::NoMemory,
        };
        if !stays {
            Record::lent(io).set(None);
        }
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
