//! Using bdevs: handles, descriptors, I/O and events. Stands on `spdk/bdev.h`.
//!
//! - [`Bdev`] finds bdevs and tells what they say of themselves. It holds nothing of SPDK's.
//! - [`BdevDesc`] is an open bdev: events, claims, statistics, limits, and the channels for I/O.
//!
//! All but [`Bdev`] stays on the SPDK thread that it was made on. Every call is made on an SPDK thread;
//! what SPDK wants done on the app thread is sent there. Futures may be dropped, or forgotten, at any
//! time: what they have started ends on its own.

mod call;
mod claim;
mod desc;
mod events;
mod handle;
mod histogram;
mod qos;
mod quiesce;
mod stats;

pub use claim::{Claim, ClaimKind};
pub(crate) use desc::DescInner;
pub use desc::{BdevDesc, OpenOptions};
pub use events::{Event, Events, MediaEvent};
pub use handle::{Bdev, Zones};
pub use histogram::{Bucket, Histogram, HistogramOptions};
pub use qos::QosLimits;
pub use quiesce::Quiesced;
pub use stats::{IoStats, OpStats, ResetStats};
