//! Writing a bdev module (`spdk/bdev_module.h`).
//!
//! A module is a type that implements [`Bdev`], marked with
//! [`#[bdev_module]`](crate::bdev_module). One value of it is one block device. What it implements of
//! the trait decides which I/O the device supports.
//!
//! ```
//! use spdk_plugin::module::{Bdev, BdevIo, IoResult};
//! use spdk_plugin::{Result, bdev_module};
//!
//! struct Zero;
//!
//! #[bdev_module(name = "zero")]
//! impl Bdev for Zero {
//!     type Channel = ();
//!
//!     fn channel(&self) -> Result<()> {
//!         Ok(())
//!     }
//!
//!     async fn read(&self, _channel: &(), mut io: BdevIo<'_>) -> IoResult {
//!         io.bufs_mut().for_each(|buf| buf.fill(0));
//!         Ok(())
//!     }
//! }
//! ```

mod builder;
mod cell;
mod channel;
mod device;
mod handlers;
mod io;
mod kind;
mod record;
mod register;
mod slab;
mod status;

use std::future::{Future, ready};

pub use builder::{BdevBuilder, Dif, Metadata};
pub use device::{BdevHandle, RpcCall};
pub use io::{BdevIo, IoId, NvmeRequest, ZcopyStart};
pub use kind::{IoKind, IoKinds};
pub use register::Module;
#[doc(hidden)]
pub use register::{ModuleEntry, Registration};
use serde_json::Value;
pub use status::{IoError, IoResult};

use crate::error::Result;

/// What a module implements of [`Bdev`]; [`#[bdev_module]`](crate::bdev_module) fills it in.
#[derive(Clone, Copy, Debug)]
pub struct Overrides {
    /// Kinds with a method of their own.
    pub kinds: IoKinds,
    /// Whether there is a [`Bdev::submit`].
    pub submit: bool,
}

macro_rules! handlers {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            fn $name(
                &self,
                channel: &Self::Channel,
                io: BdevIo<'_>,
            ) -> impl Future<Output = IoResult> {
                let _ = (channel, io);
                ready(Err(IoError::Failed))
            }
        )*
    };
}

/// A block device of a module.
///
/// Mark the implementation with [`#[bdev_module]`](crate::bdev_module), which registers the module and
/// notes which methods there are: they are the kinds of I/O that the device supports. Each is an
/// `async fn` that runs on the thread that submitted the request, and whose result completes it.
///
/// Handlers of one channel run by turns at their `.await`s, never at once; those of several channels
/// run in parallel. A device in which a handler has panicked fails all further I/O.
///
/// Abort and reset need no code: the handler that waits is dropped and its request ends as aborted.
pub trait Bdev: Module + Sized + Send + Sync + 'static {
    /// What the module keeps for each SPDK thread that uses the device. The scheduler may move that thread
    /// to another core, so it must not hold what belongs to an OS thread, such as a clone of an `Rc` out
    /// of a `thread_local!`.
    type Channel: 'static;

    /// Makes the state of a thread that starts to use the device. It is dropped on that thread.
    ///
    /// # Errors
    /// The device cannot be used on this thread; SPDK answers with its errno.
    fn channel(&self) -> Result<Self::Channel>;

    handlers! {
        /// Reads blocks into [`BdevIo::bufs_mut`].
        read;
        /// Writes [`BdevIo::bufs`].
        write;
        /// Makes durable what was written to the range before.
        flush;
        /// Drops the contents of the range; what is read there afterwards is anything.
        unmap;
        /// Makes the range read as zeroes.
        write_zeroes;
        /// Compares the range with [`BdevIo::bufs`]; a difference is [`IoError::Miscompare`].
        compare;
        /// Copies [`BdevIo::num_blocks`] from [`BdevIo::copy_source_blocks`]. SPDK 23.01 or later.
        copy;
        /// Lends the range's own memory, or a copy, by [`BdevIo::lend`]. Goes together with
        /// [`zcopy_end`](Self::zcopy_end).
        zcopy_start;
        /// Takes back what [`zcopy_start`](Self::zcopy_start) gave; see [`BdevIo::zcopy_commits`].
        zcopy_end;
        /// Serves an NVMe admin command, see [`BdevIo::nvme`].
        nvme_admin;
        /// Serves an NVMe I/O command.
        nvme_io;
        /// Serves an NVMe I/O command with metadata.
        nvme_io_md;
        /// Stops all I/O in flight on all threads. Without it, the crate cancels every waiting handler
        /// and ends the reset when all are gone.
        reset;
        /// Aborts [`BdevIo::abort_target`]. Without it, the crate cancels the target's handler.
        abort;
        /// Serves what [`supports`](Self::supports) names and has no method of its own, for modules
        /// that treat all I/O alike.
        submit;
    }

    /// The kinds that [`submit`](Self::submit) serves.
    fn supports(&self, kind: IoKind) -> bool {
        matches!(kind, IoKind::Read | IoKind::Write)
    }

    /// What `bdev_get_bdevs` shows under `driver_specific` and the module's name.
    fn dump_info(&self) -> Option<Value> {
        None
    }

    /// The RPC that makes this device again, for `save_config`. `None`: it is not saved.
    fn config(&self, bdev: &BdevHandle<Self>) -> Option<RpcCall> {
        let _ = bdev;
        None
    }
}
