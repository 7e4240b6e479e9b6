//! A page of checksums, or of the table, as it lies on the base.
//!
//! `magic, checksum of all that follows, device, address, checkpoint, values...`

use crc32c::{crc32c, crc32c_append};

pub(crate) const HEADER: usize = 32;
const MAGIC: u32 = 0x4743_5249;
const TABLE: u64 = 1 << 63;

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Sums(u64),
    Table(u64),
}

impl Address {
    fn raw(self) -> u64 {
        match self {
            Self::Sums(no) => no,
            Self::Table(no) => no | TABLE,
        }
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Fills `unit`.
pub(crate) fn encode(
    unit: &mut [u8],
    id: u64,
    address: Address,
    checkpoint: u64,
    values: impl Iterator<Item = u32>,
) {
    let (header, body) = unit.split_at_mut(HEADER);
    body.fill(0);
    for (place, value) in body.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *place = value.to_le_bytes();
    }
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&id.to_le_bytes());
    header[16..24].copy_from_slice(&address.raw().to_le_bytes());
    header[24..32].copy_from_slice(&checkpoint.to_le_bytes());
    let sum = crc32c_append(crc32c(&header[8..]), body);
    header[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// The checkpoint that a page was written in, if it is whole and is that page of that device.
pub(crate) fn decode(unit: &[u8], id: u64, address: Address) -> Option<u64> {
    let whole = u32_at(unit, 0) == MAGIC && u32_at(unit, 4) == crc32c(&unit[8..]);
    let ours = u64_at(unit, 8) == id && u64_at(unit, 16) == address.raw();
    (whole && ours).then(|| u64_at(unit, 24))
}

/// The values of a page.
pub(crate) fn values(unit: &[u8]) -> impl Iterator<Item = u32> {
    unit[HEADER..].as_chunks::<4>().0.iter().map(|value| u32::from_le_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_all_that_it_says() {
        let mut unit = vec![0xaa; 4096];
        encode(&mut unit, 7, Address::Sums(5), 9, [1, 2, 3].into_iter());
        assert_eq!(decode(&unit, 7, Address::Sums(5)), Some(9));
        assert_eq!(values(&unit).take(4).collect::<Vec<_>>(), [1, 2, 3, 0]);
        assert_eq!(decode(&unit, 8, Address::Sums(5)), None);
        assert_eq!(decode(&unit, 7, Address::Sums(6)), None);
        assert_eq!(decode(&unit, 7, Address::Table(5)), None);
        for bit in 0..4096 * 8 {
            unit[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&unit, 7, Address::Sums(5)), None, "bit {bit}");
            unit[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
