//! Where things lie on a leg.
//!
//! ```text
//! 0             64 KiB                 data_offset (a multiple of 1 MiB)
//! | superblock  | bitmap pages | ...   | data
//! ```

use std::ops::Range;

use crate::bitmap;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Room for the superblock and its copy.
const SUPERBLOCK: u64 = 64 * KIB;
/// Data begin at a multiple of this.
const DATA_ALIGN: u64 = MIB;
/// About so many regions a mirror has by default.
const USUAL_REGIONS: u64 = 8192;

/// Sizes and places of a mirror, in blocks where the name does not say bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the mirror.
    pub num_blocks: u64,
    /// The first block of the data on each leg.
    pub data_offset: u64,
    /// Blocks of a region.
    pub region_blocks: u64,
}

impl Geometry {
    /// The most bytes that a superblock says, which has a head of 32 bytes.
    pub const SUPERBLOCK_ROOM: usize = 4096 - 32;

    /// The geometry of a new mirror whose shortest leg has `leg_blocks`.
    ///
    /// # Errors
    /// Says why that cannot be.
    pub fn new(
        block_size: u32,
        leg_blocks: u64,
        region_kib: Option<u32>,
        unit_blocks: u64,
    ) -> Result<Self, String> {
        let bytes = leg_blocks
            .checked_mul(block_size.into())
            .ok_or_else(|| format!("legs of {leg_blocks} blocks are too long"))?;
        let region = match region_kib {
            Some(kib) => u64::from(kib) * KIB,
            None => (bytes / USUAL_REGIONS).next_power_of_two().clamp(MIB, 64 * MIB),
        };
        let block = u64::from(block_size);
        if !region.is_multiple_of(block.max(1)) {
            return Err(format!("regions of {region} bytes are not whole blocks of {block_size}"));
        }
        // Pages for as many regions as the leg would have without any metadata.
        let pages = (bytes / region + 1).div_ceil(bitmap::bits(page_bytes(block_size)) as u64);
        let align = DATA_ALIGN.max(unit_blocks.max(1) * block);
        let metadata = (Self::superblock_blocks(block_size) * block
            + pages * page_bytes(block_size) as u64)
            .div_ceil(align)
            * align;
        let geometry = Self {
            block_size,
            num_blocks: leg_blocks.saturating_sub(metadata / block.max(1)),
            data_offset: metadata / block.max(1),
            region_blocks: region / block.max(1),
        };
        if bytes < metadata + region.min(MIB) {
            return Err(format!(
                "a leg of {bytes} bytes is too short: the mirror's own data take {metadata}"
            ));
        }
        geometry.checked()
    }

    /// Itself, if it can be: it may come from a disk.
    ///
    /// # Errors
    /// Says what cannot be.
    pub fn checked(self) -> Result<Self, String> {
        let Self { block_size, num_blocks, data_offset, region_blocks } = self;
        let block = u64::from(block_size);
        if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
            return Err(format!(
                "blocks of {block_size} bytes: it must be 512 to 65536, a power of 2"
            ));
        }
        let region = region_blocks.checked_mul(block).filter(|region| region.is_power_of_two());
        if !region.is_some_and(|region| (64 * KIB..=64 * MIB).contains(&region)) {
            return Err(format!(
                "regions of {region_blocks} blocks of {block_size} bytes: it must be a power of two from \
                 64 KiB to 64 MiB"
            ));
        }
        let end = num_blocks.checked_add(data_offset).and_then(|end| end.checked_mul(block));
        if num_blocks == 0 || end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(format!("{num_blocks} blocks from block {data_offset} on cannot be"));
        }
        let regions = num_blocks.div_ceil(region_blocks);
        let own = self.bitmap_block(0) + self.pages() as u64 * self.page_blocks();
        if regions > u64::from(u32::MAX) || data_offset < own {
            return Err(format!(
                "{regions} regions of {region_blocks} blocks do not fit before block {data_offset}; choose \
                 larger ones"
            ));
        }
        Ok(self)
    }

    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.num_blocks.div_ceil(self.region_blocks) as usize
    }

    /// The regions that a range of the mirror's blocks touches.
    #[inline]
    pub fn regions_of(&self, blocks: &Range<u64>) -> Range<usize> {
        // The blocks of a region are a power of two.
        let shift = self.region_blocks.trailing_zeros();
        let first = blocks.start >> shift;
        let last = (blocks.end.max(blocks.start + 1) - 1) >> shift;
        first as usize..(last as usize + 1).min(self.regions().max(1))
    }

    /// The blocks of the mirror that make up a region.
    pub fn blocks_of(&self, region: usize) -> Range<u64> {
        let start = region as u64 * self.region_blocks;
        start..(start + self.region_blocks).min(self.num_blocks)
    }

    /// Bytes of a bitmap page.
    pub fn page_bytes(&self) -> usize {
        page_bytes(self.block_size)
    }

    /// Blocks of a bitmap page.
    pub fn page_blocks(&self) -> u64 {
        self.page_bytes() as u64 / u64::from(self.block_size)
    }

    /// How many bitmap pages there are.
    pub fn pages(&self) -> usize {
        self.regions().div_ceil(bitmap::bits(self.page_bytes()))
    }

    /// The page of a region's bit.
    pub fn page_of(&self, region: usize) -> usize {
        region / bitmap::bits(self.page_bytes())
    }

    /// The regions whose bits a page has.
    pub fn page_regions(&self, page: usize) -> Range<usize> {
        let bits = bitmap::bits(self.page_bytes());
        page * bits..((page + 1) * bits).min(self.regions())
    }

    /// A leg's block at which a bitmap page begins.
    pub fn bitmap_block(&self, page: usize) -> u64 {
        Self::superblock_blocks(self.block_size) + page as u64 * self.page_blocks()
    }

    /// The blocks of a leg that hold the two copies of its superblock.
    pub fn superblock_blocks(block_size: u32) -> u64 {
        (SUPERBLOCK / u64::from(block_size.max(1))).max(2)
    }

    /// Bytes in blocks of this size.
    pub fn blocks_in(&self, bytes: u64) -> u64 {
        bytes / u64::from(self.block_size)
    }
}

fn page_bytes(block_size: u32) -> usize {
    4096.max(block_size as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_size() {
        let of = |gib: u64| Geometry::new(512, gib << 21, None, 1).unwrap();
        assert_eq!(of(1).region_blocks << 9, MIB);
        assert_eq!(of(64).region_blocks << 9, 8 * MIB);
        assert_eq!(of(16 << 10).region_blocks << 9, 64 * MIB);
        assert_eq!(of(16 << 10).pages(), 9);
        assert_eq!(of(1).data_offset << 9, MIB);
    }

    #[test]
    fn pages_never_reach_the_data() {
        for block_size in [512, 4096, 65536_u32] {
            for mib in [3, 64, 1000, 100_000, 10_000_000_u64] {
                for kib in [None, Some(64), Some(1024), Some(65536)] {
                    let blocks = mib * MIB / u64::from(block_size);
                    let Ok(it) = Geometry::new(block_size, blocks, kib, 8) else {
                        assert!(mib < 64, "{block_size} {mib} {kib:?}");
                        continue;
                    };
                    let end = it.bitmap_block(it.pages() - 1) + it.page_blocks();
                    assert!(end <= it.data_offset, "{it:?}");
                    assert!(it.data_offset + it.num_blocks <= blocks, "{it:?}");
                    assert_eq!(it.clone().checked(), Ok(it));
                }
            }
        }
    }

    #[test]
    fn regions_of_ranges() {
        let it = Geometry::new(512, 100 << 11, Some(64), 1).unwrap();
        assert_eq!(it.region_blocks, 128);
        assert_eq!(it.regions_of(&(0..128)), 0..1);
        assert_eq!(it.regions_of(&(127..129)), 0..2);
        assert_eq!(it.regions_of(&(128..128)), 1..2);
        let last = it.regions() - 1;
        assert_eq!(it.blocks_of(last).end, it.num_blocks);
        assert_eq!(it.regions_of(&(0..it.num_blocks)), 0..it.regions());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Geometry::new(512, 2048, None, 1).is_err());
        assert!(Geometry::new(520, 1 << 20, None, 1).is_err());
        assert!(Geometry::new(512, u64::MAX, None, 1).is_err());
        assert!(Geometry::new(512, 1 << 20, Some(63), 1).is_err());
        assert!(Geometry::new(512, 1 << 20, Some(1 << 17), 1).is_err());
        let good = Geometry::new(512, 1 << 20, None, 1).unwrap();
        assert!(Geometry { data_offset: 10, ..good.clone() }.checked().is_err());
        assert!(Geometry { num_blocks: u64::MAX, ..good.clone() }.checked().is_err());
        assert!(Geometry { region_blocks: 0, ..good.clone() }.checked().is_err());
        assert!(Geometry { region_blocks: u64::MAX, ..good }.checked().is_err());
    }
}
