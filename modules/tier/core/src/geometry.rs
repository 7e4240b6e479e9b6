//! Where things lie on the two disks.

use crate::record;
use crate::set::WAYS;

/// What the layout is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The block size of both disks in bytes.
    pub block_size: u32,
    /// The size of a line in bytes.
    pub line_size: u32,
    /// Blocks of the fast disk, from its first block on, that the cache may have.
    pub fast_blocks: u64,
    /// Blocks at the start of the fast disk that are not the cache's.
    pub fast_reserved: u64,
    /// Blocks of the slow disk that may be cached, from its first on.
    pub slow_blocks: u64,
}

/// Why there is no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The block size is no multiple of 512 bytes up to 64 KiB.
    BlockSize,
    /// The line size is no power-of-two multiple of the block size from 4 KiB to 64 KiB.
    LineSize,
    /// The fast disk has no room for a set.
    FastTooSmall,
    /// The slow disk has no room for a line.
    SlowTooSmall,
    /// There are more lines than the metadata can name.
    TooLarge,
}

/// The layout: on the fast disk what is reserved, a record for each set, and the lines; the slow disk as
/// it is.
///
/// Line `l` of the slow disk may lie in any of the ways of set `l % sets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The block size in bytes.
    pub block_size: u32,
    /// Blocks of a line.
    pub line_blocks: u32,
    /// Sets of [`WAYS`] lines each.
    pub sets: u64,
    /// Lines of the slow disk.
    pub slow_lines: u64,
    /// The first block of the records.
    pub records_at: u64,
    /// The first block of the lines.
    pub lines_at: u64,
}

impl Geometry {
    /// Lays out the largest cache that fits.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn new(sizes: &Sizes) -> Result<Self, GeometryError> {
        let Sizes { block_size, line_size, .. } = *sizes;
        if block_size < 512 || block_size % 512 != 0 || block_size > 65536 {
            return Err(GeometryError::BlockSize);
        }
        let line_blocks = line_size / block_size;
        if line_size % block_size != 0
            || !line_blocks.is_power_of_two()
            || !(Self::MIN_LINE..=Self::MAX_LINE).contains(&line_size)
        {
            return Err(GeometryError::LineSize);
        }
        let slow_lines = sizes.slow_blocks / u64::from(line_blocks);
        if slow_lines == 0 {
            return Err(GeometryError::SlowTooSmall);
        }
        if sizes.slow_blocks.max(sizes.fast_blocks) > 1 << 56 {
            return Err(GeometryError::TooLarge);
        }
        let room = sizes.fast_blocks.saturating_sub(sizes.fast_reserved);
        let per_block = record::per_block(block_size);
        let set_blocks = WAYS as u64 * u64::from(line_blocks);
        // As many sets as fit with their records, and no more than there are lines for.
        let most = room / set_blocks;
        let sets = (room.saturating_sub(most.div_ceil(per_block)) / set_blocks)
            .min(slow_lines.div_ceil(WAYS as u64));
        if sets == 0 {
            return Err(GeometryError::FastTooSmall);
        }
        let records_at = sizes.fast_reserved;
        // Lines begin at a multiple of their size, if that costs nothing that is needed.
        let lines_at = records_at + sets.div_ceil(per_block);
        let aligned = lines_at.next_multiple_of(u64::from(line_blocks));
        let fits = aligned + sets * set_blocks <= sizes.fast_blocks;
        let lines_at = if fits { aligned } else { lines_at };
        Ok(Self { block_size, line_blocks, sets, slow_lines, records_at, lines_at })
    }

    #[cfg(not(test))]
    const MIN_LINE: u32 = 4096;
    /// The model's disks are small.
    #[cfg(test)]
    const MIN_LINE: u32 = 512;
    const MAX_LINE: u32 = 65536;

    /// The size of a line in bytes.
    pub fn line_size(&self) -> usize {
        self.line_blocks as usize * self.block_size as usize
    }

    /// The lines that the cache holds.
    pub fn fast_lines(&self) -> u64 {
        self.sets * WAYS as u64
    }

    /// The first block behind the cache on the fast disk.
    pub fn fast_end(&self) -> u64 {
        self.lines_at + self.fast_lines() * u64::from(self.line_blocks)
    }

    /// The blocks of the slow disk that are cached.
    pub fn slow_blocks(&self) -> u64 {
        self.slow_lines * u64::from(self.line_blocks)
    }

    /// Blocks of records.
    pub fn record_blocks(&self) -> u64 {
        self.sets.div_ceil(record::per_block(self.block_size))
    }

    pub(crate) fn set_of(&self, line: u64) -> u64 {
        line % self.sets
    }

    /// The number of the block of records that has that of `set`.
    pub(crate) fn page_of(&self, set: u64) -> u64 {
        set / record::per_block(self.block_size)
    }

    /// The sets whose records a block has.
    pub(crate) fn sets_of(&self, page: u64) -> std::ops::Range<u64> {
        let per_block = record::per_block(self.block_size);
        page * per_block..((page + 1) * per_block).min(self.sets)
    }

    pub(crate) fn fast_block(&self, set: u64, way: usize) -> u64 {
        self.lines_at + (set * WAYS as u64 + way as u64) * u64::from(self.line_blocks)
    }

    pub(crate) fn slow_block(&self, line: u64) -> u64 {
        line * u64::from(self.line_blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        Sizes {
            block_size: 512,
            line_size: 4096,
            fast_blocks: 10_000,
            fast_reserved: 16,
            slow_blocks: 1_000_000,
        }
    }

    #[test]
    fn nothing_overlaps_and_all_fits() {
        for fast_blocks in 100..2000 {
            for (block_size, line_size) in [(512, 4096), (512, 65536), (4096, 4096), (4096, 16384)]
            {
                let sizes = Sizes { fast_blocks, block_size, line_size, ..sizes() };
                let Ok(geometry) = Geometry::new(&sizes) else { continue };
                assert!(geometry.records_at >= sizes.fast_reserved);
                assert!(geometry.lines_at >= geometry.records_at + geometry.record_blocks());
                assert!(geometry.fast_end() <= fast_blocks, "{geometry:?}");
                assert!(geometry.slow_blocks() <= sizes.slow_blocks);
                assert_eq!(geometry.page_of(geometry.sets - 1) + 1, geometry.record_blocks());
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let new = |change: fn(&mut Sizes)| {
            let mut sizes = sizes();
            change(&mut sizes);
            Geometry::new(&sizes).unwrap_err()
        };
        assert_eq!(new(|s| s.block_size = 520), GeometryError::BlockSize);
        assert_eq!(new(|s| s.block_size = 0), GeometryError::BlockSize);
        assert_eq!(new(|s| s.line_size = 5000), GeometryError::LineSize);
        assert_eq!(new(|s| s.line_size = 0), GeometryError::LineSize);
        assert_eq!(new(|s| s.line_size = 128 << 10), GeometryError::LineSize);
        assert_eq!(new(|s| s.fast_blocks = 100), GeometryError::FastTooSmall);
        assert_eq!(new(|s| s.slow_blocks = 7), GeometryError::SlowTooSmall);
        assert_eq!(new(|s| s.slow_blocks = u64::MAX), GeometryError::TooLarge);
    }

    #[test]
    fn no_more_sets_than_lines() {
        let geometry = Geometry::new(&Sizes { slow_blocks: 8 * 40, ..sizes() }).unwrap();
        assert_eq!((geometry.slow_lines, geometry.sets), (40, 3));
    }
}
