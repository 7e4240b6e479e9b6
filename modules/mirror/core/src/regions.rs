//! What is known of each region: one atomic word, shared by all threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Legs;

const BEHIND: u32 = Legs::ALL.0;
/// The bit is set on the medium of all legs that are written.
const DIRTY: u32 = 1 << 8;
/// It was written since the last sweep.
const TOUCHED: u32 = 1 << 9;
/// Active legs may differ.
const UNSYNCED: u32 = 1 << 10;
/// A write ended half-way since the copier began with it.
const TORN: u32 = 1 << 11;

/// The regions of a mirror.
#[derive(Debug)]
pub struct Regions(Box<[AtomicU32]>);

/// What a region has to be copied for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Legs that lack data there.
    pub behind: Legs,
    /// Active legs may differ there.
    pub unsynced: bool,
}

impl Regions {
    /// So many clean regions.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU32::new(0)).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, region: usize) -> u32 {
        self.0[region].load(Ordering::SeqCst)
    }

    /// Whether the bits of all of them are on the medium, so that they may be written. To be asked by one who
    /// holds the range lock.
    #[inline]
    pub fn touch(&self, regions: Range<usize>) -> bool {
        regions.into_iter().all(|region| {
            let seen = self.0[region].load(Ordering::SeqCst);
            if seen & TOUCHED == 0 {
                self.0[region].fetch_or(TOUCHED, Ordering::SeqCst);
            }
            seen & DIRTY != 0
        })
    }

    /// Whether the region's bit is on the medium.
    pub fn is_dirty(&self, region: usize) -> bool {
        self.get(region) & DIRTY != 0
    }

    /// The region's bit is on the medium now, and the legs `away` will miss what is written.
    pub fn set_dirty(&self, region: usize, away: Legs) {
        self.0[region].fetch_or(DIRTY | TOUCHED | away.0, Ordering::SeqCst);
    }

    /// Active legs may differ.
    pub fn set_unsynced(&self, region: usize) {
        self.0[region].fetch_or(UNSYNCED, Ordering::SeqCst);
    }

    /// A write ended half-way (invariant 5).
    #[cold]
    pub fn tear(&self, regions: Range<usize>) {
        for region in regions {
            self.0[region].fetch_or(UNSYNCED | TORN, Ordering::SeqCst);
        }
    }

    /// Legs have gone, and miss what is being written (invariant 4).
    pub fn leave(&self, legs: Legs) {
        for region in &self.0 {
            if region.load(Ordering::SeqCst) & DIRTY != 0 {
                region.fetch_or(legs.0, Ordering::SeqCst);
            }
        }
    }

    /// Legs lack the data of a region.
    pub fn set_behind(&self, region: usize, legs: Legs) {
        self.0[region].fetch_or(legs.0, Ordering::SeqCst);
    }

    /// Nobody waits for these legs any more.
    pub fn forget(&self, legs: Legs) {
        for region in &self.0 {
            region.fetch_and(!legs.0, Ordering::SeqCst);
        }
    }

    /// The legs that a read of the regions may go to, of those that are `readable` (invariant 3). A readable
    /// leg is behind only where it could not be read itself; if there is no other, it must do.
    #[inline]
    pub fn sources(&self, regions: Range<usize>, readable: Legs, source: usize) -> Legs {
        let all =
            regions.into_iter().fold(0, |all, region| all | self.0[region].load(Ordering::SeqCst));
        if all & UNSYNCED != 0 {
            let only = readable & Legs::one(source);
            return if only.is_empty() { readable } else { only };
        }
        let legs = readable - Legs(all & BEHIND);
        if legs.is_empty() { readable } else { legs }
    }

    /// What the copier has to do in a region for legs that are written.
    pub fn work(&self, region: usize, written: Legs) -> Option<Work> {
        let seen = self.get(region);
        let work = Work { behind: Legs(seen & BEHIND) & written, unsynced: seen & UNSYNCED != 0 };
        (work.unsynced || !work.behind.is_empty()).then_some(work)
    }

    /// The copier begins with a region.
    pub fn begin_copy(&self, region: usize) {
        self.0[region].fetch_and(!TORN, Ordering::SeqCst);
    }

    /// The copier has given legs the region's data, and all legs if it was unsynced. False: a write ended
    /// half-way meanwhile, and they may differ again.
    pub fn copied(&self, region: usize, legs: Legs, synced: bool) -> bool {
        let change = |seen: u32| {
            let torn = seen & TORN != 0;
            let unsynced = if synced && !torn { UNSYNCED } else { 0 };
            Some(seen & !legs.0 & !unsynced)
        };
        let before = self.0[region].fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        before.is_ok_and(|seen| seen & TORN == 0)
    }

    /// Whether the region has not been written since this was last asked, and its bit may be cleared as far
    /// as that goes.
    pub fn is_quiet(&self, region: usize) -> bool {
        let seen = self.get(region);
        if seen & TOUCHED != 0 {
            self.0[region].fetch_and(!TOUCHED, Ordering::SeqCst);
            return false;
        }
        seen & DIRTY != 0 && seen & (BEHIND | UNSYNCED) == 0
    }

    /// Has writers ask for the bit again, if nothing speaks against clearing it. Whoever writes already is
    /// seen by the range lock afterwards.
    pub fn begin_clear(&self, region: usize) -> bool {
        let change = |seen: u32| {
            (seen & (BEHIND | UNSYNCED) == 0 && seen & DIRTY != 0).then_some(seen & !DIRTY)
        };
        self.0[region].fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }

    /// The bit is set on the medium after all.
    pub fn keep(&self, region: usize) {
        self.0[region].fetch_or(DIRTY, Ordering::SeqCst);
    }

    /// How many are dirty, and unsynced, and how many each leg is behind in.
    pub fn count(&self) -> (usize, usize, [usize; crate::MAX_LEGS]) {
        let (mut dirty, mut unsynced, mut behind) = (0, 0, [0; crate::MAX_LEGS]);
        for region in &self.0 {
            let seen = region.load(Ordering::Relaxed);
            dirty += usize::from(seen & DIRTY != 0);
            unsynced += usize::from(seen & UNSYNCED != 0);
            Legs(seen & BEHIND).iter().for_each(|slot| behind[slot] += 1);
        }
        (dirty, unsynced, behind)
    }

    /// Whether a leg lacks data anywhere.
    pub fn is_behind(&self, slot: usize) -> bool {
        self.0.iter().any(|region| region.load(Ordering::SeqCst) & Legs::one(slot).0 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_that_leaves_misses_what_is_dirty() {
        let it = Regions::new(3);
        assert!(!it.touch(0..1));
        it.set_dirty(0, Legs::NONE);
        it.leave(Legs::one(1));
        it.set_dirty(1, Legs::one(1));
        assert_eq!(it.count(), (2, 0, [0, 2, 0, 0, 0, 0, 0, 0]));
        assert!(it.touch(0..2) && !it.touch(0..3));
        // Nothing is cleared while it is away, whatever was copied to others.
        assert!(!it.is_quiet(0) && !it.is_quiet(0) && !it.begin_clear(0));
        assert_eq!(it.work(0, Legs::one(0)), None);
        let work = Work { behind: Legs::one(1), unsynced: false };
        assert_eq!(it.work(0, Legs(0b11)), Some(work));
        assert!(it.copied(0, Legs::one(1), true));
        assert!(it.is_quiet(0) && it.begin_clear(0) && !it.is_dirty(0));
        it.keep(0);
        assert!(it.is_dirty(0) && it.is_behind(1));
        it.forget(Legs::one(1));
        assert!(!it.is_behind(1));
    }

    #[test]
    fn what_is_torn_while_it_is_copied_is_copied_again() {
        let it = Regions::new(1);
        it.set_dirty(0, Legs::NONE);
        it.tear(0..1);
        it.begin_copy(0);
        it.tear(0..1);
        assert!(!it.copied(0, Legs::NONE, true));
        assert!(it.work(0, Legs::ALL).unwrap().unsynced && !it.begin_clear(0));
        it.begin_copy(0);
        assert!(it.copied(0, Legs::NONE, true));
        assert_eq!(it.work(0, Legs::ALL), None);
    }

    #[test]
    fn reads_avoid_what_is_behind_or_unsynced() {
        let (it, readable) = (Regions::new(2), Legs(0b111));
        assert_eq!(it.sources(0..2, readable, 1), readable);
        it.set_behind(1, Legs::one(0));
        assert_eq!(it.sources(0..1, readable, 1), readable);
        assert_eq!(it.sources(0..2, readable, 1), Legs(0b110));
        it.tear(0..1);
        assert_eq!(it.sources(0..2, readable, 1), Legs::one(1));
        assert_eq!(it.sources(0..2, Legs(0b101), 1), Legs(0b101));
    }

    #[test]
    fn writing_keeps_a_region_dirty() {
        let it = Regions::new(1);
        it.set_dirty(0, Legs::NONE);
        assert!(!it.is_quiet(0) && it.is_quiet(0));
        assert!(it.touch(0..1));
        assert!(!it.is_quiet(0) && it.is_quiet(0));
        assert!(it.begin_clear(0) && !it.begin_clear(0) && !it.touch(0..1));
    }
}
