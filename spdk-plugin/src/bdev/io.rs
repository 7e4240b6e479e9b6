//! Reading, writing and what else is done with a range of blocks.

use spdk_plugin_sys as sys;

use super::channel::{IoChannel, stop_waiting};
use super::desc::BdevDesc;
use super::kind::{self, Kind};
use super::op::sealed::{self, Landed, Place};
use super::op::{Load, Op, OpId, Range};
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result};

/// What an operation may be told beyond its range (`struct spdk_bdev_ext_io_opts`), and its metadata.
///
/// ```no_run
/// use spdk_plugin::bdev::{BdevDesc, IoOptions};
/// use spdk_plugin::dma::DmaBuf;
///
/// # async fn read(desc: &BdevDesc) -> spdk_plugin::Result<()> {
/// let channel = desc.get_io_channel()?;
/// let mut data = DmaBuf::alloc_zeroed(4096, 4096)?;
/// let metadata = DmaBuf::alloc_zeroed(desc.md_size() as usize, 64)?;
/// let mut options = IoOptions::new().with_metadata(metadata);
/// desc.read_blocks(&channel, &mut data, 0, 1).with_options(&mut options).await?;
/// println!("{:?}", &options.metadata[..]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct IoOptions {
    /// The blocks' metadata, where the device has that in a buffer of its own. While the operation runs
    /// this is empty. Left empty, metadata is not transferred.
    pub metadata: DmaBuf,
    /// Checks of protection information to leave out of those that the device makes:
    /// `SPDK_DIF_FLAGS_*_CHECK`. SPDK 24.05 or later.
    pub dif_check_flags_exclude_mask: u32,
    /// Dword 12 of an NVMe command: the directive type of a write. SPDK 24.05 or later.
    pub nvme_cdw12: u32,
    /// Dword 13 of an NVMe command: what goes with the directive. SPDK 24.05 or later.
    pub nvme_cdw13: u32,
}

impl IoOptions {
    /// Nothing set.
    pub const fn new() -> Self {
        Self {
            metadata: DmaBuf::empty(),
            dif_check_flags_exclude_mask: 0,
            nvme_cdw12: 0,
            nvme_cdw13: 0,
        }
    }

    /// Sets [`metadata`](Self::metadata).
    pub fn with_metadata(mut self, metadata: DmaBuf) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets [`dif_check_flags_exclude_mask`](Self::dif_check_flags_exclude_mask).
    pub fn exclude_dif_checks(mut self, mask: u32) -> Self {
        self.dif_check_flags_exclude_mask = mask;
        self
    }

    fn is_extended(&self) -> bool {
        self.dif_check_flags_exclude_mask | self.nvme_cdw12 | self.nvme_cdw13 != 0
    }
}

/// Data with options.
#[derive(Debug)]
pub struct WithOptions<'a, L> {
    data: L,
    options: &'a mut IoOptions,
}

impl<L: sealed::Load> sealed::Load for WithOptions<'_, L> {
    fn lacks(&self, len: u64, md: u64) -> Option<(u64, u64, &'static str)> {
        let has = self.options.metadata.len() as u64;
        if has > 0 && has < md {
            return Some((has, md, "metadata"));
        }
        self.data.lacks(len, md)
    }

    fn put(&mut self, place: Place<'_>, len: usize) -> Result<bool> {
        let Place { cargo, channel } = place;
        let submits = self.data.put(Place { cargo, channel }, len)?;
        let options = &mut *self.options;
        if options.is_extended() {
            if !matches!(u32::from(cargo.op.kind), sys::SPDKP_OP_READ | sys::SPDKP_OP_WRITE) {
                self.data.back(Place { cargo, channel }, len);
                return Err(Error::Invalid(
                    "only reads and writes take options other than metadata".into(),
                ));
            }
            cargo.op.flags |= sys::SPDKP_OP_EXT as u8;
            cargo.op.dif_exclude = options.dif_check_flags_exclude_mask;
            cargo.op.cdw12 = options.nvme_cdw12;
            cargo.op.cdw13 = options.nvme_cdw13;
        }
        if !options.metadata.is_empty() {
            cargo.op.md = options.metadata.addr().cast();
            cargo.md = std::mem::take(&mut options.metadata);
        }
        Ok(submits)
    }

    fn back(&mut self, place: Place<'_>, len: usize) {
        let Place { cargo, channel } = place;
        if !cargo.op.md.is_null() {
            self.options.metadata = std::mem::take(&mut cargo.md);
        }
        self.data.back(Place { cargo, channel }, len);
    }
}

/// What is compared, and what is written then.
#[derive(Debug)]
pub struct Both<L>(L, L);

impl sealed::Load for Both<&mut DmaBuf> {
    fn lacks(&self, len: u64, md: u64) -> Option<(u64, u64, &'static str)> {
        self.0.lacks(len, md).or_else(|| self.1.lacks(len, md))
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        let cargo = place.cargo;
        cargo.op.buf = self.0.addr().cast();
        cargo.op.aux = self.1.addr().cast();
        cargo.op.aux_num = 0;
        cargo.buf = std::mem::take(self.0);
        cargo.second = std::mem::take(self.1);
        Ok(true)
    }

    fn back(&mut self, place: Place<'_>, _: usize) {
        *self.0 = std::mem::take(&mut place.cargo.buf);
        *self.1 = std::mem::take(&mut place.cargo.second);
    }
}

impl sealed::Load for Both<&mut IoVec> {
    fn lacks(&self, len: u64, md: u64) -> Option<(u64, u64, &'static str)> {
        self.0.lacks(len, md).or_else(|| self.1.lacks(len, md))
    }

    fn put(&mut self, place: Place<'_>, len: usize) -> Result<bool> {
        let cargo = place.cargo;
        let (list, count) = self.0.first(len);
        (cargo.op.buf, cargo.op.iovcnt) = (list.cast(), count);
        let (list, count) = self.1.first(len);
        (cargo.op.aux, cargo.op.aux_num) = (list.cast(), count);
        cargo.list = std::mem::take(self.0);
        cargo.second_list = std::mem::take(self.1);
        Ok(true)
    }

    fn back(&mut self, place: Place<'_>, len: usize) {
        *self.0 = std::mem::take(&mut place.cargo.list);
        *self.1 = std::mem::take(&mut place.cargo.second_list);
        self.0.restore(len);
        self.1.restore(len);
    }
}

/// Where a copy comes from, in bytes or blocks as its range is.
#[derive(Debug)]
pub struct Source {
    offset: u64,
    in_blocks: bool,
}

impl sealed::Load for Source {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        let port = place.channel.port();
        let blocks = if self.in_blocks {
            Some(self.offset)
        } else {
            port.blocks(self.offset, 0).map(|(offset, _)| offset)
        };
        place.cargo.op.value = blocks.ok_or_else(|| {
            Error::Invalid(format!(
                "a copy from byte {} of bdev {}: it must be a multiple of its block size, {}",
                self.offset,
                port.desc.name(),
                port.block_size
            ))
        })?;
        Ok(true)
    }

    fn back(&mut self, _: Place<'_>, _: usize) {}
}

/// What to abort.
#[derive(Debug)]
pub struct Target(OpId);

impl sealed::Load for Target {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        let (index, uses) = self.0.number;
        let slot = place.channel.slots().find(self.0.number);
        let slot = slot.filter(|_| place.channel.port().finds(self.0)).ok_or_else(|| {
            let bdev = place.channel.bdev_name();
            Error::NotFound(format!("the operation to abort on bdev {bdev} is not in flight"))
        })?;
        if stop_waiting(place.channel.port(), slot) {
            return Ok(false);
        }
        place.cargo.op.aux = slot.cast_mut().cast();
        place.cargo.op.value = u64::from(index) << 32 | u64::from(uses);
        Ok(true)
    }

    fn back(&mut self, _: Place<'_>, _: usize) {}
}

impl sealed::Answer for Option<u64> {
    fn read(mut slot: Landed<'_>) -> Self {
        let block = slot.cargo().op.value;
        (block != u64::MAX).then_some(block)
    }
}

impl<'a, L: Load + sealed::Data, K: Kind> Op<'a, L, K> {
    /// The same with metadata or other options.
    pub fn with_options(self, options: &'a mut IoOptions) -> Op<'a, WithOptions<'a, L>, K> {
        self.map_load(|data| WithOptions { data, options })
    }
}

/// An operation on a range, in bytes and in blocks.
macro_rules! operations {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $bytes:ident, $blocks:ident($($arg:ident: $type:ty),*) = $load:expr, $loaded:ty;
    )*) => {
        impl BdevDesc {
            $(
                $(#[$doc])*
                ///
                /// `offset` and `len` are in bytes. It fails as [all operations](crate::bdev#errors) may.
                #[inline]
                pub fn $bytes<'a>(
                    &self,
                    channel: &'a IoChannel,
                    $($arg: $type,)*
                    offset: u64,
                    len: u64,
                ) -> Op<'a, $loaded, kind::$kind> {
                    Op::new(self, channel, Range::Bytes(offset, len), $load)
                }

                #[doc = concat!(
                    "As [`", stringify!($bytes), "`](Self::", stringify!($bytes), "), in blocks."
                )]
                #[inline]
                pub fn $blocks<'a>(
                    &self,
                    channel: &'a IoChannel,
                    $($arg: $type,)*
                    offset_blocks: u64,
                    num_blocks: u64,
                ) -> Op<'a, $loaded, kind::$kind> {
                    let range = Range::Blocks(offset_blocks, num_blocks);
                    Op::new(self, channel, range, $load)
                }
            )*
        }
    };
}

operations! {
    /// Reads into the start of `buf` (`spdk_bdev_read`).
    Read: read, read_blocks(buf: &'a mut DmaBuf) = buf, &'a mut DmaBuf;
    /// Writes from the start of `buf` (`spdk_bdev_write`).
    Write: write, write_blocks(buf: &'a mut DmaBuf) = buf, &'a mut DmaBuf;
    /// Reads into several buffers, one after another (`spdk_bdev_readv`).
    Read: readv, readv_blocks(bufs: &'a mut IoVec) = bufs, &'a mut IoVec;
    /// Writes from several buffers, one after another (`spdk_bdev_writev`).
    Write: writev, writev_blocks(bufs: &'a mut IoVec) = bufs, &'a mut IoVec;
    /// Compares the range with the start of `buf` (`spdk_bdev_compare_blocks`). A difference is
    /// [`IoError::Miscompare`](crate::module::IoError::Miscompare).
    Compare: compare, compare_blocks(buf: &'a mut DmaBuf) = buf, &'a mut DmaBuf;
    /// As [`compare`](Self::compare), with several buffers (`spdk_bdev_comparev_blocks`).
    Compare: comparev, comparev_blocks(bufs: &'a mut IoVec) = bufs, &'a mut IoVec;
    /// Compares the range with `expected`, and if they are the same writes `new` there, as one step
    /// (`spdk_bdev_comparev_and_writev_blocks`). A difference is
    /// [`IoError::Miscompare`](crate::module::IoError::Miscompare). The device says how many blocks it does
    /// this with at once.
    CompareAndWrite: compare_and_write, compare_and_write_blocks(
        expected: &'a mut DmaBuf, new: &'a mut DmaBuf
    ) = Both(expected, new), Both<&'a mut DmaBuf>;
    /// As [`compare_and_write`](Self::compare_and_write), with several buffers each.
    CompareAndWrite: comparev_and_writev, comparev_and_writev_blocks(
        expected: &'a mut IoVec, new: &'a mut IoVec
    ) = Both(expected, new), Both<&'a mut IoVec>;
    /// Makes durable what was written to the range before (`spdk_bdev_flush`).
    Flush: flush, flush_blocks() = (), ();
    /// Drops the contents of the range (`spdk_bdev_unmap`).
    Unmap: unmap, unmap_blocks() = (), ();
    /// Makes the range read as zeroes (`spdk_bdev_write_zeroes`).
    WriteZeroes: write_zeroes, write_zeroes_blocks() = (), ();
}

impl BdevDesc {
    /// Copies `len` bytes from `source` to `offset` in the device (`spdk_bdev_copy_blocks`). SPDK 23.01 or
    /// later. It fails as [all operations](crate::bdev#errors) may.
    pub fn copy<'a>(
        &self,
        channel: &'a IoChannel,
        offset: u64,
        source: u64,
        len: u64,
    ) -> Op<'a, Source, kind::Copy> {
        let source = Source { offset: source, in_blocks: false };
        Op::new(self, channel, Range::Bytes(offset, len), source)
    }

    /// As [`copy`](Self::copy), in blocks.
    pub fn copy_blocks<'a>(
        &self,
        channel: &'a IoChannel,
        offset_blocks: u64,
        source_blocks: u64,
        num_blocks: u64,
    ) -> Op<'a, Source, kind::Copy> {
        let source = Source { offset: source_blocks, in_blocks: true };
        let range = Range::Blocks(offset_blocks, num_blocks);
        Op::new(self, channel, range, source)
    }

    /// Resets the device, which ends all I/O on it, that of others included (`spdk_bdev_reset`).
    pub fn reset<'a>(&self, channel: &'a IoChannel) -> Op<'a, (), kind::Reset> {
        Op::new(self, channel, Range::NONE, ())
    }

    /// Asks the device to abort an operation of this channel that was [started](Op::start), also when its
    /// future is gone (`spdk_bdev_abort`).
    ///
    /// The operation then ends with [`IoError::Aborted`](crate::module::IoError::Aborted), or as it would
    /// have. One that waits for a request of SPDK's ends at once.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not in flight, [`Error::Io`] when the device does not abort it, and as
    /// [all operations](crate::bdev#errors).
    ///
    /// ```no_run
    /// use spdk_plugin::bdev::{BdevDesc, IoChannel};
    /// use spdk_plugin::dma::DmaBuf;
    ///
    /// # async fn abort(desc: &BdevDesc, channel: &IoChannel, buf: &mut DmaBuf) -> spdk_plugin::Result<()> {
    /// let mut write = desc.write(channel, buf, 0, 4096);
    /// let id = write.start();
    /// desc.abort(channel, id).await?;
    /// println!("{:?}", write.await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn abort<'a>(&self, channel: &'a IoChannel, id: OpId) -> Op<'a, Target, kind::Abort> {
        Op::new(self, channel, Range::NONE, Target(id))
    }

    /// The first block from `offset_blocks` on that holds data, if any (`spdk_bdev_seek_data`). For a device
    /// that cannot tell, all of it does. SPDK 22.09 or later. It fails as
    /// [all operations](crate::bdev#errors) may.
    pub fn seek_data<'a>(
        &self,
        channel: &'a IoChannel,
        offset_blocks: u64,
    ) -> Op<'a, (), kind::SeekData> {
        let range = Range::Blocks(offset_blocks, 1);
        Op::new(self, channel, range, ())
    }

    /// The first block from `offset_blocks` on that holds none, if any (`spdk_bdev_seek_hole`). As
    /// [`seek_data`](Self::seek_data).
    pub fn seek_hole<'a>(
        &self,
        channel: &'a IoChannel,
        offset_blocks: u64,
    ) -> Op<'a, (), kind::SeekHole> {
        let range = Range::Blocks(offset_blocks, 1);
        Op::new(self, channel, range, ())
    }
}
