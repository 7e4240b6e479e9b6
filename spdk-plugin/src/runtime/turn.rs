//! The stretches of an OS thread's time in which one SPDK thread is current.
//!
//! Each has a number that no other has. A home notes the number under which it polls, so that what is polled
//! can tell by a comparison that the home's SPDK thread is the current one, without asking SPDK. Whoever makes
//! another SPDK thread current inside of a callback does so in a turn of its own, [`within`].

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
    /// The last number that the OS thread has used of those that it has.
    static LAST: Cell<u64> = const { Cell::new(PIECE - 1) };
}

/// OS threads get so many numbers at once.
const PIECE: u64 = 1 << 20;

/// The number of the turn; 0 before the first one that somebody has asked for by [`begin`].
#[inline(always)]
pub(super) fn now() -> u64 {
    NOW.get()
}

/// Begins another turn.
#[cold]
pub(super) fn begin() {
    static PIECES: AtomicU64 = AtomicU64::new(1);
    let mut number = LAST.get() + 1;
    if number.is_multiple_of(PIECE) {
        number = PIECES.fetch_add(1, Ordering::Relaxed) * PIECE + 1;
    }
    LAST.set(number);
    NOW.set(number);
}

/// Runs `body` in a turn of its own.
pub(super) fn within<R>(body: impl FnOnce() -> R) -> R {
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            NOW.set(self.0);
        }
    }
    let _restore = Restore(now());
    begin();
    body()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::{PIECE, begin, now, within};

    #[test]
    fn a_turn_inside_of_another_has_a_number_of_its_own() {
        begin();
        let outer = now();
        let inner = within(|| (now(), within(now)));
        assert_eq!(now(), outer);
        assert!(inner.0 != outer && inner.1 != outer && inner.0 != inner.1);
        let panicked = catch_unwind(AssertUnwindSafe(|| within(|| panic!("on purpose"))));
        assert!(panicked.is_err() && now() == outer);
    }

    #[test]
    fn no_number_comes_twice() {
        let count = if cfg!(miri) { 10 } else { PIECE + 2 };
        let numbers = |_| {
            let take = |_| {
                begin();
                now()
            };
            std::thread::spawn(move || (0..count).map(take).collect::<HashSet<_>>())
        };
        let taken = [0, 1].map(numbers).map(|thread| thread.join().unwrap());
        assert!(taken.iter().all(|set| set.len() as u64 == count && !set.contains(&0)));
        assert!(taken[0].is_disjoint(&taken[1]));
    }
}
