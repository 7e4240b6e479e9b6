//! A request of a module's bdev, submitted again to the bdev below it.
//!
//! It is an operation of the channel to the base like any other, but its data are the request's own: the
//! request counts it as its child and is not completed before the base has called back, whatever becomes of
//! the future.

use std::ffi::c_void;
use std::fmt;
use std::future::Future;
use std::hint::cold_path;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::channel::{IoChannel, OpSlot, stop_waiting, submit, submit_forward, submit_late};
use super::op::cause;
use crate::complete::slots::Slot;
use crate::module::{IoCell, IoError, IoKind, IoKinds, IoResult, Record};

/// Kinds whose answer is more than how they ended.
const ANSWERS: IoKinds = IoKinds::ZCOPY
    .and(IoKinds::NVME_ADMIN)
    .and(IoKinds::NVME_IO)
    .and(IoKinds::NVME_IO_MD)
    .and(IoKinds::NVME_IOV_MD)
    .and(IoKinds::ZONE_APPEND)
    .and(IoKinds::SEEK_DATA)
    .and(IoKinds::SEEK_HOLE);

/// A request on its way to a base, see [`BdevIo::forward`](crate::module::BdevIo::forward). It starts when
/// it is first polled and gives how the base has ended it.
///
/// Dropping it asks the base to abort it. The request ends when the base is done with it.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Forward<'io> {
    cell: &'io IoCell,
    channel: &'io IoChannel,
    /// Null before it has started and when it is over.
    slot: *const OpSlot,
    offset: u64,
    over: bool,
}

impl<'io> Forward<'io> {
    #[inline]
    pub(crate) fn new(cell: &'io IoCell, channel: &'io IoChannel, offset: u64) -> Self {
        Self { cell, channel, slot: ptr::null(), offset, over: false }
    }

    /// Starts it. True: the base will end it, or has done so.
    #[inline]
    fn launch(&mut self) -> IoResult {
        self.over = true;
        let slots = self.channel.slots();
        let kind = self.cell.kind();
        if !ptr::eq(self.cell.channel().home(), slots.home()) {
            cold_path();
            return Err(IoError::Failed);
        }
        let submit: Submit = if kind == IoKind::Read as u8 {
            sys::spdkp_forward_read
        } else if kind == IoKind::Write as u8 {
            sys::spdkp_forward_write
        } else {
            return self.launch_other(kind);
        };
        let slot = slots.take();
        // SAFETY: the slot was just taken and is not in flight, so the payload is ours.
        unsafe { (*slot.payload()).parent = Some(NonNull::from(self.cell)) };
        self.cell.child_started();
        let rc = submit_forward(slots, slot, submit, self.cell.io(), self.offset);
        self.slot = slot;
        if rc == 0 {
            return Ok(());
        }
        self.describe(slot, kind);
        self.launched(slot, submit_late(slot, rc))
    }

    #[cold]
    fn launch_other(&mut self, kind: u8) -> IoResult {
        if kind == IoKind::Abort as u8 {
            return Err(IoError::Failed);
        }
        let slot = self.channel.slots().take();
        self.describe(slot, kind);
        // SAFETY: the slot was just taken and is not in flight, so the payload is ours.
        unsafe { (*slot.payload()).parent = Some(NonNull::from(self.cell)) };
        self.cell.child_started();
        self.launched(slot, submit(slot))
    }

    /// Tells the slot all that there is to tell of the operation. It is not with SPDK.
    #[cold]
    fn describe(&self, slot: &OpSlot, kind: u8) {
        // SAFETY: SPDK does not have it, so the payload is ours.
        let op = unsafe { &mut (*slot.payload()).op };
        op.buf = self.cell.io().cast();
        op.offset = self.offset;
        op.kind = sys::SPDKP_OP_FORWARD as u8;
        op.flags = if ANSWERS.contains_raw(kind.into()) { sys::SPDKP_OP_ANSWERS as u8 } else { 0 };
        op.status = 0;
    }

    #[cold]
    fn launched(&mut self, slot: &'io OpSlot, rc: i32) -> IoResult {
        self.slot = slot;
        if rc == 0 {
            return Ok(());
        }
        self.slot = ptr::null();
        Err(self.refused(slot, rc))
    }

    #[cold]
    fn refused(&self, slot: &OpSlot, rc: i32) -> IoError {
        // SAFETY: SPDK did not take it, so the payload is ours.
        unsafe { (*slot.payload()).parent = None };
        slot.give();
        self.cell.child_refused();
        refusal(rc)
    }

    #[cold]
    fn failure(slot: &OpSlot) -> IoError {
        // SAFETY: it has landed, so the payload is ours.
        let op = unsafe { &(*slot.payload()).op };
        if u32::from(op.status) == sys::SPDKP_OP_REFUSED { refusal(op.err) } else { cause(op) }
    }
}

fn refusal(rc: i32) -> IoError {
    match -rc {
        libc::ENOMEM => IoError::NoMemory,
        libc::ECANCELED => IoError::Aborted,
        errno => IoError::Errno(errno),
    }
}

impl Future for Forward<'_> {
    type Output = IoResult;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult> {
        let this = self.get_mut();
        if !this.over
            && let Err(error) = this.launch()
        {
            return Poll::Ready(Err(error));
        }
        // SAFETY: the slot is there while the channel is, which we borrow.
        let slot = unsafe { this.slot.as_ref() }.expect("polled after it has ended");
        if !slot.has_landed() {
            // Its end wakes the handler in any case.
            if !ptr::eq(this.cell.node.waker(), cx.waker()) {
                cold_path();
                // SAFETY: this one field is not SPDK's nor the callback's while the slot is in flight.
                unsafe { (&raw mut (*slot.payload()).foreign).write(true) };
                slot.set_waker(cx.waker());
            }
            return Poll::Pending;
        }
        this.slot = ptr::null();
        let outcome = if slot.is_done() { Ok(()) } else { Err(Self::failure(slot)) };
        slot.give();
        Poll::Ready(outcome)
    }
}

impl Drop for Forward<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the slot is there while the channel is, which we borrow.
        if let Some(slot) = unsafe { self.slot.as_ref() } {
            give_up(self.channel, slot);
        }
    }
}

/// The future of an operation that has not landed goes, and so should the operation.
#[cold]
pub(super) fn give_up(channel: &IoChannel, slot: &OpSlot) {
    if slot.has_landed() || stop_waiting(channel.port(), slot) {
        return slot.abandon();
    }
    slot.abandon();
    let number = slot.number();
    let abort = channel.slots().take();
    // SAFETY: the slot was just taken and is not in flight, so the payload is ours.
    let cargo = unsafe { &mut *abort.payload() };
    cargo.op.kind = sys::SPDKP_OP_ABORT as u8;
    cargo.op.flags = 0;
    cargo.op.status = 0;
    cargo.op.iovcnt = 0;
    cargo.op.md = ptr::null_mut();
    cargo.op.aux = ptr::from_ref(slot).cast_mut().cast();
    cargo.op.value = u64::from(number.0) << 32 | u64::from(number.1);
    // A base that cannot abort ends it in its own time.
    if submit(abort) == 0 { abort.abandon() } else { abort.give() }
}

impl fmt::Debug for Forward<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("base", &self.channel.bdev_name()).finish_non_exhaustive()
    }
}

/// [`sys::spdkp_forward_read`], [`sys::spdkp_forward_write`].
pub(super) type Submit = unsafe extern "C" fn(
    *mut sys::spdk_bdev_io,
    *mut sys::spdk_bdev_desc,
    *mut sys::spdk_io_channel,
    u64,
    sys::spdk_bdev_io_completion_cb,
    *mut c_void,
) -> i32;

/// Hands a child to SPDK. Gives 0 or a negative errno.
///
/// # Safety
/// The operation and its slot, which `ctx` is, are in flight, and so is the child of `parent` that it is.
#[inline]
pub(super) unsafe fn hand_over(
    op: *mut sys::spdkp_op,
    parent: NonNull<IoCell>,
    desc: *mut sys::spdk_bdev_desc,
    channel: *mut sys::spdk_io_channel,
    ctx: *mut c_void,
) -> i32 {
    // SAFETY: says the caller; a request is not completed while it has a child.
    unsafe {
        let io = (*op).buf.cast();
        let lent = match u32::from((*op).flags) & sys::SPDKP_OP_ANSWERS {
            0 => ptr::null_mut(),
            _ if parent.as_ref().kind() == IoKind::Zcopy as u8 => Record::below(io).get(),
            _ => ptr::null_mut(),
        };
        sys::spdkp_forward(io, lent, desc, channel, (*op).offset, Some(on_child), ctx)
    }
}

/// The base has ended a read or a write.
pub(super) unsafe extern "C" fn on_plain_child(
    io: *mut sys::spdk_bdev_io,
    success: bool,
    ctx: *mut c_void,
) {
    let slot: *const OpSlot = ctx.cast();
    // SAFETY: the slot is in flight: `submit_forward` passed it.
    let home = unsafe { (*slot).owner().home() };
    home.begin();
    // SAFETY: as above. The child is ours to free, and this is its one callback. The handler, which waits for
    // it, keeps the cell and the slab.
    unsafe {
        if success && (*slot).is_flying() && !(*(*slot).payload()).foreign {
            sys::spdk_bdev_free_io(io);
            if let Some(parent) = (*(*slot).payload()).parent.take() {
                let parent = parent.as_ref();
                Slot::land_quietly(slot);
                parent.child_done();
                return home.end_by_waking(parent.node.slot());
            }
        }
        other_child(io, success, slot);
    }
    home.end();
}

/// # Safety
/// It is that of [`on_plain_child`], which has done nothing with it.
#[cold]
unsafe fn other_child(io: *mut sys::spdk_bdev_io, success: bool, slot: *const OpSlot) {
    // SAFETY: says the caller.
    unsafe {
        if success {
            sys::spdk_bdev_free_io(io);
        } else {
            failed(slot, io);
        }
        land(slot, success);
    }
}

/// The base has ended a child.
unsafe extern "C" fn on_child(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    let slot: *const OpSlot = ctx.cast();
    // SAFETY: the slot is in flight: `hand_over` passed it.
    let home = unsafe { (*slot).owner().home() };
    // SAFETY: as above. The child is ours to free, and this is its one callback.
    home.enter(|| unsafe {
        let op = &raw mut (*(*slot).payload()).op;
        if !success {
            failed(slot, io);
        } else if u32::from((*op).flags) & sys::SPDKP_OP_ANSWERS == 0 {
            sys::spdk_bdev_free_io(io);
        } else {
            answer(slot, io);
        }
        land(slot, success);
    });
}

/// # Safety
/// The child of the slot has failed.
#[cold]
unsafe fn failed(slot: *const OpSlot, io: *mut sys::spdk_bdev_io) {
    // SAFETY: says the caller; the parent is not completed before its child has landed.
    unsafe {
        let cargo = &mut *(*slot).payload();
        if let Some(parent) = cargo.parent
            && parent.as_ref().kind() == IoKind::Zcopy as u8
        {
            // Where this was its end, the one that has lent goes with it.
            Record::below(parent.as_ref().io()).set(ptr::null_mut());
        }
        sys::spdkp_op_end(&raw mut cargo.op, io, false);
    }
}

/// # Safety
/// The child of the slot has ended well.
#[cold]
unsafe fn answer(slot: *const OpSlot, io: *mut sys::spdk_bdev_io) {
    // SAFETY: says the caller; the parent is not completed before its child has landed.
    unsafe {
        let cargo = &mut *(*slot).payload();
        let Some(parent) = cargo.parent else { return };
        let parent = parent.as_ref();
        let (request, mut cdw0) = (parent.io(), 0);
        let kept = sys::spdkp_forward_end(request, io, cargo.op.offset, &raw mut cdw0);
        if parent.kind() == IoKind::Zcopy as u8 {
            Record::below(request).set(if kept { io } else { ptr::null_mut() });
        } else if cdw0 != 0 {
            parent.set_cdw0(cdw0);
        }
        if !kept {
            sys::spdk_bdev_free_io(io);
        }
    }
}

/// Lands a child and tells its parent, which may be completed in here.
///
/// # Safety
/// As for [`Slot::land`]; it is a child.
#[inline]
pub(super) unsafe fn land(slot: *const OpSlot, well: bool) {
    // SAFETY: says the caller; a request waits for its children.
    unsafe {
        let cargo = &mut *(*slot).payload();
        cargo.foreign = false;
        let parent = cargo.parent.take();
        Slot::land(slot, well);
        if let Some(parent) = parent {
            parent.as_ref().child_ended();
        }
    }
}
