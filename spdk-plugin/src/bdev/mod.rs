//! Using bdevs: handles, descriptors, I/O and events. Stands on `spdk/bdev.h`.
//!
//! Nothing here leaves its SPDK thread unless it says so, and every call is made on an SPDK thread.

mod desc;
mod events;

pub(crate) use desc::DescInner;
pub use desc::{BdevDesc, OpenOptions};
pub use events::{Event, Events, MediaEvent};
