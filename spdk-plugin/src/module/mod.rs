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

mod base;
mod builder;
mod cell;
mod channel;
mod device;
mod examine;
mod handlers;
mod io;
mod kind;
mod part;
mod record;
mod register;
mod slab;
mod status;
mod superblock;
pub mod vbdev;

use std::future::{Future, ready};

pub use crate::bdev::Forward;
pub use base::{Base, BaseChannel};
pub use builder::{BdevBuilder, Dif, Metadata};
pub(crate) use cell::IoCell;
pub use device::{BdevHandle, RpcCall};
#[doc(hidden)]
pub use examine::{NoVbdev, Probe};
pub use io::{BdevIo, IoId, NvmeRequest, ZcopyStart};
pub use kind::{IoKind, IoKinds};
pub use part::{Part, PartChannel};
pub(crate) use record::Record;
pub use register::Module;
#[doc(hidden)]
pub use register::{ModuleEntry, Registration};
use serde_json::Value;
pub use status::{IoError, IoResult};
pub use superblock::Superblock;
pub use vbdev::{Bases, Vbdev};

use crate::error::Result;

/// What a module implements of [`Bdev`]; [`#[bdev_module]`](crate::bdev_module) fills it in.
#[derive(Clone, Copy, Debug)]
pub struct Overrides {
    /// Kinds with a method of their own.
    pub kinds: IoKinds,
    /// Whether there is a [`Bdev::submit`].
    pub submit: bool,
    /// Whether there is a [`Bdev::destruct`].
    pub destruct: bool,
    /// Whether there is a [`Bdev::init`].
    pub init: bool,
    /// Whether there is a [`Bdev::fini_start`].
    pub fini_start: bool,
    /// Whether there is a [`Bdev::fini`].
    pub fini: bool,
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

    /// Starts the module, before any of its bdevs is created; SPDK's start waits for it. On the app thread.
    ///
    /// # Errors
    /// The program ends, and its log names the module and the error.
    fn init() -> impl Future<Output = Result<()>> {
        ready(Ok(()))
    }

    /// SPDK begins to unregister bdevs, and those of this module are still there. From SPDK 21.10 on it waits
    /// for this. On the app thread.
    fn fini_start() -> impl Future<Output = ()> {
        ready(())
    }

    /// Stops the module, whose bdevs have gone; SPDK waits for it. On the app thread.
    fn fini() -> impl Future<Output = ()> {
        ready(())
    }

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

    /// The base in whose memory domains requests may bring their data: those that are only
    /// [forwarded](BdevIo::forward) to it. [`BdevIo::bufs`] of such a request is empty. SPDK 23.05 or later;
    /// elsewhere, and by default, the bdev layer brings the data into memory of the program.
    fn memory_domains_of(&self) -> Option<&Base> {
        None
    }

    /// The bdev was unregistered, and nobody has it open. What works in the background ends here, with the
    /// [`BaseChannel`]s that it keeps; the bases are closed afterwards. On the app thread.
    fn destruct(&self) -> impl Future<Output = ()> {
        ready(())
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
