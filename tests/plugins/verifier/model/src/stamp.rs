//! The contents of a block, told by one number.

use std::fmt;

use crate::random::{STEP, mix};

/// What a block holds. The first 8 bytes of the block are the number itself, all others follow from it, so
/// that a block that is found elsewhere, later or in part is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(u64);

/// The number within its sequence; the bits above are the sequence's own.
const SERIAL_BITS: u32 = 44;
const SERIAL: u64 = (1 << SERIAL_BITS) - 1;

impl Stamp {
    /// All bytes are 0.
    pub const ZEROES: Self = Self(0);

    /// The `serial`th of the sequence that `seed` begins.
    #[inline]
    pub fn new(seed: u64, serial: u64) -> Self {
        // Never that of zeroes.
        Self((mix(seed) | 1 << 63) & !SERIAL | serial & SERIAL)
    }

    /// Its number in its sequence.
    pub fn serial(self) -> u64 {
        self.0 & SERIAL
    }

    /// Whether it is of the sequence that `seed` begins.
    pub fn is_of(self, seed: u64) -> bool {
        self != Self::ZEROES && Self::new(seed, self.0) == self
    }

    /// Writes the contents.
    pub fn fill(self, block: &mut [u8]) {
        if self == Self::ZEROES {
            return block.fill(0);
        }
        let (words, tail) = block.as_chunks_mut::<8>();
        let last = self.word(words.len() as u64).to_le_bytes();
        for (i, word) in (0..).zip(words) {
            *word = self.word(i).to_le_bytes();
        }
        tail.iter_mut().zip(last).for_each(|(byte, value)| *byte = value);
    }

    /// The first byte that is not as it should be.
    pub fn difference(self, block: &[u8]) -> Option<usize> {
        let (words, tail) = block.as_chunks::<8>();
        let wrong = |(i, word): (u64, &[u8; 8])| *word != self.word(i).to_le_bytes();
        let place = (0..).zip(words).position(wrong);
        let (start, bytes) = match place {
            Some(i) => (i * 8, &words[i][..]),
            None => (words.len() * 8, tail),
        };
        let right = self.word((start / 8) as u64).to_le_bytes();
        bytes.iter().zip(right).position(|(byte, right)| *byte != right).map(|i| start + i)
    }

    /// Whether the block holds it.
    pub fn is_in(self, block: &[u8]) -> bool {
        self.difference(block).is_none()
    }

    /// Whose contents the block begins with, if it were one.
    pub fn at_start_of(block: &[u8]) -> Option<Self> {
        block.first_chunk().map(|word| Self(u64::from_le_bytes(*word)))
    }

    /// The word `index` of the contents.
    #[inline]
    pub(crate) fn word(self, index: u64) -> u64 {
        if index == 0 || self == Self::ZEROES {
            return self.0;
        }
        mix(self.0.wrapping_add(index.wrapping_mul(STEP)))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZEROES => f.write_str("zeroes"),
            Self(number) => write!(f, "data {number:016x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_found() {
        for len in [8, 512, 520, 4096, 4099] {
            let mut block = vec![0xaa; len];
            for stamp in [Stamp::ZEROES, Stamp::new(1, 0), Stamp::new(1, 77)] {
                stamp.fill(&mut block);
                assert_eq!(stamp.difference(&block), None);
                assert_eq!(Stamp::at_start_of(&block), Some(stamp));
                assert!(!Stamp::new(1, 78).is_in(&block));
            }
        }
    }

    #[test]
    fn every_bit_counts() {
        let (stamp, mut block) = (Stamp::new(3, 9), vec![0; 515]);
        stamp.fill(&mut block);
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(stamp.difference(&block), Some(bit / 8));
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn sequences_are_told_apart() {
        let stamp = Stamp::new(5, 123);
        assert_eq!(stamp.serial(), 123);
        assert!(stamp.is_of(5) && !stamp.is_of(6) && !Stamp::ZEROES.is_of(5));
    }
}
