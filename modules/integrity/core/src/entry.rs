//! What the log says, and how it lies on the base.
//!
//! A unit of the log is `magic, checksum, device, epoch, number, durable, length, entries...`; it is valid by
//! itself, whatever became of the others. An entry is `block, id, count, kind, checksums...`.

use crc32c::crc32c;

use crate::check::UNWRITTEN;
use crate::page::{u32_at, u64_at};

const MAGIC: u32 = 0x4c47_5249;
const UNIT_HEADER: usize = 48;
const HEADER: usize = 24;

/// What an entry says of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They are being written.
    Open,
    /// They were written.
    Close,
    /// They are unwritten from now on.
    Zero,
}

impl Kind {
    fn from_raw(raw: u32) -> Option<Self> {
        [Self::Open, Self::Close, Self::Zero].into_iter().find(|kind| *kind as u32 + 1 == raw)
    }
}

/// An entry. `id` grows from write to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) lba: u64,
    pub(crate) count: u64,
    /// None for [`Kind::Zero`].
    pub(crate) sums: Vec<u32>,
}

impl Entry {
    /// The checksum of its `at`th block.
    pub(crate) fn sum(&self, at: usize) -> u32 {
        self.sums.get(at).copied().unwrap_or(UNWRITTEN)
    }
}

/// Entries one after another that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Stream(Vec<u8>);

impl Stream {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Moves what `other` has behind what is here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    /// Adds an entry, in several if one would not fit in a unit of `unit` bytes.
    pub(crate) fn push(
        &mut self,
        unit: usize,
        kind: Kind,
        id: u64,
        (lba, count): (u64, u64),
        sums: &[u32],
    ) {
        if kind == Kind::Zero {
            return self.push_one(kind, id, (lba, count), &[]);
        }
        let most = (unit - UNIT_HEADER - HEADER) / 4;
        for (sums, lba) in sums.chunks(most).zip((lba..).step_by(most)) {
            self.push_one(kind, id, (lba, sums.len() as u64), sums);
        }
    }

    fn push_one(&mut self, kind: Kind, id: u64, (lba, count): (u64, u64), sums: &[u32]) {
        self.0.extend(lba.to_le_bytes());
        self.0.extend(id.to_le_bytes());
        self.0.extend((count as u32).to_le_bytes());
        self.0.extend((kind as u32 + 1).to_le_bytes());
        self.0.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    }

    /// Bytes that an entry of that many blocks takes in a stream of units, at most.
    pub(crate) fn cost(blocks: u64) -> u64 {
        let bytes = 4 * blocks + HEADER as u64;
        bytes + bytes / 32 + HEADER as u64
    }

    /// Puts the entries into whole units at the end of `units`, which have no headers yet.
    pub(crate) fn pack(&self, unit: usize, units: &mut Vec<u8>) {
        let mut room = 0;
        let mut rest = &self.0[..];
        while let Some((entry, after)) = entry_at(rest) {
            rest = after;
            if room < entry.len() {
                units.resize(units.len() + room + UNIT_HEADER, 0);
                room = unit - UNIT_HEADER;
            }
            units.extend_from_slice(entry);
            room -= entry.len();
        }
        units.resize(units.len() + room, 0);
    }
}

/// Splits off the first entry. `None` at the end, or at what is none.
fn entry_at(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.len() < HEADER {
        return None;
    }
    let len = match Kind::from_raw(u32_at(bytes, 20))? {
        Kind::Zero => HEADER,
        Kind::Open | Kind::Close => HEADER + 4 * u32_at(bytes, 16) as usize,
    };
    bytes.split_at_checked(len)
}

/// What a unit says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// All units before this one were on the base when this one was written.
    pub(crate) durable: u64,
}

/// Makes a unit valid.
pub(crate) fn seal(unit: &mut [u8], header: Header) {
    unit[..4].copy_from_slice(&MAGIC.to_le_bytes());
    let words = [header.id, header.epoch, header.seq, header.durable];
    for (at, word) in (8..).step_by(8).zip(words) {
        unit[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let sum = crc32c(&unit[8..]);
    unit[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Reads a unit that may be anything.
pub(crate) fn read(unit: &[u8]) -> Option<Header> {
    if u32_at(unit, 0) != MAGIC || u32_at(unit, 4) != crc32c(&unit[8..]) {
        return None;
    }
    let [id, epoch, seq, durable] = [8, 16, 24, 32].map(|at| u64_at(unit, at));
    Some(Header { id, epoch, seq, durable })
}

/// The entries of a unit that is valid, of a device of `blocks` blocks.
pub(crate) fn entries(unit: &[u8], blocks: u64) -> impl Iterator<Item = Entry> {
    let mut rest = &unit[UNIT_HEADER..];
    std::iter::from_fn(move || {
        let (entry, after) = entry_at(rest)?;
        rest = after;
        let sums = entry[HEADER..].as_chunks::<4>().0;
        Some(Entry {
            kind: Kind::from_raw(u32_at(entry, 20))?,
            id: u64_at(entry, 8),
            lba: u64_at(entry, 0),
            count: u32_at(entry, 16).into(),
            sums: sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect(),
        })
    })
    .filter(move |entry| entry.lba.checked_add(entry.count).is_some_and(|end| end <= blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stream: &Stream, unit: usize) -> Vec<Entry> {
        let mut units = Vec::new();
        stream.pack(unit, &mut units);
        assert_eq!(units.len() % unit, 0);
        units.chunks(unit).flat_map(|unit| entries(unit, 1 << 40).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn entries_come_back_in_order_also_over_many_units() {
        let mut stream = Stream::default();
        let mut expected = Vec::new();
        for id in 0..500_u64 {
            let sums: Vec<_> = (0..id as u32 % 50 + 1).map(|at| at * 3 + 2).collect();
            let (kind, count) =
                if id % 3 == 0 { (Kind::Open, sums.len() as u64) } else { (Kind::Zero, 1 << 20) };
            let sums = if kind == Kind::Zero { Vec::new() } else { sums };
            stream.push(4096, kind, id, (id * 100, count), &sums);
            expected.push(Entry { kind, id, lba: id * 100, count, sums });
        }
        assert_eq!(written(&stream, 4096), expected);
    }

    #[test]
    fn long_entries_are_cut() {
        let mut stream = Stream::default();
        let sums: Vec<_> = (0..10_000).collect();
        stream.push(4096, Kind::Close, 3, (77, 10_000), &sums);
        let entries = written(&stream, 4096);
        assert!(entries.len() > 9);
        let mut lba = 77;
        let mut all = Vec::new();
        for entry in entries {
            assert_eq!((entry.lba, entry.count), (lba, entry.sums.len() as u64));
            lba += entry.count;
            all.extend(entry.sums);
        }
        assert_eq!(all, sums);
        let mut units = Vec::new();
        stream.pack(4096, &mut units);
        assert!(units.len() as u64 <= Stream::cost(10_000) + 4096);
    }

    #[test]
    fn damaged_and_hostile_units_are_refused() {
        let mut stream = Stream::default();
        stream.push(4096, Kind::Open, 1, (5, 2), &[8, 9]);
        let mut unit = Vec::new();
        stream.pack(4096, &mut unit);
        let header = Header { id: 1, epoch: 2, seq: 3, durable: 3 };
        seal(&mut unit, header);
        assert_eq!(read(&unit), Some(header));
        assert_eq!(entries(&unit, 7).count(), 1);
        assert_eq!(entries(&unit, 6).count(), 0);
        for bit in 0..unit.len() * 8 {
            unit[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&unit), None);
            unit[bit / 8] ^= 1 << (bit % 8);
        }
        unit[UNIT_HEADER..].fill(0xff);
        assert_eq!(entries(&unit, 7).count(), 0);
    }
}
