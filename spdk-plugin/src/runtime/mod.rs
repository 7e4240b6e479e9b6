//! Running on SPDK's threads: tasks, pollers and time. Stands on `spdk/thread.h`.
//!
//! A handler of this crate is polled on the SPDK thread that called it, from inside SPDK's own
//! callback. It must not block: to wait is to `.await`.

pub mod app;
pub(crate) mod env;
pub(crate) mod home;
mod join;
mod poller;
mod sync;
pub mod task;
mod thread;
mod time;

pub use join::JoinHandle;
pub use poller::{PollStatus, Poller, PollerBuilder, PollerFn};
pub use task::{spawn_local, yield_now};
pub use thread::on_app_thread;
pub(crate) use thread::{on_app, send_to_app, shut_down};
pub use time::{Interval, Sleep, Timeout, interval, sleep, timeout};
