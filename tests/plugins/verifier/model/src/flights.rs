//! Operations that are in flight, and which of them may be so together.

use std::ops::Range;

use crate::plan::Op;

/// The operations in flight, few at a time.
#[derive(Debug, Default)]
pub(crate) struct Flights(Vec<(u64, Op)>);

fn meet(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    one.start.max(other.start)..one.end.min(other.end)
}

fn apart(one: &Range<u64>, other: &Range<u64>) -> bool {
    meet(one, other).is_empty()
}

impl Flights {
    /// Whether what `op` reads is not changed meanwhile, and the other way round. With `races`, others may change
    /// what it changes.
    pub(crate) fn admits(&self, op: &Op, races: bool) -> bool {
        let (reads, changes) = (op.reads(), op.changes());
        self.0.iter().all(|(_, other)| {
            apart(&reads, &other.changes())
                && apart(&changes, &other.reads())
                && (races || apart(&changes, &other.changes()))
        })
    }

    pub(crate) fn add(&mut self, number: u64, op: Op) {
        self.0.push((number, op));
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Op> {
        let at = self.0.iter().position(|(other, _)| *other == number)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Whether one in flight changes the block.
    pub(crate) fn changes(&self, block: u64) -> bool {
        self.0.iter().any(|(_, op)| op.changes().contains(&block))
    }

    /// Blocks that `op` and others in flight change.
    pub(crate) fn raced(&self, op: &Op) -> impl Iterator<Item = u64> {
        let changes = op.changes();
        self.0.iter().flat_map(move |(_, other)| meet(&changes, &other.changes()))
    }
}
