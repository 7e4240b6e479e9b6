//! What the fast disk says of a set: one record of 256 bytes, so that a sector, which is written as a
//! whole or not at all, has whole sets.
//!
//! | bytes | |
//! | --- | --- |
//! | 0..4 | CRC-32C of the rest |
//! | 4..8 | `TSET` |
//! | 8..16 | stamp: which formatting of which cache |
//! | 16..24 | number of the set |
//! | 24..32 | counts the writes of the block, for those who look at it |
//! | 32..160 | a word for each way: 0, or the line + 1 in the upper 62 bits and 1 clean, 2 dirty |

use std::fmt;

use crate::crc::crc32c;
use crate::geometry::Geometry;
use crate::set::{Claim, WAYS};

pub(crate) const SIZE: usize = 256;
const MAGIC: [u8; 4] = *b"TSET";

/// Records in a block.
pub(crate) fn per_block(block_size: u32) -> u64 {
    u64::from(block_size) / SIZE as u64
}

/// The ways of a set as the record has them.
pub(crate) type Entries = [(Claim, u64); WAYS];

pub(crate) const EMPTY: Entries = [(Claim::None, 0); WAYS];

/// A record that cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose record it is.
    pub set: u64,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record of set {} {}", self.set, self.what)
    }
}

pub(crate) fn encode(into: &mut [u8], stamp: u64, set: u64, sequence: u64, entries: &Entries) {
    let into = &mut into[..SIZE];
    into.fill(0);
    into[4..8].copy_from_slice(&MAGIC);
    into[8..16].copy_from_slice(&stamp.to_le_bytes());
    into[16..24].copy_from_slice(&set.to_le_bytes());
    into[24..32].copy_from_slice(&sequence.to_le_bytes());
    for (word, (claim, line)) in into[32..].chunks_exact_mut(8).zip(entries) {
        let value = match claim {
            Claim::None => 0,
            Claim::Clean => (line + 1) << 2 | 1,
            Claim::Dirty => (line + 1) << 2 | 2,
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32c(&into[4..]);
    into[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a record. Zeroes, which formatting leaves, are an empty one.
pub(crate) fn decode(
    from: &[u8],
    geometry: &Geometry,
    stamp: u64,
    set: u64,
) -> Result<Entries, Damage> {
    let damage = |what| Err(Damage { set, what });
    let Some(from) = from.get(..SIZE) else { return damage("is cut off") };
    if from.iter().all(|byte| *byte == 0) {
        return Ok(EMPTY);
    }
    let word = |at: usize| u64::from_le_bytes(from[at..at + 8].try_into().unwrap_or_default());
    if from[..4] != crc32c(&from[4..]).to_le_bytes() || from[4..8] != MAGIC {
        return damage("has a wrong checksum");
    }
    if word(8) != stamp {
        return damage("is another cache's");
    }
    if word(16) != set {
        return damage("is another set's");
    }
    let mut entries = EMPTY;
    for way in 0..WAYS {
        let value = word(32 + way * 8);
        let claim = match value & 3 {
            0 if value == 0 => continue,
            1 => Claim::Clean,
            2 => Claim::Dirty,
            _ => return damage("has an entry of no known kind"),
        };
        let Some(line) = (value >> 2).checked_sub(1) else {
            return damage("has an entry without a line");
        };
        if line >= geometry.slow_lines || geometry.set_of(line) != set {
            return damage("names a line that is not of the set");
        }
        if entries.iter().any(|(claim, other)| *claim != Claim::None && *other == line) {
            return damage("names a line twice");
        }
        entries[way] = (claim, line);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        block_size: 512,
        line_blocks: 8,
        sets: 10,
        slow_lines: 1000,
        records_at: 0,
        lines_at: 5,
    };

    fn sample() -> ([u8; SIZE], Entries) {
        let mut entries = EMPTY;
        entries[0] = (Claim::Clean, 3);
        entries[5] = (Claim::Dirty, 993);
        let mut bytes = [0; SIZE];
        encode(&mut bytes, 7, 3, 1, &entries);
        (bytes, entries)
    }

    #[test]
    fn what_is_written_is_read() {
        let (bytes, entries) = sample();
        assert_eq!(decode(&bytes, &GEOMETRY, 7, 3), Ok(entries));
        assert_eq!(decode(&[0; SIZE], &GEOMETRY, 7, 3), Ok(EMPTY));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, _) = sample();
        for bit in 0..SIZE * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, &GEOMETRY, 7, 3).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_does_not_belong_here_is_refused() {
        let (bytes, mut entries) = sample();
        let what = |result: Result<Entries, Damage>| result.unwrap_err().what;
        assert_eq!(what(decode(&bytes, &GEOMETRY, 8, 3)), "is another cache's");
        assert_eq!(what(decode(&bytes, &GEOMETRY, 7, 4)), "is another set's");
        assert_eq!(what(decode(&bytes[..100], &GEOMETRY, 7, 3)), "is cut off");
        let mut with = |way: usize, entry| {
            entries[way] = entry;
            let mut bytes = [0; SIZE];
            encode(&mut bytes, 7, 3, 1, &entries);
            entries[way] = (Claim::None, 0);
            what(decode(&bytes, &GEOMETRY, 7, 3))
        };
        assert_eq!(with(1, (Claim::Clean, 4)), "names a line that is not of the set");
        assert_eq!(with(1, (Claim::Clean, 1003)), "names a line that is not of the set");
        assert_eq!(with(1, (Claim::Clean, (1 << 62) - 2)), "names a line that is not of the set");
        assert_eq!(with(1, (Claim::Clean, 993)), "names a line twice");
    }
}
