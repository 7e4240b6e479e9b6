//! A thread's way to an open bdev (`spdk_bdev_get_io_channel`).
//!
//! The channel is a slab of operations ([`complete::slots`](crate::complete)). What the slab keeps, the
//! [`Port`], is SPDK's channel and a share in the descriptor: they go when the last handle is gone and
//! SPDK has called back for the last operation.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use spdk_plugin_sys as sys;

use super::desc::{BdevDesc, DescInner};
use super::zcopy;
use crate::complete::slots::{Inner, Payload, Slot, Slots};
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result};
use crate::runtime::home::HomeRef;

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

impl Payload for Cargo {
    fn clear(&mut self) {
        self.buf = DmaBuf::empty();
        self.list = IoVec::new();
        self.second = DmaBuf::empty();
        self.second_list = IoVec::new();
        self.md = DmaBuf::empty();
        self.zones = Vec::new();
    }
}

/// SPDK's channel and what goes with it.
pub(super) struct Port {
    pub(super) raw: *mut sys::spdk_io_channel,
    raw_desc: *mut sys::spdk_bdev_desc,
    /// It does not end before the channel is put.
    thread: *mut sys::spdk_thread,
    pub(super) block_size: u32,
    /// The logarithm of the block size, or [`NO_SHIFT`].
    shift: u32,
    /// Operations that found SPDK out of requests, in order.
    first: Cell<*const OpSlot>,
    last: Cell<*const OpSlot>,
    /// SPDK has the entry and will call [`on_room`]. It cannot be taken back: not even when nobody waits
    /// any more.
    asked: Cell<bool>,
    entry: Box<[UnsafeCell<u64>]>,
    /// No other channel of the process has it.
    pub(super) serial: u64,
    pub(super) desc: Rc<DescInner>,
}

const NO_SHIFT: u32 = u32::MAX;

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
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let desc = Rc::clone(self.inner());
        let home = HomeRef::current().filter(|_| desc.home().is_current());
        let home = home.ok_or_else(|| wrong_thread("a channel of", desc.name()))?;
        // SAFETY: the descriptor is open and belongs to this thread.
        let raw = unsafe { sys::spdk_bdev_get_io_channel(desc.raw()) };
        if raw.is_null() {
            return Err(Error::NoMemory(format!("a channel of bdev {}", desc.name())));
        }
        let block_size = desc.block_size();
        let shift = if block_size.is_power_of_two() { block_size.ilog2() } else { NO_SHIFT };
        // SAFETY: asks for a size.
        let words = unsafe { sys::spdkp_wait_size() }.div_ceil(8);
        let port = Port {
            raw,
            raw_desc: desc.raw(),
            // SAFETY: reads a thread-local of SPDK's.
            thread: unsafe { sys::spdk_get_thread() },
            block_size,
            shift,
            first: Cell::new(ptr::null()),
            last: Cell::new(ptr::null()),
            asked: Cell::new(false),
            entry: (0..words).map(|_| UnsafeCell::new(0)).collect(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
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
    /// Whether this is the channel's SPDK thread.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        // SAFETY: reads a thread-local of SPDK's.
        self.thread == unsafe { sys::spdk_get_thread() }
    }

    /// Bytes in blocks; `None` if they are not whole blocks.
    #[inline]
    pub(super) fn blocks(&self, bytes: u64) -> Option<u64> {
        if self.shift == NO_SHIFT {
            let size = u64::from(self.block_size);
            return bytes.is_multiple_of(size).then(|| bytes / size);
        }
        let blocks = bytes >> self.shift;
        (blocks << self.shift == bytes).then_some(blocks)
    }
}

/// Hands a slot's operation to SPDK. Gives 0, also when it is to wait for a request of SPDK's, or a
/// negative errno; then it is as before.
#[inline]
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

#[inline]
fn hand_over(slot: &OpSlot) -> i32 {
    let port = slot.owner().keep();
    // SAFETY: the slot is in flight and owns all that the operation reads and writes; the channel and the
    // descriptor live as long. `on_done` gets the slot, whose address does not change.
    unsafe {
        let op = &raw mut (*slot.payload()).op;
        let ctx = ptr::from_ref(slot).cast_mut().cast();
        // The most frequent one takes the shortest way.
        if u32::from((*op).kind) == sys::SPDKP_OP_READ
            && (*op).flags == 0
            && (*op).iovcnt == 0
            && (*op).md.is_null()
        {
            return sys::spdk_bdev_read_blocks(
                port.raw_desc,
                port.raw,
                (*op).buf,
                (*op).offset,
                (*op).num,
                Some(on_done),
                ctx,
            );
        }
        sys::spdkp_op_submit(op, port.raw_desc, port.raw, Some(on_done), ctx)
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
        Slot::land(slot);
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
        sys::spdkp_wait(entry, port.desc.bdev(), port.raw, Some(on_room), ctx)
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
                Slot::land(slot);
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
            return Slot::land(slot);
        }
        sys::spdkp_op_end(op, io, success);
        if success && u32::from((*op).kind) == sys::SPDKP_OP_ZCOPY_START {
            return zcopy::started(slot);
        }
        Slot::land(slot);
    });
}
