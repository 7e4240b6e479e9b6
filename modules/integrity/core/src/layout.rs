//! Where what lies on the base.

use crate::disk::{Error, Result};
use crate::page;

/// The smallest unit in which records are written, in bytes.
const UNIT: u32 = 4096;
/// The fewest and the most units that half of the log has.
const LOG_UNITS: (u64, u64) = (64, 2048);

/// What is to be laid out.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// The base's block size in bytes.
    pub block_size: u32,
    /// The base's size in blocks.
    pub blocks: u64,
    /// The first block that is not the superblock's.
    pub first: u64,
    /// The data begin at a multiple of that many blocks.
    pub align: u64,
}

/// Where what lies on the base, in blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In bytes.
    pub block_size: u32,
    /// Blocks that records are written in: one, or as many as make up 4 KiB.
    pub unit_blocks: u64,
    /// Blocks of data.
    pub blocks: u64,
    /// The first block of the log.
    pub log: u64,
    /// Units of half the log.
    pub log_units: u64,
    /// The first block of data.
    pub data: u64,
}

impl Layout {
    /// Lays out a base.
    ///
    /// # Errors
    /// It is too small.
    pub fn new(geometry: Geometry) -> Result<Self> {
        let Geometry { block_size, blocks, first, align } = geometry;
        let small = || Error::Invalid(format!("{blocks} blocks are too few for checksums"));
        if block_size == 0 {
            return Err(Error::Invalid("the base has blocks of 0 bytes".into()));
        }
        let unit_blocks = u64::from(UNIT.div_ceil(block_size));
        let (least, most) = LOG_UNITS;
        let log_units = (blocks / unit_blocks / 512).clamp(least, most);
        let mut layout =
            Self { block_size, unit_blocks, blocks: 0, log: first, log_units, data: 0 };
        let room = blocks.checked_sub(layout.table()).ok_or_else(small)?;
        // Slightly too many; the loop gives back what the records need beyond the estimate.
        let per_page = layout.per_page();
        let mut data = (u128::from(room) * u128::from(per_page)
            / u128::from(per_page + 2 * unit_blocks)) as u64;
        loop {
            layout.blocks = data;
            layout.data = layout.end_of_records().next_multiple_of(align.max(1));
            match blocks.checked_sub(layout.data) {
                _ if data == 0 => return Err(small()),
                Some(fits) if fits >= data => return Ok(layout),
                fits => data = (data - 1).min(fits.unwrap_or(0)),
            }
        }
    }

    /// Bytes of a unit.
    pub(crate) fn unit(&self) -> usize {
        self.unit_blocks as usize * self.block_size as usize
    }

    /// Checksums of a page.
    pub(crate) fn per_page(&self) -> u64 {
        ((self.unit() - page::HEADER) / 4) as u64
    }

    /// Pages of checksums.
    pub(crate) fn pages(&self) -> u64 {
        self.blocks.div_ceil(self.per_page())
    }

    /// Pages of the table.
    pub(crate) fn tables(&self) -> u64 {
        self.pages().div_ceil(self.per_page())
    }

    fn table(&self) -> u64 {
        self.log + 2 * self.log_units * self.unit_blocks
    }

    fn end_of_tables(&self) -> u64 {
        self.table() + 2 * self.tables() * self.unit_blocks
    }

    fn end_of_records(&self) -> u64 {
        self.end_of_tables() + 2 * self.pages() * self.unit_blocks
    }

    /// The block at which a unit of the log begins.
    pub(crate) fn log_unit(&self, half: u64, unit: u64) -> u64 {
        self.log + (half * self.log_units + unit) * self.unit_blocks
    }

    /// The block at which one of the two places of a page of the table begins.
    pub(crate) fn table_page(&self, no: u64, slot: u64) -> u64 {
        self.table() + (2 * no + slot) * self.unit_blocks
    }

    /// The block at which one of the two places of a page of checksums begins.
    pub(crate) fn page(&self, no: u64, slot: u64) -> u64 {
        self.end_of_tables() + (2 * no + slot) * self.unit_blocks
    }

    /// Whether it can be that of a base of `blocks` blocks whose superblock ends at `first`.
    fn check(&self, first: u64, blocks: u64) -> bool {
        let most = blocks >> 1;
        let sane = self.block_size >= 512
            && self.unit_blocks == u64::from(UNIT.div_ceil(self.block_size))
            && (1..=blocks).contains(&self.blocks)
            && self.log >= first
            && self.log <= most
            && (LOG_UNITS.0..=most / self.unit_blocks).contains(&self.log_units);
        sane && self.data >= self.end_of_records()
            && self.data.checked_add(self.blocks).is_some_and(|end| end <= blocks)
    }
}

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Tells the device from all others.
    pub id: u64,
    /// Counts the starts of the device. The log of another one is not valid.
    pub epoch: u64,
    /// The number of the last checkpoint.
    pub checkpoint: u64,
    /// The number of the first unit of the log that is not in the checkpoint.
    pub log_seq: u64,
    /// Writes with lower ids are in the checkpoint, but for those that the log says again.
    pub first_id: u64,
    /// The checksum of the whole table.
    pub table_sum: u32,
    /// Where what lies.
    pub layout: Layout,
}

impl Root {
    /// Its length in bytes.
    pub const LEN: usize = 80;

    /// As it lies in the superblock.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let layout = &self.layout;
        let mut bytes = [0; Self::LEN];
        let words = [self.id, self.epoch, self.checkpoint, self.log_seq];
        let more = [layout.blocks, layout.log, layout.log_units, layout.data];
        for (at, word) in words.into_iter().chain(more).enumerate() {
            bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[64..68].copy_from_slice(&layout.block_size.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.table_sum.to_le_bytes());
        bytes[72..].copy_from_slice(&self.first_id.to_le_bytes());
        bytes
    }

    /// Reads it, from a base of `blocks` blocks whose superblock ends at block `first`.
    ///
    /// # Errors
    /// It cannot be of such a base.
    pub fn decode(bytes: &[u8], first: u64, blocks: u64) -> Result<Self> {
        let damaged = || Error::Damaged("the superblock does not fit the base".into());
        let bytes: &[u8; Self::LEN] =
            bytes.get(..Self::LEN).and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
        let word = |at: usize| page::u64_at(bytes, 8 * at);
        let block_size = page::u32_at(bytes, 64);
        let layout = Layout {
            block_size,
            unit_blocks: u64::from(UNIT.div_ceil(block_size.max(1))),
            blocks: word(4),
            log: word(5),
            log_units: word(6),
            data: word(7),
        };
        if !layout.check(first, blocks) {
            return Err(damaged());
        }
        let table_sum = page::u32_at(bytes, 68);
        let (id, epoch, checkpoint, log_seq) = (word(0), word(1), word(2), word(3));
        let first_id = word(9);
        Ok(Self { id, epoch, checkpoint, log_seq, first_id, table_sum, layout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(block_size: u32, blocks: u64) -> Geometry {
        Geometry { block_size, blocks, first: 16, align: 8 }
    }

    fn root(layout: Layout) -> Root {
        Root { id: 7, epoch: 3, checkpoint: 9, log_seq: 100, first_id: 4, table_sum: 5, layout }
    }

    #[test]
    fn parts_follow_one_another_and_little_is_wasted() {
        for block_size in [512, 520, 4096, 4104, 65536] {
            for blocks in [2000, 10_000, 16_384, 131_072, 1 << 31, 1 << 40] {
                let Ok(layout) = Layout::new(geometry(block_size, blocks)) else {
                    assert!(blocks <= 2000, "{block_size} {blocks}");
                    continue;
                };
                assert!(layout.check(16, blocks), "{layout:?}");
                assert_eq!(layout.data % 8, 0);
                let unused = blocks - layout.blocks - layout.end_of_records();
                let slack = 8 + 4 * layout.unit_blocks + 4 + blocks / 100_000;
                assert!(unused <= slack, "{unused} of {blocks} {layout:?}");
                assert!(layout.pages() * layout.per_page() >= layout.blocks);
            }
        }
    }

    #[test]
    fn the_root_comes_back_and_a_hostile_one_is_refused() {
        let root = root(Layout::new(geometry(512, 131_072)).unwrap());
        let bytes = root.encode();
        assert_eq!(Root::decode(&bytes, 16, 131_072).unwrap(), root);
        assert!(Root::decode(&bytes, 16, 100_000).is_err());
        assert!(Root::decode(&bytes[..40], 16, 131_072).is_err());
        for at in 32..68 {
            for value in [0, 0xff] {
                let mut bytes = bytes;
                bytes[at..].fill(value);
                // No panic; a smaller device in the same place may be accepted.
                let _ = Root::decode(&bytes, 16, 131_072);
            }
        }
    }
}
