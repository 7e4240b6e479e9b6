//! Which operation comes next, by chance.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// Read blocks and check them.
    Read,
    /// Write blocks.
    Write,
    /// Say that blocks are not needed: they may hold anything from then on.
    Unmap,
    /// Make blocks zeroes.
    WriteZeroes,
    /// Make what was written durable.
    Flush,
    /// Compare blocks with what they should hold, or sometimes with something else.
    Compare,
    /// Compare, and write if it is the same.
    CompareAndWrite,
    /// Copy blocks to elsewhere.
    Copy,
    /// Reset the device.
    Reset,
}

impl Kind {
    /// Every kind, and how often it comes: the share of all.
    pub const SHARES: [(Self, u32); 9] = [
        (Self::Read, 340),
        (Self::Write, 360),
        (Self::Unmap, 50),
        (Self::WriteZeroes, 50),
        (Self::Flush, 30),
        (Self::Compare, 60),
        (Self::CompareAndWrite, 50),
        (Self::Copy, 50),
        (Self::Reset, 1),
    ];

    /// Whether it changes what blocks hold.
    pub fn changes(self) -> bool {
        use Kind::{CompareAndWrite, Copy, Unmap, Write, WriteZeroes};
        matches!(self, Write | Unmap | WriteZeroes | CompareAndWrite | Copy)
    }

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::SHARES.iter().map(|(kind, _)| *kind).find(|kind| *kind as u8 == number)
    }
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub kind: Kind,
    /// Its blocks; of a copy the target.
    pub blocks: Range<u64>,
    /// First block of a copy's source.
    pub source: u64,
    /// It compares with something that the blocks do not hold.
    pub differs: bool,
}

impl Op {
    /// The blocks that it reads.
    pub fn reads(&self) -> Range<u64> {
        match self.kind {
            Kind::Read | Kind::Compare | Kind::CompareAndWrite => self.blocks.clone(),
            Kind::Copy => self.source..self.source + (self.blocks.end - self.blocks.start),
            _ => 0..0,
        }
    }

    /// The blocks that it changes.
    pub fn changes(&self) -> Range<u64> {
        if self.kind.changes() { self.blocks.clone() } else { 0..0 }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, blocks, source, differs } = self;
        write!(f, "{kind:?} of blocks {}..={}", blocks.start, blocks.end.saturating_sub(1))?;
        if *kind == Kind::Copy {
            write!(f, " from {source}")?;
        }
        if *differs && matches!(kind, Kind::Compare | Kind::CompareAndWrite) {
            write!(f, " with something else")?;
        }
        Ok(())
    }
}

/// What operations there may be.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// The blocks that are used.
    pub blocks: Range<u64>,
    /// Blocks between the boundaries that are worth crossing; 0 for none.
    pub boundary: u64,
    /// What is changed is a multiple of so many blocks.
    pub write_unit: u64,
    /// The most blocks of a compare-and-write.
    pub atomic: u64,
    /// The most blocks of a compare.
    pub compared: u64,
    /// The most blocks of an operation.
    pub most: u64,
}

/// Draws operations.
#[derive(Clone, Debug)]
pub struct Plan {
    geometry: Geometry,
    random: Random,
    shares: Vec<(Kind, u32)>,
}

/// The share of operations that lie in the first blocks, so that some blocks are often used.
const HOT: u64 = 256;

impl Plan {
    /// Draws from these kinds.
    pub fn new(geometry: Geometry, random: Random, kinds: &[Kind]) -> Self {
        let shares = Kind::SHARES.into_iter().filter(|(kind, _)| kinds.contains(kind)).collect();
        Self { geometry, random, shares }
    }

    /// Never draws that kind again.
    pub fn forget(&mut self, kind: Kind) {
        self.shares.retain(|(other, _)| *other != kind);
    }

    /// The source of chance.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The next operation; `None` when no kind is left.
    pub fn draw(&mut self) -> Option<Op> {
        let kind = self.kind()?;
        let unit = if kind.changes() { self.geometry.write_unit.max(1) } else { 1 };
        let (blocks, differs) = (self.blocks(kind, unit), self.random.one_in(8));
        if kind != Kind::Copy {
            return Some(Op { kind, blocks, source: 0, differs });
        }
        // Where there is no room for a copy's source, what would have been its target is read.
        let source = self.source(&blocks);
        let kind = if source.is_some() { kind } else { Kind::Read };
        Some(Op { kind, blocks, source: source.unwrap_or(0), differs })
    }

    fn kind(&mut self) -> Option<Kind> {
        let total: u32 = self.shares.iter().map(|(_, share)| share).sum();
        let mut at = self.random.below(total.into());
        self.shares.iter().find_map(|(kind, share)| {
            let here = at < u64::from(*share);
            at = at.wrapping_sub((*share).into());
            here.then_some(*kind)
        })
    }

    fn blocks(&mut self, kind: Kind, unit: u64) -> Range<u64> {
        let Geometry { blocks, boundary, atomic, compared, most, .. } = self.geometry.clone();
        let room = blocks.end - blocks.start;
        let most = match kind {
            Kind::CompareAndWrite => most.min(atomic.max(1)),
            Kind::Compare => most.min(compared.max(1)),
            // These are cheap, and are split by the bdev layer and by modules when they are long.
            Kind::Unmap | Kind::WriteZeroes | Kind::Flush => most.saturating_mul(2),
            _ => most,
        };
        let most = most.min(room).max(1);
        let random = &mut self.random;
        let len = match random.below(10) {
            0..3 => 1,
            3..6 => 1 + random.below(most.min(8)),
            6..9 => 1 + random.below(most.min(64)),
            _ => 1 + random.below(most),
        };
        let start = match random.below(8) {
            0..2 => random.below(room.min(HOT)),
            // Across a boundary, or up to one.
            2..4 if boundary > 0 && room > boundary => {
                let edge = (1 + random.below(room / boundary)) * boundary;
                edge.saturating_sub(1 + random.below(len))
            }
            4 => room.saturating_sub(len),
            _ => random.below(room),
        };
        let start = blocks.start + start.min(room - len.min(room));
        // What is changed is a multiple of the unit, at a multiple of it.
        let start = start / unit * unit;
        let len = len.next_multiple_of(unit).min((blocks.end - start) / unit * unit);
        start..start + len
    }

    /// Where to copy so many blocks from, beside the target.
    fn source(&mut self, target: &Range<u64>) -> Option<u64> {
        let (len, all) = (target.end - target.start, &self.geometry.blocks);
        let (before, after) = (target.start - all.start, all.end - target.end);
        let places = |room: u64| (room + 1).saturating_sub(len);
        let count = places(before) + places(after);
        let at = self.random.below(count);
        let source =
            if at < places(before) { all.start + at } else { target.end + at - places(before) };
        (count > 0).then_some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<Kind> {
        Kind::SHARES.iter().map(|(kind, _)| *kind).collect()
    }

    fn plans() -> impl Iterator<Item = (Geometry, Plan)> {
        let shape = |(blocks, boundary, write_unit, most): (Range<u64>, u64, u64, u64)| {
            let geometry = Geometry { blocks, boundary, write_unit, atomic: 1, compared: 64, most };
            (geometry.clone(), Plan::new(geometry, Random::new(1), &kinds()))
        };
        let shapes =
            [(0..8, 0, 1, 512), (0..1 << 20, 16, 1, 512), (64..4096, 8, 8, 300), (8..9, 4, 1, 1)];
        shapes.into_iter().map(shape)
    }

    #[test]
    fn operations_stay_in_their_range() {
        for (geometry, mut plan) in plans() {
            for _ in 0..20_000 {
                let op = plan.draw().unwrap();
                let inside = |range: &Range<u64>| {
                    geometry.blocks.start <= range.start && range.end <= geometry.blocks.end
                };
                assert!(inside(&op.blocks) && op.blocks.start < op.blocks.end, "{op:?}");
                let unit = geometry.write_unit;
                if op.kind.changes() {
                    assert!(op.blocks.start % unit == 0 && op.blocks.end % unit == 0, "{op:?}");
                }
                if op.kind == Kind::Copy {
                    let source = op.reads();
                    assert!(inside(&source), "{op:?}");
                    assert!(
                        source.end <= op.blocks.start || op.blocks.end <= source.start,
                        "{op:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_kind_comes_and_boundaries_are_crossed() {
        let (_, mut plan) = plans().nth(1).unwrap();
        let ops: Vec<_> = (0..10_000).map(|_| plan.draw().unwrap()).collect();
        for kind in kinds() {
            assert!(ops.iter().any(|op| op.kind == kind), "{kind:?}");
        }
        let crosses = |op: &&Op| op.blocks.start / 16 != (op.blocks.end - 1) / 16;
        assert!(ops.iter().filter(crosses).count() > 3000);
        plan.forget(Kind::Reset);
        assert!((0..10_000).all(|_| plan.draw().unwrap().kind != Kind::Reset));
    }

    #[test]
    fn numbers_of_kinds_come_back() {
        kinds().into_iter().for_each(|kind| assert_eq!(Kind::from_number(kind as u8), Some(kind)));
        assert_eq!(Kind::from_number(99), None);
    }
}
