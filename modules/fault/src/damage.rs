//! What becomes of data that are corrupted.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::chance::Chance;

/// A way to corrupt data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// Bits are flipped.
    #[default]
    Flip,
    /// All bytes are zero.
    Zero,
    /// All bytes are others.
    Garbage,
}

/// Damage to a range of bytes, to be done part by part.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    how: How,
    bytes: Range<u64>,
    /// Bytes and the bits of them that are flipped.
    flips: Vec<(u64, u8)>,
    seed: u64,
}

impl Damage {
    /// To the bytes of that range; of flips so many bits, none of them twice.
    pub(crate) fn new(how: How, bytes: Range<u64>, bits: u64, chance: &mut Chance) -> Self {
        let seed = chance.any();
        let all = (bytes.end - bytes.start).saturating_mul(8);
        let mut flips: Vec<(u64, u8)> = Vec::new();
        while how == How::Flip && (flips.len() as u64) < bits.min(all) {
            let bit = chance.within(0..all);
            let flip = (bytes.start + bit / 8, 1 << (bit % 8));
            if !flips.contains(&flip) {
                flips.push(flip);
            }
        }
        Self { how, bytes, flips, seed }
    }

    /// Does what of it falls on `part`, which begins at byte `at`.
    pub(crate) fn apply(&self, at: u64, part: &mut [u8]) {
        for (byte, bit) in &self.flips {
            let byte = byte.checked_sub(at).and_then(|byte| part.get_mut(byte as usize));
            byte.into_iter().for_each(|byte| *byte ^= bit);
        }
        let end = at + part.len() as u64;
        let (first, last) = (self.bytes.start.clamp(at, end), self.bytes.end.clamp(at, end));
        let hit = &mut part[(first - at) as usize..(last - at) as usize];
        match self.how {
            How::Flip => {}
            How::Zero => hit.fill(0),
            How::Garbage => {
                for (place, byte) in (first..).zip(hit) {
                    // Never the same.
                    *byte ^= Chance::of(self.seed, place).any() as u8 | 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applied in parts of that size to 64 bytes of which 16..48 are to be hit.
    fn damaged(how: How, bits: u64, seed: u64, size: usize) -> Vec<u8> {
        let damage = Damage::new(how, 1016..1048, bits, &mut Chance::of(seed, 0));
        let mut bytes = vec![0x55; 64];
        let mut at = 1000;
        for part in bytes.chunks_mut(size) {
            damage.apply(at, part);
            at += part.len() as u64;
        }
        bytes
    }

    #[test]
    fn parts_make_no_difference() {
        for how in [How::Flip, How::Zero, How::Garbage] {
            for seed in 0..50 {
                let whole = damaged(how, 3, seed, 64);
                for size in [1, 7, 16, 63] {
                    assert_eq!(damaged(how, 3, seed, size), whole);
                }
                let mut outside = whole[..16].iter().chain(&whole[48..]);
                assert!(outside.all(|byte| *byte == 0x55));
            }
        }
    }

    #[test]
    fn as_much_as_asked_for() {
        for seed in 0..50 {
            for bits in [0, 1, 2, 17, 256, 1000] {
                let bytes = damaged(How::Flip, bits, seed, 64);
                let flipped: u32 = bytes.iter().map(|byte| (byte ^ 0x55).count_ones()).sum();
                assert_eq!(u64::from(flipped), bits.min(256));
            }
            assert!(damaged(How::Zero, 1, seed, 64)[16..48].iter().all(|byte| *byte == 0));
            assert!(damaged(How::Garbage, 1, seed, 64)[16..48].iter().all(|byte| *byte != 0x55));
        }
    }
}
