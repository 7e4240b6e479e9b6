//! The checksum of a block.

use std::sync::atomic::{AtomicU32, Ordering};

use crc32c::crc32c_append;

/// In the place of a checksum: never written, or unmapped. Reads as zeroes.
pub(crate) const UNWRITTEN: u32 = 0;
/// In the place of a checksum: it is not known what should be there. Nothing matches.
pub(crate) const BAD: u32 = 1;

/// Takes checksums of one device's blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checker {
    seed: u32,
    block_size: usize,
}

impl Checker {
    pub(crate) fn new(id: u64, block_size: u32) -> Self {
        Self { seed: crc32c_append(0, &id.to_le_bytes()), block_size: block_size as usize }
    }

    /// Where the checksum of a block begins. Two addresses less than 2^32 apart begin differently, and so
    /// the same data have different checksums there.
    fn begin(self, lba: u64) -> u32 {
        crc32c_append(self.seed, &lba.to_le_bytes())
    }

    /// Two values are taken, at the price of two checksums that are told apart from them only.
    fn end(crc: u32) -> u32 {
        if crc <= BAD { crc + 2 } else { crc }
    }

    pub(crate) fn block(self, lba: u64, data: &[u8]) -> u32 {
        Self::end(crc32c_append(self.begin(lba), data))
    }

    /// Gives the checksums of the blocks from `lba` on whose data are `bufs`, one after another, cut
    /// anywhere.
    pub(crate) fn blocks<'a>(
        self,
        mut lba: u64,
        bufs: impl Iterator<Item = &'a [u8]>,
        mut each: impl FnMut(u32),
    ) {
        let (mut crc, mut left) = (self.begin(lba), self.block_size);
        for mut buf in bufs {
            while !buf.is_empty() {
                let (piece, rest) = buf.split_at(left.min(buf.len()));
                crc = crc32c_append(crc, piece);
                (buf, left) = (rest, left - piece.len());
                if left == 0 {
                    each(Self::end(crc));
                    lba += 1;
                    (crc, left) = (self.begin(lba), self.block_size);
                }
            }
        }
    }

    /// Compares the blocks in `bufs` with what `expected` has, and makes zeroes of the unwritten ones. Calls
    /// `bad` for each block that does not match.
    pub(crate) fn compare<'a>(
        self,
        mut lba: u64,
        bufs: impl Iterator<Item = &'a mut [u8]>,
        mut expected: impl FnMut(u64) -> u32,
        mut bad: impl FnMut(u64, u32),
    ) {
        let (mut crc, mut left) = (self.begin(lba), self.block_size);
        let mut want = None;
        for mut buf in bufs {
            while !buf.is_empty() {
                let expects = *want.get_or_insert_with(|| expected(lba));
                let (piece, rest) = buf.split_at_mut(left.min(buf.len()));
                left -= piece.len();
                match expects {
                    UNWRITTEN => piece.fill(0),
                    _ => crc = crc32c_append(crc, piece),
                }
                buf = rest;
                if left == 0 {
                    if expects != UNWRITTEN && expects != Self::end(crc) {
                        bad(lba, expects);
                    }
                    lba += 1;
                    want = None;
                    (crc, left) = (self.begin(lba), self.block_size);
                }
            }
        }
    }
}

/// Checksums that several threads read and write.
pub(crate) type Sums = Box<[AtomicU32]>;

pub(crate) fn sums(values: impl Iterator<Item = u32>) -> Sums {
    values.map(AtomicU32::new).collect()
}

pub(crate) fn load(sums: &[AtomicU32], at: usize) -> u32 {
    sums[at].load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKER: fn() -> Checker = || Checker::new(0x1234_5678_9abc_def0, 512);

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + at / 512) as u8).collect()
    }

    #[test]
    fn cuts_make_no_difference() {
        let data = data(4 * 512);
        let whole: Vec<_> =
            data.chunks(512).zip(9..).map(|(block, lba)| CHECKER().block(lba, block)).collect();
        for cut in [1, 100, 511, 512, 513, 2000] {
            let mut sums = Vec::new();
            CHECKER().blocks(9, data.chunks(cut), |sum| sums.push(sum));
            assert_eq!(sums, whole, "cut at {cut}");
            let mut read = data.clone();
            let mut bad = Vec::new();
            CHECKER().compare(
                9,
                read.chunks_mut(cut),
                |lba| whole[lba as usize - 9],
                |lba, _| bad.push(lba),
            );
            assert!(bad.is_empty() && read == data);
        }
    }

    #[test]
    fn address_and_device_matter() {
        let data = data(512);
        let here = CHECKER().block(5, &data);
        for bit in 0..32 {
            assert_ne!(here, CHECKER().block(5 ^ (1 << bit), &data));
        }
        assert_ne!(here, Checker::new(1, 512).block(5, &data));
    }

    #[test]
    fn every_bit_matters() {
        let mut data = data(512);
        let sum = CHECKER().block(1, &data);
        for bit in 0..512 * 8 {
            data[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(CHECKER().block(1, &data), sum, "bit {bit}");
            data[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn unwritten_blocks_become_zeroes_and_bad_ones_never_match() {
        let mut read = data(3 * 512);
        let good = CHECKER().block(2, &read[1024..]);
        let mut bad = Vec::new();
        let expected = |lba| [UNWRITTEN, BAD, good][lba as usize];
        CHECKER().compare(0, read.chunks_mut(300), expected, |lba, sum| bad.push((lba, sum)));
        assert_eq!(bad, [(1, BAD)]);
        assert!(read[..512].iter().all(|&byte| byte == 0));
        assert_eq!(read[512..], data(3 * 512)[512..]);
    }
}
