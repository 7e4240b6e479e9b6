//! The cache of the `tier` module: which line of the slow disk lies where on the fast one, what the fast
//! disk says of it, and in which order both are written. `docs/modules/tier.md` has the invariants.
//!
//! Nothing here knows SPDK. The disks are a [`Disks`], a request is a [`Request`]; the crash model in the
//! tests runs the same code over disks in memory.

#![forbid(unsafe_code)]

mod bitmap;
mod cache;
mod clean;
mod commit;
mod crc;
mod discard;
mod geometry;
#[cfg(test)]
mod model;
mod persist;
mod ports;
mod read;
mod record;
mod set;
mod stats;
mod superblock;
mod write;

pub use cache::{Cache, Loaded, Mode};
pub use clean::Cleaned;
pub use geometry::{Geometry, GeometryError, Sizes};
pub use ports::{Dev, Discard, Disks, Request};
pub use record::Damage;
pub use set::WAYS;
pub use stats::{Counters, Stats};
pub use superblock::{BindError, Binding, FastSuper, SlowSuper, bind};
