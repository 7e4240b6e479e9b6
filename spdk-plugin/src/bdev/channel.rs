//! A thread's way to an open bdev (`spdk_bdev_get_io_channel`).
//!
//! The channel is a slab of operations ([`complete::slots`](crate::complete)). What the slab keeps, the
//! [`Port`], is SPDK's channel and a share in the descriptor: they go when the last handle is gone and
//! SPDK has called back for the last operation.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::fmt;
use std::hint::cold_path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spdk_plugin_sys as sys;

use super::desc::{BdevDesc, DescInner};
use super::{forward, zcopy};
use crate::complete::slots::{Inner, Payload, Slot, Slots};
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result};
use crate::module::IoCell;
use crate::runtime::home::{Home, HomeRef};

/// A thread's way to an open bdev, got from [`BdevDesc::get_io_channel`].
///
/// It stays on the SPDK thread where it was made, and keeps the descriptor open. SPDK's channel is put
/// back when this, its clones, and the operations in flight are gone. A clone is the same channel.
///
/// ```no_run
/// use spdk_plugin::bdev::BdevDesc;
/// use spdk_plugin::dma::DmaBuf;
///
/// # async fn hello() -> spdk_plugin::Result<()> {
/// let desc = BdevDesc::open("Malloc0", true)?;
/// let channel = desc.get_io_channel()?;
/// let mut buf = DmaBuf::alloc_zeroed(4096, 4096)?;
/// buf[..5].copy_from_slice(b"hello");
/// desc.write(&channel, &mut buf, 0, 4096).await?;
/// desc.read(&channel, &mut buf, 0, 4096).await?;
/// assert_eq!(&buf[..5], b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct IoChannel(Slots<Cargo, Port>);

/// An operation's slot.
pub(super) type OpSlot = Slot<Cargo, Port>;

/// A handle to a channel's slots.
pub(super) type OpSlots = Slots<Cargo, Port>;

/// What an operation needs until its callback.
#[repr(C)]
#[derive(Default)]
pub(super) struct Cargo {
    /// The request that it is a child of, while it is in flight: one that is forwarded, or waits for what it
    /// has dropped.
    pub(super) parent: Option<NonNull<IoCell>>,
    /// The future of a child is polled by another than the request's handler.
    pub(super) foreign: bool,
    /// The data; or what is compared.
    pub(super) buf: DmaBuf,
    pub(super) op: sys::spdkp_op,
    /// The same in a list.
    pub(super) list: IoVec,
    /// What is written if the comparison finds no difference.
    pub(super) second: DmaBuf,
    pub(super) second_list: IoVec,
    pub(super) md: DmaBuf,
    /// Room for `struct spdk_bdev_zone_info`s.
    pub(super) zones: Vec<u64>,
}

impl Cargo {
    /// Says what is to be done, but for what it is done with.
    pub(super) fn describe(&mut self, kind: sys::spdkp_op_kind, flags: u8, offset: u64, num: u64) {
        self.op.offset = offset;
        self.op.num = num;
        self.op.md = ptr::null_mut();
        self.op.iovcnt = 0;
        self.op.kind = kind as u8;
        self.op.flags = flags;
        self.op.status = 0;
    }
}

impl Payload for Cargo {
    fn clear(&mut self) {
        let parent = self.parent.take();
        self.buf = DmaBuf::empty();
        self.list = IoVec::new();
        self.second = DmaBuf::empty();
        self.second_list = IoVec::new();
        self.md = DmaBuf::empty();
        self.zones = Vec::new();
        if let Some(parent) = parent {
            // SAFETY: an operation that was dropped in flight has made itself a child of the request that
            // it was a part of, which is not completed before; this is its end.
            unsafe { parent.as_ref().child_ended() };
        }
    }
}

/// SPDK's channel and what goes with it.
pub(super) struct Port {
    pub(super) raw: *mut sys::spdk_io_channel,
    raw_desc: *mut sys::spdk_bdev_desc,
    pub(super) block_size: u32,
    /// The logarithm of the block size, and the bits of a place within a block. Where the block size is no
    /// power of two: 63, and all bits.
    shift: u32,
    within_block: u64,
    /// Operations that found SPDK out of requests, in order.
    first: Cell<*const OpSlot>,
    last: Cell<*const OpSlot>,
    /// SPDK has the entry and will call [`on_room`]. It cannot be taken back: not even when nobody waits
    /// any more.
    asked: Cell<bool>,
    entry: Box<[UnsafeCell<u64>]>,
    /// No other channel of the process has it.
    pub(super) serial: u64,
    /// It is a module's way to a base: requests wait for what goes through it.
    is_base: bool,
    pub(super) desc: Arc<DescInner>,
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: got in `get_io_channel` and put once, on its thread: the slab sees to that.
        unsafe { sys::spdk_put_io_channel(self.raw) };
    }
}

impl BdevDesc {
    /// The current thread's channel to the bdev.
    ///
    /// # Errors
    /// [`Error::WrongThread`] on another SPDK thread than that which opened the descriptor,
    /// [`Error::NoMemory`] when the bdev or the bdev layer cannot make a channel.
    pub fn get_io_channel(&self) -> Result<IoChannel> {
        if !self.inner().home().is_current() {
            return Err(wrong_thread("a channel of", self.name()));
        }
        self.channel_here(false)
    }

    /// The current thread's channel, wherever the descriptor was opened.
    pub(crate) fn channel_here(&self, is_base: bool) -> Result<IoChannel> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let desc = Arc::clone(self.inner());
        let home = HomeRef::current().ok_or_else(|| {
            Error::WrongThread(format!(
                "a channel of bdev {} belongs to an SPDK thread, and this is none",
                desc.name()
            ))
        })?;
        // SAFETY: the descriptor is open, and this is an SPDK thread.
        let raw = unsafe { sys::spdk_bdev_get_io_channel(desc.raw()) };
        if raw.is_null() {
            return Err(Error::NoMemory(format!("a channel of bdev {}", desc.name())));
        }
        let block_size = desc.block_size();
        let (shift, within_block) = match block_size.is_power_of_two() {
            true => (block_size.ilog2(), u64::from(block_size) - 1),
            false => (63, u64::MAX),
        };
        // SAFETY: asks for a size.
        let words = unsafe { sys::spdkp_wait_size() }.div_ceil(8);
        let port = Port {
            raw,
            raw_desc: desc.raw(),
            block_size,
            shift,
            within_block,
            first: Cell::new(ptr::null()),
            last: Cell::new(ptr::null()),
            asked: Cell::new(false),
            entry: (0..words).map(|_| UnsafeCell::new(0)).collect(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            is_base,
            desc,
        };
        Ok(IoChannel(Slots::new(home, port)))
    }
}

#[cold]
pub(super) fn wrong_thread(what: &str, bdev: &str) -> Error {
    Error::WrongThread(format!(
        "{what} bdev {bdev} belongs to the SPDK thread that opened it, and this is another"
    ))
}

impl IoChannel {
    #[inline]
    pub(super) fn slots(&self) -> &Inner<Cargo, Port> {
        &self.0
    }

    #[inline]
    pub(super) fn port(&self) -> &Port {
        self.0.keep()
    }

    /// The operations that SPDK has not called back for, those whose futures are gone included.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// The name of the bdev.
    pub fn bdev_name(&self) -> &str {
        self.port().desc.name()
    }
}

impl fmt::Debug for IoChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoChannel")
            .field("bdev", &self.bdev_name())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Port {
    /// How many blocks are in so many bytes; none where that takes a division.
    #[inline]
    pub(super) fn whole_blocks(&self, len: usize) -> u64 {
        len as u64 >> self.shift
    }

    /// Bytes in blocks; `None` if they are not whole blocks.
    #[inline]
    pub(super) fn blocks(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        if (offset | len) & self.within_block == 0 {
            return Some((offset >> self.shift, len >> self.shift));
        }
        let size = u64::from(self.block_size);
        let whole = offset.is_multiple_of(size) && len.is_multiple_of(size);
        whole.then(|| (offset / size, len / size))
    }
}

/// Hands a slot's operation to SPDK. Gives 0, also when it is to wait for a request of SPDK's, or a
/// negative errno; then it is as before.
pub(super) fn submit(slot: &OpSlot) -> i32 {
    let port = slot.owner().keep();
    slot.launch();
    if port.first.get().is_null() {
        let rc = hand_over(slot);
        if rc == 0 {
            return 0;
        }
        return refused(slot, rc);
    }
    push(port, slot);
    0
}

/// As [`submit`], for a plain read or write with the payload's buffer; the rest of the payload says nothing. If
/// it does not give 0, [`submit_late`] is next.
#[inline(always)]
pub(super) fn submit_plain(
    slots: &Inner<Cargo, Port>,
    slot: &OpSlot,
    kind: sys::spdkp_op_kind,
    offset: u64,
    num: u64,
) -> i32 {
    let port = slots.keep();
    slot.launch_from(slots);
    if !port.first.get().is_null() {
        // After those that wait for a request.
        cold_path();
        return -libc::ENOMEM;
    }
    let submit = match kind {
        sys::SPDKP_OP_READ => sys::spdk_bdev_read_blocks,
        _ => sys::spdk_bdev_write_blocks,
    };
    let ctx = ptr::from_ref(slot).cast_mut().cast();
    // SAFETY: the slot is in flight and owns the buffer, which is as long as the range; the channel and the
    // descriptor live as long. `on_plain_done` gets the slot, whose address does not change.
    unsafe {
        let buf = (*slot.payload()).buf.addr().cast();
        submit(port.raw_desc, port.raw, buf, offset, num, Some(on_plain_done), ctx)
    }
}

/// [`submit_plain`] gave `rc`, and the payload now says all. As [`submit`] from there on.
#[cold]
pub(super) fn submit_late(slot: &OpSlot, rc: i32) -> i32 {
    let port = slot.owner().keep();
    if port.first.get().is_null() {
        return refused(slot, rc);
    }
    push(port, slot);
    0
}

/// As [`submit_plain`], for a read or a write that is forwarded.
#[inline(always)]
pub(super) fn submit_forward(
    slots: &Inner<Cargo, Port>,
    slot: &OpSlot,
    submit: forward::Submit,
    io: *mut sys::spdk_bdev_io,
    offset: u64,
) -> i32 {
    let port = slots.keep();
    slot.launch_from(slots);
    if !port.first.get().is_null() {
        // After those that wait for a request.
        cold_path();
        return -libc::ENOMEM;
    }
    let ctx = ptr::from_ref(slot).cast_mut().cast();
    // SAFETY: the slot is in flight, and so is the child of the request that it is; the channel and the
    // descriptor live as long. `on_plain_child` gets the slot, whose address does not change.
    unsafe { submit(io, port.raw_desc, port.raw, offset, Some(forward::on_plain_child), ctx) }
}

fn hand_over(slot: &OpSlot) -> i32 {
    let port = slot.owner().keep();
    // SAFETY: the slot is in flight and owns all that the operation reads and writes; the channel and the
    // descriptor live as long. `on_done` gets the slot, whose address does not change.
    unsafe {
        let op = &raw mut (*slot.payload()).op;
        let ctx = ptr::from_ref(slot).cast_mut().cast();
        if let Some(parent) = (*slot.payload()).parent {
            return forward::hand_over(op, parent, port.raw_desc, port.raw, ctx);
        }
        sys::spdkp_op_submit(op, port.raw_desc, port.raw, Some(on_done), ctx)
    }
}

/// Lands what SPDK does not have, and may be a child.
///
/// # Safety
/// As for [`Slot::land`].
unsafe fn land(slot: *const OpSlot) {
    // SAFETY: says the caller.
    unsafe {
        if (*(*slot).payload()).parent.is_some() {
            forward::land(slot, false);
        } else {
            Slot::land(slot, false);
        }
    }
}

#[cold]
fn refused(slot: &OpSlot, rc: i32) -> i32 {
    let port = slot.owner().keep();
    if rc == -libc::ENOMEM {
        push(port, slot);
        if wait(slot.owner()) {
            return 0;
        }
        // There are requests after all, or this is about other memory. One more try shows which.
        port.first.set(ptr::null());
        port.last.set(ptr::null());
        match hand_over(slot) {
            0 => return 0,
            rc => {
                slot.recall();
                return rc;
            }
        }
    }
    slot.recall();
    rc
}

fn push(port: &Port, slot: &OpSlot) {
    slot.next().set(ptr::null());
    let last = port.last.replace(slot);
    if last.is_null() {
        port.first.set(slot);
    } else {
        // SAFETY: what waits is in flight, so it is there.
        unsafe { (*last).next().set(slot) };
    }
}

fn pop(port: &Port) -> Option<*const OpSlot> {
    let first = port.first.get();
    if first.is_null() {
        return None;
    }
    // SAFETY: as in `push`.
    port.first.set(unsafe { (*first).next().get() });
    if port.first.get().is_null() {
        port.last.set(ptr::null());
    }
    Some(first)
}

/// Aborts an operation if it is one of those that wait.
pub(super) fn stop_waiting(port: &Port, slot: *const OpSlot) -> bool {
    let (mut before, mut at) = (ptr::null::<OpSlot>(), port.first.get());
    while at != slot {
        if at.is_null() {
            return false;
        }
        before = at;
        // SAFETY: as in `push`.
        at = unsafe { (*at).next().get() };
    }
    if before.is_null() {
        pop(port);
    } else {
        // SAFETY: as in `push`; both are on the list.
        unsafe { (*before).next().set((*slot).next().get()) };
        if port.last.get() == slot {
            port.last.set(before);
        }
    }
    // SAFETY: it is in flight, and SPDK does not have it.
    unsafe {
        (*(*slot).payload()).op.status = sys::SPDKP_OP_ABORTED as u8;
        land(slot);
    }
    true
}

/// Has SPDK call back when it has a request to spare. False: it has one now.
fn wait(slots: &Inner<Cargo, Port>) -> bool {
    let port = slots.keep();
    if port.asked.get() {
        return true;
    }
    let ctx = slots.handle().into_raw();
    // SAFETY: the entry is large enough, and SPDK does not have it; it stays where it is until `on_room`,
    // whose handle keeps the slab.
    let rc = unsafe {
        let entry = port.entry.as_ptr().cast_mut().cast();
        let (bdev, ahead) = (port.desc.bdev(), port.is_base);
        sys::spdkp_wait(entry, bdev, port.raw, ahead, Some(on_room), ctx)
    };
    port.asked.set(rc == 0);
    if rc != 0 {
        // SAFETY: SPDK did not take it.
        drop(unsafe { OpSlots::from_raw(ctx) });
    }
    rc == 0
}

/// SPDK has a request to spare.
unsafe extern "C" fn on_room(ctx: *mut c_void) {
    // SAFETY: `wait` passed it, and SPDK calls once, on the channel's thread.
    let slots = unsafe { OpSlots::from_raw(ctx) };
    slots.home().enter(move || {
        slots.keep().asked.set(false);
        serve(&slots);
    });
}

/// Submits those that wait, in order, until SPDK is out of requests again.
fn serve(slots: &Inner<Cargo, Port>) {
    let port = slots.keep();
    let mut tried = 0;
    while let Some(slot) = pop(port) {
        // SAFETY: what waits is in flight, so it is there.
        let waits = unsafe { &*slot };
        let rc = if waits.is_orphaned() || !still_makes_sense(waits) {
            -libc::ECANCELED
        } else {
            hand_over(waits)
        };
        if rc == -libc::ENOMEM && tried < 2 {
            waits.next().set(port.first.get());
            if port.first.replace(slot).is_null() {
                port.last.set(slot);
            }
            if wait(slots) {
                return;
            }
            tried += 1;
            continue;
        }
        tried = 0;
        if rc != 0 {
            // SAFETY: it is in flight, and SPDK has not taken it.
            unsafe {
                let op = &raw mut (*waits.payload()).op;
                (*op).status = sys::SPDKP_OP_REFUSED as u8;
                (*op).err = rc;
                land(slot);
            }
        }
    }
}

/// An abort that waited must not hit another operation that has the target's place by now.
fn still_makes_sense(slot: &OpSlot) -> bool {
    // SAFETY: the slot is in flight, and SPDK does not have it.
    let op = unsafe { &(*slot.payload()).op };
    if u32::from(op.kind) != sys::SPDKP_OP_ABORT {
        return true;
    }
    slot.owner().find(((op.value >> 32) as u32, op.value as u32)).is_some()
}

/// SPDK has ended an operation.
unsafe extern "C" fn on_done(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    let slot: *const OpSlot = ctx.cast();
    // SAFETY: the slot is in flight: `hand_over` passed it.
    let home = unsafe { (*slot).owner().home() };
    // SAFETY: as above. The request is ours to free, and this is its one callback.
    home.enter(|| unsafe {
        let op = &raw mut (*(*slot).payload()).op;
        let answers = u32::from((*op).flags) & sys::SPDKP_OP_ANSWERS != 0;
        if success && !answers {
            sys::spdk_bdev_free_io(io);
            return Slot::land(slot, true);
        }
        sys::spdkp_op_end(op, io, success);
        if success && u32::from((*op).kind) == sys::SPDKP_OP_ZCOPY_START {
            return zcopy::started(slot);
        }
        Slot::land(slot, success);
    });
}

/// SPDK has ended an operation of [`submit_plain`].
unsafe extern "C" fn on_plain_done(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    let slot: *const OpSlot = ctx.cast();
    // SAFETY: the slot is in flight: `submit_plain` passed it.
    let home = unsafe { (*slot).owner().home() };
    home.begin();
    // SAFETY: as above. The request is ours to free, and this is its one callback.
    unsafe {
        if success {
            sys::spdk_bdev_free_io(io);
            Slot::land_and_end(slot, home);
        } else {
            on_plain_failed(io, slot, home);
        }
    }
}

/// # Safety
/// It is that of [`on_plain_done`].
#[cold]
unsafe fn on_plain_failed(io: *mut sys::spdk_bdev_io, slot: *const OpSlot, home: &'static Home) {
    // SAFETY: says the caller.
    unsafe {
        sys::spdkp_op_end(&raw mut (*(*slot).payload()).op, io, false);
        Slot::land(slot, false);
    }
    home.end();
}
