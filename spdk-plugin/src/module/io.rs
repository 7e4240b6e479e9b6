//! An I/O request as its handler sees it (`struct spdk_bdev_io` in `spdk/bdev_module.h`).

use std::ffi::c_void;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::Pin;
use std::slice;
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::cell::{Buffer, IoCell};
use super::kind::IoKind;
use super::status::{IoError, IoResult};
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
    cell: &'io IoCell,
    _unique: PhantomData<*mut &'io mut ()>,
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
        Self { cell, _unique: PhantomData }
    }

    /// Reads a field of the C struct.
    #[inline]
    fn field<T: Copy>(&self, offset: u32) -> T {
        let at = self.cell.io().cast::<u8>().wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the request is with us, and the shim's layout says that a `T` lies there.
        unsafe { at.read() }
    }

    /// Reads a field of the bdev's C struct.
    #[inline]
    fn bdev_field<T: Copy>(&self, offset: u32) -> T {
        let bdev: *const u8 = self.field(sys::SPDKP_IO_BDEV);
        // SAFETY: a bdev outlives its requests, and the shim's layout says that a `T` lies there.
        unsafe { bdev.wrapping_add(offset as usize).cast::<T>().read() }
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

    /// How many blocks. 0 for kinds without a range.
    #[inline]
    pub fn num_blocks(&self) -> u64 {
        if self.has_range() { self.field(sys::SPDKP_IO_NUM_BLOCKS) } else { 0 }
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

    #[inline]
    fn iovs(&self) -> &[sys::iovec] {
        if !self.has_range() {
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

    /// The request's data, in order: what a write brings, or what a read has put there so far. Empty
    /// for a read that came without a buffer, until [`get_buf`](Self::get_buf).
    #[inline]
    pub fn bufs(&self) -> impl Iterator<Item = &[u8]> {
        self.iovs().iter().filter(|iov| !iov.iov_base.is_null()).map(|iov| {
            // SAFETY: the vector is the submitter's memory, lent to us until we complete the request,
            // and `&self` keeps `bufs_mut` away.
            unsafe { slice::from_raw_parts(iov.iov_base.cast(), iov.iov_len) }
        })
    }

    /// The request's data to be filled in, in order. See [`bufs`](Self::bufs).
    #[inline]
    pub fn bufs_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.iovs().iter().filter(|iov| !iov.iov_base.is_null()).map(|iov| {
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

    /// Whether a read came with a buffer to be filled, or has got one.
    #[inline]
    pub fn has_buf(&self) -> bool {
        self.iovs().first().is_some_and(|iov| !iov.iov_base.is_null())
    }

    /// The separate metadata of the blocks, where the bdev has such and the submitter passed it.
    pub fn metadata(&self) -> Option<&[u8]> {
        let (base, len) = self.raw_metadata()?;
        // SAFETY: as in `bufs`.
        Some(unsafe { slice::from_raw_parts(base.cast(), len) })
    }

    /// The separate metadata of the blocks to be filled in.
    pub fn metadata_mut(&mut self) -> Option<&mut [u8]> {
        let (base, len) = self.raw_metadata()?;
        // SAFETY: as in `bufs_mut`.
        Some(unsafe { slice::from_raw_parts_mut(base.cast(), len) })
    }

    fn raw_metadata(&self) -> Option<(*mut c_void, usize)> {
        if !self.has_range() {
            return None;
        }
        let base: *mut c_void = self.field(sys::SPDKP_IO_MD_BUF);
        let per_block: u32 = self.bdev_field(sys::SPDKP_BDEV_MD_LEN);
        let len = usize::try_from(self.num_blocks() * u64::from(per_block)).ok()?;
        (!base.is_null()).then_some((base, len))
    }

    /// Gets a buffer for a read that came without one (`spdk_bdev_io_get_buf`); a request that has one
    /// is ready at once. It may have to wait until other requests give buffers back.
    ///
    /// # Errors
    /// [`IoError::NoMemory`] when SPDK has no buffer of the size.
    pub async fn get_buf(&mut self) -> IoResult {
        if self.has_buf() {
            return Ok(());
        }
        GetBuf { io: self }.await
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

    /// Answers the start of a zcopy with `range` of the region's own memory. The region stays until the
    /// submitter has given it back.
    ///
    /// # Errors
    /// [`IoError::Failed`] if the range lies outside the region.
    pub fn lend(&mut self, region: &DmaRegion, range: Range<usize>) -> IoResult {
        let start = region.at(&range).ok_or(IoError::Failed)?;
        self.cell.lent.set(Some(region.clone()));
        // SAFETY: the memory stays while the cell holds the region, which is until the zcopy's end.
        unsafe { sys::spdk_bdev_io_set_buf(self.cell.io(), start.cast(), range.len()) };
        Ok(())
    }

    /// Whether the memory that this zcopy gives back is the region's own.
    pub fn was_lent(&self) -> bool {
        let lent = self.cell.lent.take();
        let was = lent.is_some();
        self.cell.lent.set(lent);
        was
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
        if !matches!(self.kind(), Some(IoKind::NvmeAdmin | IoKind::NvmeIo | IoKind::NvmeIoMd)) {
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

    /// Writes the protection information of the request's blocks into its metadata
    /// (`spdk_dif_generate`, `spdk_dix_generate`), as the bdev's options say.
    ///
    /// # Errors
    /// [`IoError::Failed`] if there is no room for it.
    pub fn generate_dif(&mut self) -> IoResult {
        // SAFETY: the request is with us, and its vectors are filled in.
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
        // SAFETY: the request is with us.
        match unsafe { sys::spdkp_dif_verify(self.cell.io(), &raw mut bad_block) } {
            0 => Ok(()),
            _ => Err(IoError::Failed),
        }
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

struct GetBuf<'a, 'io> {
    io: &'a mut BdevIo<'io>,
}

impl Future for GetBuf<'_, '_> {
    type Output = IoResult;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<IoResult> {
        let cell = self.io.cell;
        if cell.buffer() == Buffer::Unasked {
            cell.set_buffer(Buffer::Asked);
            cell.child_started();
            let bytes = self.io.bytes();
            // SAFETY: the request is with us and on its thread; it is not completed before the
            // callback has come, as it counts as a child.
            unsafe { sys::spdk_bdev_io_get_buf(cell.io(), Some(got_buf), bytes.end - bytes.start) };
        }
        match cell.buffer() {
            Buffer::Unasked | Buffer::Asked => Poll::Pending,
            Buffer::Got => Poll::Ready(Ok(())),
            Buffer::Refused => Poll::Ready(Err(IoError::NoMemory)),
        }
    }
}

unsafe extern "C" fn got_buf(
    _channel: *mut sys::spdk_io_channel,
    io: *mut sys::spdk_bdev_io,
    success: bool,
) {
    // SAFETY: the request is ours and waits for this call.
    let cell = unsafe { &*IoCell::of(io) };
    cell.set_buffer(if success { Buffer::Got } else { Buffer::Refused });
    // SAFETY: the matching start was in `GetBuf::poll`, and the cell is not touched afterwards.
    cell.channel().home().enter(|| unsafe { cell.child_ended() });
}
