//! Reading and writing a range where it lies, without a buffer of one's own (`spdk_bdev_zcopy_start`).
//!
//! ```text
//!   zcopy_start --(1)--> in flight --(2)--> Zcopy --(3) commit, abandon, drop--> in flight --(4)--> ended
//! ```
//! From (1) to (4) the slot counts as in flight, so that the channel stays. Whoever drops the future or
//! the guard on the way has the request ended without a commit; one that is forgotten keeps the channel
//! for good.

use std::ffi::c_void;
use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::channel::{IoChannel, OpSlot, OpSlots};
use super::desc::BdevDesc;
use super::kind::ZcopyStart;
use super::op::sealed::{self, Landed, Place};
use super::op::{Op, Range, cause};
use crate::complete::slots::Slot;
use crate::dma::racy_copy;
use crate::error::{Error, Result};
use crate::module::IoError;

/// A range of a bdev where it lies, from [`BdevDesc::zcopy_start`].
///
/// The memory is the device's, and others may read or write it at the same time: what is in it is copied
/// in and out. Dropping this ends the operation without a commit.
pub struct Zcopy {
    slot: *const OpSlot,
    channel: OpSlots,
    /// Where it began, in blocks, and how many there are.
    offset: u64,
    num: u64,
}

/// Ends a [`Zcopy`]. Dropping it changes nothing: the end is under way.
#[must_use = "a future does nothing unless it is awaited"]
pub struct ZcopyEnd {
    slot: *const OpSlot,
    channel: OpSlots,
    offset: u64,
    num: u64,
}

impl BdevDesc {
    /// Gets at `num_blocks` from block `offset_blocks` on where they lie (`spdk_bdev_zcopy_start`). With
    /// `populate` the memory holds what is on the device; without, anything, and it must be written
    /// whole before a [`commit`](Zcopy::commit). It fails as [all operations](crate::bdev#errors) may.
    ///
    /// ```no_run
    /// use spdk_plugin::bdev::{BdevDesc, IoChannel};
    ///
    /// # async fn stamp(desc: &BdevDesc, channel: &IoChannel) -> spdk_plugin::Result<()> {
    /// let blocks = desc.zcopy_start(channel, 0, 1, true).await?;
    /// blocks.write(0, b"stamp");
    /// blocks.commit().await
    /// # }
    /// ```
    pub fn zcopy_start<'a>(
        &self,
        channel: &'a IoChannel,
        offset_blocks: u64,
        num_blocks: u64,
        populate: bool,
    ) -> Op<'a, Populate, ZcopyStart> {
        Op::new(self, channel, Range::Blocks(offset_blocks, num_blocks), Populate(populate))
    }
}

/// Whether a zcopy reads the range first.
#[derive(Debug)]
pub struct Populate(bool);

impl sealed::Load for Populate {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        if self.0 {
            place.cargo.op.flags |= sys::SPDKP_OP_POPULATE as u8;
        }
        Ok(true)
    }

    fn back(&mut self, _: Place<'_>, _: usize) {}
}

impl sealed::Answer for Zcopy {
    const KEEPS: bool = true;

    fn read(mut slot: Landed<'_>) -> Self {
        let (offset, num) = (slot.cargo().op.offset, slot.cargo().op.num);
        Self { slot: slot.0, channel: slot.0.owner().handle(), offset, num }
    }
}

/// A zcopy has begun, and SPDK has left the request in `aux`.
///
/// # Safety
/// The slot is in flight and may be gone afterwards.
pub(super) unsafe fn started(slot: *const OpSlot) {
    // SAFETY: says the caller.
    unsafe {
        if (*slot).is_orphaned() {
            end(slot, false);
        } else {
            (*slot).touch_down(true);
        }
    }
}

/// Ends a zcopy.
///
/// # Safety
/// The slot is in flight and holds a request that has begun, which this ends. The slot may be gone
/// afterwards.
unsafe fn end(slot: *const OpSlot, commit: bool) {
    // SAFETY: says the caller; `on_ended` gets the slot, which is in flight until then.
    unsafe {
        let op = &raw mut (*(*slot).payload()).op;
        let io = (*op).aux.cast::<sys::spdk_bdev_io>();
        let ctx = slot.cast_mut().cast();
        let rc = sys::spdk_bdev_zcopy_end(io, commit, Some(on_ended), ctx);
        if rc != 0 {
            sys::spdk_bdev_free_io(io);
            (*op).status = sys::SPDKP_OP_ERRNO as u8;
            (*op).err = rc.saturating_neg();
            Slot::land(slot, false);
        }
    }
}

unsafe extern "C" fn on_ended(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    let slot: *const OpSlot = ctx.cast();
    // SAFETY: the slot is in flight: `end` passed it.
    let home = unsafe { (*slot).owner().home() };
    // SAFETY: as above. The request is ours to free, and this is its last callback.
    home.enter(|| unsafe {
        let op = &raw mut (*(*slot).payload()).op;
        // No longer a start, whose request would be kept.
        (*op).kind = sys::SPDKP_OP_WRITE as u8;
        sys::spdkp_op_end(op, io, success);
        Slot::land(slot, success);
    });
}

impl Zcopy {
    /// The memory, piece by piece.
    fn pieces(&self) -> &[sys::iovec] {
        let (mut iovs, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the request has begun and not ended, so its list is there and stays.
        unsafe {
            let io = (*(*self.slot).payload()).op.aux.cast::<sys::spdk_bdev_io>();
            sys::spdk_bdev_io_get_iovec(io, &raw mut iovs, &raw mut count);
            match usize::try_from(count) {
                Ok(count) if count > 0 && !iovs.is_null() => {
                    std::slice::from_raw_parts(iovs, count)
                }
                _ => &[],
            }
        }
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.iov_len).sum()
    }

    /// Whether there is no memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with the pieces of memory of `len` bytes at `offset`, and where they lie in those.
    fn walk(&self, offset: usize, len: usize, mut each: impl FnMut(*mut u8, usize, usize)) {
        let size = self.len();
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        assert!(inside, "{len} bytes at {offset} reach beyond a zcopy of {size} bytes");
        let (mut skip, mut done) = (offset, 0);
        for piece in self.pieces() {
            let from = skip.min(piece.iov_len);
            skip -= from;
            let now = (piece.iov_len - from).min(len - done);
            if now > 0 {
                each(piece.iov_base.cast::<u8>().wrapping_add(from), done, now);
                done += now;
            }
        }
    }

    /// Copies out what lies at `offset` bytes.
    ///
    /// # Panics
    /// If that reaches beyond the end.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let to = into.as_mut_ptr();
        // SAFETY: the source is a part of the device's memory, the destination the caller's alone and as
        // long as `walk` was told.
        self.walk(offset, into.len(), |from, at, len| unsafe { racy_copy(from, to.add(at), len) });
    }

    /// Copies `from` to `offset` bytes.
    ///
    /// # Panics
    /// If that reaches beyond the end.
    pub fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: the other way round.
        self.walk(offset, from.len(), |to, at, len| unsafe {
            racy_copy(from.as_ptr().add(at), to, len)
        });
    }

    /// Makes what was written the device's contents (`spdk_bdev_zcopy_end`).
    ///
    /// # Errors
    /// [`Error::Io`] when the device fails it.
    pub fn commit(self) -> ZcopyEnd {
        self.end(true)
    }

    /// Ends it; what was written is lost, or not, as the device likes.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit).
    pub fn abandon(self) -> ZcopyEnd {
        self.end(false)
    }

    fn end(self, commit: bool) -> ZcopyEnd {
        let this = ManuallyDrop::new(self);
        let (slot, offset, num) = (this.slot, this.offset, this.num);
        // SAFETY: what it was taken from is not used again.
        let channel = unsafe { ptr::read(&raw const this.channel) };
        finish(slot, commit, false);
        ZcopyEnd { slot, channel, offset, num }
    }
}

/// Ends the zcopy of a guard.
fn finish(slot: *const OpSlot, commit: bool, orphaned: bool) {
    // SAFETY: a guard's slot counts as in flight, and is not with SPDK.
    unsafe {
        let home = (*slot).owner().home();
        (*slot).relaunch(orphaned);
        if home.is_current() {
            home.enter(|| end(slot, commit));
        } else {
            // Through a thread-local or a like place it came to another SPDK thread. Without a way home
            // the request, and with it the channel, stays.
            let end = if commit { on_commit } else { on_abandon };
            home.call(end, slot.cast_mut().cast());
        }
    }
}

unsafe extern "C" fn on_commit(slot: *mut c_void) {
    // SAFETY: `finish` sent a slot that is in flight, and this is its thread.
    unsafe { (*slot.cast::<OpSlot>()).owner().home().enter(|| end(slot.cast(), true)) };
}

unsafe extern "C" fn on_abandon(slot: *mut c_void) {
    // SAFETY: as above.
    unsafe { (*slot.cast::<OpSlot>()).owner().home().enter(|| end(slot.cast(), false)) };
}

impl Drop for Zcopy {
    fn drop(&mut self) {
        finish(self.slot, false, true);
    }
}

impl fmt::Debug for Zcopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zcopy({} blocks from {} on)", self.num, self.offset)
    }
}

impl Future for ZcopyEnd {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // SAFETY: the slot is there while the channel is.
        let slot = unsafe { self.slot.as_ref() }.expect("polled after it has ended");
        if !slot.has_landed() {
            slot.set_waker(cx.waker());
            return Poll::Pending;
        }
        self.slot = ptr::null();
        let result = if slot.is_done() {
            Ok(())
        } else {
            // SAFETY: it has landed, so the payload is ours.
            Err(self.error(cause(unsafe { &(*slot.payload()).op })))
        };
        slot.give();
        Poll::Ready(result)
    }
}

impl ZcopyEnd {
    #[cold]
    fn error(&self, cause: IoError) -> Error {
        let port = self.channel.keep();
        let size = u64::from(port.block_size);
        let (offset, len) = (self.offset * size, self.num * size);
        Error::Io { bdev: port.desc.name().to_owned(), op: "end of a zcopy", offset, len, cause }
    }
}

impl Drop for ZcopyEnd {
    fn drop(&mut self) {
        // SAFETY: the slot is there while the channel is.
        if let Some(slot) = unsafe { self.slot.as_ref() } {
            slot.abandon();
        }
    }
}

impl fmt::Debug for ZcopyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZcopyEnd({} blocks from {} on)", self.num, self.offset)
    }
}
