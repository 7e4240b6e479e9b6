//! A module's I/O channel: its typed state and the requests that are with it on one thread. Stands on
//! `spdk/thread.h` and `spdk/bdev_module.h`.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::cell::{Frames, IoCell};
use super::device::{Device, DeviceCore};
use super::io::{self, BdevIo};
use super::kind::IoKind;
use super::record::{Record, complete_all};
use super::status::IoError;
use super::{Bdev, handlers};
use crate::error::{Error, Result};
use crate::guard::{catch, drop_caught};
use crate::runtime::home::{Home, HomeRef};
use crate::runtime::on_app;

/// What does not depend on the module's type.
pub(crate) struct ChannelCore {
    home: HomeRef,
    device: *const DeviceCore,
    /// Requests that did not end in their first poll, [`AWAITED`] with it, and how many of them are resets.
    /// Those that did are on the home's batch.
    waiting: Cell<u32>,
    resets: Cell<u32>,
    /// SPDK has destroyed the channel; we go with the last request.
    closed: Cell<bool>,
    /// A reset that waits here for all other requests to end.
    quiet: Cell<*mut sys::spdk_io_channel_iter>,
    free: unsafe fn(*const ChannelCore),
    serve: unsafe fn(*const ChannelCore, *mut sys::spdk_bdev_io),
    pub(crate) pending: Pending,
    pub(crate) frames: Frames,
}

/// Someone waits for requests to end: `closed` or `quiet` is set.
const AWAITED: u32 = 1 << 31;

/// A module's channel on one thread.
#[repr(C)]
pub(crate) struct Channel<B: Bdev> {
    core: ChannelCore,
    pub(crate) device: Arc<Device<B>>,
    pub(crate) user: B::Channel,
}

/// The requests whose handler waits, in the order of their arrival.
pub(crate) struct Pending {
    first: Cell<*const IoCell>,
    last: Cell<*const IoCell>,
}

impl Pending {
    pub(crate) fn push(&self, cell: &IoCell) {
        let last = self.last.replace(cell);
        cell.set_prev(last);
        cell.set_next(ptr::null());
        // SAFETY: a listed cell is alive: it leaves the list before its frame is freed.
        match unsafe { last.as_ref() } {
            Some(last) => last.set_next(cell),
            None => self.first.set(cell),
        }
    }

    /// Takes a cell from the list that it is on.
    pub(crate) fn remove(&self, cell: &IoCell) {
        let (prev, next) = cell.neighbours();
        // SAFETY: it is on the list, and so are its neighbours, which are alive for that.
        unsafe {
            match prev.as_ref() {
                Some(prev) => prev.set_next(next),
                None => self.first.set(next),
            }
            match next.as_ref() {
                Some(next) => next.set_prev(prev),
                None => self.last.set(prev),
            }
        }
    }

    /// The waiting requests. None may end while this is in use: cancelling only marks and wakes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &IoCell> {
        let mut at = self.first.get();
        std::iter::from_fn(move || {
            // SAFETY: a listed cell is alive.
            let cell = unsafe { at.as_ref()? };
            at = cell.neighbours().1;
            Some(cell)
        })
    }
}

impl ChannelCore {
    pub(crate) fn home(&self) -> &'static Home {
        self.home.get()
    }

    pub(crate) fn device(&self) -> &DeviceCore {
        // SAFETY: the channel that we are part of holds its device.
        unsafe { &*self.device }
    }

    fn waiting(&self) -> u32 {
        self.waiting.get() & !AWAITED
    }

    /// Runs what begins to serve a request.
    #[inline(always)]
    fn run(&self, body: impl FnOnce()) {
        let home = self.home();
        home.begin();
        body();
        home.end();
    }

    /// A request has to wait.
    pub(crate) fn request_waits(&self) {
        self.waiting.set(self.waiting.get() + 1);
    }

    pub(crate) fn reset_started(&self) {
        self.resets.set(self.resets.get() + 1);
    }

    pub(crate) fn reset_ended(&self) {
        self.resets.set(self.resets.get() - 1);
    }

    /// A request that had to wait was completed.
    ///
    /// # Safety
    /// The channel must not be touched afterwards.
    pub(crate) unsafe fn request_ended(this: *const Self) {
        // SAFETY: a channel lives while a request of its waits.
        let channel = unsafe { &*this };
        let left = channel.waiting.get() - 1;
        channel.waiting.set(left);
        if left & AWAITED == 0 {
            return;
        }
        channel.tell_quiet();
        if channel.waiting() == 0 && channel.closed.get() {
            // SAFETY: SPDK has let go of it, and that was its last request.
            unsafe { (channel.free)(this) };
        }
    }

    /// Whether a request that lacks memory is ours to try again: before 24.01 the bdev layer does so when
    /// another request of the channel ends, and there is none. The request itself may be one that waits.
    pub(crate) fn must_retry(&self) -> bool {
        sys::VERSION_MAJOR < 24
            && self.waiting() <= 1
            // SAFETY: what is on the batch is a record.
            && !self.home().pushed().any(|link| unsafe { Record::is_of(link, self) })
    }

    /// Serves a request from the start.
    ///
    /// # Safety
    /// The request has ended, but is not completed.
    pub(crate) unsafe fn serve_again(&self, io: *mut sys::spdk_bdev_io) {
        // SAFETY: says the caller.
        unsafe { (self.serve)(self, io) };
    }

    /// Cancels whatever waits here but resets, which wait for it to end.
    fn cancel_all(&self) {
        for cell in self.pending.iter().filter(|cell| !cell.is_reset()) {
            cell.cancel();
        }
    }

    /// Cancels what waits here and lets the reset go on to the next channel once all has ended.
    fn quiesce(&self, iter: *mut sys::spdk_io_channel_iter) {
        self.cancel_all();
        self.home().complete_batch();
        self.quiet.set(iter);
        self.waiting.set(self.waiting.get() | AWAITED);
        self.tell_quiet();
    }

    fn tell_quiet(&self) {
        if self.waiting() > self.resets.get() {
            return;
        }
        if !self.closed.get() {
            self.waiting.set(self.waiting());
        }
        let iter = self.quiet.replace(ptr::null_mut());
        if !iter.is_null() {
            // SAFETY: the iteration stands at this channel until it is told to go on, once.
            unsafe { sys::spdk_for_each_channel_continue(iter, 0) };
        }
    }
}

/// Cancels every request of the device on all threads, waits for them to end, and then reports to
/// `reset` as a child's callback.
pub(crate) fn quiesce_all(device: &DeviceCore, reset: &IoCell) {
    reset.child_started();
    let io_device = ptr::from_ref(device).cast_mut().cast();
    let ctx = ptr::from_ref(reset).cast_mut().cast();
    // SAFETY: the device is registered while it has requests; the reset's cell stays, as it now has a
    // child.
    unsafe { sys::spdk_for_each_channel(io_device, Some(quiesce_one), ctx, Some(all_quiet)) };
}

unsafe extern "C" fn quiesce_one(iter: *mut sys::spdk_io_channel_iter) {
    // SAFETY: SPDK passes a channel of our device, on its thread, before it is destroyed.
    let channel = unsafe { core_of(sys::spdk_io_channel_iter_get_channel(iter)) };
    channel.home().enter(|| channel.quiesce(iter));
}

unsafe extern "C" fn all_quiet(iter: *mut sys::spdk_io_channel_iter, _status: i32) {
    // SAFETY: the context is the reset's cell, which waits for this call on this thread.
    let reset: &IoCell = unsafe { &*sys::spdk_io_channel_iter_get_ctx(iter).cast() };
    let home = reset.channel().home();
    // SAFETY: the matching start was in `quiesce_all`.
    home.enter(|| unsafe { reset.child_ended() });
}

/// The pointer to our channel that lies in SPDK's.
#[inline]
fn slot(channel: *mut sys::spdk_io_channel) -> *mut *const c_void {
    channel.cast::<u8>().wrapping_add(sys::SPDKP_CHANNEL_CTX as usize).cast()
}

unsafe fn core_of<'a>(channel: *mut sys::spdk_io_channel) -> &'a ChannelCore {
    // SAFETY: `create` put a `Channel` there, whose first field is the core.
    unsafe { &*(*slot(channel)).cast() }
}

/// Our channel in SPDK's.
///
/// # Safety
/// `channel` is one of a `Device<B>`, used on its thread and not yet destroyed.
#[inline]
pub(crate) unsafe fn channel_of<'a, B: Bdev>(channel: *mut sys::spdk_io_channel) -> &'a Channel<B> {
    // SAFETY: `create` put it there.
    unsafe { &*(*slot(channel)).cast() }
}

impl<B: Bdev> Channel<B> {
    #[inline]
    pub(crate) fn core(&self) -> &ChannelCore {
        &self.core
    }
}

/// `spdk_io_device_register`'s callback for a new channel.
pub(crate) unsafe extern "C" fn create<B: Bdev>(io_device: *mut c_void, ctx: *mut c_void) -> i32 {
    // SAFETY: the io_device is the `Device` that `register` passed, which is alive while registered.
    let device = unsafe {
        let device = io_device.cast::<Device<B>>().cast_const();
        Arc::increment_strong_count(device);
        Arc::from_raw(device)
    };
    let Some(home) = HomeRef::current() else { return -libc::EPERM };
    let home_ref = home.get();
    home_ref.enter(move || {
        let user = match catch("creating a channel", || device.user.channel()) {
            Ok(Ok(user)) => user,
            Ok(Err(error)) => {
                log::error!("bdev {}: no channel: {error}", device.core.name);
                return -error.errno().max(1);
            }
            Err(_) => return -libc::EIO,
        };
        let Some(frames) = Frames::new(handlers::largest::<B>()) else {
            drop_caught("a channel's state", user);
            return -libc::ENOMEM;
        };
        if !home.start_batches(complete_all) {
            drop_caught("a channel's state", user);
            return -libc::ENOMEM;
        }
        device.core.pin();
        let channel = Box::new(Channel {
            core: ChannelCore {
                home,
                device: &raw const device.core,
                waiting: Cell::new(0),
                resets: Cell::new(0),
                closed: Cell::new(false),
                quiet: Cell::new(ptr::null_mut()),
                free: free::<B>,
                serve: serve::<B>,
                pending: Pending { first: Cell::new(ptr::null()), last: Cell::new(ptr::null()) },
                frames,
            },
            device,
            user,
        });
        channel.core.frames.heat(&channel.core);
        // SAFETY: SPDK gave us room for one pointer there.
        unsafe { ctx.cast::<*const Channel<B>>().write(Box::into_raw(channel)) };
        0
    })
}

/// `spdk_io_device_register`'s callback for a channel that goes.
pub(crate) unsafe extern "C" fn destroy<B: Bdev>(_io_device: *mut c_void, ctx: *mut c_void) {
    // SAFETY: `create` put it there, and SPDK calls this once.
    let channel: &ChannelCore = unsafe { &*ctx.cast::<*const ChannelCore>().read() };
    channel.home().enter(|| {
        channel.home().complete_batch();
        channel.closed.set(true);
        channel.waiting.set(channel.waiting.get() | AWAITED);
        if channel.waiting() == 0 {
            // SAFETY: SPDK has let go of it, and no request is left.
            unsafe { free::<B>(channel) };
            return;
        }
        log::warn!("bdev {}: a channel closes with I/O in flight", channel.device().name);
        channel.cancel_all();
    });
}

unsafe fn free<B: Bdev>(channel: *const ChannelCore) {
    // SAFETY: the core is the first field of the box that `create` made; the caller says that nobody
    // uses it any more.
    let channel = unsafe { Box::from_raw(channel.cast_mut().cast::<Channel<B>>()) };
    let Channel { core, device, user } = *channel;
    drop_caught("a channel's state", user);
    core.frames.detach(core.home.get());
    core.home.stop_batches();
    drop(core);
    device.core.unpin();
    drop_caught("a bdev's state", device);
}

/// The bdev layer's call for a new request. Reads and writes that have all they need go by a way without
/// detours.
pub(crate) unsafe extern "C" fn submit<B: Bdev>(
    channel: *mut sys::spdk_io_channel,
    io: *mut sys::spdk_bdev_io,
) {
    // SAFETY: the request was just submitted, on the channel's thread. The core is the first field of a
    // `Channel<B>`, which with its bdev outlives the request.
    unsafe {
        let channel = channel_of::<B>(channel);
        let (core, bdev, user) = (&channel.core, &channel.device.user, &channel.user);
        let kind = BdevIo::kind_of(io);
        if kind == IoKind::Read as u8 && B::OVERRIDES.kinds.contains(IoKind::Read) {
            if io::has_buffers(io, channel.device.core.screen())
                && let Some(cell) = core.frames.hot(io)
            {
                return core.run(|| cell.start(core, || bdev.read(user, BdevIo::new(cell))));
            }
        } else if kind == IoKind::Write as u8
            && B::OVERRIDES.kinds.contains(IoKind::Write)
            && io::has_buffers(io, channel.device.core.screen())
            && let Some(cell) = core.frames.hot(io)
        {
            return core.run(|| cell.start(core, || bdev.write(user, BdevIo::new(cell))));
        }
        submit_any(channel, io);
    }
}

/// Serves a request of any kind, once it has its buffers.
///
/// A read without a buffer gets it before anything of ours lies in the request: one that waits for
/// its buffer is aborted or reset by the bdev layer itself, which before 25.09 does not tell us.
///
/// # Safety
/// The request was just submitted to the channel, on whose thread we are.
#[inline(never)]
unsafe fn submit_any<B: Bdev>(channel: &Channel<B>, io: *mut sys::spdk_bdev_io) {
    // SAFETY: says the caller.
    unsafe {
        match io::missing_buffer(io, channel.device.core.align_mask) {
            None => serve::<B>(channel.core(), io),
            Some(len) => sys::spdk_bdev_io_get_buf(io, Some(got_buffer::<B>), len),
        }
    }
}

unsafe extern "C" fn got_buffer<B: Bdev>(
    channel: *mut sys::spdk_io_channel,
    io: *mut sys::spdk_bdev_io,
    success: bool,
) {
    // SAFETY: the request is with us and on its thread. The bdev layer still writes to it after this, so a
    // failure waits for the batch too.
    unsafe {
        let channel = core_of(channel);
        if success {
            serve::<B>(channel, io);
        } else {
            // There is none so large, or the request is being aborted.
            Record::end_in_submit(io, channel, Some(Err(IoError::Failed)));
        }
    }
}

/// # Safety
/// The core is a `Channel<B>`'s. The request is with us, has its buffers, and nothing of ours is in it;
/// we are on its thread.
unsafe fn serve<B: Bdev>(core: *const ChannelCore, io: *mut sys::spdk_bdev_io) {
    // SAFETY: the core is the channel's first field; requests come before the channel is destroyed.
    let channel = unsafe { &*core.cast::<Channel<B>>() };
    // SAFETY: the request is with us.
    channel.core().run(|| unsafe { handlers::submit(channel, io) });
}

impl IoCell {
    pub(crate) fn is_reset(&self) -> bool {
        BdevIo::new(self).raw_kind() == IoKind::Reset as u8
    }
}

type OnChannel<B> = Box<dyn Fn(&<B as Bdev>::Channel) + Send + Sync>;

/// What a `for_each_channel` carries around.
struct ForEach<B: Bdev> {
    device: Arc<Device<B>>,
    function: OnChannel<B>,
    reply: Option<oneshot::Sender<()>>,
}

/// See [`BdevHandle::for_each_channel`](super::BdevHandle::for_each_channel).
pub(crate) async fn for_each<B: Bdev>(
    device: Arc<Device<B>>,
    function: impl Fn(&B::Channel) + Send + Sync + 'static,
) -> Result<()> {
    let (reply, done) = oneshot::channel();
    let name = device.core.name.clone();
    on_app(move || {
        device.core.iteration_started()?;
        let io_device = Arc::as_ptr(&device).cast_mut().cast();
        let each = ForEach { device, function: Box::new(function), reply: Some(reply) };
        let ctx = Box::into_raw(Box::new(each)).cast();
        // SAFETY: the io_device is registered while the bdev is; `after_each` takes the box.
        unsafe {
            sys::spdk_for_each_channel(io_device, Some(on_each::<B>), ctx, Some(after_each::<B>));
        }
        Ok(())
    })
    .await??;
    done.await.map_err(|_| Error::Panicked(format!("a call on the channels of bdev {name}")))
}

unsafe extern "C" fn on_each<B: Bdev>(iter: *mut sys::spdk_io_channel_iter) {
    // SAFETY: SPDK passes a channel of our device, on its thread, and the context of `for_each`, which
    // stays until `after_each`.
    unsafe {
        let channel = channel_of::<B>(sys::spdk_io_channel_iter_get_channel(iter));
        let each = &*sys::spdk_io_channel_iter_get_ctx(iter).cast::<ForEach<B>>();
        let done = channel
            .core()
            .home()
            .enter(|| catch("a call on a channel", || (each.function)(&channel.user)));
        let rc = if done.is_ok() { 0 } else { -libc::EIO };
        sys::spdk_for_each_channel_continue(iter, rc);
    }
}

unsafe extern "C" fn after_each<B: Bdev>(iter: *mut sys::spdk_io_channel_iter, status: i32) {
    // SAFETY: `for_each` boxed it, and this is the last call.
    let each =
        unsafe { Box::from_raw(sys::spdk_io_channel_iter_get_ctx(iter).cast::<ForEach<B>>()) };
    let ForEach { device, function, mut reply } = *each;
    let Some(home) = HomeRef::current() else { return };
    device.core.iteration_ended();
    home.get().enter(|| {
        drop_caught("a call on the channels", function);
        drop_caught("a bdev's state", device);
        if status == 0
            && let Some(reply) = reply.take()
        {
            // Nobody may be waiting any more.
            let _ = catch("a waker", || reply.send(()));
        }
    });
}
