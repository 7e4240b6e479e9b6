//! From a C callback to a future: the one mechanism of all clients of this crate, and the means to wrap
//! an SPDK call that it lacks.
//!
//! [`completion`] gives two ends. The [`Completer`] goes to C as a `void *`, once, and comes back in the
//! callback, once. The [`Completion`] is awaited. Neither end minds what becomes of the other:
//!
//! ```text
//!   Completion awaited ....... completed: gives the value
//!   Completion awaited ....... Completer dropped: gives Error::Errno(ECANCELED)
//!   Completion dropped ....... completed later: the value is dropped there
//!   Completion forgotten ..... as above, and the memory of the two is never freed
//! ```
//! What C still reads or writes after the call has returned must not be borrowed from the caller, who may
//! drop the future at any time. It goes into the *payload*, which lives until the callback has come and
//! is given to the callback.
//!
//! # Example
//! `spdk_for_each_thread` sends a message to each thread, and calls back when the last one has run it: what
//! was sent to any thread before has been run by then.
//!
//! ```no_run
//! use std::ffi::c_void;
//!
//! use spdk_plugin::complete::{Completer, completion};
//! use spdk_plugin::{CurrentThread, Error, Result};
//! use spdk_plugin_sys as sys;
//!
//! /// Waits until all SPDK threads have run what was sent to them before.
//! async fn all_have_run() -> Result<()> {
//!     unsafe extern "C" fn visit(_: *mut c_void) {}
//!
//!     unsafe extern "C" fn done(ctx: *mut c_void) {
//!         // SAFETY: `ctx` is what `into_raw` gave below, and SPDK calls this once.
//!         let completer = unsafe { Completer::<()>::from_raw(ctx) };
//!         completer.complete(());
//!     }
//!
//!     if CurrentThread::get().is_none() {
//!         return Err(Error::WrongThread("SPDK calls back on the thread that asks".into()));
//!     }
//!     let (completer, completion) = completion::<(), ()>("visiting all threads", ());
//!     // SAFETY: we are on an SPDK thread, and `done` takes the completer.
//!     unsafe { sys::spdk_for_each_thread(Some(visit), completer.into_raw(), Some(done)) };
//!     completion.await
//! }
//! ```
//! Where the call may refuse at once, take the completer back by `from_raw` and drop it: the callback will
//! not come.
//!
//! Calls that are made for every I/O would pay for the allocation; the operations of
//! [`BdevDesc`](crate::bdev::BdevDesc) have theirs in a slab of the channel.

mod boxed;
pub(crate) mod slots;

pub use boxed::{Completer, Completion, completion};
