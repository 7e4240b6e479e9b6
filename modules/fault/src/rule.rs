//! Rules: which requests go wrong, and how.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use spdk_plugin::module::{IoKind, IoKinds};

use crate::chance::Chance;
use crate::params::{RuleParams, Status};

/// A rule at work, on all threads at once.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) number: u64,
    pub(crate) params: RuleParams,
    kinds: IoKinds,
    blocks: Range<u64>,
    seed: u64,
    /// Requests of its kinds and blocks.
    matched: AtomicU64,
    /// Those of them that went wrong.
    hits: AtomicU64,
    /// Those that stick.
    pub(crate) stuck: AtomicU64,
}

/// What a rule has done, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Counters {
    pub(crate) matched: u64,
    pub(crate) hits: u64,
    pub(crate) stuck: u64,
}

impl Rule {
    /// Of parameters that were [checked](RuleParams::check).
    pub(crate) fn new(number: u64, params: RuleParams, seed: u64) -> Self {
        let possible = params.fault.kinds();
        let kinds = params.io_types.iter().fold(IoKinds::NONE, |kinds, io_type| {
            kinds.and(io_type.kind().map_or(possible, IoKinds::from))
        });
        let first = params.first_block.unwrap_or(0);
        let end = params.num_blocks.map_or(u64::MAX, |count| first.saturating_add(count));
        Self {
            number,
            kinds,
            blocks: first..end,
            seed: Chance::of(seed, number).any(),
            params,
            matched: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
        }
    }

    /// Whether a request goes wrong, and the chance that decides what else there is to decide. Which ones do
    /// depends on the seed and on how many there were before.
    pub(crate) fn hits(&self, kind: IoKind, blocks: &Range<u64>) -> Option<Chance> {
        if !self.kinds.contains(kind) || self.common(blocks).is_empty() {
            return None;
        }
        let number = self.matched.fetch_add(1, Ordering::Relaxed);
        if number < self.params.skip.unwrap_or(0) {
            return None;
        }
        let mut chance = Chance::of(self.seed, number);
        if chance.share() >= self.params.probability.unwrap_or(1.0) {
            return None;
        }
        let most = self.params.count.unwrap_or(u64::MAX);
        let more = |hits: u64| (hits < most).then(|| hits + 1);
        self.hits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(chance)
    }

    /// The blocks of a request that the rule is about.
    pub(crate) fn common(&self, blocks: &Range<u64>) -> Range<u64> {
        self.blocks.start.max(blocks.start)..self.blocks.end.min(blocks.end)
    }

    /// How a request ends that has gone wrong.
    pub(crate) fn status(&self) -> Status {
        self.params.status.unwrap_or(self.params.fault.status())
    }

    pub(crate) fn counters(&self) -> Counters {
        let [matched, hits, stuck] =
            [&self.matched, &self.hits, &self.stuck].map(|counter| counter.load(Ordering::Relaxed));
        Counters { matched, hits, stuck }
    }
}

#[cfg(test)]
mod tests;
