//! Which leg a read goes to.

use crate::{Legs, MAX_LEGS};

/// What a thread knows of the reads that it has sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Reads in flight on each leg.
    pub in_flight: [u32; MAX_LEGS],
    /// Where the last read of each leg ended.
    pub end: [u64; MAX_LEGS],
    next: u8,
}

/// A leg that would go on where it stopped may be busier by this many reads than the idlest one.
const AFFINITY: u32 = 4;

impl Load {
    /// The leg for a read that begins at `start`: one of `legs` that goes on where it stopped, if it is not
    /// much busier than others; else one with the fewest reads in flight, in turn.
    #[inline]
    pub fn choose(&mut self, legs: Legs, start: u64) -> Option<usize> {
        let first = legs.first()?;
        if legs.0 & (legs.0 - 1) == 0 {
            return Some(first);
        }
        let least = legs.iter().map(|slot| self.in_flight[slot]).min()?;
        let goes_on =
            |slot: &usize| self.end[*slot] == start && self.in_flight[*slot] <= least + AFFINITY;
        if start != 0
            && let Some(slot) = legs.iter().find(goes_on)
        {
            return Some(slot);
        }
        let idle = |slot: &usize| self.in_flight[*slot] == least;
        let later = legs.iter().filter(|slot| *slot >= self.next.into()).find(idle);
        let slot = later.or_else(|| legs.iter().find(idle))?;
        self.next = (slot + 1) as u8;
        Some(slot)
    }

    /// A read up to block `end` was sent to a leg.
    #[inline]
    pub fn sent(&mut self, slot: usize, end: u64) {
        self.in_flight[slot] += 1;
        self.end[slot] = end;
    }

    /// A read of a leg has ended.
    #[inline]
    pub fn ended(&mut self, slot: usize) {
        self.in_flight[slot] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_what_is_random() {
        let (mut load, legs) = (Load::default(), Legs(0b1011));
        let mut counts = [0; MAX_LEGS];
        for i in 0..300_u64 {
            let slot = load.choose(legs, 1000 + i * 77).unwrap();
            load.sent(slot, 0);
            counts[slot] += 1;
        }
        assert_eq!(counts, [100, 100, 0, 100, 0, 0, 0, 0]);
    }

    #[test]
    fn takes_turns_when_idle() {
        let (mut load, legs) = (Load::default(), Legs(0b111));
        let picked: Vec<_> = (0..6)
            .map(|i| {
                let slot = load.choose(legs, 1 + i * 100).unwrap();
                load.sent(slot, 0);
                load.ended(slot);
                slot
            })
            .collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_sequence_stays_where_it_is_until_that_is_busy() {
        let (mut load, legs) = (Load::default(), Legs(0b11));
        let first = load.choose(legs, 8).unwrap();
        load.sent(first, 16);
        for at in (16..40).step_by(8) {
            let slot = load.choose(legs, at).unwrap();
            assert_eq!(slot, first);
            load.sent(slot, at + 8);
        }
        load.in_flight[first] = 10;
        assert_ne!(load.choose(legs, 40).unwrap(), first);
    }

    #[test]
    fn only_of_those_allowed() {
        let mut load = Load::default();
        assert_eq!(load.choose(Legs::NONE, 5), None);
        load.in_flight[2] = 1000;
        assert_eq!(load.choose(Legs::one(2), 5), Some(2));
    }
}
