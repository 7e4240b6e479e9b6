//! The device on a disk in memory that crashes, loses and damages what it is told to, under a scheduler that
//! takes any order of events; the seed makes them again.

mod crashes;
mod every_prefix;
mod reference;
mod sim;

pub(super) use reference::{Reference, Workload};
pub(super) use sim::{Executor, Power, SimDisk};
