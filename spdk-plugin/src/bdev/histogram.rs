//! How long a bdev's I/O takes (`spdk_bdev_histogram_enable`, `spdk/histogram_data.h`).

use std::ffi::c_void;
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::call::{Call, start};
use super::desc::BdevDesc;
use super::stats::{supported, ticks_to_duration};
use crate::error::{Error, Result};
use crate::module::IoKind;

/// What a histogram counts. The defaults suit every release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistogramOptions {
    /// I/O of this kind only. SPDK 24.09 or later.
    pub kind: Option<IoKind>,
    /// Each power of two is split into 2 to the power of this many buckets, 1 to 16; SPDK's default is
    /// 7. SPDK 25.05 or later.
    pub granularity: Option<u8>,
    /// Latencies below this count as this. SPDK 25.05 or later.
    pub min: Option<Duration>,
    /// Latencies from this on count as this. SPDK 25.05 or later.
    pub max: Option<Duration>,
}

impl HistogramOptions {
    /// All I/O, SPDK's own buckets.
    pub const fn new() -> Self {
        Self { kind: None, granularity: None, min: None, max: None }
    }

    /// Sets [`kind`](Self::kind).
    #[must_use]
    pub const fn kind(mut self, kind: IoKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Sets [`granularity`](Self::granularity).
    #[must_use]
    pub const fn granularity(mut self, bits: u8) -> Self {
        self.granularity = Some(bits);
        self
    }

    /// Sets [`min`](Self::min) and [`max`](Self::max).
    #[must_use]
    pub const fn range(mut self, min: Duration, max: Duration) -> Self {
        (self.min, self.max) = (Some(min), Some(max));
        self
    }

    fn to_raw(self) -> Result<sys::spdkp_histogram_opts> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (min, max) = (self.min.map_or(0, nanos), self.max.map_or(u64::MAX, nanos));
        if min >= max {
            return Err(Error::Invalid(format!(
                "a histogram from {min} ns to {max} ns is empty; its end must lie above its start"
            )));
        }
        if let Some(bits) = self.granularity.filter(|bits| !(1..=16).contains(bits)) {
            return Err(Error::Invalid(format!(
                "a histogram of granularity {bits} cannot be; give 1 to 16"
            )));
        }
        Ok(sys::spdkp_histogram_opts {
            min_nsec: min,
            max_nsec: max,
            io_type: self.kind.map_or(0, |kind| kind as u8),
            granularity: self.granularity.unwrap_or(0),
        })
    }
}

impl Default for HistogramOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The latencies of a bdev's I/O since the histogram was enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<Bucket>,
    count: u64,
}

/// I/O of about the same latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// They took this long or longer,
    pub start: Duration,
    /// but less than this.
    pub end: Duration,
    /// How many they are.
    pub count: u64,
}

impl Histogram {
    fn new(buckets: Vec<Bucket>) -> Self {
        let count = buckets.iter().map(|bucket| bucket.count).sum();
        Self { buckets, count }
    }

    /// The number of operations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The buckets that are not empty, the shortest latency first.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The latency that `percent` of the operations do not exceed, such as 99.9: the end of the bucket
    /// in which the slowest of them lies. What is below 0 counts as 0, what is above 100 as 100.
    /// `None` when there was no operation.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let share = (percent / 100.0).clamp(0.0, 1.0);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count, which is exact enough"
        )]
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut so_far = 0;
        self.buckets.iter().find_map(|bucket| {
            so_far += bucket.count;
            (so_far >= rank).then_some(bucket.end)
        })
    }

    /// The mean latency, taking each operation for the middle of its bucket; `None` when there was none.
    pub fn mean(&self) -> Option<Duration> {
        let sum: u128 = self
            .buckets
            .iter()
            .map(|b| (b.start.as_nanos() + b.end.as_nanos()) / 2 * u128::from(b.count))
            .sum();
        let nanos = sum.checked_div(self.count.into())?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

impl<'a> IntoIterator for &'a Histogram {
    type Item = &'a Bucket;
    type IntoIter = std::slice::Iter<'a, Bucket>;

    fn into_iter(self) -> Self::IntoIter {
        self.buckets.iter()
    }
}

unsafe extern "C" fn on_bucket(ctx: *mut c_void, start: u64, end: u64, count: u64) {
    let bucket = Bucket { start: ticks_to_duration(start), end: ticks_to_duration(end), count };
    // SAFETY: the context is the call that `histogram` started, whose answer SPDK has the use of.
    unsafe { (*ctx.cast::<Call<Vec<Bucket>>>()).out.push(bucket) };
}

impl BdevDesc {
    /// Starts to count the latencies of the bdev's I/O, anew if it was counting
    /// (`spdk_bdev_histogram_enable_ext`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that make no sense, [`Error::Unsupported`] for those that the
    /// release lacks, [`Error::Busy`] while it is started or stopped elsewhere, [`Error::NoMemory`].
    pub async fn enable_histogram(&self, options: HistogramOptions) -> Result<()> {
        let raw = options.to_raw()?;
        // SPDK goes on with the buckets that it has.
        self.set_histogram(false, &HistogramOptions::new().to_raw()?).await?;
        self.set_histogram(true, &raw).await
    }

    /// Stops it, and forgets what was counted.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoMemory`].
    pub async fn disable_histogram(&self) -> Result<()> {
        self.set_histogram(false, &HistogramOptions::new().to_raw()?).await
    }

    async fn set_histogram(&self, enable: bool, opts: &sys::spdkp_histogram_opts) -> Result<()> {
        let (desc, what) = (self.inner(), || format!("the histogram of bdev {}", self.name()));
        let answer = start(
            desc,
            (),
            |_, done, ctx| {
                // SAFETY: the bdev is open, and the options are read at once.
                let needs = unsafe {
                    sys::spdkp_histogram_enable(desc.bdev(), enable, opts, Some(done), ctx)
                };
                supported(|| format!("choosing what {} counts", what()), needs)
            },
            |_, rc, ()| rc,
        )?;
        match answer.get().await? {
            0 => Ok(()),
            rc if rc == -libc::EAGAIN => {
                Err(Error::Busy(format!("{} is being set already; try again", what())))
            }
            rc => Err(Error::from_rc(what(), rc)),
        }
    }

    /// What was counted on the channels that there are (`spdk_bdev_histogram_get`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was not [enabled](Self::enable_histogram), [`Error::NoMemory`].
    pub async fn histogram(&self) -> Result<Histogram> {
        let desc = self.inner();
        let answer = start(
            desc,
            Vec::<Bucket>::new(),
            |_, done, ctx| {
                // SAFETY: the bdev is open; `on_bucket` takes the context of this call.
                unsafe {
                    sys::spdkp_histogram_get(desc.bdev(), Some(on_bucket), Some(done), ctx);
                }
                Ok(())
            },
            |_, rc, buckets| (rc, buckets),
        )?;
        match answer.get().await? {
            (0, buckets) => Ok(Histogram::new(buckets)),
            (rc, _) if rc == -libc::EFAULT => Err(Error::Invalid(format!(
                "bdev {} keeps no histogram; call `enable_histogram` first",
                self.name()
            ))),
            (rc, _) => Err(Error::from_rc(format!("the histogram of bdev {}", self.name()), rc)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bucket, Histogram, HistogramOptions};

    fn bucket(start: u64, end: u64, count: u64) -> Bucket {
        Bucket { start: Duration::from_micros(start), end: Duration::from_micros(end), count }
    }

    #[test]
    fn percentiles_name_the_bucket_that_holds_the_rank() {
        let histogram = Histogram::new(vec![bucket(1, 2, 90), bucket(4, 5, 9), bucket(90, 100, 1)]);
        assert_eq!(histogram.count(), 100);
        for (percent, micros) in [
            (-1.0, 2),
            (0.0, 2),
            (50.0, 2),
            (90.0, 2),
            (90.1, 5),
            (99.0, 5),
            (99.9, 100),
            (200.0, 100),
        ] {
            assert_eq!(
                histogram.percentile(percent),
                Some(Duration::from_micros(micros)),
                "{percent}"
            );
        }
        assert_eq!(histogram.mean(), Some(Duration::from_nanos(2_705)));
        assert_eq!(Histogram::default().percentile(50.0), None);
        assert_eq!(Histogram::default().mean(), None);
    }

    #[test]
    fn senseless_options_are_refused() {
        let micro = Duration::from_micros(1);
        assert!(HistogramOptions::new().range(micro, micro).to_raw().is_err());
        assert!(HistogramOptions::new().granularity(0).to_raw().is_err());
        assert!(HistogramOptions::new().granularity(17).to_raw().is_err());
        assert!(HistogramOptions::new().to_raw().is_ok());
    }
}
