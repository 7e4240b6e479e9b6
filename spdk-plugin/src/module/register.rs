//! Making a Rust type an SPDK bdev module (`struct spdk_bdev_module`, `struct spdk_bdev_fn_table`).

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::future::Future;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Weak};

use spdk_plugin_sys as sys;

use super::device::{BdevHandle, DeviceCore, destruct};
use super::examine::VbdevOps;
use super::record::DRIVER_CTX;
use super::vbdev::{Entry, Vbdev};
use super::{Bdev, Overrides, channel};
use crate::bdev::DescInner;
use crate::guard::{catch, drop_caught};
use crate::json;
use crate::plugin;
use crate::runtime::home::HomeRef;
use crate::runtime::{on_app_thread, task};

/// A module's name and its place in SPDK's table.
/// [`#[bdev_module]`](crate::bdev_module) implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not marked as a bdev module",
    label = "not a bdev module",
    note = "write `#[bdev_module(name = \"...\")]` above `impl Bdev for {Self}`"
)]
pub trait Module {
    /// The module's name, as SPDK shows it.
    const NAME: &'static str;

    /// What it implements of [`Bdev`].
    #[doc(hidden)]
    const OVERRIDES: Overrides;

    /// Where the registration is kept.
    #[doc(hidden)]
    fn registration() -> &'static Registration;
}

/// SPDK's struct for a module, once registered.
#[doc(hidden)]
#[derive(Debug)]
pub struct Registration {
    raw: AtomicPtr<sys::spdkp_module>,
    /// Of a module of virtual bdevs those that were created: a `Vec<Rc<Entry<V>>>`.
    vbdevs: AppOnly<RefCell<Option<Box<dyn Any>>>>,
    /// Bases that several of them share.
    shared: AppOnly<RefCell<Vec<Weak<DescInner>>>>,
}

/// What is made, used and dropped on the app thread only.
#[derive(Debug)]
pub(super) struct AppOnly<T>(pub(super) T);

// SAFETY: those who use one see to it that they are on the app thread.
unsafe impl<T> Send for AppOnly<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for AppOnly<T> {}

impl Registration {
    #[doc(hidden)]
    pub const fn new() -> Self {
        Self {
            raw: AtomicPtr::new(ptr::null_mut()),
            vbdevs: AppOnly(RefCell::new(None)),
            shared: AppOnly(RefCell::new(Vec::new())),
        }
    }

    pub(crate) fn raw(&self) -> *mut sys::spdkp_module {
        self.raw.load(Ordering::Acquire)
    }

    /// What a base that may be shared was opened by, if it is open. On the app thread, as the next.
    pub(super) fn shared(&self, bdev: *mut sys::spdk_bdev) -> Option<Arc<DescInner>> {
        let mut shared = self.shared.0.borrow_mut();
        shared.retain(|desc| desc.strong_count() > 0);
        shared.iter().filter_map(Weak::upgrade).find(|desc| desc.bdev() == bdev)
    }

    pub(super) fn share(&self, desc: &Arc<DescInner>) {
        self.shared.0.borrow_mut().push(Arc::downgrade(desc));
    }

    fn with_vbdevs<V: Vbdev, R>(&self, body: impl FnOnce(&mut Vec<Rc<Entry<V>>>) -> R) -> R {
        assert!(on_app_thread(), "virtual bdevs are for the app thread");
        let mut vbdevs = self.vbdevs.0.borrow_mut();
        let vbdevs = vbdevs.get_or_insert_with(|| Box::new(Vec::<Rc<Entry<V>>>::new()));
        body(vbdevs.downcast_mut().expect("a registration is that of one type"))
    }

    /// What was created and not deleted. On the app thread, as the next two.
    pub(super) fn vbdevs<V: Vbdev>(&self) -> Vec<Rc<Entry<V>>> {
        self.with_vbdevs(|vbdevs| vbdevs.clone())
    }

    pub(super) fn add_vbdev<V: Vbdev>(&self, entry: Rc<Entry<V>>) {
        self.with_vbdevs(|vbdevs| vbdevs.push(entry));
    }

    pub(super) fn remove_vbdev<V: Vbdev>(&self, entry: &Rc<Entry<V>>) {
        self.with_vbdevs(|vbdevs| vbdevs.retain(|other| !Rc::ptr_eq(other, entry)));
    }
}

/// A module's entry in the table that the plugin's constructor walks.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct ModuleEntry {
    pub(crate) name: &'static str,
    pub(crate) owner: &'static str,
    register: fn(Option<VbdevOps>) -> bool,
    vbdev: Option<VbdevOps>,
}

impl ModuleEntry {
    #[doc(hidden)]
    pub const fn new<B: Bdev>(owner: &'static str, vbdev: Option<VbdevOps>) -> Self {
        Self { name: B::NAME, owner, register: register_module::<B>, vbdev }
    }

    /// Adds the module to SPDK's list. False: no memory.
    pub(crate) fn register(&self) -> bool {
        (self.register)(self.vbdev)
    }
}

fn register_module<B: Bdev>(vbdev: Option<VbdevOps>) -> bool {
    let ops = sys::spdkp_module_ops {
        init: Some(init::<B>),
        fini_start: Some(fini_start::<B>),
        fini: Some(fini::<B>),
        ctx_size: Some(ctx_size),
        destruct: Some(destruct),
        submit_request: Some(channel::submit::<B>),
        io_type_supported: Some(io_type_supported),
        dump_info: Some(dump_info::<B>),
        write_config: Some(write_config::<B>),
        write_module_config: vbdev.map(|ops| ops.write_config as _),
        examine_config: vbdev.map(|ops| ops.examine_config as _),
        examine_disk: vbdev.map(|ops| ops.examine_disk as _),
        domains_of: Some(domains_of),
        init_waits: B::OVERRIDES.init,
        fini_start_waits: B::OVERRIDES.fini_start,
        fini_waits: B::OVERRIDES.fini,
    };
    let Ok(name) = CString::new(B::NAME) else { return false };
    // SAFETY: SPDK keeps the name for as long as the process lives, and so do we; it copies `ops`.
    let module = unsafe { sys::spdkp_module_add(name.into_raw(), &raw const ops) };
    B::registration().raw.store(module, Ordering::Release);
    !module.is_null()
}

/// Calls a function when it is dropped, also when a task is that it is part of.
struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs a step of a module's life, at whose end, whatever that is, SPDK is told.
fn step(future: impl Future<Output = ()> + 'static, done: impl FnMut() + 'static) {
    in_callback(|| {
        let done = Finally(done);
        let Some(home) = HomeRef::current() else { return };
        task::spawn(home, "a step of a module's life", async move {
            future.await;
            drop(done);
        });
    });
}

unsafe extern "C" fn init<B: Bdev>() -> i32 {
    plugin::started();
    if B::OVERRIDES.init {
        let start = async {
            if let Err(error) = B::init().await {
                log::error!("module {} cannot start: {error}", B::NAME);
                // SAFETY: on the app thread, where the module starts.
                unsafe { sys::spdkp_app_stop(-error.errno()) };
            }
        };
        // SAFETY: the module is registered and has not said so before.
        step(start, || unsafe { sys::spdkp_module_init_done(B::registration().raw()) });
    }
    0
}

unsafe extern "C" fn fini_start<B: Bdev>() {
    task::bdevs_stop();
    if B::OVERRIDES.fini_start {
        // SAFETY: as for `init`.
        step(B::fini_start(), || unsafe { sys::spdkp_module_fini_start_done() });
    }
}

unsafe extern "C" fn fini<B: Bdev>() {
    if !B::OVERRIDES.fini {
        return plugin::module_stopped();
    }
    step(B::fini(), || {
        plugin::module_stopped();
        // SAFETY: as for `init`.
        unsafe { sys::spdkp_module_fini_done() };
    });
}

unsafe extern "C" fn ctx_size() -> i32 {
    const { DRIVER_CTX as i32 }
}

unsafe extern "C" fn io_type_supported(ctx: *mut c_void, kind: sys::spdk_bdev_io_type) -> bool {
    // SAFETY: the context is a device, of which SPDK holds a share meanwhile. Before 26.01 the bdev layer
    // asks this for every request.
    unsafe { (*ctx.cast::<DeviceCore>()).kinds.contains_raw(kind) }
}

unsafe extern "C" fn domains_of(ctx: *mut c_void) -> *mut sys::spdk_bdev {
    // SAFETY: as in `io_type_supported`.
    unsafe { (*ctx.cast::<DeviceCore>()).domains() }
}

unsafe extern "C" fn dump_info<B: Bdev>(
    ctx: *mut c_void,
    writer: *mut sys::spdk_json_write_ctx,
) -> i32 {
    in_callback(|| {
        // SAFETY: the context is a device of this module.
        let device = unsafe { BdevHandle::<B>::from_ctx(ctx) };
        if let Ok(Some(info)) = catch("describing a bdev", || device.dump_info()) {
            // SAFETY: the writer stands in an open object.
            unsafe { json::write_named(writer, B::NAME, &info) };
        }
        drop_caught("a bdev's state", device);
    });
    0
}

unsafe extern "C" fn write_config<B: Bdev>(
    ctx: *mut c_void,
    writer: *mut sys::spdk_json_write_ctx,
) {
    in_callback(|| {
        // SAFETY: the context is a device of this module.
        let device = unsafe { BdevHandle::<B>::from_ctx(ctx) };
        if let Ok(Some(call)) = catch("saving a bdev", || device.config(&device)) {
            // SAFETY: the writer stands in an open array.
            unsafe { json::write(writer, &call) };
        }
        drop_caught("a bdev's state", device);
    });
}

/// Runs `body`, which does not unwind, as a callback on the current thread.
pub(super) fn in_callback(body: impl FnOnce()) {
    if let Some(home) = HomeRef::current() {
        home.get().enter(body);
    }
}

const _: () = {
    // The context of every callback is a device's address, whose core lies first.
    assert!(std::mem::offset_of!(super::device::Device<()>, core) == 0);
    assert!(align_of::<DeviceCore>() >= 8);
};
