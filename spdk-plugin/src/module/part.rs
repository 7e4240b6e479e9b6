//! A bdev that is a range of another, as partitions are (`struct spdk_bdev_part` in `spdk/bdev_module.h`).

use std::ops::Range;

use super::Bdev;
use super::base::{Base, BaseChannel};
use super::builder::BdevBuilder;
use super::io::BdevIo;
use super::kind::{IoKind, IoKinds};
use crate::bdev::Forward;
use crate::error::{Error, Result};

/// A range of a base's blocks that makes up a bdev.
///
/// Several parts may have the same base: each bdev is one [`Vbdev`](super::Vbdev) of a module that says so by
/// [`SHARES_BASES`](super::Vbdev::SHARES_BASES). A reset of one part leaves the requests of the others alone:
/// leave it to the crate, which cancels the part's own.
///
/// ```
/// use spdk_plugin::module::{Bdev, BdevIo, IoKind, IoResult, Part, PartChannel};
/// use spdk_plugin::{Result, bdev_module};
///
/// struct Partition(Part);
///
/// #[bdev_module(name = "example_partition")]
/// impl Bdev for Partition {
///     type Channel = PartChannel;
///
///     fn channel(&self) -> Result<PartChannel> {
///         self.0.channel()
///     }
///
///     fn supports(&self, kind: IoKind) -> bool {
///         self.0.supports(kind)
///     }
///
///     async fn submit(&self, part: &PartChannel, io: BdevIo<'_>) -> IoResult {
///         part.forward(&io).await
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Part {
    base: Base,
    first_block: u64,
    num_blocks: u64,
}

impl Part {
    /// The blocks `range` of a base.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the range is empty or goes beyond the base, or when the base checks reference
    /// tags, which in a part are those of other blocks.
    pub fn new(base: &Base, range: Range<u64>) -> Result<Self> {
        let (name, blocks) = (base.name(), base.num_blocks());
        if range.is_empty() || range.end > blocks {
            let Range { start, end } = range;
            return Err(Error::Invalid(format!(
                "blocks {start} to {end} are no part of bdev {name}, which has {blocks}"
            )));
        }
        if base.dif().is_some_and(|dif| dif.check_ref_tag) {
            return Err(Error::Invalid(format!(
                "bdev {name} checks reference tags, which those of a part would not match"
            )));
        }
        let (first_block, num_blocks) = (range.start, range.end - range.start);
        Ok(Self { base: base.clone(), first_block, num_blocks })
    }

    /// The base.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The blocks of the base.
    pub fn blocks(&self) -> Range<u64> {
        self.first_block..self.first_block + self.num_blocks
    }

    /// Describes a bdev of this size that is like the base otherwise. What I/O the base wants its boundaries
    /// to be at holds for the part if it begins at one.
    pub fn builder<B: Bdev>(&self, name: impl Into<String>) -> BdevBuilder<B> {
        let aligned = |unit: u32| match self.first_block.checked_rem(unit.into()) {
            Some(0) => unit,
            _ => 0,
        };
        BdevBuilder::like_part(name, &self.base, self.num_blocks)
            .optimal_io_boundary(aligned(self.base.optimal_io_boundary()))
    }

    /// Whether requests of this kind can be [forwarded](PartChannel::forward): those that name their blocks in a
    /// way that the crate knows, if the base supports them.
    pub fn supports(&self, kind: IoKind) -> bool {
        const MOVABLE: IoKinds = IoKinds::READ
            .and(IoKinds::WRITE)
            .and(IoKinds::UNMAP)
            .and(IoKinds::FLUSH)
            .and(IoKinds::WRITE_ZEROES)
            .and(IoKinds::ZCOPY)
            .and(IoKinds::COMPARE)
            .and(IoKinds::COMPARE_AND_WRITE)
            .and(IoKinds::COPY);
        MOVABLE.contains(kind) && self.base.supports(kind)
    }

    /// The current SPDK thread's channel.
    ///
    /// # Errors
    /// As [`Base::channel`].
    pub fn channel(&self) -> Result<PartChannel> {
        let channel = self.base.channel()?;
        Ok(PartChannel { channel, first_block: self.first_block })
    }
}

/// A thread's way to a part.
#[derive(Clone, Debug)]
pub struct PartChannel {
    channel: BaseChannel,
    first_block: u64,
}

impl PartChannel {
    /// The channel to the base, for what the module itself has to do there.
    pub fn base_channel(&self) -> &BaseChannel {
        &self.channel
    }

    /// Submits a request of the part's bdev to the base, as [`BdevIo::forward`] does, at the part's place.
    #[inline]
    pub fn forward<'a>(&'a self, io: &'a BdevIo<'_>) -> Forward<'a> {
        io.forward_at(&self.channel, self.first_block + io.offset_blocks())
    }
}
