//! What a bdev tells of itself (the public fields of `struct spdk_bdev`), checked before SPDK sees it.

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use spdk_plugin_sys as sys;
use uuid::Uuid;

use super::Bdev;
use super::device::{BdevHandle, Device};
use crate::error::{Error, Result};
use crate::runtime::{PollStatus, Poller, on_app};

/// The longest name in bytes. SPDK sets no limit, but log lines, config files and other programs do.
const MAX_NAME: usize = 255;

/// Metadata that goes with every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes for each block.
    pub size: u32,
    /// They follow each block's data in the same buffer, rather than lie in one of their own.
    pub interleaved: bool,
}

/// Protection information in the metadata (`spdk/dif.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dif {
    /// DIF type 1, 2 or 3.
    pub kind: u8,
    /// It lies in the first bytes of the metadata, rather than in the last.
    pub at_head: bool,
    /// Check the guard.
    pub check_guard: bool,
    /// Check the application tag.
    pub check_app_tag: bool,
    /// Check the reference tag.
    pub check_ref_tag: bool,
    /// Format of the protection information: 0 is the 16-bit guard. SPDK 24.09 or later for others.
    pub pi_format: u8,
}

type PollFn<B> = Box<dyn FnMut(&B) -> PollStatus + Send>;

/// Describes a bdev and registers it (`spdk_bdev_register`).
///
/// Sizes are in bytes where the name does not say blocks. What is not set is SPDK's default.
///
/// ```no_run
/// # use spdk_plugin::{Result, bdev_module, module::{Bdev, BdevBuilder}};
/// # struct Zero;
/// # #[bdev_module(name = "zero")]
/// # impl Bdev for Zero { type Channel = (); fn channel(&self) -> Result<()> { Ok(()) } }
/// # async fn example() -> Result<()> {
/// let bdev = BdevBuilder::new("zero0", 4096, 262_144).write_cache(false).register(Zero).await?;
/// assert_eq!(bdev.num_blocks(), 262_144);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing before `register`"]
pub struct BdevBuilder<B> {
    name: String,
    product_name: Option<String>,
    aliases: Vec<String>,
    alignment: usize,
    metadata: Option<Metadata>,
    dif: Option<Dif>,
    pollers: Vec<(Duration, PollFn<B>)>,
    opts: sys::spdkp_bdev_opts,
}

// SAFETY: the one pointer fields in `opts` are NULL until `register` fills them in on the app thread.
unsafe impl<B> Send for BdevBuilder<B> {}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.opts.$name = $name;
                self
            }
        )*
    };
}

impl<B: Bdev> BdevBuilder<B> {
    /// A bdev of `num_blocks` blocks of `block_size` bytes of data each.
    pub fn new(name: impl Into<String>, block_size: u32, num_blocks: u64) -> Self {
        let opts =
            sys::spdkp_bdev_opts { block_size, num_blocks, ..sys::spdkp_bdev_opts::default() };
        Self {
            name: name.into(),
            product_name: None,
            aliases: Vec::new(),
            alignment: 1,
            metadata: None,
            dif: None,
            pollers: Vec::new(),
            opts,
        }
    }

    /// A bdev that is like another, such as its base: in size, blocks, metadata, what I/O it wants, and
    /// hints to its users. What limits the other's requests the bdev layer sees to when they come there.
    pub fn like(name: impl Into<String>, bdev: &crate::bdev::Bdev) -> Self {
        Self::like_part(name, bdev, bdev.num_blocks())
    }

    /// As [`like`](Self::like), of another size.
    pub(super) fn like_part(
        name: impl Into<String>,
        bdev: &crate::bdev::Bdev,
        num_blocks: u64,
    ) -> Self {
        let mut this = Self::new(name, bdev.data_block_size(), num_blocks);
        // Where the bdev layer cannot align so far for us, it does for the base.
        this.alignment = bdev.alignment().min(most_alignment());
        (this.metadata, this.dif) = (bdev.metadata(), bdev.dif());
        let opts = &mut this.opts;
        opts.write_cache = bdev.has_write_cache();
        opts.write_unit_size = bdev.write_unit_size();
        opts.optimal_io_boundary = bdev.optimal_io_boundary();
        opts.acwu = bdev.atomic_compare_and_write_unit() as u16;
        opts.physical_block_size = bdev.physical_block_size().unwrap_or(0);
        opts.preferred_write_alignment = bdev.preferred_write_alignment().unwrap_or(0);
        opts.preferred_write_granularity = bdev.preferred_write_granularity().unwrap_or(0);
        opts.optimal_write_size = bdev.optimal_write_size().unwrap_or(0);
        opts.preferred_unmap_alignment = bdev.preferred_unmap_alignment().unwrap_or(0);
        opts.preferred_unmap_granularity = bdev.preferred_unmap_granularity().unwrap_or(0);
        this
    }

    /// The UUID; without one SPDK makes one up.
    pub fn uuid(mut self, uuid: Option<Uuid>) -> Self {
        self.opts.uuid = *uuid.unwrap_or_default().as_bytes();
        self
    }

    /// What `bdev_get_bdevs` shows as the product. The module's name by default.
    pub fn product_name(mut self, product_name: impl Into<String>) -> Self {
        self.product_name = Some(product_name.into());
        self
    }

    /// One more name that the bdev is found by.
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// The alignment in bytes that the buffers of reads and writes must have: a power of two up to 4096, or
    /// 512 before SPDK 23.01. The bdev layer copies those that have another.
    pub fn buffer_alignment(mut self, alignment: usize) -> Self {
        self.alignment = alignment;
        self
    }

    /// The metadata of each block. Interleaved metadata makes the bdev's block longer.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// The protection information in the metadata.
    pub fn dif(mut self, dif: Dif) -> Self {
        self.dif = Some(dif);
        self
    }

    /// A poller on the app thread that goes with the bdev; see [`Poller`] for its period and result. For
    /// a poller on each thread that uses the bdev, keep a [`Poller`] in [`Bdev::Channel`].
    pub fn poller(
        mut self,
        period: Duration,
        function: impl FnMut(&B) -> PollStatus + Send + 'static,
    ) -> Self {
        self.pollers.push((period, Box::new(function)));
        self
    }

    setters! {
        /// Writes may be lost until they are flushed.
        write_cache: bool;
        /// Writes must be of a multiple of this many blocks, and aligned to it.
        write_unit_size: u32;
        /// I/O of up to this many blocks that does not cross a multiple of it is fastest.
        optimal_io_boundary: u32;
        /// Have the bdev layer split reads and writes at the optimal boundary.
        split_on_optimal_io_boundary: bool;
        /// Have the bdev layer split writes at the write unit. SPDK 22.09 or later.
        split_on_write_unit: bool;
        /// The size of the medium's own block. SPDK 21.07 or later shows it.
        physical_block_size: u32;
        /// Blocks that a compare-and-write may cover as one.
        acwu: u16;
        /// The longest segment of a request. SPDK 21.01 or later splits by it.
        max_segment_size: u32;
        /// The most segments of a request. SPDK 21.01 or later splits by it.
        max_num_segments: u32;
        /// The most blocks of a read or write. SPDK 24.01 or later splits by it.
        max_rw_size: u32;
        /// The most blocks of an unmap. SPDK 21.07 or later splits by it.
        max_unmap: u32;
        /// The most segments of an unmap. SPDK 21.07 or later splits by it.
        max_unmap_segments: u32;
        /// The most blocks of a write_zeroes. SPDK 21.07 or later splits by it.
        max_write_zeroes: u32;
        /// The most blocks of a copy. SPDK 23.01 or later splits by it.
        max_copy: u32;
        /// A hint to initiators, in blocks. SPDK 25.09 or later passes it on.
        preferred_write_alignment: u32;
        /// A hint to initiators, in blocks. SPDK 25.09 or later passes it on.
        preferred_write_granularity: u32;
        /// A hint to initiators, in blocks. SPDK 25.09 or later passes it on.
        optimal_write_size: u32;
        /// A hint to initiators, in blocks. SPDK 25.09 or later passes it on.
        preferred_unmap_alignment: u32;
        /// A hint to initiators, in blocks. SPDK 25.09 or later passes it on.
        preferred_unmap_granularity: u32;
    }

    /// Checks the options and tells the bdev's size in bytes, interleaved metadata counted in: for what
    /// must be allocated before the bdev is registered.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the option that cannot be.
    pub fn num_bytes(&self) -> Result<u64> {
        let opts = self.checked()?;
        Ok(opts.num_blocks * u64::from(opts.block_size))
    }

    /// Registers the bdev that `bdev` serves. It lives until it is unregistered, by
    /// [`BdevHandle::unregister`] or by SPDK's shutdown. Callable on any SPDK thread.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the option that cannot be, [`Error::Exists`] a name that is taken,
    /// [`Error::Unsupported`] what the SPDK in use lacks. Nothing is left behind.
    pub async fn register(self, bdev: B) -> Result<BdevHandle<B>> {
        on_app(move || self.register_here(bdev)).await?
    }

    /// On the app thread.
    pub(super) fn register_here(self, bdev: B) -> Result<BdevHandle<B>> {
        let mut opts = self.checked()?;
        if B::registration().raw().is_null() {
            return Err(Error::Invalid(format!(
                "module {} is not registered: name its crate in spdk_plugin!, and see the log for what \
                 its constructor said",
                B::NAME
            )));
        }
        let name = c_name("name", &self.name)?;
        let product = c_name("product name", self.product_name.as_deref().unwrap_or(B::NAME))?;
        let aliases: Vec<CString> =
            self.aliases.iter().map(|alias| c_name("alias", alias)).collect::<Result<_>>()?;
        require_free(&name)?;
        for alias in &aliases {
            require_free(alias)?;
        }
        if opts.uuid != [0; 16] {
            let uuid = Uuid::from_bytes(opts.uuid).to_string();
            require_free(&c_name("UUID", &uuid)?)?;
        }
        opts.name = name.as_ptr();
        opts.product_name = product.as_ptr();
        let (size, blocks) = (opts.block_size, opts.num_blocks);
        let device = Device::new(self.name, size, blocks, self.alignment, bdev);
        let handle = device.register(&name, &aliases, |ctx| {
            let mut needs = ptr::null();
            // SAFETY: the strings live through the call, which copies them.
            let raw = unsafe {
                sys::spdkp_bdev_new(B::registration().raw(), &raw const opts, ctx, &raw mut needs)
            };
            if !needs.is_null() {
                // SAFETY: the shim set it to one of its literals.
                let needs = unsafe { CStr::from_ptr(needs) }.to_str().unwrap_or("?");
                return Err(Error::Unsupported { what: "this DIF format".into(), needs });
            }
            if raw.is_null() { Err(Error::NoMemory("a bdev".into())) } else { Ok(raw) }
        })?;
        for (period, mut function) in self.pollers {
            let device = Arc::downgrade(handle.device());
            let poller = Poller::every(period, move || {
                device.upgrade().map_or(PollStatus::Idle, |device| function(&device.user))
            });
            match poller {
                Ok(poller) => handle.device().keep_poller(poller),
                Err(error) => {
                    handle.device().unregister_now();
                    return Err(error);
                }
            }
        }
        Ok(handle)
    }

    /// Checks the options together and works out what SPDK wants of them.
    fn checked(&self) -> Result<sys::spdkp_bdev_opts> {
        let mut opts = self.opts;
        let name = &self.name;
        let shown = shown(name);
        let invalid = |what: String| Err(Error::Invalid(format!("bdev {shown}: {what}")));
        if opts.block_size == 0 || !opts.block_size.is_multiple_of(512) {
            let size = opts.block_size;
            return invalid(format!("block_size is {size}; it must be a multiple of 512"));
        }
        if let Some(metadata) = self.metadata {
            if metadata.size == 0 || metadata.size > 4096 {
                return invalid(format!("metadata of {} bytes; 1 to 4096 will do", metadata.size));
            }
            opts.md_len = metadata.size;
            opts.md_interleave = metadata.interleaved;
            if metadata.interleaved {
                opts.block_size = match opts.block_size.checked_add(metadata.size) {
                    Some(size) => size,
                    None => return invalid("block_size and metadata exceed 4 GiB".into()),
                };
            }
        }
        if let Some(dif) = self.dif {
            if !(1..=3).contains(&dif.kind) {
                return invalid(format!("DIF type {}; there are 1, 2 and 3", dif.kind));
            }
            if opts.md_len < 8 {
                let size = opts.md_len;
                return invalid(format!("DIF takes 8 bytes of metadata, and there are {size}"));
            }
            opts.dif_type = dif.kind.into();
            opts.dif_is_head_of_md = dif.at_head;
            opts.dif_pi_format = dif.pi_format.into();
            opts.dif_check_flags = (dif.check_guard as u32 * sys::SPDK_DIF_FLAGS_GUARD_CHECK)
                | (dif.check_app_tag as u32 * sys::SPDK_DIF_FLAGS_APPTAG_CHECK)
                | (dif.check_ref_tag as u32 * sys::SPDK_DIF_FLAGS_REFTAG_CHECK);
        }
        let most = most_alignment();
        if !self.alignment.is_power_of_two() || self.alignment > most {
            let alignment = self.alignment;
            return invalid(format!(
                "buffer alignment {alignment}; a power of two up to {most} will do"
            ));
        }
        opts.alignment_log2 = u8::try_from(self.alignment.ilog2()).unwrap_or(0);
        check_size(name, opts.block_size, opts.num_blocks)?;
        if u64::from(opts.write_unit_size) > opts.num_blocks {
            let (unit, blocks) = (opts.write_unit_size, opts.num_blocks);
            return invalid(format!("a write unit of {unit} blocks exceeds its {blocks} blocks"));
        }
        if opts.split_on_optimal_io_boundary && opts.optimal_io_boundary == 0 {
            return invalid("it is to be split at an optimal boundary, but there is none".into());
        }
        if (opts.max_segment_size == 0) != (opts.max_num_segments == 0) {
            return invalid("max_segment_size and max_num_segments go together".into());
        }
        Ok(opts)
    }
}

/// How far the bdev layer can align the buffers of requests: its own are aligned to 512 bytes before 23.01.
fn most_alignment() -> usize {
    if sys::VERSION_MAJOR < 23 { 512 } else { 4096 }
}

/// Refuses a size that SPDK or its users would miscount.
pub(crate) fn check_size(name: &str, block_size: u32, num_blocks: u64) -> Result<()> {
    let bytes = num_blocks.checked_mul(u64::from(block_size));
    let fits = bytes.is_some_and(|bytes| i64::try_from(bytes).is_ok());
    if num_blocks > 0 && fits {
        return Ok(());
    }
    let name = shown(name);
    let most = i64::MAX.unsigned_abs() / u64::from(block_size.max(1));
    Err(Error::Invalid(format!(
        "bdev {name}: num_blocks is {num_blocks}; 1 to {most} blocks of {block_size} bytes will do"
    )))
}

fn c_name(what: &str, name: &str) -> Result<CString> {
    if name.is_empty() || name.len() > MAX_NAME {
        let len = name.len();
        return Err(Error::Invalid(format!("a {what} of {len} bytes; 1 to {MAX_NAME} will do")));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::Invalid(format!("{what} {name:?} has a control character in it")));
    }
    CString::new(name).map_err(|_| Error::Invalid(format!("{what} {name:?} has a NUL in it")))
}

/// The name as an error message shows it, however long it is.
fn shown(name: &str) -> String {
    let mut short: String = name.chars().take(64).collect();
    if short.len() < name.len() {
        short.push_str("...");
    }
    format!("{short:?}")
}

/// Refuses a name that cannot be or is taken. On the app thread.
pub(super) fn free_name(name: &str) -> Result<()> {
    require_free(&c_name("name", name)?)
}

/// On the app thread.
fn require_free(name: &CStr) -> Result<()> {
    // SAFETY: reads SPDK's table of names, on the app thread.
    let found = unsafe { !sys::spdk_bdev_get_by_name(name.as_ptr()).is_null() };
    let name = name.to_string_lossy();
    // A bdev's UUID is a name of its own.
    // SAFETY: reads SPDK's list of bdevs, on the app thread.
    let taken = |uuid: Uuid| unsafe { sys::spdkp_bdev_uuid_taken(uuid.as_bytes().as_ptr()) };
    if found || Uuid::parse_str(&name).is_ok_and(taken) {
        return Err(Error::Exists(format!(
            "there is a bdev {name:?} already; choose another name"
        )));
    }
    Ok(())
}
