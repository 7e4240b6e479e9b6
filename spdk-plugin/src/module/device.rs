//! A registered bdev from its module's side, and its life (`struct spdk_bdev`).
//!
//! The device belongs to an [`Arc`] of which SPDK holds one share, from `spdk_bdev_register` until
//! the bdev is unregistered, its io_device is unregistered and its channels are gone:
//!
//! ```text
//! unregister -> destruct -> io_device_unregister -> (no channel, no request) -> destruct_done -> free
//! ```

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_channel::oneshot;
use serde::Serialize;
use serde_json::Value;
use spdk_plugin_sys as sys;
use uuid::Uuid;

use super::kind::IoKinds;
use super::register::AppOnly;
use super::{Base, Bdev, Vbdev, channel, handlers};
use crate::bdev::Event;
use crate::error::{Error, Result};
use crate::guard::{catch, drop_caught};
use crate::runtime::home::HomeRef;
use crate::runtime::{Poller, on_app, on_app_thread, send_to_app, task};

/// What does not depend on the module's type.
pub(crate) struct DeviceCore {
    pub(crate) name: String,
    pub(crate) block_size: u32,
    num_blocks: AtomicU64,
    /// SPDK's struct, null when it is gone. App thread only.
    raw: AtomicPtr<sys::spdk_bdev>,
    /// See [`screen`](Self::screen).
    screen: AtomicUsize,
    /// What it serves.
    pub(crate) kinds: IoKinds,
    /// What the module's `submit` serves.
    pub(crate) submits: IoKinds,
    /// The bits of a buffer's address that must be 0.
    pub(crate) align_mask: usize,
    /// Its unregistration has begun. App thread only, as the next two.
    gone: AtomicBool,
    /// The module has ended what it had.
    ended: AtomicBool,
    /// `for_each_channel`s under way, during which SPDK does not unregister an io_device.
    iterations: AtomicU32,
    /// Its registration and its channels: with the last one SPDK's share goes.
    pins: AtomicU32,
    pollers: AppOnly<Mutex<Vec<Poller>>>,
    /// What it sits on.
    bases: AppOnly<RefCell<Vec<Base>>>,
    /// Is called when its unregistration begins.
    when_gone: AppOnly<Cell<Option<WhenGone>>>,
    /// The bdev whose memory domains it takes data in, or null.
    domains: AtomicPtr<sys::spdk_bdev>,
    /// What the module does when it is unregistered.
    destruct: Option<unsafe fn(*const DeviceCore)>,
    finish: unsafe fn(*const DeviceCore),
}

type WhenGone = Box<dyn FnOnce()>;

/// A device and the module's part of it. The core comes first: SPDK's context pointer is either.
#[repr(C)]
pub(crate) struct Device<B> {
    pub(crate) core: DeviceCore,
    pub(crate) user: B,
}

/// The screen of a device whose handler has panicked. No alignment asks for all bits.
const POISONED: usize = usize::MAX;

impl DeviceCore {
    pub(crate) fn is_poisoned(&self) -> bool {
        self.screen() == POISONED
    }

    /// The bits that no buffer's address may have in a request that goes the short way: those that the
    /// alignment forbids, and all of them once poisoned.
    #[inline]
    pub(crate) fn screen(&self) -> usize {
        self.screen.load(Ordering::Relaxed)
    }

    /// A handler has panicked: what it left behind cannot be trusted.
    #[cold]
    pub(crate) fn poison(&self) {
        if self.screen.swap(POISONED, Ordering::Relaxed) != POISONED {
            log::error!("bdev {}: a handler panicked, so all further I/O fails", self.name);
        }
    }

    pub(crate) fn pin(&self) {
        self.pins.fetch_add(1, Ordering::Relaxed);
    }

    /// Undoes a [`pin`](Self::pin). The device may be gone afterwards, unless the caller has a share.
    pub(crate) fn unpin(&self) {
        if self.pins.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let finish = self.finish;
        let this = ptr::from_ref(self).addr();
        let finish = move || {
            // SAFETY: nothing pins the device any more, and it is on the app thread.
            unsafe { finish(ptr::with_exposed_provenance(this)) };
        };
        let _ = ptr::from_ref(self).expose_provenance();
        if on_app_thread() {
            finish();
        } else if let Err(error) = send_to_app(Box::new(finish)) {
            log::error!("bdev {}: cannot be finished: {error}", self.name);
        }
    }
}

impl<B: Bdev> Device<B> {
    pub(crate) fn new(
        name: String,
        block_size: u32,
        num_blocks: u64,
        alignment: usize,
        user: B,
    ) -> Self {
        let submits = handlers::submits(&user);
        let core = DeviceCore {
            name,
            block_size,
            num_blocks: AtomicU64::new(num_blocks),
            raw: AtomicPtr::new(ptr::null_mut()),
            screen: AtomicUsize::new(alignment - 1),
            kinds: handlers::kinds::<B>(submits),
            submits,
            align_mask: alignment - 1,
            gone: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            iterations: AtomicU32::new(0),
            pins: AtomicU32::new(1),
            pollers: AppOnly(Mutex::default()),
            bases: AppOnly(RefCell::default()),
            when_gone: AppOnly(Cell::new(None)),
            domains: AtomicPtr::new(ptr::null_mut()),
            destruct: B::OVERRIDES
                .destruct
                .then_some(end_module::<B> as unsafe fn(*const DeviceCore)),
            finish: finish::<B>,
        };
        Self { core, user }
    }

    /// Makes the device SPDK's: registers the io_device and then the bdev that `make_raw` makes for
    /// its context. On the app thread. A failure leaves nothing behind.
    pub(crate) fn register(
        self,
        name: &CStr,
        aliases: &[CString],
        make_raw: impl FnOnce(*mut c_void) -> Result<*mut sys::spdk_bdev>,
    ) -> Result<BdevHandle<B>> {
        let device = Arc::new(self);
        let ctx = Arc::as_ptr(&device).cast_mut().cast::<c_void>();
        let raw = make_raw(ctx)?;
        let core = &device.core;
        if let Some(base) = device.user.memory_domains_of() {
            core.domains.store(base.raw(), Ordering::Relaxed);
        }
        core.raw.store(raw, Ordering::Relaxed);
        let what = || format!("registering bdev {}", core.name);
        // SAFETY: SPDK's share of the device, which `finish` takes back, keeps `ctx` alive; `raw` was
        // made for this and is freed once.
        let rc = unsafe {
            sys::spdk_io_device_register(
                ctx,
                Some(channel::create::<B>),
                Some(channel::destroy::<B>),
                u32::try_from(size_of::<*const c_void>()).unwrap_or(8),
                name.as_ptr(),
            );
            Arc::increment_strong_count(Arc::as_ptr(&device));
            sys::spdkp_bdev_register(raw)
        };
        if rc != 0 {
            // SAFETY: reads SPDK's table of names, on the app thread.
            let found = unsafe { sys::spdk_bdev_get_by_name(name.as_ptr()) };
            if found != raw {
                // SAFETY: SPDK did not take the bdev, so it does not call `destruct` either, and nobody
                // waits for it to be done.
                unsafe { sys::spdk_io_device_unregister(ctx, Some(unregistered)) };
            }
            return Err(Error::from_rc(what(), rc));
        }
        let handle = BdevHandle { device };
        for alias in aliases {
            // SAFETY: the bdev is registered, and the name ends in NUL.
            let rc = unsafe { sys::spdk_bdev_alias_add(raw, alias.as_ptr()) };
            if rc != 0 {
                handle.device.unregister_now();
                let what = format!("alias {alias:?} of bdev {}", handle.name());
                return Err(Error::from_rc(what, rc));
            }
        }
        Ok(handle)
    }

    /// Takes the registration back. On the app thread.
    pub(crate) fn unregister_now(&self) {
        if let Ok(raw) = self.core.registered() {
            // SAFETY: the bdev is registered.
            unsafe { sys::spdk_bdev_unregister(raw, None, ptr::null_mut()) };
        }
    }

    /// Has `function` called when the bdev's unregistration begins. On the app thread.
    pub(super) fn when_gone(&self, function: WhenGone) {
        self.core.when_gone.0.set(Some(function));
    }

    /// Keeps the poller until the bdev is unregistered. On the app thread.
    pub(crate) fn keep_poller(&self, poller: Poller) {
        self.core.pollers.0.lock().unwrap_or_else(PoisonError::into_inner).push(poller);
    }
}

/// `spdk_bdev_fn_table.destruct`. 1: the answer comes by `spdk_bdev_destruct_done`.
pub(crate) unsafe extern "C" fn destruct(ctx: *mut c_void) -> i32 {
    if on_app_thread() {
        // SAFETY: the context is the `Device` that SPDK holds a share of, whose core comes first.
        unsafe { destruct_here(ctx) };
        return 1;
    }
    // Before 26.05 it is called where the last descriptor was closed.
    let ctx = ctx.expose_provenance();
    // SAFETY: as above; the share stays until the registration is undone.
    let here = move || unsafe { destruct_here(ptr::with_exposed_provenance_mut(ctx)) };
    if let Err(error) = send_to_app(Box::new(here)) {
        log::error!("a bdev cannot be destructed: {error}");
    }
    1
}

/// # Safety
/// The context is that of a device of which SPDK holds a share; called once, on the app thread.
unsafe fn destruct_here(ctx: *mut c_void) {
    // SAFETY: says the caller.
    let core = unsafe { &*ctx.cast::<DeviceCore>() };
    core.gone.store(true, Ordering::Relaxed);
    let pollers = {
        let mut pollers = core.pollers.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *pollers)
    };
    drop_caught("a bdev's pollers", pollers);
    if let Some(when_gone) = core.when_gone.0.take() {
        let _ = catch("the end of a bdev", when_gone);
    }
    // SAFETY: the bdev is there until `finish`.
    unsafe { sys::spdkp_bdev_forget_aliases(core.raw.load(Ordering::Relaxed)) };
    match core.destruct {
        // SAFETY: on the app thread, with SPDK's share, once.
        Some(destruct) => unsafe { destruct(core) },
        None => core.let_go(),
    }
}

/// Has the module end what it has, and then lets go of the rest.
///
/// # Safety
/// On the app thread; SPDK has a share of the device, which is of this module.
unsafe fn end_module<B: Bdev>(core: *const DeviceCore) {
    /// Also when the module panics or SPDK does not wait any longer.
    struct LetGo<B>(BdevHandle<B>);
    impl<B> Drop for LetGo<B> {
        fn drop(&mut self) {
            self.0.device.core.let_go();
        }
    }
    // SAFETY: says the caller.
    let device = LetGo(unsafe { BdevHandle::<B>::from_ctx(core.cast_mut().cast()) });
    let Some(home) = HomeRef::current() else { return };
    task::spawn(home, "the end of a bdev", async move {
        device.0.destruct().await;
    });
}

unsafe extern "C" fn unregistered(ctx: *mut c_void) {
    let Some(home) = HomeRef::current() else { return };
    // SAFETY: as in `destruct`; the share goes with the last pin, after this.
    home.get().enter(|| unsafe { (*ctx.cast::<DeviceCore>()).unpin() });
}

unsafe fn finish<B: Bdev>(core: *const DeviceCore) {
    // SAFETY: the core is the first field of the device, and this is SPDK's share of it.
    let device = unsafe { Arc::from_raw(core.cast::<Device<B>>()) };
    let raw = device.core.raw.swap(ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: no channel and no request is left; SPDK reads the bdev until `destruct_done` returns.
    unsafe {
        sys::spdk_bdev_destruct_done(raw, 0);
        sys::spdkp_bdev_free(raw);
    }
    drop_caught("a bdev's state", device);
}

/// An RPC with its parameters, as `save_config` writes it.
#[derive(Clone, Debug, Serialize)]
pub struct RpcCall {
    method: String,
    params: Value,
}

impl RpcCall {
    /// The call of `method` with `params`.
    ///
    /// # Panics
    /// If `params` does not serialize to JSON, which only a hand-written `Serialize` can do.
    pub fn new(method: impl Into<String>, params: impl Serialize) -> Self {
        let params = serde_json::to_value(params).expect("RPC parameters serialize to JSON");
        Self { method: method.into(), params }
    }
}

/// A registered device of module `B`, from the module's own side. It gives the `B` itself, also after
/// the device has gone, and what can be done to the bdev.
pub struct BdevHandle<B> {
    device: Arc<Device<B>>,
}

impl<B> Clone for BdevHandle<B> {
    fn clone(&self) -> Self {
        Self { device: Arc::clone(&self.device) }
    }
}

impl<B> fmt::Debug for BdevHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BdevHandle").field("name", &self.device.core.name).finish_non_exhaustive()
    }
}

impl<B> Deref for BdevHandle<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.device.user
    }
}

impl<B: Bdev> BdevHandle<B> {
    /// The device of this module that has the name or alias `name`. On the app thread.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such bdev or it is another module's,
    /// [`Error::WrongThread`] elsewhere than on the app thread.
    pub fn find(name: &str) -> Result<Self> {
        require_app_thread("looking up a bdev")?;
        let missing = || Error::NotFound(format!("there is no bdev {name:?}"));
        let c_name = CString::new(name).map_err(|_| missing())?;
        // SAFETY: on the app thread, where bdevs come and go, so what is found stays while we look.
        unsafe {
            let raw = sys::spdk_bdev_get_by_name(c_name.as_ptr());
            if raw.is_null() {
                return Err(missing());
            }
            if !sys::spdkp_bdev_is_of(raw, B::registration().raw()) {
                let owner = CStr::from_ptr(sys::spdkp_bdev_module_name(raw)).to_string_lossy();
                return Err(Error::NotFound(format!(
                    "bdev {name:?} belongs to module {owner}, not to {}",
                    B::NAME
                )));
            }
            Ok(Self::from_ctx(sys::spdkp_bdev_ctx(raw)))
        }
    }

    /// # Safety
    /// `ctx` is the context of a device of module `B` that SPDK holds a share of.
    pub(crate) unsafe fn from_ctx(ctx: *mut c_void) -> Self {
        let device = ctx.cast::<Device<B>>().cast_const();
        // SAFETY: says the caller; the new share is ours.
        unsafe {
            Arc::increment_strong_count(device);
            Self { device: Arc::from_raw(device) }
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.device.core.name
    }

    /// The device's UUID. Nil once the device has gone.
    pub fn uuid(&self) -> Uuid {
        let raw = self.device.core.raw.load(Ordering::Relaxed);
        let mut bytes = [0; 16];
        if on_app_thread() && !raw.is_null() {
            // SAFETY: the pointer is set while SPDK has the bdev, which goes on this thread.
            unsafe { sys::spdkp_bdev_uuid(raw, bytes.as_mut_ptr()) };
        }
        Uuid::from_bytes(bytes)
    }

    /// The block size in bytes, with interleaved metadata counted in.
    pub fn block_size(&self) -> u32 {
        self.device.core.block_size
    }

    /// The number of blocks.
    pub fn num_blocks(&self) -> u64 {
        self.device.core.num_blocks.load(Ordering::Relaxed)
    }

    /// Tells SPDK that the device now has `num_blocks` (`spdk_bdev_notify_blockcnt_change`). When it
    /// grows, the room must be there before; when it shrinks, it may go only after.
    ///
    /// # Errors
    /// [`Error::Busy`] when a bdev that is open would shrink, [`Error::NotFound`] when it has gone.
    pub async fn resize(&self, num_blocks: u64) -> Result<()> {
        let device = Arc::clone(&self.device);
        on_app(move || {
            let core = &device.core;
            let raw = core.registered()?;
            super::builder::check_size(&core.name, core.block_size, num_blocks)?;
            // SAFETY: the bdev is registered, and we are on the app thread.
            match unsafe { sys::spdk_bdev_notify_blockcnt_change(raw, num_blocks) } {
                0 => {
                    core.num_blocks.store(num_blocks, Ordering::Relaxed);
                    Ok(())
                }
                rc if rc == -libc::EBUSY => Err(Error::Busy(format!(
                    "bdev {} is open and cannot shrink; close it or keep at least its size",
                    core.name
                ))),
                rc => Err(Error::from_rc(format!("resizing bdev {}", core.name), rc)),
            }
        })
        .await?
    }

    /// Unregisters the device (`spdk_bdev_unregister`) and waits until it has gone: those who have it
    /// open are told to close, and its I/O ends.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has gone already, [`Error::Busy`] when it is on its way.
    pub async fn unregister(&self) -> Result<()> {
        let (reply, gone) = oneshot::channel::<i32>();
        let device = Arc::clone(&self.device);
        on_app(move || {
            let raw = device.core.registered()?;
            let ctx = Box::into_raw(Box::new(reply));
            // SAFETY: the bdev is registered, and we are on the app thread; the callback takes the box.
            unsafe { sys::spdk_bdev_unregister(raw, Some(on_unregistered), ctx.cast()) };
            Ok(())
        })
        .await??;
        let what = || format!("unregistering bdev {}", self.name());
        match gone.await {
            Ok(0) => Ok(()),
            Ok(rc) if rc == -libc::EBUSY => {
                Err(Error::Busy(format!("bdev {} is being removed already", self.name())))
            }
            Ok(rc) => Err(Error::from_rc(what(), rc)),
            Err(_) => Err(Error::Errno { what: what(), errno: libc::EIO }),
        }
    }

    /// Calls `function` with the channel of each thread that uses the device, on that thread
    /// (`spdk_for_each_channel`), and waits for the last. A channel that is made meanwhile may be
    /// missed: change what [`Bdev::channel`] reads first.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the device has gone.
    pub async fn for_each_channel(
        &self,
        function: impl Fn(&B::Channel) + Send + Sync + 'static,
    ) -> Result<()> {
        channel::for_each(Arc::clone(&self.device), function).await
    }
}

impl DeviceCore {
    /// SPDK's bdev. On the app thread.
    fn registered(&self) -> Result<*mut sys::spdk_bdev> {
        let raw = self.raw.load(Ordering::Relaxed);
        if raw.is_null() || self.gone.load(Ordering::Relaxed) {
            return Err(Error::NotFound(format!("bdev {} has gone", self.name)));
        }
        Ok(raw)
    }

    /// A `for_each_channel` begins. On the app thread.
    pub(crate) fn iteration_started(&self) -> Result<()> {
        self.registered()?;
        self.iterations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// It has ended. On the app thread.
    pub(crate) fn iteration_ended(&self) {
        self.iterations.fetch_sub(1, Ordering::Relaxed);
        if self.gone.load(Ordering::Relaxed) {
            self.unregister_io_device();
        }
    }

    /// The second half of its end. On the app thread, once.
    fn let_go(&self) {
        self.domains.store(ptr::null_mut(), Ordering::Relaxed);
        for base in self.bases.0.take() {
            base.set_hook(None::<fn(&Base, Event)>);
            base.close();
        }
        self.ended.store(true, Ordering::Relaxed);
        self.unregister_io_device();
    }

    pub(crate) fn domains(&self) -> *mut sys::spdk_bdev {
        self.domains.load(Ordering::Relaxed)
    }

    /// Undoes the io_device's registration once nobody goes through its channels. On the app thread, after
    /// `gone` was set.
    fn unregister_io_device(&self) {
        if self.ended.load(Ordering::Relaxed) && self.iterations.load(Ordering::Relaxed) == 0 {
            let ctx = ptr::from_ref(self).cast_mut().cast();
            // SAFETY: registered by `register`; undone once, as no iteration begins after `gone`, so only
            // the last one to end or `let_go` finds it ended and none under way.
            unsafe { sys::spdk_io_device_unregister(ctx, Some(unregistered)) };
        }
    }
}

fn require_app_thread(what: &str) -> Result<()> {
    if on_app_thread() {
        return Ok(());
    }
    Err(Error::WrongThread(format!("{what} is for the app thread, where RPC handlers run")))
}

unsafe extern "C" fn on_unregistered(ctx: *mut c_void, rc: i32) {
    // SAFETY: `unregister` boxed it, and this is the one call.
    let reply = unsafe { Box::from_raw(ctx.cast::<oneshot::Sender<i32>>()) };
    let Some(home) = HomeRef::current() else { return };
    home.get().enter(|| {
        // Nobody may be waiting any more, and a waker is foreign code.
        let _ = catch("a waker", || reply.send(rc));
    });
}

impl<V: Vbdev> BdevHandle<V> {
    /// Makes a base the bdev's: [`Vbdev`]'s methods hear what happens to it, and it is closed when the bdev
    /// is unregistered.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the bdev has gone.
    pub async fn attach(&self, base: &Base) -> Result<()> {
        let (this, base) = (self.clone(), base.clone());
        on_app(move || {
            this.device.core.registered()?;
            this.attach_here(&base);
            Ok(())
        })
        .await?
    }

    /// On the app thread, while the bdev is registered.
    pub(super) fn attach_here(&self, base: &Base) {
        self.device.core.bases.0.borrow_mut().push(base.clone());
        base.watch(self);
    }

    /// The bases that were attached and not closed. On the app thread; empty elsewhere.
    pub fn bases(&self) -> Vec<Base> {
        if !on_app_thread() {
            return Vec::new();
        }
        let bases = self.device.core.bases.0.borrow();
        bases.iter().filter(|base| !base.raw().is_null()).cloned().collect()
    }
}

impl<B> BdevHandle<B> {
    pub(super) fn of(device: Arc<Device<B>>) -> Self {
        Self { device }
    }

    pub(crate) fn device(&self) -> &Arc<Device<B>> {
        &self.device
    }
}
