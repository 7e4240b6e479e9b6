//! What a bdev has done: I/O statistics and queue depth (`spdk_bdev_get_device_stat`,
//! `spdk_bdev_get_qd`).

use std::ffi::CStr;
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::call::{start, start_on_app};
use super::channel::IoChannel;
use super::desc::BdevDesc;
use crate::error::{Error, Result};

/// What to do to a bdev's statistics after they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetStats {
    /// Nothing.
    #[default]
    Keep,
    /// Start all of them from 0. SPDK 25.05 or later.
    All,
    /// Forget the shortest and the longest latency. SPDK 25.05 or later.
    Extremes,
}

impl ResetStats {
    fn raw(self) -> i32 {
        let mode = match self {
            Self::Keep => sys::SPDKP_STAT_KEEP,
            Self::All => sys::SPDKP_STAT_RESET_ALL,
            Self::Extremes => sys::SPDKP_STAT_RESET_EXTREMES,
        };
        mode as i32
    }
}

/// I/O that has ended, since the bdev was made or the statistics were reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStats {
    /// Reads.
    pub read: OpStats,
    /// Writes.
    pub write: OpStats,
    /// Unmaps.
    pub unmap: OpStats,
    /// Copies. `None` before SPDK 23.01, which does not count them.
    pub copy: Option<OpStats>,
}

/// I/O of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpStats {
    /// The number of operations.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sum of their latencies.
    pub latency: Duration,
    /// The shortest. `None` when there was none, and before SPDK 23.01.
    pub min_latency: Option<Duration>,
    /// The longest. `None` as above.
    pub max_latency: Option<Duration>,
}

impl OpStats {
    /// The mean latency; `None` when there was no operation.
    pub fn mean_latency(&self) -> Option<Duration> {
        let nanos = self.latency.as_nanos().checked_div(self.ops.into())?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn new(raw: &sys::spdkp_op_stat) -> Self {
        let known = raw.ops > 0 && raw.max_ticks > 0;
        let latency = |ticks| known.then(|| ticks_to_duration(ticks));
        Self {
            ops: raw.ops,
            bytes: raw.bytes,
            latency: ticks_to_duration(raw.ticks),
            min_latency: latency(raw.min_ticks),
            max_latency: latency(raw.max_ticks),
        }
    }
}

impl IoStats {
    pub(super) fn new(raw: &sys::spdkp_io_stat) -> Self {
        Self {
            read: OpStats::new(&raw.read),
            write: OpStats::new(&raw.write),
            unmap: OpStats::new(&raw.unmap),
            copy: raw.has_copy.then(|| OpStats::new(&raw.copy)),
        }
    }
}

pub(super) fn ticks_to_duration(ticks: u64) -> Duration {
    // SAFETY: reads a number of the environment's.
    let hz = u128::from(unsafe { sys::spdk_get_ticks_hz() }.max(1));
    let nanos = u128::from(ticks) * 1_000_000_000 / hz;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// `Unsupported`, if the shim has named a release.
pub(super) fn supported(
    what: impl FnOnce() -> String,
    needs: *const std::ffi::c_char,
) -> Result<()> {
    if needs.is_null() {
        return Ok(());
    }
    // SAFETY: what the shim returns is a literal.
    let needs = unsafe { CStr::from_ptr(needs) }.to_str().unwrap_or("a later release");
    Err(Error::Unsupported { what: what(), needs })
}

impl IoChannel {
    /// The I/O statistics of the current thread's channel to the bdev, which all who use the bdev on
    /// this thread share (`spdk_bdev_get_io_stat`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a reset before SPDK 25.05.
    pub fn io_stats(&self, reset: ResetStats) -> Result<IoStats> {
        let port = self.port();
        let mut stat = sys::spdkp_io_stat::default();
        // SAFETY: the channel and its bdev are there while `self` is.
        let needs = unsafe {
            sys::spdkp_channel_stat(port.desc.bdev(), port.raw, reset.raw(), &raw mut stat)
        };
        supported(|| format!("resetting the statistics of bdev {}", self.bdev_name()), needs)?;
        Ok(IoStats::new(&stat))
    }
}

impl BdevDesc {
    /// The I/O statistics of the bdev over all its channels, those of the past too
    /// (`spdk_bdev_get_device_stat`).
    ///
    /// # Errors
    /// [`Error::NoMemory`], and [`Error::Unsupported`] for a reset before SPDK 25.05.
    pub async fn io_stats(&self, reset: ResetStats) -> Result<IoStats> {
        let (desc, what) = (self.inner(), || format!("the statistics of bdev {}", self.name()));
        let answer = start(
            desc,
            sys::spdkp_io_stat::default(),
            |out, done, ctx| {
                // SAFETY: the bdev is open and `out` stays until the call is done.
                let needs = unsafe {
                    sys::spdkp_device_stat(desc.bdev(), reset.raw(), out, Some(done), ctx)
                };
                supported(|| format!("resetting {}", what()), needs)
            },
            |_, rc, stat| (rc, IoStats::new(&stat)),
        )?;
        match answer.get().await? {
            (0, stats) => Ok(stats),
            (rc, _) => Err(Error::from_rc(what(), rc)),
        }
    }

    /// The I/O in flight on all channels now (`spdk_bdev_get_current_qd`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] before SPDK 22.09, which can only [sample](Self::queue_depth) it;
    /// [`Error::NoMemory`].
    pub async fn current_queue_depth(&self) -> Result<u64> {
        let (desc, what) = (self.inner(), || format!("the queue depth of bdev {}", self.name()));
        let answer = start(
            desc,
            0u64,
            |out, done, ctx| {
                // SAFETY: the bdev is open and `out` stays until the call is done.
                let needs = unsafe { sys::spdkp_current_qd(desc.bdev(), out, Some(done), ctx) };
                supported(what, needs)
            },
            |_, rc, depth| (rc, depth),
        )?;
        match answer.get().await? {
            (0, depth) => Ok(depth),
            (rc, _) => Err(Error::from_rc(what(), rc)),
        }
    }

    /// Has SPDK sample the queue depth once a `period`, which counts in microseconds, or stop
    /// (`spdk_bdev_set_qd_sampling_period`). It is done on the app thread.
    ///
    /// Before 22.09 SPDK stops by itself whenever anyone closes the bdev.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a period below a microsecond.
    pub async fn sample_queue_depth(&self, period: Option<Duration>) -> Result<()> {
        let micros = match period {
            None => 0,
            Some(period) => u64::try_from(period.as_micros()).unwrap_or(u64::MAX),
        };
        if period.is_some() && micros == 0 {
            return Err(Error::Invalid(format!(
                "a sampling period of {period:?} is too short; one microsecond is the least"
            )));
        }
        // SAFETY: the call is made for the app thread.
        let answer = unsafe {
            start_on_app(
                self.inner(),
                (),
                move |desc, _| {
                    let bdev = sys::spdk_bdev_desc_get_bdev(desc);
                    sys::spdk_bdev_set_qd_sampling_period(bdev, micros);
                    0
                },
                |_, _, ()| (),
            )?
        };
        answer.get().await
    }

    /// The period of the sampling, `None` when there is none (`spdk_bdev_get_qd_sampling_period`).
    pub fn queue_depth_sampling(&self) -> Option<Duration> {
        // SAFETY: the bdev is open.
        let micros = unsafe { sys::spdk_bdev_get_qd_sampling_period(self.inner().bdev()) };
        (micros != 0).then(|| Duration::from_micros(micros))
    }

    /// The queue depth that was last [sampled](Self::sample_queue_depth); `None` before the first
    /// sample (`spdk_bdev_get_qd`).
    pub fn queue_depth(&self) -> Option<u64> {
        // SAFETY: the bdev is open.
        let depth = unsafe { sys::spdk_bdev_get_qd(self.inner().bdev()) };
        (self.queue_depth_sampling().is_some() && depth != u64::MAX).then_some(depth)
    }

    /// For how long the bdev had I/O in flight, as far as sampling saw (`spdk_bdev_get_io_time`).
    pub fn io_time(&self) -> Duration {
        // SAFETY: the bdev is open.
        Duration::from_micros(unsafe { sys::spdk_bdev_get_io_time(self.inner().bdev()) })
    }

    /// [`io_time`](Self::io_time) with each moment times the queue depth
    /// (`spdk_bdev_get_weighted_io_time`).
    pub fn weighted_io_time(&self) -> Duration {
        // SAFETY: the bdev is open.
        Duration::from_micros(unsafe { sys::spdk_bdev_get_weighted_io_time(self.inner().bdev()) })
    }
}
