//! Making a Rust type an SPDK bdev module (`struct spdk_bdev_module`, `struct spdk_bdev_fn_table`).

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use spdk_plugin_sys as sys;

use super::device::{BdevHandle, DeviceCore, destruct};
use super::record::DRIVER_CTX;
use super::{Bdev, Overrides, channel};
use crate::guard::{catch, drop_caught};
use crate::json;
use crate::plugin;
use crate::runtime::home::HomeRef;
use crate::runtime::task;

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
pub struct Registration(AtomicPtr<sys::spdkp_module>);

impl Registration {
    #[doc(hidden)]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn raw(&self) -> *mut sys::spdkp_module {
        self.0.load(Ordering::Acquire)
    }
}

/// A module's entry in the table that the plugin's constructor walks.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct ModuleEntry {
    pub(crate) name: &'static str,
    pub(crate) owner: &'static str,
    pub(crate) register: fn() -> bool,
}

impl ModuleEntry {
    #[doc(hidden)]
    pub const fn new<B: Bdev>(owner: &'static str) -> Self {
        Self { name: B::NAME, owner, register: register_module::<B> }
    }
}

/// Adds the module to SPDK's list. False: no memory.
pub(crate) fn register_module<B: Bdev>() -> bool {
    let ops = sys::spdkp_module_ops {
        init: Some(init),
        fini_start: Some(fini_start),
        fini: Some(fini),
        ctx_size: Some(ctx_size),
        destruct: Some(destruct),
        submit_request: Some(channel::submit::<B>),
        io_type_supported: Some(io_type_supported),
        dump_info: Some(dump_info::<B>),
        write_config: Some(write_config::<B>),
    };
    let Ok(name) = CString::new(B::NAME) else { return false };
    // SAFETY: SPDK keeps the name for as long as the process lives, and so do we; it copies `ops`.
    let module = unsafe { sys::spdkp_module_add(name.into_raw(), &raw const ops) };
    B::registration().0.store(module, Ordering::Release);
    !module.is_null()
}

unsafe extern "C" fn init() -> i32 {
    plugin::started();
    0
}

unsafe extern "C" fn fini_start() {
    task::bdevs_stop();
}

unsafe extern "C" fn fini() {
    plugin::module_stopped();
}

unsafe extern "C" fn ctx_size() -> i32 {
    const { DRIVER_CTX as i32 }
}

unsafe extern "C" fn io_type_supported(ctx: *mut c_void, kind: sys::spdk_bdev_io_type) -> bool {
    // SAFETY: the context is a device, of which SPDK holds a share meanwhile. Before 26.01 the bdev layer
    // asks this for every request.
    unsafe { (*ctx.cast::<DeviceCore>()).kinds.contains_raw(kind) }
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
fn in_callback(body: impl FnOnce()) {
    if let Some(home) = HomeRef::current() {
        home.get().enter(body);
    }
}

const _: () = {
    // The context of every callback is a device's address, whose core lies first.
    assert!(std::mem::offset_of!(super::device::Device<()>, core) == 0);
    assert!(align_of::<DeviceCore>() >= 8);
};
