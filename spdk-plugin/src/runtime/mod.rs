//! Running on SPDK's threads: tasks, pollers and time. Stands on `spdk/thread.h`.
//!
//! A handler of this crate is polled on the SPDK thread that called it, from inside SPDK's own
//! callback. It must not block: to wait is to `.await`.

mod alarm;
pub(crate) mod app;
mod config;
mod cpuset;
mod drive;
pub(crate) mod env;
mod fostered;
mod handle;
pub(crate) mod home;
mod inbox;
mod join;
mod options;
mod own;
mod poller;
pub(crate) mod queue;
mod reactor;
pub(crate) mod subsystems;
mod sync;
pub mod task;
mod thread;
mod time;
mod turn;
pub(crate) mod waker;

pub use cpuset::CpuSet;
pub use drive::{Backoff, PollerTask, poller_task};
pub use handle::{CurrentThread, ThreadHandle, ThreadStats};
pub use join::JoinHandle;
pub use own::{SpawnedThread, SpdkThread};
pub use poller::{PollStatus, Poller, PollerBuilder, PollerFn};
pub use reactor::{cores, current_core, for_each_core, spawn_on, unaffinitized};
pub use subsystems::{Subsystems, SubsystemsBuilder};
pub use task::{spawn_local, yield_now};
pub use thread::on_app_thread;
pub(crate) use thread::{on_app, send_to_app, shut_down};
pub use time::{Interval, Sleep, Timeout, interval, sleep, timeout};
