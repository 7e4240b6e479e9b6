//! What the mirror module decides, without SPDK: where things lie on a leg, what its superblock and bitmap
//! say, which legs may be trusted after a restart, which leg is read, and who may write where.
//!
//! The invariants are listed in `docs/modules/mirror.md` and named here by their numbers.

#![forbid(unsafe_code)]

pub mod assembly;
pub mod bitmap;
mod bytes;
mod choice;
mod geometry;
mod legs;
mod locks;
mod record;
mod regions;

pub use choice::Load;
pub use geometry::Geometry;
pub use legs::Legs;
pub use locks::{Acquire, Held, RangeLocks};
pub use record::{Record, Slot, SlotState, Stamp};
pub use regions::{Regions, Work};

/// The most legs that a mirror has.
pub const MAX_LEGS: usize = 8;

/// The longest name of a mirror or a base that a superblock holds, in bytes.
pub const MAX_NAME: usize = 255;
