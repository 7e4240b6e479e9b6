//! Finding bdevs and reading what they say of themselves.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

use spdk_plugin_sys as sys;
use uuid::Uuid;

use super::call::start_on_app;
use super::desc::{BdevDesc, DescInner, OpenOptions};
use crate::error::{Error, Result};
use crate::module::{Dif, IoKind, IoKinds, Metadata};
use crate::runtime::on_app;

/// A bdev of any module, as it was when it was looked up.
///
/// It holds nothing of SPDK's: it may be kept as long as one likes, goes to other threads, and does not
/// keep the bdev from being removed. What it tells stays what it was; [`refresh`](Self::refresh) looks
/// again, and [`BdevDesc`] has the size of the moment. [`open`](Self::open) makes sure that it is still
/// the same bdev.
///
/// ```no_run
/// use spdk_plugin::bdev::Bdev;
///
/// # async fn list() -> spdk_plugin::Result<()> {
/// for bdev in Bdev::all().await? {
///     println!("{}: {} blocks of {} bytes", bdev.name(), bdev.num_blocks(), bdev.block_size());
/// }
/// let desc = Bdev::find("Malloc0").await?.open(true)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Bdev {
    info: Arc<Info>,
}

#[derive(Debug)]
struct Info {
    name: String,
    product_name: String,
    module_name: String,
    claimed_by: Option<String>,
    aliases: Vec<String>,
    raw: Numbers,
}

/// What is not text. Its pointers are not used.
#[derive(Debug)]
struct Numbers(sys::spdkp_bdev_info);

// SAFETY: the pointers in it are set to null when it is made.
unsafe impl Send for Numbers {}
// SAFETY: as above.
unsafe impl Sync for Numbers {}

/// What a zoned bdev says of its zones. Sizes count blocks, and 0 open or active zones stands for no
/// limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Zones {
    /// The size of a zone.
    pub size: u64,
    /// The number of zones.
    pub count: u64,
    /// The most zones that may be open.
    pub max_open: u32,
    /// The most zones that may be open or closed. `None` before SPDK 21.04.
    pub max_active: Option<u32>,
    /// The number of open zones that works best.
    pub optimal_open: u32,
    /// The most blocks that can be appended at once, 0 for no limit. `None` before SPDK 21.04.
    pub max_append: Option<u32>,
}

impl Zones {
    /// The first block of the zone that `block` lies in.
    pub fn zone_of(&self, block: u64) -> u64 {
        block - block.checked_rem(self.size).unwrap_or(0)
    }
}

impl Bdev {
    /// The bdev of this name, alias or UUID. It may be asked on any SPDK thread, and is looked up on
    /// the app thread.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none or it is being removed, [`Error::NoMemory`].
    pub async fn find(name: &str) -> Result<Self> {
        let name = name.to_owned();
        on_app(move || {
            let missing = match Self::look_up(&name) {
                Err(error @ Error::NotFound(_)) => error,
                found => return found,
            };
            // Before 22.05 SPDK does not do this itself.
            let Ok(uuid) = Uuid::parse_str(&name) else { return Err(missing) };
            match name_of(&uuid) {
                Some(name) => Self::look_up(&name),
                None => Err(missing),
            }
        })
        .await?
    }

    /// The name or alias that SPDK finds a bdev by whose name, alias or UUID this is. On the app thread.
    pub(crate) fn name_of(name: &str) -> Option<String> {
        let c_name = CString::new(name).ok()?;
        // SAFETY: reads SPDK's table of names, on the app thread.
        if unsafe { !sys::spdk_bdev_get_by_name(c_name.as_ptr()).is_null() } {
            return Some(name.to_owned());
        }
        name_of(&Uuid::parse_str(name).ok()?)
    }

    /// All bdevs (`spdk_for_each_bdev`), but for those that are being removed.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub async fn all() -> Result<Vec<Self>> {
        Self::list(false).await
    }

    /// The bdevs that no module has claimed (`spdk_for_each_bdev_leaf`).
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub async fn leaves() -> Result<Vec<Self>> {
        Self::list(true).await
    }

    async fn list(leaves: bool) -> Result<Vec<Self>> {
        on_app(move || {
            let mut list = Vec::new();
            for name in names(leaves) {
                match Self::look_up(&name) {
                    Ok(bdev) => list.push(bdev),
                    Err(Error::NotFound(_)) => (),
                    Err(error) => return Err(error),
                }
            }
            Ok(list)
        })
        .await?
    }

    /// On the app thread. The bdev is open while it is read.
    fn look_up(name: &str) -> Result<Self> {
        let desc = DescInner::open(name, OpenOptions::new())?;
        // SAFETY: on the app thread, with the bdev open.
        Ok(unsafe { Self::read(desc.bdev()) })
    }

    /// # Safety
    /// On the app thread, with the bdev open.
    pub(crate) unsafe fn read(bdev: *mut sys::spdk_bdev) -> Self {
        let mut raw = sys::spdkp_bdev_info::default();
        let mut aliases = Vec::<String>::new();
        // SAFETY: says the caller; the strings are the bdev's and stay as long as it is open.
        unsafe {
            sys::spdkp_bdev_info(bdev, &raw mut raw);
            let ctx = (&raw mut aliases).cast();
            sys::spdkp_bdev_aliases(bdev, Some(on_name), ctx);
            let info = Info {
                name: text(raw.name),
                product_name: text(raw.product_name),
                module_name: text(raw.module_name),
                claimed_by: (!raw.claimer.is_null()).then(|| text(raw.claimer)),
                aliases,
                raw: Numbers(sys::spdkp_bdev_info {
                    name: std::ptr::null(),
                    product_name: std::ptr::null(),
                    module_name: std::ptr::null(),
                    claimer: std::ptr::null(),
                    ..raw
                }),
            };
            Self { info: Arc::new(info) }
        }
    }

    /// The same bdev as it is now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has gone, also when another has its name now.
    pub async fn refresh(&self) -> Result<Self> {
        let fresh = Self::find(self.name()).await?;
        if fresh.uuid() == self.uuid() { Ok(fresh) } else { Err(self.replaced()) }
    }

    /// Opens the bdev on the current SPDK thread, for reading or for writing too.
    ///
    /// # Errors
    /// As for [`BdevDesc::open`], and [`Error::NotFound`] when another bdev has its name now.
    pub fn open(&self, write: bool) -> Result<BdevDesc> {
        self.open_with(OpenOptions::new().write(write))
    }

    /// As [`open`](Self::open), with more to choose.
    ///
    /// # Errors
    /// As for [`open`](Self::open) and [`BdevDesc::open_with`].
    pub fn open_with(&self, options: OpenOptions) -> Result<BdevDesc> {
        let desc = BdevDesc::open_with(self.name(), options)?;
        let mut uuid = [0; 16];
        // SAFETY: the bdev is open.
        unsafe { sys::spdkp_bdev_uuid(desc.inner().bdev(), uuid.as_mut_ptr()) };
        if uuid == self.raw().uuid { Ok(desc) } else { Err(self.replaced()) }
    }

    fn replaced(&self) -> Error {
        Error::NotFound(format!(
            "bdev {} of UUID {} has gone; another has its name now",
            self.name(),
            self.uuid()
        ))
    }

    fn raw(&self) -> &sys::spdkp_bdev_info {
        &self.info.raw.0
    }

    /// The bdev's name (`spdk_bdev_get_name`).
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// What kind of device it is, in its module's words (`spdk_bdev_get_product_name`).
    pub fn product_name(&self) -> &str {
        &self.info.product_name
    }

    /// The name of the module that made it (`spdk_bdev_get_module_name`).
    pub fn module_name(&self) -> &str {
        &self.info.module_name
    }

    /// Other names of the bdev (`spdk_bdev_get_aliases`), from SPDK 22.05 on its UUID among them.
    pub fn aliases(&self) -> &[String] {
        &self.info.aliases
    }

    /// The bdev's UUID (`spdk_bdev_get_uuid`). SPDK makes one up for a bdev whose module has none.
    pub fn uuid(&self) -> Uuid {
        Uuid::from_bytes(self.raw().uuid)
    }

    /// Whether a module has claimed it, in whatever way.
    pub fn is_claimed(&self) -> bool {
        self.raw().claimed
    }

    /// The module that has claimed it exclusively.
    pub fn claimed_by(&self) -> Option<&str> {
        self.info.claimed_by.as_deref()
    }

    /// The size of a block in bytes, with interleaved metadata counted in
    /// (`spdk_bdev_get_block_size`).
    pub fn block_size(&self) -> u32 {
        self.raw().block_size
    }

    /// The size of a block's data in bytes (`spdk_bdev_get_data_block_size`).
    pub fn data_block_size(&self) -> u32 {
        self.raw().data_block_size
    }

    /// The block size of the medium in bytes (`spdk_bdev_get_physical_block_size`). `None` before SPDK
    /// 21.07.
    pub fn physical_block_size(&self) -> Option<u32> {
        known(self.raw().physical_block_size)
    }

    /// The number of blocks (`spdk_bdev_get_num_blocks`).
    pub fn num_blocks(&self) -> u64 {
        self.raw().num_blocks
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.num_blocks().saturating_mul(self.block_size().into())
    }

    /// Writes must start at and be a multiple of this many blocks (`spdk_bdev_get_write_unit_size`).
    pub fn write_unit_size(&self) -> u32 {
        self.raw().write_unit_size
    }

    /// Blocks between boundaries that I/O had better not cross, 0 for none
    /// (`spdk_bdev_get_optimal_io_boundary`).
    pub fn optimal_io_boundary(&self) -> u32 {
        self.raw().optimal_io_boundary
    }

    /// What the address of a buffer should be a multiple of, in bytes (`spdk_bdev_get_buf_align`).
    pub fn alignment(&self) -> usize {
        self.raw().alignment as usize
    }

    /// The most blocks that a compare-and-write covers (`spdk_bdev_get_acwu`).
    pub fn atomic_compare_and_write_unit(&self) -> u32 {
        self.raw().acwu
    }

    /// The metadata of each block (`spdk_bdev_get_md_size`, `spdk_bdev_is_md_interleaved`).
    pub fn metadata(&self) -> Option<Metadata> {
        let (size, interleaved) = (self.raw().md_size, self.raw().md_interleaved);
        (size != 0).then_some(Metadata { size, interleaved })
    }

    /// The protection information in the metadata (`spdk_bdev_get_dif_type` and others).
    pub fn dif(&self) -> Option<Dif> {
        let raw = self.raw();
        let checks = |check: u32| raw.dif_checks & check != 0;
        (raw.dif_type != 0).then(|| Dif {
            kind: u8::try_from(raw.dif_type).unwrap_or(0),
            at_head: raw.dif_at_head,
            check_guard: checks(sys::SPDKP_DIF_CHECK_GUARD),
            check_app_tag: checks(sys::SPDKP_DIF_CHECK_APP_TAG),
            check_ref_tag: checks(sys::SPDKP_DIF_CHECK_REF_TAG),
            pi_format: u8::try_from(raw.dif_pi_format).unwrap_or(0),
        })
    }

    /// Whether writes are durable only after a flush (`spdk_bdev_has_write_cache`).
    pub fn has_write_cache(&self) -> bool {
        self.raw().write_cache
    }

    /// Whether it tells of ranges that it wants moved, as [`Event::Media`](super::Event::Media).
    pub fn has_media_events(&self) -> bool {
        self.raw().media_events
    }

    /// Whether it serves I/O of this kind (`spdk_bdev_io_type_supported`).
    pub fn supports(&self, kind: IoKind) -> bool {
        self.kinds().contains(kind)
    }

    /// The kinds of I/O that it serves.
    pub fn kinds(&self) -> IoKinds {
        let found = |kind: &IoKind| self.raw().io_types & 1 << *kind as u32 != 0;
        IoKind::all().filter(found).fold(IoKinds::NONE, |kinds, kind| kinds.and(kind.into()))
    }

    /// The zones of a zoned bdev (`spdk_bdev_is_zoned`, `spdk/bdev_zone.h`).
    pub fn zones(&self) -> Option<Zones> {
        let raw = self.raw();
        raw.zoned.then(|| Zones {
            size: raw.zone_size,
            count: raw.num_zones,
            max_open: raw.max_open_zones,
            max_active: known(raw.max_active_zones),
            optimal_open: raw.optimal_open_zones,
            max_append: known(raw.max_zone_append_size),
        })
    }

    /// The NUMA node that the device hangs on (`spdk_bdev_get_numa_id`). `None` when it is not known,
    /// and before SPDK 24.09.
    pub fn numa_node(&self) -> Option<u32> {
        known(self.raw().numa_id)
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        impl Bdev {
            $($(#[$doc])* pub fn $name(&self) -> Option<u32> {
                known(self.raw().$name)
            })*
        }
    };
}

limits! {
    /// The most blocks that one read or write of the device moves; SPDK splits longer ones. 0 stands
    /// for no limit, `None` for a release before 24.01.
    max_rw_size;
    /// The longest segment of one read or write in bytes, 0 for any. `None` before SPDK 21.01.
    max_segment_size;
    /// The most segments of one read or write, 0 for any. `None` before SPDK 21.01.
    max_num_segments;
    /// The most blocks in a segment of an unmap, 0 for any. `None` before SPDK 21.07.
    max_unmap;
    /// The most segments of an unmap, 0 for any. `None` before SPDK 21.07.
    max_unmap_segments;
    /// The most blocks that one write-zeroes of the device covers, 0 for any. `None` before SPDK 21.07.
    max_write_zeroes;
    /// The most blocks of a copy, 0 for any (`spdk_bdev_get_max_copy`). `None` before SPDK 23.01.
    max_copy;
    /// Writes do best that start at a multiple of this many blocks. `None` before SPDK 25.09, as for
    /// the following.
    preferred_write_alignment;
    /// Writes do best that are a multiple of this many blocks.
    preferred_write_granularity;
    /// Writes do best that have this many blocks.
    optimal_write_size;
    /// Unmaps do best that start at a multiple of this many blocks.
    preferred_unmap_alignment;
    /// Unmaps do best that are a multiple of this many blocks.
    preferred_unmap_granularity;
}

impl BdevDesc {
    /// All that the open bdev says of itself now. It is read on the app thread.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub async fn bdev(&self) -> Result<Bdev> {
        // SAFETY: on the app thread, with the bdev open.
        let answer = unsafe {
            start_on_app(
                self.inner(),
                None,
                |desc, out| {
                    *out = Some(Bdev::read(sys::spdk_bdev_desc_get_bdev(desc)));
                    0
                },
                |_, _, bdev| bdev,
            )?
        };
        answer.get().await?.ok_or_else(|| Error::NoMemory(format!("bdev {}", self.name())))
    }
}

fn known(value: u32) -> Option<u32> {
    (value != sys::SPDKP_UNKNOWN).then_some(value)
}

/// # Safety
/// The string ends in NUL, or the pointer is null.
unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: says the caller.
    unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
}

/// `spdkp_name_fn`, for a `Vec<String>`.
unsafe extern "C" fn on_name(ctx: *mut c_void, name: *const c_char) {
    // SAFETY: whoever passed this function passed a list with it, and SPDK a name.
    unsafe { (*ctx.cast::<Vec<String>>()).push(text(name)) };
}

/// On the app thread.
fn names(leaves: bool) -> Vec<String> {
    let mut list = Vec::<String>::new();
    // SAFETY: on the app thread; the list outlives the call.
    unsafe { sys::spdkp_bdev_names(leaves, Some(on_name), (&raw mut list).cast()) };
    list
}

/// On the app thread.
fn name_of(uuid: &Uuid) -> Option<String> {
    let mut list = Vec::<String>::new();
    // SAFETY: as above.
    unsafe {
        sys::spdkp_bdev_name_of(uuid.as_bytes().as_ptr(), Some(on_name), (&raw mut list).cast());
    }
    list.pop()
}
