//! An operation on an open bdev, as a future.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::channel::{Cargo, IoChannel, OpSlot, Port, submit, wrong_thread};
use super::desc::BdevDesc;
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result, operation};
use crate::module::IoError;

pub(super) mod sealed {
    use super::{Cargo, IoChannel, OpSlot};
    use crate::error::Result;

    /// What an operation takes along.
    pub trait Load {
        /// Whether there are as many as `len` bytes of data, and `md` bytes of metadata where any come
        /// along. If not: how many of which there are.
        fn lacks(&self, len: u64, md: u64) -> Option<(u64, u64, &'static str)>;
        /// Moves it into the slot. Fails with nothing moved. False: there is nothing to do for SPDK.
        fn put(&mut self, slot: Place<'_>, len: usize) -> Result<bool>;
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

use sealed::{Landed, Place};

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
pub struct Op<'a, L: Load, T: Answer = ()> {
    channel: &'a IoChannel,
    /// Null before it has started and when it is over.
    slot: *const OpSlot,
    offset: u64,
    len: u64,
    load: L,
    phase: Phase,
    kind: u8,
    flags: u8,
    /// Whether `offset` and `len` are in blocks.
    in_blocks: bool,
    /// Whether the descriptor was the channel's.
    own: bool,
    failed: Option<Box<Error>>,
    answer: PhantomData<fn() -> T>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Started,
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

impl<'a, L: Load, T: Answer> Op<'a, L, T> {
    #[inline]
    pub(super) fn new(
        desc: &BdevDesc,
        channel: &'a IoChannel,
        kind: sys::spdkp_op_kind,
        range: Range,
        load: L,
    ) -> Self {
        let (offset, len, in_blocks) = match range {
            Range::Bytes(offset, len) => (offset, len, false),
            Range::Blocks(offset, len) => (offset, len, true),
        };
        Self {
            channel,
            slot: ptr::null(),
            offset,
            len,
            load,
            phase: Phase::New,
            kind: kind as u8,
            flags: 0,
            in_blocks,
            own: ptr::eq(&raw const **desc.inner(), &raw const *channel.port().desc),
            failed: None,
            answer: PhantomData,
        }
    }

    pub(super) fn with_flags(mut self, flags: sys::spdkp_op_flags) -> Self {
        self.flags = flags as u8;
        self
    }

    /// The same operation with what `wrap` makes of what it takes along.
    ///
    /// # Panics
    /// If it has been started.
    pub(super) fn map_load<M: Load>(self, wrap: impl FnOnce(L) -> M) -> Op<'a, M, T> {
        assert!(self.phase == Phase::New, "options come before an operation is started");
        let this = ManuallyDrop::new(self);
        // SAFETY: what it was taken from is not used again, and has nothing else to drop.
        let load = wrap(unsafe { ptr::read(&raw const this.load) });
        Op {
            channel: this.channel,
            slot: ptr::null(),
            offset: this.offset,
            len: this.len,
            load,
            phase: Phase::New,
            kind: this.kind,
            flags: this.flags,
            in_blocks: this.in_blocks,
            own: this.own,
            failed: None,
            answer: PhantomData,
        }
    }

    /// Starts it now and not when it is first polled. Gives its name for [`BdevDesc::abort`]; an
    /// operation that could not be started has failed by then, and its name is that of none in flight.
    pub fn start(&mut self) -> OpId {
        if self.phase == Phase::New
            && let Err(error) = self.launch()
        {
            self.failed = Some(error);
        }
        let channel = self.channel.port().serial;
        // SAFETY: the slot is there while the channel is, which we borrow.
        match unsafe { self.slot.as_ref() } {
            Some(slot) => OpId { channel, number: slot.number() },
            None => OpId { channel: 0, number: (0, 0) },
        }
    }

    /// Starts it. An error is boxed, so that what succeeds does not pay for moving the room for one.
    fn launch(&mut self) -> Result<(), Box<Error>> {
        self.phase = Phase::Over;
        let port = self.channel.port();
        if !self.own || !port.is_current() {
            return Err(Box::new(self.misplaced()));
        }
        let size = u64::from(port.block_size);
        let (offset, num, len) = if self.in_blocks {
            (self.offset, self.len, self.len.saturating_mul(size))
        } else {
            match port.blocks(self.offset, self.len) {
                Some((offset, num)) => (offset, num, self.len),
                None => return Err(Box::new(self.unaligned())),
            }
        };
        let md = u64::from(port.desc.md_size());
        if num == 0 && takes_range(self.kind) {
            return Err(Box::new(self.nothing()));
        }
        if let Some(lack) = self.load.lacks(len, num.saturating_mul(md)) {
            return Err(Box::new(self.too_short(lack)));
        }
        let slot = self.channel.slots().take();
        // SAFETY: the slot was just taken and is not in flight, so the payload is ours.
        let cargo = unsafe { &mut *slot.payload() };
        cargo.op.offset = offset;
        cargo.op.num = num;
        cargo.op.md = ptr::null_mut();
        cargo.op.iovcnt = 0;
        cargo.op.kind = self.kind;
        cargo.op.flags = self.flags;
        cargo.op.status = 0;
        let place = Place { cargo, channel: self.channel };
        match self.load.put(place, len as usize) {
            Ok(true) => {
                let rc = submit(slot);
                if rc != 0 {
                    return Err(Box::new(self.refused(slot, rc)));
                }
            }
            Ok(false) => slot.skip(),
            Err(error) => {
                slot.give();
                return Err(Box::new(error));
            }
        }
        self.slot = slot;
        self.phase = Phase::Started;
        Ok(())
    }

    /// What is polled and could not be started.
    #[cold]
    fn over(&mut self) -> Error {
        *self.failed.take().expect("polled after it has ended")
    }

    #[inline]
    fn bytes(&self, num: u64) -> usize {
        if self.in_blocks {
            num.wrapping_mul(self.channel.port().block_size.into()) as usize
        } else {
            self.len as usize
        }
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
                Error::Io { bdev, op: name(self.kind), offset, len, cause: cause(op) }
            }
        };
        slot.give();
        error
    }

    #[cold]
    fn refused(&mut self, slot: &OpSlot, rc: i32) -> Error {
        // SAFETY: SPDK did not take it, so the payload is ours.
        let cargo = unsafe { &mut *slot.payload() };
        let (needs, len) = (cargo.op.needs, self.bytes(cargo.op.num));
        self.load.back(Place { cargo, channel: self.channel }, len);
        slot.give();
        self.explain(rc, needs)
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
        operation(name(self.kind), offset, len, self.channel.bdev_name())
    }

    /// The range in bytes.
    fn range(&self) -> (u64, u64) {
        if !takes_range(self.kind) {
            return (0, 0);
        }
        let unit = if self.in_blocks { self.channel.port().block_size.into() } else { 1 };
        (self.offset.saturating_mul(unit), self.len.saturating_mul(unit))
    }

    #[cold]
    fn misplaced(&self) -> Error {
        let what = self.what();
        if !self.own {
            return Error::Invalid(format!("{what} by a channel of another descriptor"));
        }
        wrong_thread("a channel of", self.channel.bdev_name())
    }

    #[cold]
    fn unaligned(&self) -> Error {
        let (what, size) = (self.what(), self.channel.port().block_size);
        Error::Invalid(format!("{what}: both must be multiples of its block size, {size}"))
    }

    #[cold]
    fn nothing(&self) -> Error {
        let (name, bdev) = (name(self.kind), self.channel.bdev_name());
        Error::Invalid(format!("{name} of no blocks of bdev {bdev}"))
    }

    #[cold]
    fn too_short(&self, (has, needs, which): (u64, u64, &'static str)) -> Error {
        let what = self.what();
        Error::Invalid(format!("{what} needs {needs} bytes of {which}, and there are {has}"))
    }
}

impl<L: Load + Unpin, T: Answer> Future for Op<'_, L, T> {
    type Output = Result<T>;

    /// Short and inlined, so that the room for an error is not moved about when there is none.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let this = self.get_mut();
        if this.phase == Phase::New
            && let Err(error) = this.launch()
        {
            this.failed = Some(error);
        }
        // SAFETY: the slot is there while the channel is, which we borrow.
        let Some(slot) = (unsafe { this.slot.as_ref() }) else {
            return Poll::Ready(Err(this.over()));
        };
        if !slot.has_landed() {
            slot.set_waker(cx.waker());
            return Poll::Pending;
        }
        this.phase = Phase::Over;
        this.slot = ptr::null();
        // SAFETY: it has landed, so the payload is ours again.
        let cargo = unsafe { &mut *slot.payload() };
        let (status, len) = (cargo.op.status, this.bytes(cargo.op.num));
        this.load.back(Place { cargo, channel: this.channel }, len);
        if u32::from(status) != sys::SPDKP_OP_OK {
            return Poll::Ready(Err(this.failure(slot)));
        }
        let answer = T::read(Landed(slot));
        if !T::KEEPS {
            slot.give();
        }
        Poll::Ready(Ok(answer))
    }
}

impl<L: Load, T: Answer> Drop for Op<'_, L, T> {
    fn drop(&mut self) {
        // SAFETY: the slot is there while the channel is, which we borrow.
        let Some(slot) = (unsafe { self.slot.as_ref() }) else { return };
        // SAFETY: it has landed, if so, and then the payload is ours.
        if T::KEEPS && slot.has_landed() && unsafe { (*slot.payload()).op.status } == 0 {
            drop(T::read(Landed(slot)));
        } else {
            slot.abandon();
        }
    }
}

impl<L: Load, T: Answer> fmt::Debug for Op<'_, L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Op({})", self.what())
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

fn name(kind: u8) -> &'static str {
    match u32::from(kind) {
        sys::SPDKP_OP_READ => "read",
        sys::SPDKP_OP_WRITE => "write",
        sys::SPDKP_OP_COMPARE => "compare",
        sys::SPDKP_OP_COMPARE_AND_WRITE => "compare and write",
        sys::SPDKP_OP_FLUSH => "flush",
        sys::SPDKP_OP_UNMAP => "unmap",
        sys::SPDKP_OP_WRITE_ZEROES => "write of zeroes",
        sys::SPDKP_OP_COPY => "copy",
        sys::SPDKP_OP_RESET => "reset",
        sys::SPDKP_OP_ABORT => "abort",
        sys::SPDKP_OP_SEEK_DATA => "search for data",
        sys::SPDKP_OP_SEEK_HOLE => "search for a hole",
        sys::SPDKP_OP_ZCOPY_START => "zcopy",
        sys::SPDKP_OP_NVME_ADMIN => "NVMe admin command",
        sys::SPDKP_OP_NVME_IO => "NVMe I/O command",
        sys::SPDKP_OP_ZONE_INFO => "zone report",
        sys::SPDKP_OP_ZONE_MANAGEMENT => "zone management",
        sys::SPDKP_OP_ZONE_APPEND => "zone append",
        _ => "operation",
    }
}

/// Whether it is about a range of blocks, which may not be empty.
#[inline]
fn takes_range(kind: u8) -> bool {
    !matches!(
        u32::from(kind),
        sys::SPDKP_OP_RESET
            | sys::SPDKP_OP_ABORT
            | sys::SPDKP_OP_NVME_ADMIN
            | sys::SPDKP_OP_NVME_IO
            | sys::SPDKP_OP_ZONE_INFO
    )
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
