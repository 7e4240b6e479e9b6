//! Using bdevs: handles, descriptors, I/O and events. Stands on `spdk/bdev.h`.
//!
//! - [`Bdev`] finds bdevs and tells what they say of themselves. It holds nothing of SPDK's.
//! - [`BdevDesc`] is an open bdev: events, claims, statistics, limits, and the channels for I/O.
//!
//! All but [`Bdev`] stays on the SPDK thread that it was made on. Every call is made on an SPDK thread;
//! what SPDK wants done on the app thread is sent there. Futures may be dropped, or forgotten, at any
//! time: what they have started ends on its own.
//!
//! # I/O
//! Every operation is a method of [`BdevDesc`] that takes an [`IoChannel`] and gives a future, an [`Op`],
//! that starts when it is first polled. Offsets and lengths are in bytes, which must be multiples of the
//! block size, or in blocks where the name says so. While it runs the buffers that it was given are
//! empty; they are whole again when it ends, be it well or not.
//!
//! When SPDK is out of requests an operation waits for one, behind those that wait already. An operation
//! that succeeds does not allocate.
//!
//! # Errors
//! Every operation may fail with:
//! - [`Error::Io`](crate::Error::Io): the device took it, and it failed; the cause says how.
//! - [`Error::Invalid`](crate::Error::Invalid): the range is empty, not in whole blocks, or goes beyond the
//!   end; a buffer is too short; the channel is another descriptor's.
//! - [`Error::Errno`](crate::Error::Errno): `EBADF` when the descriptor is for reading only, `ENOTSUP` when
//!   the device does not do this, others as the bdev layer refuses it.
//! - [`Error::Unsupported`](crate::Error::Unsupported): the SPDK release does not have it.
//! - [`Error::WrongThread`](crate::Error::WrongThread): it was polled on another SPDK thread than the
//!   channel's.
//! - [`Error::NoMemory`](crate::Error::NoMemory): for something else than a request of SPDK's.

mod call;
mod channel;
mod claim;
mod desc;
mod events;
mod forward;
mod handle;
mod histogram;
mod io;
pub mod kind;
mod nvme;
mod op;
mod qos;
mod quiesce;
mod stats;
mod zcopy;
mod zone;

pub use channel::IoChannel;
pub use claim::{Claim, ClaimKind};
pub(crate) use desc::DescInner;
pub use desc::{BdevDesc, OpenOptions};
pub use events::{Event, Events, MediaEvent};
pub use forward::Forward;
pub use handle::{Bdev, Zones};
pub use histogram::{Bucket, Histogram, HistogramOptions};
pub use io::IoOptions;
pub use kind::Kind;
pub use nvme::NvmeCmd;
pub use op::{Answer, Load, Op, OpId};
pub use qos::QosLimits;
pub use quiesce::Quiesced;
pub use stats::{IoStats, OpStats, ResetStats};
pub use zcopy::{Zcopy, ZcopyEnd};
pub use zone::{ZoneAction, ZoneInfo, ZoneState, ZoneType};
