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
use super::slab::Slab;
use super::status::{IoError, IoResult};
use crate::dma::DmaRegion;
use crate::guard::catch;
use crate::runtime::home::Home;
use crate::runtime::queue::{DisposeFn, Link, Node, OWNERS, PollFn, RUNNING};

/// What lies in a request's `driver_ctx`: how it ended, and what a zcopy has lent.
#[repr(C)]
pub(crate) struct Record {
    link: Link,
    channel: *const ChannelCore,
    /// `None`: it succeeded, and there is nothing else to see to.
    outcome: Option<IoResult>,
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
        outcome: Option<IoResult>,
    ) -> &'a Link {
        let record = Self::of(io);
        // SAFETY: as in `init_lent`; what is lent stays, and any bytes are a link, which its queue sets.
        unsafe {
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
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn end_in_submit(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        outcome: Option<IoResult>,
    ) {
        // SAFETY: says the caller; it is completed once.
        unsafe {
            let link = Self::note(io, channel, outcome);
            if outcome == Some(Err(IoError::NoMemory)) && !channel.must_retry() {
                // The bdev layer queues it, and stops to submit what it had queued when it sees this.
                complete(link);
            } else {
                channel.home().push_done(link);
            }
        }
    }
}

/// A request while its handler runs. The future lies behind it. The cell stays in its place of the slab
/// when the request has ended, for the next one.
#[repr(C, align(16))]
pub(crate) struct IoCell {
    pub(crate) node: Node,
    io: Cell<*mut sys::spdk_bdev_io>,
    channel: *const ChannelCore,
    /// How it ends, once it has.
    outcome: Cell<IoResult>,
    /// Set before it waits.
    drop_future: Cell<Option<DropFn>>,
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
/// It is the hot frame, without a request.
const IDLE: u64 = OWNERS << 6;
/// All marks of the hot frame without a request.
const FREE: u64 = RUNNING | IDLE;
/// One of the calls into SPDK whose callback has yet to come: they are counted from here up.
const CHILD: u64 = 1 << 32;

/// A channel's frames.
pub(crate) struct Frames {
    /// The frame of reads and writes that end in their first poll. It is on no list; unless it is
    /// [`IDLE`], somebody uses it. Dangles until [`heat`](Self::heat).
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
        if cell.node.marks() != FREE {
            return None;
        }
        cell.node.set_marks(RUNNING);
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
            unsafe { cell.as_ref() }.node.set_marks(FREE);
        }
    }

    /// Takes a frame back.
    fn give(&self, cell: &IoCell) {
        if self.hot.get() == NonNull::from(cell) {
            return cell.node.set_marks(FREE);
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
        let Frames { hot, usual, reserve } = &channel.frames;
        // SAFETY: as in `hot`.
        let hot = unsafe { hot.get().as_ref() };
        if hot.has(IDLE) {
            // An old waker may have left its mark there.
            hot.node.set_marks(FREE);
        }
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
                drop_future: Cell::new(None),
                prev: Cell::new(ptr::null()),
                next: Cell::new(ptr::null()),
                cdw0: Cell::new(0),
            });
        }
        Some(place)
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
    fn has_children(&self) -> bool {
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
                let polled = future.poll(&mut Context::from_waker(&waker));
                if polled.is_ready() {
                    alive.set(false);
                    place.cast::<F>().drop_in_place();
                }
                polled
            }
        });
        match polled {
            Ok(Poll::Ready(Ok(()))) if self.node.marks() == RUNNING => {
                self.node.set_marks(FREE);
                // SAFETY: the future is gone, no child is in flight, and nobody looks at the cell again.
                channel.home().push_done(unsafe { Record::note(self.io(), channel, None) });
            }
            Ok(Poll::Pending) => self.wait(poll::<F>, drop_future::<F>),
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
    fn wait(&self, poll: PollFn, drop_future: DropFn) {
        self.drop_future.set(Some(drop_future));
        let channel = self.channel();
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
        if !self.has_children() {
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

/// Completes a batch of requests that have ended, from the first link on.
///
/// # Safety
/// The links are those of [`Record`]s that were noted. They are gone afterwards.
pub(crate) unsafe fn complete_all(first: *const Link) {
    let mut link = first;
    while !link.is_null() {
        // SAFETY: says the caller, for each of them.
        unsafe {
            let next = (*link).next();
            complete(link);
            link = next;
        }
    }
}

/// Tells the bdev layer how the request ended.
///
/// # Safety
/// The link is that of a [`Record`] that was noted and is on no list. It is gone afterwards.
#[inline]
unsafe fn complete(link: *const Link) {
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
        match outcome {
            None => sys::spdk_bdev_io_complete(io, SUCCESS),
            Some(outcome) => return complete_other(io, channel, outcome),
        }
        ChannelCore::request_ended(channel);
    }
}

/// Completes a request that has not merely succeeded.
///
/// # Safety
/// As for [`complete`].
#[cold]
unsafe fn complete_other(
    io: *mut sys::spdk_bdev_io,
    channel: *const ChannelCore,
    outcome: IoResult,
) {
    // SAFETY: as in `complete`.
    unsafe {
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
