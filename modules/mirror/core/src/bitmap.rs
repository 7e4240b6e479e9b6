//! Pages of the write-intent bitmap as they lie on a leg.
//!
//! ```text
//! 0      4          8            24       28  32
//! | MIRB | CRC-32C  | array UUID | number | 0 | bits
//! ```
//! The checksum is of all that follows it. A page that was half written when the power went counts as all set.

use crc32c::crc32c;
use uuid::Uuid;

const MAGIC: [u8; 4] = *b"MIRB";
const HEAD: usize = 32;

/// The bits of a page of so many bytes.
pub const fn bits(page_bytes: usize) -> usize {
    (page_bytes - HEAD) * 8
}

/// Fills a page with the bits that `set` says, of which it has `count`.
pub fn encode(
    page: &mut [u8],
    array: Uuid,
    number: u32,
    count: usize,
    set: impl Fn(usize) -> bool,
) {
    page.fill(0);
    page[..4].copy_from_slice(&MAGIC);
    page[8..24].copy_from_slice(array.as_bytes());
    page[24..28].copy_from_slice(&number.to_le_bytes());
    for bit in (0..count).filter(|bit| set(*bit)) {
        page[HEAD + bit / 8] |= 1 << (bit % 8);
    }
    let crc = crc32c(&page[8..]);
    page[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The bits of a page; `None` if it is none of this array, or damaged.
pub fn decode(page: &[u8], array: Uuid, number: u32) -> Option<Bits<'_>> {
    let good = page.len() > HEAD
        && page[..4] == MAGIC
        && page[4..8] == crc32c(&page[8..]).to_le_bytes()
        && page[8..24] == *array.as_bytes()
        && page[24..28] == number.to_le_bytes();
    good.then(|| Bits(&page[HEAD..]))
}

/// The bits of a page that is good.
#[derive(Clone, Copy, Debug)]
pub struct Bits<'a>(&'a [u8]);

impl Bits<'_> {
    /// Whether a bit is set. Those beyond the page are.
    pub fn is_set(&self, bit: usize) -> bool {
        self.0.get(bit / 8).is_none_or(|byte| byte & (1 << (bit % 8)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_set() {
        let (array, mut page) = (Uuid::from_u128(7), [0xee; 4096]);
        encode(&mut page, array, 3, bits(4096), |bit| bit % 7 == 0);
        let found = decode(&page, array, 3).unwrap();
        assert!((0..bits(4096)).all(|bit| found.is_set(bit) == (bit % 7 == 0)));
        assert!(found.is_set(bits(4096)));
        assert!(decode(&page, array, 2).is_none());
        assert!(decode(&page, Uuid::nil(), 3).is_none());
    }

    #[test]
    fn damage_is_seen() {
        let (array, mut page) = (Uuid::from_u128(7), [0; 4096]);
        encode(&mut page, array, 0, 100, |bit| bit == 5);
        for at in (0..4096).step_by(13) {
            page[at] ^= 4;
            assert!(decode(&page, array, 0).is_none(), "{at}");
            page[at] ^= 4;
        }
        // The first half of the page is new, the second old.
        let mut newer = page;
        encode(&mut newer, array, 0, bits(4096), |bit| bit == 5 || bit > 30_000);
        newer[2048..].copy_from_slice(&page[2048..]);
        assert!(decode(&newer, array, 0).is_none());
        assert!(decode(&[], array, 0).is_none() && decode(&[0; 32], array, 0).is_none());
    }
}
