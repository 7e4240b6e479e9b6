//! Locks on ranges of blocks, for writes and for the copier.
//!
//! ```text
//! granule    4 KiB or a block, whichever is more; one bit
//! word       64 granules; what lies a table's length apart shares one
//! ```
//! A range is taken in the order of its words in the table, and of the bits in a word, up to the first that
//! somebody else has; then it waits for that one and goes on. All go the same way, so nobody waits in a circle.
//! Nothing is allocated unless someone waits.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

const GRANULES: u64 = 64;
/// With granules of 4 KiB, what lies 1 GiB apart shares a word.
const WORDS: u64 = 4096;

/// The locks of one mirror.
#[derive(Debug)]
pub struct RangeLocks {
    words: Box<[AtomicU64]>,
    /// The logarithm of a granule's blocks.
    shift: u32,
    waiting: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
}

/// The words of a range, in the order in which they are taken, and which bits of each.
#[derive(Clone, Debug)]
struct Walk {
    granules: Range<u64>,
    /// The next word's number, not yet folded into the table.
    words: [Range<u64>; 2],
    whole: bool,
}

impl RangeLocks {
    /// Locks for blocks of so many bytes.
    pub fn new(block_size: u32) -> Self {
        Self {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            shift: (4096 / block_size.clamp(1, 4096)).ilog2(),
            waiting: AtomicUsize::new(0),
            wakers: Mutex::default(),
        }
    }

    fn walk(&self, blocks: &Range<u64>) -> Walk {
        let first = blocks.start >> self.shift;
        let last = (blocks.end.max(blocks.start + 1) - 1) >> self.shift;
        let (start, end) = (first / GRANULES, last / GRANULES + 1);
        let granules = first..last + 1;
        if end - start >= WORDS {
            return Walk { granules, words: [0..WORDS, 0..0], whole: true };
        }
        // Where it goes past the end of the table, what comes there is first in the table.
        let turn = (start / WORDS + 1) * WORDS;
        let words = if end <= turn { [start..end, 0..0] } else { [turn..end, start..turn] };
        Walk { granules, words, whole: false }
    }

    /// Takes the blocks, if nobody has any of them.
    #[inline]
    pub fn try_acquire(&self, blocks: Range<u64>) -> Option<Held<'_>> {
        let mut held = Held { locks: self, walk: self.walk(&blocks), words: 0, bits: 0 };
        held.advance().then_some(held)
    }

    /// Takes the blocks and waits for those that others have.
    #[inline]
    pub fn acquire(&self, blocks: Range<u64>) -> Acquire<'_> {
        let held = Held { locks: self, walk: self.walk(&blocks), words: 0, bits: 0 };
        Acquire { held: Some(held), waits: false }
    }

    /// Whether somebody has any of the blocks, or of those that share a word with them.
    pub fn is_held(&self, blocks: Range<u64>) -> bool {
        let walk = self.walk(&blocks);
        walk.iter().any(|(word, bits)| self.word(word).load(Ordering::SeqCst) & bits != 0)
    }

    #[inline]
    fn word(&self, number: u64) -> &AtomicU64 {
        &self.words[(number % WORDS) as usize]
    }

    #[cold]
    fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.into_iter().for_each(Waker::wake);
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk {
    #[inline]
    fn len(&self) -> u64 {
        self.words.iter().map(|words| words.end - words.start).sum()
    }

    /// The word that is taken as number `at`, and its bits.
    #[inline]
    fn nth(&self, at: u64) -> (u64, u64) {
        let first = self.words[0].end - self.words[0].start;
        let number = match at.checked_sub(first) {
            None => self.words[0].start + at,
            Some(at) => self.words[1].start + at,
        };
        if self.whole {
            return (number, !0);
        }
        let base = number * GRANULES;
        let from = self.granules.start.saturating_sub(base);
        let to = (self.granules.end - base).min(GRANULES);
        (number, (!0 << from) & (!0 >> (GRANULES - to)))
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..self.len()).map(|at| self.nth(at))
    }
}

/// Blocks that are taken. They are given back when it is dropped.
#[derive(Debug)]
#[must_use = "the blocks are given back when this is dropped"]
pub struct Held<'a> {
    locks: &'a RangeLocks,
    walk: Walk,
    /// So many words are taken whole, and these bits of the next.
    words: u64,
    bits: u64,
}

impl Held<'_> {
    /// Takes what can be taken, and tells whether that is all.
    #[inline]
    fn advance(&mut self) -> bool {
        let len = self.walk.len();
        while self.words < len {
            let (word, bits) = self.walk.nth(self.words);
            let word = self.locks.word(word);
            let mut seen = word.load(Ordering::Relaxed);
            while self.bits != bits {
                let wanted = bits & !self.bits;
                // What lies below the first bit that another has.
                let taken = seen & wanted;
                let below = (taken & taken.wrapping_neg()).wrapping_sub(1);
                let free = wanted & below;
                if free == 0 {
                    return false;
                }
                match word.compare_exchange_weak(
                    seen,
                    seen | free,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        self.bits |= free;
                        seen |= free;
                    }
                    Err(now) => seen = now,
                }
            }
            self.bits = 0;
            self.words += 1;
        }
        true
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        for at in 0..self.words {
            let (word, bits) = self.walk.nth(at);
            self.locks.word(word).fetch_and(!bits, Ordering::SeqCst);
        }
        if self.bits != 0 {
            let (word, _) = self.walk.nth(self.words);
            self.locks.word(word).fetch_and(!self.bits, Ordering::SeqCst);
        }
        if self.locks.waiting.load(Ordering::SeqCst) != 0 {
            self.locks.wake();
        }
    }
}

/// Waits for blocks; see [`RangeLocks::acquire`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Acquire<'a> {
    held: Option<Held<'a>>,
    waits: bool,
}

impl<'a> Future for Acquire<'a> {
    type Output = Held<'a>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Held<'a>> {
        let this = &mut *self;
        let held = this.held.as_mut().expect("it is not polled again after its end");
        if !held.advance() {
            let locks = held.locks;
            if !this.waits {
                this.waits = true;
                locks.waiting.fetch_add(1, Ordering::SeqCst);
            }
            locks.wakers().push(cx.waker().clone());
            // Whoever gave it back before it saw the waker is seen now.
            if !held.advance() {
                return Poll::Pending;
            }
        }
        if this.waits {
            this.waits = false;
            held.locks.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        Poll::Ready(this.held.take().expect("it was there"))
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(held) = &self.held
            && self.waits
        {
            held.locks.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32};
    use std::task::Wake;
    use std::thread::{self, Thread};

    use super::*;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn wait<F: Future>(future: F) -> F::Output {
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                Poll::Pending => thread::park(),
            }
        }
    }

    #[test]
    fn ranges_exclude_those_that_overlap() {
        let locks = RangeLocks::new(512);
        let first = locks.try_acquire(8..16).unwrap();
        assert!(locks.try_acquire(0..8).is_some() && locks.try_acquire(16..17).is_some());
        assert!(locks.try_acquire(15..16).is_none() && locks.try_acquire(0..9).is_none());
        assert!(locks.is_held(0..100) && !locks.is_held(16..100));
        drop(first);
        assert!(!locks.is_held(0..1 << 30));
        assert!(locks.try_acquire(0..1 << 40).is_some());
        assert!(!locks.is_held(0..1 << 30));
    }

    #[test]
    fn words_are_walked_in_the_table_s_order() {
        let locks = RangeLocks::new(4096);
        let (end, table) = (WORDS * GRANULES, WORDS);
        let walk = locks.walk(&(end - 70..end + 70));
        let words: Vec<_> = walk.iter().map(|(word, _)| word % table).collect();
        assert_eq!(words, [0, 1, table - 2, table - 1]);
        let count: u32 = walk.iter().map(|(_, bits)| bits.count_ones()).sum();
        assert_eq!(count, 140);
        assert_eq!(locks.walk(&(5..6)).iter().collect::<Vec<_>>(), [(0, 1 << 5)]);
        assert_eq!(locks.walk(&(0..64)).iter().collect::<Vec<_>>(), [(0, !0)]);
    }

    #[test]
    fn what_was_half_taken_is_given_back() {
        let locks = RangeLocks::new(4096);
        let middle = locks.try_acquire(100..101).unwrap();
        assert!(locks.try_acquire(0..200).is_none());
        drop(middle);
        assert!(!locks.is_held(0..1000));
    }

    #[test]
    fn threads_never_hold_the_same_block() {
        const BLOCKS: usize = 300;
        let locks = RangeLocks::new(4096);
        let held: Vec<_> = (0..BLOCKS).map(|_| AtomicBool::new(false)).collect();
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let (locks, held, done) = (&locks, &held, &done);
                scope.spawn(move || {
                    let mut x = seed;
                    let mut random = |n: u64| {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (x >> 33) % n
                    };
                    for _ in 0..5000 {
                        let start = random(BLOCKS as u64 - 1);
                        let len = 1 + random(if seed == 1 { 200 } else { 8 });
                        let end = (start + len).min(BLOCKS as u64);
                        let lock = wait(locks.acquire(start..end));
                        for block in start..end {
                            assert!(!held[block as usize].swap(true, Ordering::SeqCst));
                        }
                        for block in start..end {
                            held[block as usize].store(false, Ordering::SeqCst);
                        }
                        drop(lock);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::Relaxed), 20_000);
        assert_eq!(locks.waiting.load(Ordering::SeqCst), 0);
        assert!(!locks.is_held(0..10_000));
    }
}
