//! An operation on an open bdev, as a future.

use std::fmt;
use std::future::Future;
use std::hint::cold_path;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::channel::{
    Cargo, IoChannel, OpSlot, Port, submit, submit_late, submit_plain, wrong_thread,
};
use super::desc::BdevDesc;
use super::forward::give_up;
use super::kind::Kind;
use crate::complete::slots::Inner;
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result, operation};
use crate::module::{BdevIo, IoCell, IoError};

pub(super) mod sealed {
    use super::{Cargo, DmaBuf, IoChannel, OpSlot};
    use crate::error::Result;

    /// What an operation takes along.
    pub trait Load {
        /// Whether it is one buffer and nothing else.
        const PLAIN: bool = false;
        /// Whether there are as many as `len` bytes of data, and `md` bytes of metadata where any come
        /// along. If not: how many of which there are.
        fn lacks(&self, len: u64, md: u64) -> Option<(u64, u64, &'static str)>;
        /// Moves it into the slot. Fails with nothing moved. False: there is nothing to do for SPDK.
        fn put(&mut self, slot: Place<'_>, len: usize) -> Result<bool>;
        /// The bytes of the buffer, if that is all it is.
        fn plain_len(&self) -> usize {
            0
        }
        /// Moves the buffer there, if that is all it is.
        fn put_plain(&mut self, _: &mut DmaBuf) {}
        /// Moves it back.
        fn back(&mut self, slot: Place<'_>, len: usize);
    }

    /// Buffers that may come with metadata.
    pub trait Data {}

    /// The payload of a slot that belongs to a future, and the channel.
    pub struct Place<'a> {
        pub(in crate::bdev) cargo: &'a mut Cargo,
        pub(in crate::bdev) channel: &'a IoChannel,
    }

    /// What an operation gives.
    pub trait Answer: Sized {
        /// Whether the answer goes on to use the slot.
        const KEEPS: bool = false;
        #[doc(hidden)]
        fn read(slot: Landed<'_>) -> Self;
    }

    /// A slot whose operation has ended well.
    pub struct Landed<'a>(pub(in crate::bdev) &'a OpSlot);

    impl Landed<'_> {
        pub(in crate::bdev) fn cargo(&mut self) -> &mut Cargo {
            // SAFETY: it has landed, so the payload is the future's, which is the one that asks.
            unsafe { &mut *self.0.payload() }
        }
    }
}

use sealed::{Answer as _, Landed, Place};

/// What an operation takes along: a buffer, a list of them, either with options, two, or nothing.
pub trait Load: sealed::Load {}
impl<L: sealed::Load> Load for L {}

/// What an operation gives when it has ended well.
pub trait Answer: sealed::Answer {}
impl<T: sealed::Answer> Answer for T {}

/// Names an operation in flight for [`BdevDesc::abort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId {
    pub(super) channel: u64,
    pub(super) number: (u32, u32),
}

/// An operation on a bdev. It starts when it is first polled, or by [`start`](Self::start).
///
/// Dropping it does not stop the operation ([`BdevDesc::abort`] asks the device to). The buffers that it
/// took stay empty then, and their memory is freed when the device is done with it.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Op<'a, L: Load, K: Kind> {
    channel: &'a IoChannel,
    /// What the phase says.
    slot: *const OpSlot,
    /// The range in blocks.
    offset: u64,
    num: u64,
    load: L,
    phase: Phase,
    kind: PhantomData<fn() -> K>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What cannot be started has a box with the [`Error`] in `slot`, and an empty range.
    New,
    /// It has the slot, which is there while the channel is, which the operation borrows.
    Started,
    /// As for what is new and cannot be started.
    Failed,
    Over,
}

/// A range in blocks or in bytes.
#[derive(Clone, Copy)]
pub(super) enum Range {
    Bytes(u64, u64),
    Blocks(u64, u64),
}

impl Range {
    pub(super) const NONE: Self = Self::Blocks(0, 0);
}

/// Why an operation cannot be started: a box with the [`Error`].
#[cold]
fn unfit<K: Kind>(
    channel: &IoChannel,
    own: bool,
    offset: u64,
    len: u64,
    in_blocks: bool,
) -> *const OpSlot {
    let size = channel.port().block_size;
    let unit = if in_blocks { size.into() } else { 1 };
    let (offset, len) = (offset.saturating_mul(unit), len.saturating_mul(unit));
    let what = operation(K::NAME, offset, len, channel.bdev_name());
    let error = if own {
        format!("{what}: both must be multiples of its block size, {size}")
    } else {
        format!("{what} by a channel of another descriptor")
    };
    Box::into_raw(Box::new(Error::Invalid(error))).cast()
}

impl<'a, L: Load, K: Kind> Op<'a, L, K> {
    #[inline(always)]
    pub(super) fn new(desc: &BdevDesc, channel: &'a IoChannel, range: Range, load: L) -> Self {
        let port = channel.port();
        let blocks = match range {
            Range::Bytes(offset, len) => port.blocks(offset, len),
            Range::Blocks(offset, len) => Some((offset, len)),
        };
        let own = ptr::eq(&raw const **desc.inner(), &raw const *port.desc);
        let (slot, offset, num) = match blocks {
            Some((offset, num)) if own => (ptr::null(), offset, num),
            _ => {
                let (offset, len, in_blocks) = match range {
                    Range::Bytes(offset, len) => (offset, len, false),
                    Range::Blocks(offset, num) => (offset, num, true),
                };
                (unfit::<K>(channel, own, offset, len, in_blocks), 0, 0)
            }
        };
        Self { channel, slot, offset, num, load, phase: Phase::New, kind: PhantomData }
    }

    /// The same operation with what `wrap` makes of what it takes along.
    ///
    /// # Panics
    /// If it has been started.
    pub(super) fn map_load<M: Load>(self, wrap: impl FnOnce(L) -> M) -> Op<'a, M, K> {
        assert!(self.phase == Phase::New, "options come before an operation is started");
        let this = ManuallyDrop::new(self);
        // SAFETY: what it was taken from is not used again, and has nothing else to drop.
        let load = wrap(unsafe { ptr::read(&raw const this.load) });
        let Self { channel, slot, offset, num, phase, kind, .. } = *this;
        Op { channel, slot, offset, num, load, phase, kind }
    }

    /// Makes it a part of the request `io`, which then is not completed before the operation has ended. That
    /// matters where the handler is dropped, by an abort or a reset: an operation in flight is aborted, if
    /// the device can do that, and waited for. Without it a write could reach the device after the request
    /// that it was for was answered.
    pub fn within(self, io: &'a BdevIo<'_>) -> Within<'a, L, K> {
        Within { op: self, request: io.cell() }
    }

    /// It is in flight, and its future goes: from here on the request waits for it.
    #[cold]
    fn leave_to(&mut self, request: NonNull<IoCell>) {
        // SAFETY: the slot is there while the channel is, which we borrow.
        let slot = unsafe { &*self.slot };
        self.phase = Phase::Over;
        // SAFETY: we borrow the handler's hold on the request, so it was not completed. Nobody else writes to
        // this field of a slot in flight.
        unsafe {
            request.as_ref().child_started();
            (&raw mut (*slot.payload()).parent).write(Some(request));
        }
        give_up(self.channel, slot);
    }

    /// Starts it now and not when it is first polled. Gives its name for [`BdevDesc::abort`]; an
    /// operation that could not be started has failed by then, and its name is that of none in flight.
    pub fn start(&mut self) -> OpId {
        if self.phase == Phase::New {
            self.launch();
        }
        if self.phase != Phase::Started {
            return OpId { channel: 0, number: (0, 0) };
        }
        // SAFETY: the slot is there while the channel is, which we borrow.
        OpId { channel: self.channel.port().serial, number: unsafe { (*self.slot).number() } }
    }

    /// Starts it, and gives the slot. `None`: it has failed.
    #[inline(never)]
    fn launch(&mut self) -> Option<&'a OpSlot> {
        let slots = self.channel.slots();
        let port = slots.keep();
        if !self.slot.is_null() {
            self.phase = Phase::Failed;
            return None;
        }
        if !slots.home().is_current_after_all() {
            return self.fail(wrong_thread("a channel of", self.channel.bdev_name()));
        }
        if self.num == 0 && K::TAKES_RANGE {
            return self.fail(self.nothing());
        }
        let md = self.num.saturating_mul(port.desc.md_size().into());
        if let Some(lack) = self.load.lacks(self.bytes() as u64, md) {
            return self.fail(self.too_short(lack));
        }
        if is_plain::<L, K>() {
            self.launch_plain(slots, self.offset, self.num)
        } else {
            self.launch_other(slots)
        }
    }

    /// As [`launch`](Self::launch), for a plain operation on the way that is most often taken.
    #[inline(always)]
    fn launch_quickly(&mut self) -> Option<&'a OpSlot> {
        let (slots, offset, num) = (self.channel.slots(), self.offset, self.num);
        // An empty range is the largest here.
        let fits = num.wrapping_sub(1) < slots.keep().whole_blocks(self.load.plain_len());
        if !fits || !slots.home().polls() {
            cold_path();
            return self.launch();
        }
        self.launch_plain(slots, offset, num)
    }

    /// Starts what is told by the kind, the range and a buffer.
    #[inline(always)]
    fn launch_plain(
        &mut self,
        slots: &'a Inner<Cargo, Port>,
        offset: u64,
        num: u64,
    ) -> Option<&'a OpSlot> {
        let slot = slots.take();
        self.slot = slot;
        self.phase = Phase::Started;
        // SAFETY: the slot was just taken and is not in flight, so the payload is ours.
        self.load.put_plain(unsafe { &mut (*slot.payload()).buf });
        match submit_plain(slots, slot, K::CODE, offset, num) {
            0 => Some(slot),
            rc => {
                cold_path();
                self.launch_late(slot, rc)
            }
        }
    }

    /// SPDK cannot take a plain operation now: has it wait, or gives it up.
    #[cold]
    fn launch_late(&mut self, slot: &'a OpSlot, rc: i32) -> Option<&'a OpSlot> {
        // SAFETY: SPDK did not take it, so the payload is ours.
        let cargo = unsafe { &mut *slot.payload() };
        cargo.describe(K::CODE, K::FLAGS, self.offset, self.num);
        cargo.op.buf = cargo.buf.addr().cast();
        match submit_late(slot, rc) {
            0 => Some(slot),
            rc => self.refused(slot, rc),
        }
    }

    fn launch_other(&mut self, slots: &'a Inner<Cargo, Port>) -> Option<&'a OpSlot> {
        let slot = slots.take();
        self.slot = slot;
        self.phase = Phase::Started;
        // SAFETY: the slot was just taken and is not in flight, so the payload is ours.
        let cargo = unsafe { &mut *slot.payload() };
        cargo.describe(K::CODE, K::FLAGS, self.offset, self.num);
        match self.load.put(Place { cargo, channel: self.channel }, self.bytes()) {
            Ok(true) => match submit(slot) {
                0 => Some(slot),
                rc => self.refused(slot, rc),
            },
            Ok(false) => {
                slot.skip();
                Some(slot)
            }
            Err(error) => {
                slot.give();
                self.fail(error)
            }
        }
    }

    #[cold]
    fn fail(&mut self, error: Error) -> Option<&'a OpSlot> {
        self.slot = Box::into_raw(Box::new(error)).cast();
        self.phase = Phase::Failed;
        None
    }

    /// Ends it where that is not by success.
    #[cold]
    #[inline(never)]
    fn give_up(&mut self) -> Error {
        match mem::replace(&mut self.phase, Phase::Over) {
            // SAFETY: the phase says that there is a box, and now that it was taken.
            Phase::Failed => *unsafe { Box::from_raw(self.slot.cast_mut().cast::<Error>()) },
            Phase::Started => {
                // SAFETY: it has landed, so the payload is ours again. It is there while the channel is.
                let (slot, cargo) = unsafe { (&*self.slot, &mut *(*self.slot).payload()) };
                self.load.back(Place { cargo, channel: self.channel }, self.bytes());
                self.failure(slot)
            }
            _ => panic!("polled after it has ended"),
        }
    }

    /// It is dropped with something left to see to.
    #[cold]
    fn leave(&mut self) {
        if self.phase != Phase::Started {
            self.phase = Phase::Failed;
            return drop(self.give_up());
        }
        // SAFETY: the slot is there while the channel is, which we borrow.
        let slot = unsafe { &*self.slot };
        if K::Answer::KEEPS && slot.is_done() {
            drop(K::Answer::read(Landed(slot)));
        } else {
            slot.abandon();
        }
    }

    /// The length in bytes.
    #[inline]
    fn bytes(&self) -> usize {
        self.num.saturating_mul(self.channel.port().block_size.into()) as usize
    }

    #[cold]
    fn failure(&self, slot: &OpSlot) -> Error {
        // SAFETY: it has landed, so the payload is ours.
        let op = unsafe { &(*slot.payload()).op };
        let error = match u32::from(op.status) {
            sys::SPDKP_OP_REFUSED => self.explain(op.err, op.needs),
            _ => {
                let (offset, len) = self.range();
                let bdev = self.channel.bdev_name().to_owned();
                Error::Io { bdev, op: K::NAME, offset, len, cause: cause(op) }
            }
        };
        slot.give();
        error
    }

    #[cold]
    fn refused(&mut self, slot: &OpSlot, rc: i32) -> Option<&'a OpSlot> {
        // SAFETY: SPDK did not take it, so the payload is ours.
        let cargo = unsafe { &mut *slot.payload() };
        let needs = cargo.op.needs;
        self.load.back(Place { cargo, channel: self.channel }, self.bytes());
        slot.give();
        let error = self.explain(rc, needs);
        self.fail(error)
    }

    /// Why the bdev layer did not take it.
    #[cold]
    fn explain(&self, rc: i32, needs: *const std::ffi::c_char) -> Error {
        let port = self.channel.port();
        let what = self.what();
        let (offset, len) = self.range();
        let size = port.desc.num_blocks().saturating_mul(port.block_size.into());
        match -rc {
            libc::ENOSYS if !needs.is_null() => {
                // SAFETY: what the shim sets there is a literal.
                let needs = unsafe { std::ffi::CStr::from_ptr(needs) };
                Error::Unsupported { what, needs: needs.to_str().unwrap_or("?") }
            }
            libc::EINVAL if offset.checked_add(len).is_none_or(|end| end > size) => {
                Error::Invalid(format!("{what} goes beyond its end at byte {size}"))
            }
            libc::EBADF => Error::Errno {
                what: format!("{what}, which was opened for reading only"),
                errno: libc::EBADF,
            },
            _ => Error::from_rc(what, rc),
        }
    }

    fn what(&self) -> String {
        let (offset, len) = self.range();
        operation(K::NAME, offset, len, self.channel.bdev_name())
    }

    /// The range in bytes.
    fn range(&self) -> (u64, u64) {
        if !K::TAKES_RANGE {
            return (0, 0);
        }
        let size = u64::from(self.channel.port().block_size);
        (self.offset.saturating_mul(size), self.num.saturating_mul(size))
    }

    #[cold]
    fn nothing(&self) -> Error {
        let (name, bdev) = (K::NAME, self.channel.bdev_name());
        Error::Invalid(format!("{name} of no blocks of bdev {bdev}"))
    }

    #[cold]
    fn too_short(&self, (has, needs, which): (u64, u64, &'static str)) -> Error {
        let what = self.what();
        Error::Invalid(format!("{what} needs {needs} bytes of {which}, and there are {has}"))
    }
}

/// Whether an operation is told by its kind, its range and a buffer.
#[inline(always)]
fn is_plain<L: Load, K: Kind>() -> bool {
    L::PLAIN && matches!(K::CODE, sys::SPDKP_OP_READ | sys::SPDKP_OP_WRITE)
}

impl<L: Load + Unpin, K: Kind> Future for Op<'_, L, K> {
    type Output = Result<K::Answer>;

    /// Inlined, so that what succeeds does not pay for moving about the room for an error.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let slot = match this.phase {
            Phase::New => {
                let slot = if is_plain::<L, K>() { this.launch_quickly() } else { this.launch() };
                if let Some(slot) = slot
                    && slot.is_flying()
                {
                    slot.set_waker(cx.waker());
                    return Poll::Pending;
                }
                cold_path();
                slot
            }
            // SAFETY: the slot is there while the channel is, which we borrow.
            Phase::Started => Some(unsafe { &*this.slot }),
            _ => None,
        };
        if let Some(slot) = slot {
            if slot.is_done() {
                // SAFETY: it has landed, so the payload is ours again.
                let cargo = unsafe { &mut *slot.payload() };
                this.load.back(Place { cargo, channel: this.channel }, this.bytes());
                let answer = K::Answer::read(Landed(slot));
                if !K::Answer::KEEPS {
                    slot.give();
                }
                this.phase = Phase::Over;
                return Poll::Ready(Ok(answer));
            }
            cold_path();
            if !slot.has_landed() {
                slot.set_waker(cx.waker());
                return Poll::Pending;
            }
        }
        cold_path();
        Poll::Ready(Err(this.give_up()))
    }
}

impl<L: Load, K: Kind> Drop for Op<'_, L, K> {
    #[inline]
    fn drop(&mut self) {
        if self.phase != Phase::Over && !self.slot.is_null() {
            self.leave();
        }
    }
}

impl<L: Load, K: Kind> fmt::Debug for Op<'_, L, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Op({})", self.what())
    }
}

/// An operation that is a part of a request, see [`Op::within`].
#[must_use = "a future does nothing unless it is awaited"]
#[derive(Debug)]
pub struct Within<'a, L: Load, K: Kind> {
    op: Op<'a, L, K>,
    request: NonNull<IoCell>,
}

impl<L: Load + Unpin, K: Kind> Future for Within<'_, L, K> {
    type Output = Result<K::Answer>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.op).poll(cx)
    }
}

impl<L: Load, K: Kind> Drop for Within<'_, L, K> {
    fn drop(&mut self) {
        // SAFETY: a slot that was started is there while the channel is, which we borrow.
        if self.op.phase == Phase::Started && unsafe { !(*self.op.slot).has_landed() } {
            self.op.leave_to(self.request);
        }
    }
}

/// How an operation that SPDK took has failed.
#[cold]
pub(super) fn cause(op: &sys::spdkp_op) -> IoError {
    let [a, b, c, d] = op.codes;
    match u32::from(op.status) {
        sys::SPDKP_OP_NOMEM => IoError::NoMemory,
        sys::SPDKP_OP_ABORTED => IoError::Aborted,
        sys::SPDKP_OP_MISCOMPARE => IoError::Miscompare,
        sys::SPDKP_OP_NVME_ERROR => IoError::Nvme { cdw0: op.cdw0, sct: a, sc: b },
        sys::SPDKP_OP_SCSI_ERROR => IoError::Scsi { sc: a, sk: b, asc: c, ascq: d },
        sys::SPDKP_OP_ERRNO => IoError::Errno(op.err),
        _ => IoError::Failed,
    }
}

impl sealed::Load for () {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, _: Place<'_>, _: usize) -> Result<bool> {
        Ok(true)
    }

    fn back(&mut self, _: Place<'_>, _: usize) {}
}

impl sealed::Load for &mut DmaBuf {
    const PLAIN: bool = true;

    #[inline]
    fn lacks(&self, len: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        let has = (**self).len() as u64;
        (has < len).then_some((has, len, "buffer"))
    }

    #[inline]
    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        place.cargo.op.buf = self.addr().cast();
        self.move_to(&mut place.cargo.buf);
        Ok(true)
    }

    #[inline]
    fn plain_len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn put_plain(&mut self, buf: &mut DmaBuf) {
        self.move_to(buf);
    }

    #[inline]
    fn back(&mut self, place: Place<'_>, _: usize) {
        place.cargo.buf.move_to(self);
    }
}

impl sealed::Data for &mut DmaBuf {}
impl sealed::Data for &mut IoVec {}

impl sealed::Load for &mut IoVec {
    fn lacks(&self, len: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        let has = (**self).len() as u64;
        (has < len).then_some((has, len, "buffers"))
    }

    fn put(&mut self, place: Place<'_>, len: usize) -> Result<bool> {
        let (list, count) = self.first(len);
        place.cargo.op.buf = list.cast();
        place.cargo.op.iovcnt = count;
        place.cargo.list = std::mem::take(*self);
        Ok(true)
    }

    fn back(&mut self, place: Place<'_>, len: usize) {
        **self = std::mem::take(&mut place.cargo.list);
        self.restore(len);
    }
}

impl sealed::Answer for () {
    #[inline]
    fn read(_: Landed<'_>) -> Self {}
}

impl Port {
    pub(super) fn finds(&self, id: OpId) -> bool {
        self.serial == id.channel
    }
}
