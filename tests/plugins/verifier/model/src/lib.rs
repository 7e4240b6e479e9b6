//! What a disk should hold: the pure part of the tests' verifier, without SPDK.
//!
//! - [`Stamp`]: the contents of a block, told by one number, so that a disk's contents fit into memory.
//! - [`Model`]: what each block may hold, which operations are in flight, and what was done before.
//! - [`Plan`]: which operation comes next, by chance.

#![forbid(unsafe_code)]

mod flights;
mod history;
mod journal;
mod model;
mod plan;
mod random;
mod stamp;

pub use history::Record;
pub use journal::Journal;
pub use model::{Ended, Mismatch, Model, Ticket};
pub use plan::{Geometry, Kind, Op, Plan};
pub use random::Random;
pub use stamp::Stamp;
