//! A set: the ways in which the lines that share it lie, what is done with each, and which is next to go.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};

use crate::record::{EMPTY, Entries};

/// Lines of a set.
pub const WAYS: usize = 16;

/// What the record of a set says of a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nothing lies there.
    #[default]
    None,
    /// What lies there is also on the slow disk.
    Clean,
    /// What lies there is to be written back.
    Dirty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// The disk says nothing of it either.
    #[default]
    Free,
    /// Holds its line.
    Valid,
    /// A read brings its line in. That may be called off by `doomed`.
    Filling,
    /// Somebody has it for himself; all who want its line wait.
    Busy,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    pub(crate) line: u64,
    /// Counts what changes its data, so that one who let go of the lock sees that it was changed.
    pub(crate) version: u32,
    pub(crate) state: State,
    /// What the next write of the record says.
    pub(crate) claim: Claim,
    /// The disk says what `claim` does, and durably so where that matters. Otherwise it may say that or
    /// something that was claimed before.
    pub(crate) settled: bool,
    /// The slow disk has something older.
    pub(crate) dirty: bool,
    pub(crate) doomed: bool,
    pub(crate) referenced: bool,
    /// It is being written back. `redirtied`: and has been written to since that began.
    pub(crate) cleaning: bool,
    pub(crate) redirtied: bool,
}

impl Way {
    pub(crate) fn free() -> Self {
        Self { settled: true, ..Self::default() }
    }

    /// Nothing lies there, and the disk says so.
    pub(crate) fn clear(&mut self) {
        self.take(0, State::Free);
    }

    /// From now on it is for `line`.
    pub(crate) fn take(&mut self, line: u64, state: State) {
        *self = Self { line, state, version: self.version.wrapping_add(1), ..Self::free() };
    }

    /// Its data are about to change.
    pub(crate) fn touch(&mut self) {
        self.version = self.version.wrapping_add(1);
        self.referenced = true;
        self.redirtied |= self.cleaning;
    }
}

pub(crate) struct Set {
    pub(crate) ways: [Way; WAYS],
    hand: u8,
    /// Writes on their way to the slow disk for lines that are not in the cache. Meanwhile nothing is
    /// brought in from there, and nothing written back.
    pub(crate) arounds: u32,
    waiters: Vec<Waker>,
}

/// Where a new line can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// To this way, at once.
    Free(usize),
    /// To this way, when the disk has forgotten what lies there.
    Evict(usize),
    /// Nowhere: all is dirty or in use.
    None,
}

/// To be woken once the lock is released.
#[must_use = "they wait"]
#[derive(Default)]
pub(crate) struct Woken(Vec<Waker>);

impl Woken {
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl Set {
    pub(crate) fn new() -> Self {
        Self { ways: [Way::free(); WAYS], hand: 0, arounds: 0, waiters: Vec::new() }
    }

    /// The way that has `line`, or is about to.
    #[inline]
    pub(crate) fn find(&self, line: u64) -> Option<usize> {
        self.ways.iter().position(|way| way.line == line && way.state != State::Free && !way.doomed)
    }

    pub(crate) fn entries(&self) -> Entries {
        let mut entries = EMPTY;
        for (entry, way) in entries.iter_mut().zip(&self.ways) {
            if way.claim != Claim::None {
                *entry = (way.claim, way.line);
            }
        }
        entries
    }

    /// Looks for room by CLOCK: the first line that was not used since the hand passed it last.
    pub(crate) fn room(&mut self, pins: &Pins<'_>) -> Room {
        if let Some(free) = self.ways.iter().position(|way| way.state == State::Free) {
            return Room::Free(free);
        }
        for _ in 0..2 * WAYS {
            let at = usize::from(self.hand);
            self.hand = ((at + 1) % WAYS) as u8;
            let way = &mut self.ways[at];
            let idle = way.state == State::Valid && !way.dirty && !way.cleaning && pins.none(at);
            if !idle {
                continue;
            }
            if way.referenced {
                way.referenced = false;
                continue;
            }
            if way.claim == Claim::None && way.settled {
                way.clear();
                return Room::Free(at);
            }
            return Room::Evict(at);
        }
        Room::None
    }

    pub(crate) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiters.push(cx.waker().clone());
        }
    }

    pub(crate) fn changed(&mut self) -> Woken {
        Woken(std::mem::take(&mut self.waiters))
    }
}

/// Who uses a way right now: readers in the lower half, writers above them, and whether somebody waits for
/// the last to go. Taken under the lock of the set, given back without.
pub(crate) struct Pins<'a>(pub(crate) &'a [AtomicU32]);

const READER: u32 = 1;
const WRITER: u32 = 1 << 16;
const AWAITED: u32 = 1 << 31;

/// What for a way is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

impl Use {
    fn pin(self) -> u32 {
        match self {
            Self::Read => READER,
            Self::Write => WRITER,
        }
    }
}

impl Pins<'_> {
    #[inline]
    pub(crate) fn pin(&self, way: usize, what: Use) {
        self.0[way].fetch_add(what.pin(), Ordering::Relaxed);
    }

    /// Whether somebody waits for this: the caller then wakes the set's waiters.
    #[inline]
    pub(crate) fn unpin(&self, way: usize, what: Use) -> bool {
        let pin = what.pin();
        self.0[way].fetch_sub(pin, Ordering::AcqRel) - pin == AWAITED
    }

    #[inline]
    pub(crate) fn none(&self, way: usize) -> bool {
        self.0[way].load(Ordering::Acquire) & !AWAITED == 0
    }

    pub(crate) fn no_writer(&self, way: usize) -> bool {
        self.0[way].load(Ordering::Acquire) & !AWAITED < WRITER
    }

    /// As `none`; if not, the last to go says so.
    pub(crate) fn drained(&self, way: usize) -> bool {
        let before = self.0[way].fetch_or(AWAITED, Ordering::AcqRel);
        let drained = before & !AWAITED == 0;
        if drained {
            self.0[way].fetch_and(!AWAITED, Ordering::AcqRel);
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(change: impl Fn(usize, &mut Way)) -> Set {
        let mut set = Set::new();
        for (i, way) in set.ways.iter_mut().enumerate() {
            *way = Way { line: i as u64, state: State::Valid, ..Way::free() };
            change(i, way);
        }
        set
    }

    #[test]
    fn a_line_that_was_used_gets_a_second_chance() {
        let pins: [AtomicU32; WAYS] = Default::default();
        let pins = Pins(&pins);
        let mut set = full(|i, way| way.referenced = i != 5);
        assert_eq!(set.room(&pins), Room::Free(5));
        assert_eq!(set.find(5), None);
        set.ways[5] = Way { line: 99, state: State::Valid, referenced: true, ..Way::free() };
        // The hand has passed 0 to 5, and goes on from there.
        let mut left = full(|_, way| way.referenced = true);
        assert_eq!(left.room(&pins), Room::Free(0));
    }

    #[test]
    fn what_is_dirty_or_in_use_stays() {
        let pins: [AtomicU32; WAYS] = Default::default();
        let pins = Pins(&pins);
        pins.pin(2, Use::Read);
        let mut set = full(|i, way| {
            way.dirty = i < 2;
            way.cleaning = i == 3;
            if i > 3 {
                way.state = State::Busy;
            }
        });
        assert_eq!(set.room(&pins), Room::None);
        assert!(!pins.unpin(2, Use::Read));
        assert_eq!(set.room(&pins), Room::Free(2));
    }

    #[test]
    fn what_the_disk_knows_of_must_be_evicted() {
        let pins: [AtomicU32; WAYS] = Default::default();
        let mut set = full(|i, way| {
            way.claim = if i == 7 { Claim::None } else { Claim::Clean };
            way.referenced = i < 7;
            way.settled = i != 7;
        });
        assert_eq!(set.room(&Pins(&pins)), Room::Evict(7));
        assert_eq!(set.room(&Pins(&pins)), Room::Evict(8));
    }

    #[test]
    fn the_last_user_tells_who_waits() {
        let pins: [AtomicU32; WAYS] = Default::default();
        let pins = Pins(&pins);
        pins.pin(0, Use::Read);
        pins.pin(0, Use::Write);
        assert!(!pins.drained(0) && !pins.no_writer(0));
        assert!(!pins.unpin(0, Use::Write));
        assert!(pins.no_writer(0) && !pins.none(0));
        assert!(pins.unpin(0, Use::Read));
        assert!(pins.drained(0) && pins.none(0));
    }
}
