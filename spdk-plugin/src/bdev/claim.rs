//! Keeping others from writing to a bdev (`spdk_bdev_module_claim_bdev_desc` in
//! `spdk/bdev_module.h`).

use std::ffi::{CString, c_char};
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::ptr;
use std::sync::Arc;

use spdk_plugin_sys as sys;

use super::call::{Answer, start_on_app};
use super::desc::{BdevDesc, DescInner};
use super::stats::supported;
use crate::error::{Error, Result};
use crate::module::Module;

/// What a claim grants, and to whom (`enum spdk_bdev_claim_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimKind {
    /// No one else opens the bdev for writing from now on, nor claims it. Those who have it open for
    /// writing already keep that.
    Exclusive,
    /// This descriptor alone writes; others read. SPDK 23.05 or later.
    ReadManyWriteOne,
    /// Nobody writes, this descriptor neither: it must be open for reading. Any number of such claims
    /// are held together. SPDK 23.05 or later.
    ReadManyWriteNone,
    /// All who claim with the same key write. SPDK 23.05 or later.
    ReadManyWriteShared {
        /// What the writers have agreed on.
        key: NonZeroU64,
    },
}

impl ClaimKind {
    fn promotes_to_write(self) -> bool {
        self != Self::ReadManyWriteNone
    }

    fn raw(self) -> (u32, u64) {
        match self {
            Self::Exclusive => (sys::SPDKP_CLAIM_EXCLUSIVE, 0),
            Self::ReadManyWriteOne => (sys::SPDKP_CLAIM_READ_MANY_WRITE_ONE, 0),
            Self::ReadManyWriteNone => (sys::SPDKP_CLAIM_READ_MANY_WRITE_NONE, 0),
            Self::ReadManyWriteShared { key } => {
                (sys::SPDKP_CLAIM_READ_MANY_WRITE_SHARED, key.get())
            }
        }
    }
}

/// A claim on a bdev.
///
/// It keeps the descriptor open. An [exclusive](ClaimKind::Exclusive) claim is released when this is
/// dropped; SPDK releases the other kinds only when the descriptor is closed, so drop that too. One
/// that is forgotten stays.
#[must_use = "dropping a claim releases it"]
pub struct Claim {
    /// `None` once it was released.
    desc: Option<Arc<DescInner>>,
    kind: ClaimKind,
    _on_its_thread: PhantomData<*const ()>,
}

impl BdevDesc {
    /// Claims the bdev for this program, under the name `spdk_plugin`. A descriptor that was opened for
    /// reading may write then, but with [`ClaimKind::ReadManyWriteNone`]. It is done on the app thread.
    ///
    /// # Errors
    /// [`Error::Busy`] when the bdev is claimed, or open for writing by someone whom the claim would
    /// exclude; [`Error::Invalid`] when the kind does not suit how it was opened;
    /// [`Error::Unsupported`] for other kinds than the exclusive one before SPDK 23.05.
    pub async fn claim(&self, kind: ClaimKind) -> Result<Claim> {
        claim(self.inner(), kind, ptr::null_mut()).await
    }

    /// Claims the bdev for the module `M`, as [`claim`](Self::claim) does.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim), and [`Error::NotFound`] when the module is not registered.
    pub async fn claim_for<M: Module>(&self, kind: ClaimKind) -> Result<Claim> {
        let module = M::registration().raw();
        if module.is_null() {
            return Err(Error::NotFound(format!("module {} is not registered", M::NAME)));
        }
        claim(self.inner(), kind, module).await
    }
}

struct Needs(*const c_char);

async fn claim(
    desc: &Arc<DescInner>,
    kind: ClaimKind,
    module: *mut sys::spdkp_module,
) -> Result<Claim> {
    let (raw, key) = kind.raw();
    // Before 23.01 claims have no lock: all that touch them keep to the app thread.
    let name = CString::new(desc.name()).unwrap_or_default();
    let module = module.expose_provenance();
    // SAFETY: on the app thread, with the descriptor open; a module stays registered.
    let answer = unsafe {
        start_on_app(
            desc,
            Needs(ptr::null()),
            move |desc, needs| {
                let module = ptr::with_exposed_provenance_mut(module);
                let needs = &raw mut (*needs).0;
                sys::spdkp_claim(desc, raw as i32, name.as_ptr(), key, module, needs)
            },
            move |desc, rc, needs| {
                if rc != 0 {
                    return Err((rc, needs));
                }
                if kind.promotes_to_write() {
                    desc.set_writable();
                }
                Ok(Claim { desc: Some(Arc::clone(desc)), kind, _on_its_thread: PhantomData })
            },
        )?
    };
    answer.get().await?.map_err(|(rc, needs)| {
        let name = desc.name();
        if let Err(error) = supported(|| format!("a claim of kind {kind:?}"), needs.0) {
            return error;
        }
        match -rc {
            libc::EPERM | libc::EBUSY => Error::Busy(format!(
                "bdev {name} is claimed, or open for writing, by someone else; it cannot be claimed \
                 as {kind:?}"
            )),
            libc::EINVAL => Error::Invalid(format!(
                "bdev {name} is open for writing; open it for reading to claim it as {kind:?}"
            )),
            _ => Error::from_rc(format!("claiming bdev {name}"), rc),
        }
    })
}

impl Claim {
    /// What was claimed.
    pub fn kind(&self) -> ClaimKind {
        self.kind
    }

    /// Releases an [exclusive](ClaimKind::Exclusive) claim and waits until it is. A claim of another
    /// kind goes when the descriptor is closed; this only gives up its share of that.
    ///
    /// # Errors
    /// When SPDK is going down.
    pub async fn release(mut self) -> Result<()> {
        match (self.desc.take(), self.kind) {
            (Some(desc), ClaimKind::Exclusive) => release(&desc)?.get().await,
            _ => Ok(()),
        }
    }
}

fn release(desc: &Arc<DescInner>) -> Result<Answer<()>> {
    let function = |desc, _: *mut ()| {
        // SAFETY: on the app thread, with the bdev open and claimed by us.
        unsafe { sys::spdkp_release_exclusive(sys::spdk_bdev_desc_get_bdev(desc)) };
        0
    };
    // SAFETY: as above.
    unsafe { start_on_app(desc, (), function, |_, _, ()| ()) }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(desc) = self.desc.take() else { return };
        let kind = self.kind;
        // SAFETY: the descriptor belongs to its home, and this guard had the share.
        unsafe {
            desc.home().run(move || {
                if kind == ClaimKind::Exclusive
                    && let Err(error) = release(&desc)
                {
                    log::error!("bdev {} stays claimed: {error}", desc.name());
                }
            });
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("kind", &self.kind).finish_non_exhaustive()
    }
}
