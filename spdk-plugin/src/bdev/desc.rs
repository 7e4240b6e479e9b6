//! An open bdev (`struct spdk_bdev_desc`).

use std::ffi::{CStr, CString};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spdk_plugin_sys as sys;

use super::events::{Events, Shared, on_event};
use crate::error::{Error, Result};
use crate::runtime::home::{Home, HomeRef};
use crate::runtime::send_to_app;

/// A bdev that is open on the current SPDK thread.
///
/// It stays on its thread. SPDK's descriptor is closed there when this, the channels made from it, the
/// I/O in flight through those, and the guards it gave are all gone, in whatever order they go. A bdev
/// that is removed waits for that: watch [`events`](Self::events) and drop all of them at
/// [`Event::Remove`](super::Event::Remove). A descriptor that is forgotten keeps the bdev for good.
///
/// ```no_run
/// use spdk_plugin::bdev::BdevDesc;
///
/// let desc = BdevDesc::open("Malloc0", true)?;
/// println!("{} blocks of {} bytes", desc.num_blocks(), desc.block_size());
/// # Ok::<(), spdk_plugin::Error>(())
/// ```
pub struct BdevDesc {
    inner: Arc<DescInner>,
    _on_its_thread: PhantomData<*const ()>,
}

/// The descriptor itself. Whoever uses it holds a share; the last one has it closed where it was opened.
pub(crate) struct DescInner {
    raw: *mut sys::spdk_bdev_desc,
    bdev: *mut sys::spdk_bdev,
    name: Box<str>,
    writable: AtomicBool,
    block_size: u32,
    md_size: u32,
    md_interleaved: bool,
    alignment: usize,
    /// Whether it is to be released from a module's claim before it closes.
    claimed: AtomicBool,
    shared: Arc<Shared>,
    home: ManuallyDrop<HomeRef>,
}

// SAFETY: the pointers are SPDK's descriptor and bdev, which any thread may ask and get channels of while the
// descriptor is open. `home` is used by the drop alone, which takes it to its thread, and `shared` says
// itself who uses what of it.
unsafe impl Send for DescInner {}
// SAFETY: as above.
unsafe impl Sync for DescInner {}

/// How [`BdevDesc::open_with`] opens a bdev.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// For writing too. Refused when the bdev is claimed.
    pub write: bool,
    /// Leave interleaved metadata to SPDK: blocks are those without it. SPDK 25.05 or later.
    pub hide_metadata: bool,
}

impl OpenOptions {
    /// For reading only.
    pub const fn new() -> Self {
        Self { write: false, hide_metadata: false }
    }

    /// Sets [`write`](Self::write).
    pub const fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Sets [`hide_metadata`](Self::hide_metadata).
    pub const fn hide_metadata(mut self, hide: bool) -> Self {
        self.hide_metadata = hide;
        self
    }
}

impl BdevDesc {
    /// Opens the bdev of the name or alias `name` on the current SPDK thread, for reading or for
    /// writing too (`spdk_bdev_open_ext`). From 22.05 on its UUID serves as a name;
    /// [`Bdev::find`](super::Bdev::find) takes one on every release.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such bdev or it is being removed, [`Error::Busy`] when it is
    /// to be written and a module has claimed it, [`Error::WrongThread`] on a thread that is not SPDK's,
    /// [`Error::NoMemory`].
    pub fn open(name: &str, write: bool) -> Result<Self> {
        Self::open_with(name, OpenOptions::new().write(write))
    }

    /// As [`open`](Self::open), with more to choose (`spdk_bdev_open_ext_v2`).
    ///
    /// # Errors
    /// As for [`open`](Self::open), and [`Error::Unsupported`] for an option that the release lacks,
    /// [`Error::Invalid`] for one that does not suit the bdev.
    pub fn open_with(name: &str, options: OpenOptions) -> Result<Self> {
        DescInner::open(name, options).map(|inner| Self::of(Arc::new(inner)))
    }

    /// A handle on the current thread to what may have been opened on another.
    pub(crate) fn of(inner: Arc<DescInner>) -> Self {
        Self { inner, _on_its_thread: PhantomData }
    }

    pub(crate) fn inner(&self) -> &Arc<DescInner> {
        &self.inner
    }

    /// The bdev's name, which is not the alias or UUID that it may have been opened by.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether it may be written through this descriptor: it was opened so, or a claim has made it so.
    pub fn is_writable(&self) -> bool {
        self.inner.is_writable()
    }

    /// The size of a block in bytes, with interleaved metadata counted in unless it is hidden
    /// (`spdk_bdev_get_block_size`, `spdk_bdev_desc_get_block_size`).
    pub fn block_size(&self) -> u32 {
        self.inner.block_size
    }

    /// The present number of blocks (`spdk_bdev_get_num_blocks`).
    pub fn num_blocks(&self) -> u64 {
        self.inner.num_blocks()
    }

    /// The present size in bytes, [`num_blocks`](Self::num_blocks) times
    /// [`block_size`](Self::block_size).
    pub fn size(&self) -> u64 {
        self.num_blocks().saturating_mul(self.block_size().into())
    }

    /// What the address of a buffer should be a multiple of, in bytes (`spdk_bdev_get_buf_align`). SPDK
    /// copies the data of one that is not.
    pub fn alignment(&self) -> usize {
        self.inner.alignment
    }

    /// The metadata of a block in bytes, 0 for none or where it is hidden (`spdk_bdev_get_md_size`).
    pub fn md_size(&self) -> u32 {
        self.inner.md_size
    }

    /// Whether metadata lies behind the data of each block and not in a buffer of its own
    /// (`spdk_bdev_is_md_interleaved`).
    pub fn is_md_interleaved(&self) -> bool {
        self.inner.md_interleaved
    }

    /// What happens to the bdev, from its opening on.
    ///
    /// The stream does not keep the descriptor open; when that is closed the stream ends. Several
    /// streams of one descriptor each give every event, but for media events, which go to whoever
    /// asks first.
    pub fn events(&self) -> Events {
        Events::new(Arc::clone(&self.inner.shared))
    }

    /// Whether the bdev is being removed, and waits for this descriptor to close.
    pub fn is_removed(&self) -> bool {
        self.inner.shared.is_removed()
    }
}

impl fmt::Debug for BdevDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BdevDesc")
            .field("name", &self.name())
            .field("writable", &self.is_writable())
            .finish_non_exhaustive()
    }
}

impl DescInner {
    pub(crate) fn open(name: &str, options: OpenOptions) -> Result<Self> {
        let home = HomeRef::current().ok_or_else(|| {
            Error::WrongThread(format!(
                "bdev {name} can be opened on an SPDK thread only, and this is none"
            ))
        })?;
        let missing = || Error::NotFound(format!("there is no bdev {name:?}"));
        let c_name = CString::new(name).map_err(|_| missing())?;
        let shared = Arc::new(Shared::new(home.get()));
        let ctx = Arc::into_raw(Arc::clone(&shared));
        let (mut raw, mut needs) = (ptr::null_mut(), ptr::null());
        // SAFETY: on an SPDK thread; `ctx` is a share of the events' state that is taken back below or
        // when the descriptor has closed, after which SPDK calls no more.
        let rc = unsafe {
            sys::spdkp_desc_open(
                c_name.as_ptr(),
                options.write,
                options.hide_metadata,
                Some(on_event),
                ctx.cast_mut().cast(),
                &raw mut raw,
                &raw mut needs,
            )
        };
        if rc != 0 {
            // SAFETY: nothing was opened, so the share is still ours.
            drop(unsafe { Arc::from_raw(ctx) });
            return Err(match -rc {
                libc::ENODEV => missing(),
                libc::EPERM => Error::Busy(format!(
                    "bdev {name} is claimed by a module and cannot be opened for writing"
                )),
                libc::ENOTSUP if !needs.is_null() => Error::Unsupported {
                    what: format!("opening bdev {name} with its metadata hidden"),
                    // SAFETY: what the shim sets is a literal.
                    needs: unsafe { CStr::from_ptr(needs) }.to_str().unwrap_or("a later SPDK"),
                },
                libc::EINVAL => Error::Invalid(format!(
                    "bdev {name} has separate metadata, which cannot be hidden"
                )),
                _ => Error::from_rc(format!("opening bdev {name}"), rc),
            });
        }
        shared.opened(raw);
        // SAFETY: the descriptor is open, so its bdev is there.
        unsafe {
            let bdev = sys::spdk_bdev_desc_get_bdev(raw);
            let name = CStr::from_ptr(sys::spdk_bdev_get_name(bdev)).to_string_lossy();
            Ok(Self {
                raw,
                bdev,
                name: name.into(),
                writable: AtomicBool::new(options.write),
                block_size: sys::spdkp_desc_block_size(raw),
                md_size: sys::spdkp_desc_md_size(raw),
                md_interleaved: sys::spdkp_desc_md_interleaved(raw),
                alignment: sys::spdk_bdev_get_buf_align(bdev),
                claimed: AtomicBool::new(false),
                shared,
                home: ManuallyDrop::new(home),
            })
        }
    }

    /// SPDK's descriptor, open as long as `self` lives.
    pub(crate) fn raw(&self) -> *mut sys::spdk_bdev_desc {
        self.raw
    }

    /// SPDK's bdev, there as long as `self` lives.
    pub(crate) fn bdev(&self) -> *mut sys::spdk_bdev {
        self.bdev
    }

    /// The thread that it was opened on.
    pub(crate) fn home(&self) -> &'static Home {
        self.home.get()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn block_size(&self) -> u32 {
        self.block_size
    }

    pub(crate) fn md_size(&self) -> u32 {
        self.md_size
    }

    pub(crate) fn num_blocks(&self) -> u64 {
        // SAFETY: the bdev is there while the descriptor is open.
        unsafe { sys::spdk_bdev_get_num_blocks(self.bdev) }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// A claim lets a descriptor write that was opened for reading.
    pub(crate) fn set_writable(&self) {
        self.writable.store(true, Ordering::Relaxed);
    }

    /// Claims the bdev for a module, as one that sits on it does, until the descriptor closes. On the app
    /// thread, which is the descriptor's.
    pub(crate) fn claim(&self, module: *mut sys::spdkp_module) -> Result<()> {
        let mut needs = ptr::null();
        // SAFETY: on the app thread, with the descriptor open; the module is registered.
        let rc = unsafe {
            let kind = sys::SPDKP_CLAIM_EXCLUSIVE as i32;
            sys::spdkp_claim(self.raw, kind, c"".as_ptr(), 0, module, &raw mut needs)
        };
        match -rc {
            0 => {
                self.set_writable();
                self.claimed.store(true, Ordering::Relaxed);
                Ok(())
            }
            libc::EPERM | libc::EBUSY => {
                let name = &self.name;
                Err(Error::Busy(format!(
                    "bdev {name} is claimed already: something else sits on it"
                )))
            }
            _ => Err(Error::from_rc(format!("claiming bdev {}", self.name), rc)),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for DescInner {
    fn drop(&mut self) {
        // SAFETY: this is the drop.
        let home = unsafe { ManuallyDrop::take(&mut self.home) };
        let (thread, raw, shared) = (home.get(), self.raw, Arc::clone(&self.shared));
        let claimed = *self.claimed.get_mut();
        // If there is no way home it stays open: SPDK knows no other place to close it.
        // SAFETY: this was the last that used it.
        unsafe { thread.run(move || Open { raw, claimed, shared, home }.close()) };
    }
}

/// What is left to close.
struct Open {
    raw: *mut sys::spdk_bdev_desc,
    claimed: bool,
    shared: Arc<Shared>,
    home: HomeRef,
}

impl Open {
    fn close(self) {
        // SAFETY: the descriptor is open.
        if unsafe { sys::spdkp_desc_close_is_misplaced(self.raw) } {
            return self.close_in_two();
        }
        self.shared.closing();
        if self.claimed {
            // SAFETY: the bdev is open, and claimed by us on this thread.
            unsafe { sys::spdkp_release_exclusive(sys::spdk_bdev_desc_get_bdev(self.raw)) };
        }
        // SAFETY: opened on this thread and closed once, by the last who had it; SPDK makes no event of
        // it any more, so its share of the state comes back.
        unsafe {
            sys::spdk_bdev_close(self.raw);
            drop(Arc::from_raw(Arc::as_ptr(&self.shared)));
        }
        self.shared.closed();
    }

    /// Has the sampling of the queue depth stopped on the app thread, and closes then.
    #[cold]
    fn close_in_two(self) {
        let home = self.home.get();
        let raw = self.raw.expose_provenance();
        let this = Box::into_raw(Box::new(self)).expose_provenance();
        let stop = Box::new(move || {
            // SAFETY: the descriptor stays open until `on_open_home` closes it, which takes the box.
            unsafe {
                sys::spdkp_desc_stop_sampling(ptr::with_exposed_provenance_mut(raw));
                home.call(on_open_home, ptr::with_exposed_provenance_mut(this));
            }
        });
        if let Err(error) = send_to_app(stop) {
            log::error!("a bdev stays open: {error}");
        }
    }
}

unsafe extern "C" fn on_open_home(ctx: *mut std::ffi::c_void) {
    // SAFETY: the sender gave up the box, and this is the one call.
    let open = unsafe { Box::from_raw(ctx.cast::<Open>()) };
    let home = open.home.get();
    home.enter(|| open.close());
}
