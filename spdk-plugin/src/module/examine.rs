//! What SPDK tells a module of virtual bdevs of each bdev that comes (`examine_config` and `examine_disk`
//! in `spdk/bdev_module.h`), and asks of it for `save_config`.
//!
//! In the first call bases are claimed, before anyone else may look at what is on the bdev; the second lets
//! SPDK's start-up wait for what is being built or looked for.

use std::ffi::CStr;
use std::marker::PhantomData;

use spdk_plugin_sys as sys;

use super::register::in_callback;
use super::vbdev::{self, Created, Vbdev};
use crate::bdev::BdevDesc;
use crate::error::Result;
use crate::guard::catch;
use crate::json;
use crate::runtime::home::HomeRef;
use crate::runtime::task;

/// The callbacks of a module of virtual bdevs.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct VbdevOps {
    pub(super) write_config: unsafe extern "C" fn(*mut sys::spdk_json_write_ctx) -> i32,
    pub(super) examine_config: unsafe extern "C" fn(*mut sys::spdk_bdev),
    pub(super) examine_disk: unsafe extern "C" fn(*mut sys::spdk_bdev),
}

/// Tells whether a type is a [`Vbdev`]: the constant of the type itself is found before the trait's.
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

/// Of types that are none.
#[doc(hidden)]
pub trait NoVbdev {
    /// None.
    const OPS: Option<VbdevOps> = None;
}

impl<T> NoVbdev for Probe<T> {}

impl<V: Vbdev> Probe<V> {
    /// Its callbacks.
    pub const OPS: Option<VbdevOps> = Some(VbdevOps {
        write_config: write_config::<V>,
        examine_config: examine_config::<V>,
        examine_disk: examine_disk::<V>,
    });
}

unsafe extern "C" fn write_config<V: Vbdev>(writer: *mut sys::spdk_json_write_ctx) -> i32 {
    in_callback(|| {
        for entry in V::registration().vbdevs::<V>() {
            if let Ok(call) = catch("saving a bdev", || entry.saved()) {
                // SAFETY: the writer stands in an open array.
                unsafe { json::write(writer, &call) };
            }
        }
    });
    0
}

unsafe extern "C" fn examine_config<V: Vbdev>(bdev: *mut sys::spdk_bdev) {
    in_callback(|| {
        // SAFETY: the bdev is there during the call.
        let name = unsafe { name_of(bdev) };
        let is_it = |name: &str| {
            let name = std::ffi::CString::new(name);
            // SAFETY: as above.
            name.is_ok_and(|name| unsafe { sys::spdkp_bdev_answers_to(bdev, name.as_ptr()) })
        };
        for entry in V::registration().vbdevs::<V>() {
            let _ = catch("examining a bdev", || entry.examine(&name, is_it));
        }
        drop(Examined::of::<V>());
    });
}

unsafe extern "C" fn examine_disk<V: Vbdev>(bdev: *mut sys::spdk_bdev) {
    in_callback(|| {
        let examined = Examined::of::<V>();
        let Some(home) = HomeRef::current() else { return };
        // SAFETY: the bdev is there during the call.
        let name = unsafe { name_of(bdev) };
        let building: Vec<_> = V::registration()
            .vbdevs::<V>()
            .into_iter()
            .filter_map(|entry| entry.in_the_making(&name))
            .collect();
        if !building.is_empty() {
            task::spawn(home, "an examination", async move {
                for done in building {
                    // Dropped, it will not be built.
                    let _ = done.await;
                }
                drop(examined);
            });
        } else if V::PROBES && !is_claimed(&name) {
            task::spawn(home, "an examination", async move {
                if let Err(error) = probe::<V>(&name).await {
                    log::error!("module {} cannot make use of bdev {name}: {error}", V::NAME);
                }
                drop(examined);
            });
        }
    });
}

async fn probe<V: Vbdev>(name: &str) -> Result<()> {
    let found = {
        let desc = BdevDesc::open(name, false)?;
        let channel = desc.get_io_channel()?;
        V::probe(&desc, &channel).await?
    };
    let Some(config) = found else { return Ok(()) };
    // Each of its bases tells of it.
    if vbdev::is_known::<V>(V::name(&config)) {
        return Ok(());
    }
    if let Created::Now(bdev) = vbdev::create::<V>(config).await? {
        log::info!("bdev {} was found on {name}", bdev.name());
    }
    Ok(())
}

fn is_claimed(name: &str) -> bool {
    BdevDesc::open(name, false).is_ok_and(|desc| {
        // SAFETY: on the app thread, with the bdev open.
        unsafe { crate::bdev::Bdev::read(desc.inner().bdev()) }.is_claimed()
    })
}

/// # Safety
/// The bdev is there.
unsafe fn name_of(bdev: *mut sys::spdk_bdev) -> String {
    // SAFETY: says the caller.
    unsafe { CStr::from_ptr(sys::spdk_bdev_get_name(bdev)) }.to_string_lossy().into_owned()
}

/// SPDK waits for this to be dropped, once for each call of a module.
struct Examined(*mut sys::spdkp_module);

impl Examined {
    fn of<V: Vbdev>() -> Self {
        Self(V::registration().raw())
    }
}

impl Drop for Examined {
    fn drop(&mut self) {
        // SAFETY: the module is registered, and this is the one answer to a call.
        unsafe { sys::spdkp_examine_done(self.0) };
    }
}
