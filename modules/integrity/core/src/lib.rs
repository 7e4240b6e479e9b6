//! A checksum for every block of a disk, kept apart from the data and safe against crashes.
//!
//! Nothing here knows of SPDK: [`Disk`] is what it stands on, so that the tests can crash it at every
//! point. `docs/modules/integrity.md` tells how it works.

#![forbid(unsafe_code)]

mod check;
mod checkpoint;
mod device;
mod disk;
mod entry;
mod layout;
mod locks;
mod log;
#[cfg(test)]
mod model;
mod page;
mod recover;
mod report;
mod scrub;
mod table;

pub use device::{Device, Options, Pages};
pub use disk::{Disk, Error, Result};
pub use layout::{Geometry, Layout, Root};
pub use locks::{Locks, Ticket};
pub use report::{Bad, Cause, Counts};
pub use scrub::{Progress, Scrub};
