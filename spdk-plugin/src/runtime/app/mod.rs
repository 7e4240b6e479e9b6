//! An application with SPDK linked in, on SPDK's app framework (`spdk/event.h`).
//!
//! [`SpdkApp::builder`] describes it, [`block_on`](SpdkAppBuilder::block_on) or
//! [`run`](SpdkAppBuilder::run) runs it to its end.

mod builder;
mod life;

pub use builder::SpdkAppBuilder;

use crate::error::Result;

/// The app of this process: how it is described, and how it is told to stop.
///
/// ```no_run
/// use spdk_plugin::SpdkApp;
///
/// fn main() -> spdk_plugin::Result<()> {
///     SpdkApp::builder().name("hello").config_file("config.json").block_on(async {
///         println!("SPDK is up");
///         Ok(())
///     })
/// }
/// ```
#[derive(Debug)]
pub enum SpdkApp {}

impl SpdkApp {
    /// Describes the app.
    pub fn builder() -> SpdkAppBuilder {
        SpdkAppBuilder::new()
    }

    /// Has the app end in order (`spdk_app_stop`): every task of this crate's is dropped on its thread,
    /// then SPDK stops its subsystems and its threads. It returns at once, and may be called on any
    /// thread, and more than once.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) when no app of this crate's runs.
    pub fn stop() -> Result<()> {
        life::stop(0)
    }

    /// As [`stop`](Self::stop), but as if a signal had come (`spdk_app_start_shutdown`).
    ///
    /// # Errors
    /// As for [`stop`](Self::stop).
    pub fn start_shutdown() -> Result<()> {
        life::stop(0)
    }
}
