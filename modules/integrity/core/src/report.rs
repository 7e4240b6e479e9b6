//! What was found wrong.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How many of the last bad blocks are remembered.
const REMEMBERED: usize = 64;

/// Why a block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its data do not match its checksum.
    Mismatch,
    /// Its checksum is lost.
    NoChecksum,
}

/// A block that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The block.
    pub lba: u64,
    /// Why.
    pub cause: Cause,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often what was found, since the start of the device.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn get(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Blocks whose data did not match, each time that they were read.
    mismatches,
    /// Blocks that were read whose checksum is lost.
    no_checksum,
    /// Reads that matched when they were repeated. Some have met a write, which is nothing wrong.
    repeated,
    /// Pages of checksums that were damaged or lost.
    lost_pages,
    /// Records that were not as they had been written, found in time and written again.
    repaired,
    /// Parts of the log that were missing at the start.
    log_holes,
    /// Blocks that were under way at the last crash.
    recovered,
    /// Checkpoints.
    checkpoints,
    /// Writes of the log.
    commits,
}

/// Counts what happens and remembers the last of the bad blocks.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) counters: Counters,
    last: Mutex<VecDeque<Bad>>,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Report {
    pub(crate) fn bad(&self, bad: Bad) {
        count(match bad.cause {
            Cause::Mismatch => &self.counters.mismatches,
            Cause::NoChecksum => &self.counters.no_checksum,
        });
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.back() == Some(&bad) {
            return;
        }
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(bad);
    }

    pub(crate) fn last(&self) -> Vec<Bad> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
