//! Limits of a bdev's rate (`spdk_bdev_set_qos_rate_limits`).

use spdk_plugin_sys as sys;

use super::call::start;
use super::desc::BdevDesc;
use crate::error::{Error, Result};

const TYPES: usize = sys::SPDK_BDEV_QOS_NUM_RATE_LIMIT_TYPES as usize;
/// SPDK counts in bytes, rounds up, and takes the largest number for "as it is".
const MOST_MIB: u64 = (u64::MAX >> 20) - 1;
const MOST_IOPS: u64 = u64::MAX - 1_000;

/// The most I/O that all users of a bdev together may do in a second. `None`: as much as they like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QosLimits {
    /// Reads and writes. SPDK rounds it up to a multiple of 1000.
    pub rw_iops: Option<u64>,
    /// MiB read and written.
    pub rw_mib: Option<u64>,
    /// MiB read.
    pub read_mib: Option<u64>,
    /// MiB written.
    pub write_mib: Option<u64>,
}

impl QosLimits {
    /// No limits.
    pub const fn none() -> Self {
        Self { rw_iops: None, rw_mib: None, read_mib: None, write_mib: None }
    }

    /// Sets [`rw_iops`](Self::rw_iops).
    #[must_use]
    pub const fn rw_iops(mut self, limit: u64) -> Self {
        self.rw_iops = Some(limit);
        self
    }

    /// Sets [`rw_mib`](Self::rw_mib).
    #[must_use]
    pub const fn rw_mib(mut self, limit: u64) -> Self {
        self.rw_mib = Some(limit);
        self
    }

    /// Sets [`read_mib`](Self::read_mib).
    #[must_use]
    pub const fn read_mib(mut self, limit: u64) -> Self {
        self.read_mib = Some(limit);
        self
    }

    /// Sets [`write_mib`](Self::write_mib).
    #[must_use]
    pub const fn write_mib(mut self, limit: u64) -> Self {
        self.write_mib = Some(limit);
        self
    }

    fn to_raw(self) -> Result<[u64; TYPES]> {
        let number = |name: &str, value: Option<u64>, most: u64| match value {
            None => Ok(0),
            Some(value) if (1..=most).contains(&value) => Ok(value),
            Some(value) => Err(Error::Invalid(format!(
                "a limit of {value} for {name} cannot be; give 1 to {most}, or none"
            ))),
        };
        let mut raw = [0; TYPES];
        raw[sys::SPDK_BDEV_QOS_RW_IOPS_RATE_LIMIT as usize] =
            number("rw_iops", self.rw_iops, MOST_IOPS)?;
        raw[sys::SPDK_BDEV_QOS_RW_BPS_RATE_LIMIT as usize] =
            number("rw_mib", self.rw_mib, MOST_MIB)?;
        raw[sys::SPDK_BDEV_QOS_R_BPS_RATE_LIMIT as usize] =
            number("read_mib", self.read_mib, MOST_MIB)?;
        raw[sys::SPDK_BDEV_QOS_W_BPS_RATE_LIMIT as usize] =
            number("write_mib", self.write_mib, MOST_MIB)?;
        Ok(raw)
    }

    fn from_raw(raw: [u64; TYPES]) -> Self {
        let limit = |kind: u32| (raw[kind as usize] != 0).then_some(raw[kind as usize]);
        Self {
            rw_iops: limit(sys::SPDK_BDEV_QOS_RW_IOPS_RATE_LIMIT),
            rw_mib: limit(sys::SPDK_BDEV_QOS_RW_BPS_RATE_LIMIT),
            read_mib: limit(sys::SPDK_BDEV_QOS_R_BPS_RATE_LIMIT),
            write_mib: limit(sys::SPDK_BDEV_QOS_W_BPS_RATE_LIMIT),
        }
    }
}

impl BdevDesc {
    /// The bdev's present limits (`spdk_bdev_get_qos_rate_limits`).
    pub fn qos(&self) -> QosLimits {
        let mut raw = [0; TYPES];
        // SAFETY: the bdev is open, and there is room for a number of each type.
        unsafe { sys::spdk_bdev_get_qos_rate_limits(self.inner().bdev(), raw.as_mut_ptr()) };
        QosLimits::from_raw(raw)
    }

    /// Sets the bdev's limits, for everybody who uses it, and until they are set again
    /// (`spdk_bdev_set_qos_rate_limits`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit of 0 or one too high to count, [`Error::Busy`] while they are
    /// being set elsewhere, [`Error::NoMemory`].
    pub async fn set_qos(&self, limits: QosLimits) -> Result<()> {
        let desc = self.inner();
        let answer = start(
            desc,
            limits.to_raw()?,
            |out, done, ctx| {
                // SAFETY: the bdev is open; `out` has a number of each type.
                unsafe {
                    let limits = out.cast::<u64>();
                    sys::spdk_bdev_set_qos_rate_limits(desc.bdev(), limits, Some(done), ctx);
                }
                Ok(())
            },
            |_, rc, _| rc,
        )?;
        let what = || format!("the rate limits of bdev {}", self.name());
        match answer.get().await? {
            0 => Ok(()),
            rc if rc == -libc::EAGAIN => {
                Err(Error::Busy(format!("{} are being set already; try again", what())))
            }
            rc => Err(Error::from_rc(what(), rc)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_IOPS, MOST_MIB, QosLimits};

    #[test]
    fn limits_survive_the_way_to_spdk_and_back() {
        for limits in [
            QosLimits::none(),
            QosLimits::none().rw_iops(5_000).read_mib(3),
            QosLimits::none().rw_mib(1).write_mib(MOST_MIB),
        ] {
            assert_eq!(QosLimits::from_raw(limits.to_raw().unwrap()), limits);
        }
        assert!(QosLimits::none().rw_iops(0).to_raw().is_err());
        assert!(QosLimits::none().rw_iops(MOST_IOPS + 1).to_raw().is_err());
        assert!(QosLimits::none().rw_mib(MOST_MIB + 1).to_raw().is_err());
    }
}
