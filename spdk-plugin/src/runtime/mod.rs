//! Running on SPDK's threads: tasks, pollers and time. Stands on `spdk/thread.h`.
//!
//! A handler of this crate is polled on the SPDK thread that called it, from inside SPDK's own
//! callback. It must not block: to wait is to `.await`.

pub mod app;
pub(crate) mod env;
pub(crate) mod home;
mod poller;
pub(crate) mod queue;
pub(crate) mod task;
mod thread;
mod waker;

pub use poller::{PollStatus, Poller, Sleep, sleep};
pub(crate) use thread::{on_app, send_to_app, shut_down};
pub use thread::{on_app_thread, spawn_local};
