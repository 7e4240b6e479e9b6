//! Counters, of which each thread has its own.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one thread has counted. Only that thread adds; any may read.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// Sums of [`Counters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Adds what a thread has counted.
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.0.load(Ordering::Relaxed);)*
            }

            /// Adds another sum.
            pub fn add_sum(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// By the thread that owns it.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

counters! {
    /// Reads that the fast disk has served.
    read_hits,
    /// Reads that went to the slow disk.
    read_misses,
    /// Writes to lines that were in the cache.
    write_hits,
    /// Writes to lines that were not.
    write_misses,
    /// Writes that went to the slow disk and not into the cache.
    write_arounds,
    /// Lines that reads have brought in.
    fills,
    /// Lines that gave way to others.
    evictions,
    /// Lines written back.
    write_backs,
    /// Metadata blocks written.
    commits,
    /// Operations that the fast disk has failed.
    fast_errors,
    /// Operations that the slow disk has failed.
    slow_errors,
}
