//! How long requests are to take.

use std::time::Duration;

/// Requests of which at least one is slow. More than the 1 % that lie above the 99th percentile are, so that it is
/// theirs in every measurement, however it is rounded.
const PERIOD: u64 = 64;
/// The most of them: beyond, no more than 1 % would be slow.
const LONGEST_PERIOD: u64 = 99;
/// An hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// The latency of requests of one direction: its mean and its 99th percentile. One request of each
/// [`period`](Self::period) is as slow as the percentile, and all others are as fast as makes the mean right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    fast: Duration,
    slow: Duration,
    period: u64,
}

impl Latency {
    /// Of these microseconds; `what` names the direction in errors.
    pub(crate) fn new(what: &str, mean: u64, p99: u64) -> Result<Self, String> {
        if mean > LONGEST || p99 > LONGEST {
            let longest = mean.max(p99);
            return Err(format!(
                "a {what} latency of {longest} us; it can be {LONGEST} us (an hour) at most"
            ));
        }
        if p99 < mean {
            return Err(format!(
                "p99_{what}_latency is {p99} and avg_{what}_latency is {mean}; the former must be as high at least"
            ));
        }
        if p99 > LONGEST_PERIOD * mean {
            return Err(format!(
                "p99_{what}_latency is {p99}, and the mean of such requests would be above avg_{what}_latency, {mean}; \
                 it can be {} at most, or the average must be {} at least",
                LONGEST_PERIOD * mean,
                p99.div_ceil(LONGEST_PERIOD)
            ));
        }
        let period = if mean == 0 { PERIOD } else { p99.div_ceil(mean).max(PERIOD) };
        let fast = (mean * period - p99) * 1000 / (period - 1);
        let (fast, slow) = (Duration::from_nanos(fast), Duration::from_micros(p99));
        Ok(Self { fast, slow, period })
    }

    /// Whether requests take as long as they do.
    pub(crate) fn is_zero(&self) -> bool {
        self.slow.is_zero()
    }
}

/// Which requests are slow: one of each period, by chance.
#[derive(Debug)]
pub(crate) struct Draw {
    done: u64,
    slow_at: u64,
    state: u64,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self { done: 0, slow_at: 0, state: seed }
    }

    /// How long the next request takes, and whether it is a slow one.
    pub(crate) fn next(&mut self, latency: &Latency) -> (Duration, bool) {
        if self.done == 0 {
            self.slow_at = self.any() % latency.period;
        }
        let slow = self.done == self.slow_at;
        self.done = (self.done + 1) % latency.period;
        (if slow { latency.slow } else { latency.fast }, slow)
    }

    /// A number by chance (splitmix64).
    fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = self.state;
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and 99th percentile of that many, in microseconds.
    fn measured(latency: &Latency, count: usize) -> (f64, f64) {
        let mut draw = Draw::new(1);
        let mut all: Vec<f64> =
            (0..count).map(|_| draw.next(latency).0.as_secs_f64() * 1e6).collect();
        all.sort_by(f64::total_cmp);
        (all.iter().sum::<f64>() / count as f64, all[(count * 99).div_ceil(100) - 1])
    }

    #[test]
    fn mean_and_percentile_are_those_asked_for() {
        for (mean, p99) in [
            (100, 100),
            (100, 101),
            (100, 1000),
            (50, 3200),
            (50, 4950),
            (1, 99),
            (1_000_000, 9_000_000),
        ] {
            let latency = Latency::new("read", mean, p99).unwrap();
            let (found_mean, found_p99) = measured(&latency, 50_000);
            let off = |found: f64, asked: u64| (found / asked as f64 - 1.0).abs();
            assert!(off(found_mean, mean) < 0.01, "{mean}/{p99}: {found_mean}");
            assert!(off(found_p99, p99) < 0.001, "{mean}/{p99}: {found_p99}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |mean, p99| Latency::new("read", mean, p99).unwrap_err();
        assert!(refused(10, 9).contains("p99_read_latency is 9"));
        assert!(refused(10, 991).contains("it can be 990 at most, or the average must be 11"));
        assert!(refused(0, 1).contains("at most"));
        assert!(refused(u64::MAX, u64::MAX).contains("an hour"));
        assert!(Latency::new("read", 0, 0).unwrap().is_zero());
        assert!(!Latency::new("read", 1, 1).unwrap().is_zero());
        assert!(Latency::new("read", LONGEST, LONGEST).is_ok());
    }

    /// Another latency in the middle of a period leaves one slow request in each.
    #[test]
    fn a_change_is_taken_in_stride() {
        let [one, other] =
            [(10, 100), (10, 990)].map(|(mean, p99)| Latency::new("read", mean, p99).unwrap());
        let mut draw = Draw::new(3);
        let slow = |draw: &mut Draw, latency: &Latency, count: usize| {
            (0..count).filter(|_| draw.next(latency).1).count()
        };
        slow(&mut draw, &other, 90);
        assert!((9..=11).contains(&slow(&mut draw, &one, 640)));
        assert!((9..=11).contains(&slow(&mut draw, &other, 990)));
    }
}
