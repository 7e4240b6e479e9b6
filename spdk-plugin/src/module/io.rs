//! An I/O request as its handler sees it (`struct spdk_bdev_io` in `spdk/bdev_module.h`).

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::slice;

use spdk_plugin_sys as sys;

use super::base::BaseChannel;
use super::cell::IoCell;
use super::kind::{IoKind, IoKinds};
use super::record::Record;
use super::status::{IoError, IoResult};
use crate::bdev::Forward;
use crate::dma::DmaRegion;

/// A request that was submitted to a bdev, owned by the handler that serves it.
///
/// The handler's result is the request's completion: `Ok(())` is success, an [`IoError`] says what
/// went wrong. So a request is completed exactly once, and its buffers cannot be touched afterwards. A
/// handler that panics fails its request; one that is cancelled, by an abort or a reset, is dropped at
/// the `.await` that it is in, and the request ends as aborted.
///
/// A request stays on its thread, and it does not outlive its handler.
#[must_use = "the handler's result completes the request"]
pub struct BdevIo<'io> {
    cell: CellRef<'io>,
}

/// A reference to a request's cell that stays on its thread. The pointer alone says so: the compiler
/// would name each part of the cell to one who sends a request away.
struct CellRef<'io> {
    cell: NonNull<IoCell>,
    _cell: PhantomData<fn(&'io IoCell) -> &'io IoCell>,
}

impl Deref for CellRef<'_> {
    type Target = IoCell;

    #[inline]
    fn deref(&self) -> &IoCell {
        // SAFETY: made from a reference that lives longer.
        unsafe { self.cell.as_ref() }
    }
}

/// Tells requests of one bdev apart, to find the one that an abort is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoId(usize);

/// How a zcopy request ends or starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZcopyStart {
    /// The submitter wants to read what is there; otherwise it will overwrite all of it.
    pub populate: bool,
}

impl<'io> BdevIo<'io> {
    pub(crate) fn new(cell: &'io IoCell) -> Self {
        Self { cell: CellRef { cell: NonNull::from(cell), _cell: PhantomData } }
    }

    /// Where its handler runs. It stays as long as this does.
    pub(crate) fn cell(&self) -> NonNull<IoCell> {
        self.cell.cell
    }

    /// Reads a field of the C struct.
    #[inline]
    fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: the request is with us, and the shim's layout says that a `T` lies there.
        unsafe { field(self.cell.io(), offset) }
    }

    /// Reads a field of the bdev's C struct.
    #[inline]
    fn bdev_field<T: Copy>(&self, offset: u32) -> T {
        let bdev: *const u8 = self.field(sys::SPDKP_IO_BDEV);
        // SAFETY: a bdev outlives its requests, and the shim's layout says that a `T` lies there.
        unsafe { bdev.wrapping_add(offset as usize).cast::<T>().read() }
    }

    /// The number of a request's kind.
    ///
    /// # Safety
    /// The request is with us.
    #[inline]
    pub(crate) unsafe fn kind_of(io: *mut sys::spdk_bdev_io) -> u8 {
        // SAFETY: the shim's layout says that it lies there.
        unsafe { field(io, sys::SPDKP_IO_TYPE) }
    }

    pub(crate) fn raw_kind(&self) -> u8 {
        self.field(sys::SPDKP_IO_TYPE)
    }

    /// What is asked for; `None` is a kind of a release that is newer than this crate.
    #[inline]
    pub fn kind(&self) -> Option<IoKind> {
        IoKind::from_raw(self.raw_kind().into())
    }

    /// This request among those of its bdev.
    pub fn id(&self) -> IoId {
        IoId(self.cell.io().addr())
    }

    /// The first block. 0 for kinds without a range.
    #[inline]
    pub fn offset_blocks(&self) -> u64 {
        if self.has_range() { self.field(sys::SPDKP_IO_OFFSET_BLOCKS) } else { 0 }
    }

    /// How many blocks. 0 for kinds without a length.
    #[inline]
    pub fn num_blocks(&self) -> u64 {
        if self.has_range() && !matches!(self.kind(), Some(IoKind::SeekHole | IoKind::SeekData)) {
            self.field(sys::SPDKP_IO_NUM_BLOCKS)
        } else {
            0
        }
    }

    /// The range in blocks. The bdev layer has checked that it lies within the bdev.
    #[inline]
    pub fn blocks(&self) -> Range<u64> {
        self.offset_blocks()..self.offset_blocks() + self.num_blocks()
    }

    /// The range in bytes, with interleaved metadata counted in.
    #[inline]
    pub fn bytes(&self) -> Range<u64> {
        let size = u64::from(self.block_size());
        let start = self.offset_blocks() * size;
        start..start + self.num_blocks() * size
    }

    /// The bdev's block size in bytes, with interleaved metadata counted in.
    #[inline]
    pub fn block_size(&self) -> u32 {
        self.bdev_field(sys::SPDKP_BDEV_BLOCKLEN)
    }

    /// Whether `u.bdev` of the C union is the one in use.
    #[inline]
    fn has_range(&self) -> bool {
        !matches!(
            self.kind(),
            None | Some(
                IoKind::Reset
                    | IoKind::Abort
                    | IoKind::NvmeAdmin
                    | IoKind::NvmeIo
                    | IoKind::NvmeIoMd
                    | IoKind::NvmeIovMd
                    | IoKind::GetZoneInfo
                    | IoKind::ZoneManagement
            )
        )
    }

    /// Whether data go with the request. SPDK takes requests from a pool and leaves what the kind has no
    /// use for as it was, so other kinds' vectors are somebody else's.
    #[inline]
    fn has_data(&self) -> bool {
        const DATA: IoKinds = IoKinds::READ
            .and(IoKinds::WRITE)
            .and(IoKinds::COMPARE)
            .and(IoKinds::COMPARE_AND_WRITE)
            .and(IoKinds::ZONE_APPEND);
        DATA.contains_raw(self.raw_kind().into())
    }

    /// Whether the data lie in a memory domain, whose addresses mean nothing here.
    #[inline]
    fn is_elsewhere(&self) -> bool {
        // SAFETY: the request is with us, and it has data.
        !self.cell.channel().device().domains().is_null()
            && unsafe { sys::spdkp_io_in_domain(self.cell.io()) }
    }

    #[inline]
    fn is_read(&self) -> bool {
        self.raw_kind() == IoKind::Read as u8
    }

    #[inline]
    fn iovs(&self) -> &[sys::iovec] {
        if !self.has_data() || self.is_elsewhere() {
            return &[];
        }
        let iovs: *const sys::iovec = self.field(sys::SPDKP_IO_IOVS);
        let count: i32 = self.field(sys::SPDKP_IO_IOVCNT);
        let count = usize::try_from(count).unwrap_or(0);
        if iovs.is_null() || count == 0 {
            return &[];
        }
        // SAFETY: the request has that many vectors and nobody changes them while it is with us.
        unsafe { slice::from_raw_parts(iovs, count) }
    }

    /// The data that a request brings, in order. Empty for kinds that bring none: a read's buffers are
    /// reached by [`bufs_mut`](Self::bufs_mut), and a zcopy's data by what it was lent.
    #[inline]
    pub fn bufs(&self) -> impl Iterator<Item = &[u8]> {
        // A device below may be filling in a read's.
        let iovs = if self.is_read() { &[] } else { self.iovs() };
        iovs.iter().filter(|iov| !iov.iov_base.is_null()).map(|iov| {
            // SAFETY: the vector is the submitter's memory, lent to us until we complete the request,
            // and `&self` keeps `bufs_mut` away.
            unsafe { slice::from_raw_parts(iov.iov_base.cast(), iov.iov_len) }
        })
    }

    /// The buffers of a read, to be filled in, in order. A read that came without was given some
    /// (`spdk_bdev_io_get_buf`) before its handler was called. Empty for all other kinds, as what a write
    /// brings is not ours to change, and while a base fills them in for a [`forward`](Self::forward) that
    /// was dropped.
    #[inline]
    pub fn bufs_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let ours = self.is_read() && !self.cell.has_children();
        let iovs = if ours { self.iovs() } else { &[] };
        iovs.iter().filter(|iov| !iov.iov_base.is_null()).map(|iov| {
            // SAFETY: the vector is the submitter's memory, lent to us alone until we complete the
            // request; vectors of one request do not overlap, and `&mut self` makes this the only loan.
            unsafe { slice::from_raw_parts_mut(iov.iov_base.cast(), iov.iov_len) }
        })
    }

    /// As [`bufs`](Self::bufs), each with the byte of the bdev that its data belong to.
    #[inline]
    pub fn chunks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut end = self.bytes().start;
        self.bufs().map(move |buf| {
            let at = end;
            end += buf.len() as u64;
            (at, buf)
        })
    }

    /// As [`bufs_mut`](Self::bufs_mut), each with the byte of the bdev that its data belong to.
    #[inline]
    pub fn chunks_mut(&mut self) -> impl Iterator<Item = (u64, &mut [u8])> {
        let mut end = self.bytes().start;
        self.bufs_mut().map(move |buf| {
            let at = end;
            end += buf.len() as u64;
            (at, buf)
        })
    }

    /// The separate metadata that a request brings, where the bdev has such and the submitter passed it.
    pub fn metadata(&self) -> Option<&[u8]> {
        if self.is_read() {
            return None;
        }
        let (base, len) = self.raw_metadata()?;
        // SAFETY: as in `bufs`.
        Some(unsafe { slice::from_raw_parts(base.cast(), len) })
    }

    /// The separate metadata of a read, to be filled in.
    pub fn metadata_mut(&mut self) -> Option<&mut [u8]> {
        if !self.is_read() || self.cell.has_children() {
            return None;
        }
        let (base, len) = self.raw_metadata()?;
        // SAFETY: as in `bufs_mut`.
        Some(unsafe { slice::from_raw_parts_mut(base.cast(), len) })
    }

    fn raw_metadata(&self) -> Option<(*mut c_void, usize)> {
        if !self.has_data() {
            return None;
        }
        let base: *mut c_void = self.field(sys::SPDKP_IO_MD_BUF);
        let per_block: u32 = self.bdev_field(sys::SPDKP_BDEV_MD_LEN);
        let len = usize::try_from(self.num_blocks() * u64::from(per_block)).ok()?;
        (!base.is_null()).then_some((base, len))
    }

    /// Sets the dword 0 of an NVMe completion, for requests that end well.
    pub fn set_cdw0(&mut self, cdw0: u32) {
        self.cell.set_cdw0(cdw0);
    }

    /// The first source block of a [`IoKind::Copy`]; its destination is [`blocks`](Self::blocks).
    pub fn copy_source_blocks(&self) -> u64 {
        // SAFETY: the request is with us.
        unsafe { sys::spdkp_io_copy_source(self.cell.io()) }
    }

    /// What the start of a zcopy asks for.
    pub fn zcopy_start(&self) -> ZcopyStart {
        // SAFETY: the request is with us.
        let flags = unsafe { sys::spdkp_io_zcopy_flags(self.cell.io()) };
        ZcopyStart { populate: flags & sys::SPDKP_ZCOPY_POPULATE != 0 }
    }

    /// Whether the end of a zcopy is to be written to the device.
    pub fn zcopy_commits(&self) -> bool {
        // SAFETY: the request is with us.
        let flags = unsafe { sys::spdkp_io_zcopy_flags(self.cell.io()) };
        flags & sys::SPDKP_ZCOPY_COMMIT != 0
    }

    /// Answers the start of a zcopy with `range` of the region's own memory, which must be as long as
    /// [`bytes`](Self::bytes). The region stays until the submitter has given it back.
    ///
    /// # Errors
    /// [`IoError::Failed`] if the range lies outside the region or has another length, and for requests
    /// other than the start of a zcopy.
    pub fn lend(&mut self, region: &DmaRegion, range: Range<usize>) -> IoResult {
        let bytes = self.bytes();
        // SAFETY: the request is with us; the flags are read for a zcopy alone.
        let starts = self.kind() == Some(IoKind::Zcopy)
            && unsafe { sys::spdkp_io_zcopy_flags(self.cell.io()) } & sys::SPDKP_ZCOPY_START != 0;
        if !starts || range.len() as u64 != bytes.end - bytes.start {
            return Err(IoError::Failed);
        }
        let start = region.at(&range).ok_or(IoError::Failed)?;
        // SAFETY: checked to be a zcopy.
        unsafe { Record::lent(self.cell.io()) }.set(Some(region.clone()));
        // SAFETY: the memory stays while the record holds the region, which is until the zcopy's end.
        unsafe { sys::spdk_bdev_io_set_buf(self.cell.io(), start.cast(), range.len()) };
        Ok(())
    }

    /// What [`lend`](Self::lend) has lent for the zcopy that ends here.
    pub fn lent(&self) -> Option<DmaRegion> {
        if self.kind() != Some(IoKind::Zcopy) {
            return None;
        }
        // SAFETY: checked to be a zcopy.
        let cell = unsafe { Record::lent(self.cell.io()) };
        let lent = cell.take();
        cell.set(lent.clone());
        lent
    }

    /// The request that a [`IoKind::Abort`] is about.
    pub fn abort_target(&self) -> Option<IoId> {
        (self.kind() == Some(IoKind::Abort)).then(|| {
            let target: *mut sys::spdk_bdev_io = self.field(sys::SPDKP_IO_ABORT_TARGET);
            IoId(target.addr())
        })
    }

    /// An NVMe passthrough: the command's 64 bytes, and the data and metadata that go with it.
    pub fn nvme(&mut self) -> Option<NvmeRequest<'_>> {
        let nvme =
            matches!(self.kind(), Some(IoKind::NvmeAdmin | IoKind::NvmeIo | IoKind::NvmeIoMd));
        if !nvme || self.cell.has_children() {
            return None;
        }
        let mut raw = sys::spdkp_nvme {
            cmd: std::ptr::null(),
            buf: std::ptr::null_mut(),
            len: 0,
            md_buf: std::ptr::null_mut(),
            md_len: 0,
        };
        let bytes = |base: *mut c_void, len: usize| -> &mut [u8] {
            if base.is_null() {
                return &mut [];
            }
            // SAFETY: as in `bufs_mut`.
            unsafe { slice::from_raw_parts_mut(base.cast(), len) }
        };
        // SAFETY: the request is a passthrough and with us; a command is 64 bytes.
        unsafe {
            sys::spdkp_io_nvme(self.cell.io(), &raw mut raw);
            Some(NvmeRequest {
                command: &*raw.cmd.cast(),
                data: bytes(raw.buf, raw.len),
                metadata: bytes(raw.md_buf, raw.md_len),
            })
        }
    }

    /// Submits the request to a base, with its own buffers and whatever else goes with it, and gives how the
    /// base ended it. An abort is not forwarded: [`Bdev`](super::Bdev) says what becomes of one.
    ///
    /// A request may be forwarded several times, also at once. It is completed when its handler has
    /// returned and all that was forwarded has ended. SPDK being out of requests is waited for.
    ///
    /// ```
    /// # use spdk_plugin::module::{BaseChannel, BdevIo, IoResult};
    /// async fn read(base: &BaseChannel, mut io: BdevIo<'_>) -> IoResult {
    ///     io.forward(base).await?;
    ///     io.bufs_mut().flatten().for_each(|byte| *byte = !*byte);
    ///     Ok(())
    /// }
    /// ```
    #[inline]
    pub fn forward<'a>(&'a self, base: &'a BaseChannel) -> Forward<'a> {
        let offset = if self.has_range() { self.field(sys::SPDKP_IO_OFFSET_BLOCKS) } else { 0 };
        Forward::new(&self.cell, base.io(), offset)
    }

    /// As [`forward`](Self::forward), with the range moved to begin at the block `offset_blocks` of the base;
    /// the source of a copy moves with it. What it may not be used for are NVMe commands and zones, which
    /// name their blocks in ways of their own.
    #[inline]
    pub fn forward_at<'a>(&'a self, base: &'a BaseChannel, offset_blocks: u64) -> Forward<'a> {
        Forward::new(&self.cell, base.io(), offset_blocks)
    }

    /// Writes the protection information of the request's blocks into its metadata
    /// (`spdk_dif_generate`, `spdk_dix_generate`), as the bdev's options say.
    ///
    /// # Errors
    /// [`IoError::Failed`] if there is no room for it, and for requests that are not reads.
    pub fn generate_dif(&mut self) -> IoResult {
        if !self.is_read() {
            return Err(IoError::Failed);
        }
        // SAFETY: a read's vectors are set, and it is with us.
        match unsafe { sys::spdkp_dif_generate(self.cell.io()) } {
            0 => Ok(()),
            _ => Err(IoError::Failed),
        }
    }

    /// Checks the protection information of the request's blocks (`spdk_dif_verify`,
    /// `spdk_dix_verify`).
    ///
    /// # Errors
    /// [`IoError::Failed`] if a block's is wrong.
    pub fn verify_dif(&self) -> IoResult {
        let mut bad_block = 0;
        if !self.has_data() {
            return Err(IoError::Failed);
        }
        // SAFETY: the request is with us and has vectors.
        match unsafe { sys::spdkp_dif_verify(self.cell.io(), &raw mut bad_block) } {
            0 => Ok(()),
            _ => Err(IoError::Failed),
        }
    }
}

/// Reads a field of a request's C struct.
///
/// # Safety
/// The request is with us, and a `T` lies at `offset`.
#[inline]
unsafe fn field<T: Copy>(io: *mut sys::spdk_bdev_io, offset: u32) -> T {
    // SAFETY: says the caller.
    unsafe { io.cast::<u8>().wrapping_add(offset as usize).cast::<T>().read() }
}

/// Whether it shows at first sight that a read or a write has its buffers as the device wants them: its
/// addresses have no bit of `screen`.
///
/// # Safety
/// The request is a read or a write that is with us.
#[inline]
pub(crate) unsafe fn has_buffers(io: *mut sys::spdk_bdev_io, screen: usize) -> bool {
    // SAFETY: the shim's layout says what lies where; a read and a write have their vectors in `u.bdev`,
    // one at least.
    unsafe {
        let iovs: *const sys::iovec = field(io, sys::SPDKP_IO_IOVS);
        let base = (*iovs).iov_base.addr();
        base != 0
            && (screen == 0 || (base & screen == 0 && field::<i32>(io, sys::SPDKP_IO_IOVCNT) == 1))
    }
}

/// The length in bytes of the buffer that the bdev layer must provide: for a read that came without one,
/// and for data that lie at other addresses than multiples of `align_mask + 1`.
///
/// # Safety
/// The request is with us.
pub(crate) unsafe fn missing_buffer(io: *mut sys::spdk_bdev_io, align_mask: usize) -> Option<u64> {
    // SAFETY: the shim's layout says what lies where; a read and a write have their vectors in `u.bdev`,
    // one at least.
    unsafe {
        let kind = BdevIo::kind_of(io);
        let iovs: *const sys::iovec = field(io, sys::SPDKP_IO_IOVS);
        let missing = match kind {
            _ if kind == IoKind::Read as u8 => iovs.is_null() || (*iovs).iov_base.is_null(),
            _ if kind != IoKind::Write as u8 => return None,
            _ => false,
        };
        if !missing && (align_mask == 0 || is_aligned(io, iovs, align_mask)) {
            return None;
        }
        let bdev: *const u8 = field(io, sys::SPDKP_IO_BDEV);
        let block_size: u32 =
            bdev.wrapping_add(sys::SPDKP_BDEV_BLOCKLEN as usize).cast::<u32>().read();
        let blocks: u64 = field(io, sys::SPDKP_IO_NUM_BLOCKS);
        Some(blocks * u64::from(block_size))
    }
}

/// # Safety
/// The request is with us and has these vectors.
unsafe fn is_aligned(io: *mut sys::spdk_bdev_io, iovs: *const sys::iovec, mask: usize) -> bool {
    // SAFETY: says the caller.
    unsafe {
        let count: i32 = field(io, sys::SPDKP_IO_IOVCNT);
        let iovs = slice::from_raw_parts(iovs, usize::try_from(count).unwrap_or(0));
        iovs.iter().all(|iov| iov.iov_base.addr() & mask == 0)
    }
}

/// The parts of an NVMe passthrough.
#[derive(Debug)]
pub struct NvmeRequest<'a> {
    /// The submission queue entry.
    pub command: &'a [u8; 64],
    /// The data, to be read or filled in as the command says.
    pub data: &'a mut [u8],
    /// The metadata.
    pub metadata: &'a mut [u8],
}
