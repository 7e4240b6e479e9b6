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
//! `spdk_bdev_wait_for_examine` calls back when all bdevs have been examined.
//!
//! ```no_run
//! use std::ffi::c_void;
//!
//! use spdk_plugin::complete::{Completer, completion};
//! use spdk_plugin::{Error, Result};
//! use spdk_plugin_sys as sys;
//!
//! /// Waits until all bdevs that were there when it was first polled have been examined.
//! async fn examined() -> Result<()> {
//!     unsafe extern "C" fn done(ctx: *mut c_void) {
//!         // SAFETY: `ctx` is what `into_raw` gave below, and SPDK calls once.
//!         let completer = unsafe { Completer::<()>::from_raw(ctx) };
//!         completer.complete(());
//!     }
//!
//!     let (completer, completion) = completion::<(), ()>("waiting for examine", ());
//!     let ctx = completer.into_raw();
//!     // SAFETY: `done` takes the completer, on whatever thread, as it has no payload and no value.
//!     let rc = unsafe { sys::spdk_bdev_wait_for_examine(Some(done), ctx) };
//!     if rc != 0 {
//!         // SAFETY: SPDK refused, so it will not call `done`.
//!         drop(unsafe { Completer::<()>::from_raw(ctx) });
//!         return Err(Error::from_rc("waiting for examine", rc));
//!     }
//!     completion.await
//! }
//! ```
//! Calls that are made for every I/O would pay for the allocation; the operations of
//! [`BdevDesc`](crate::bdev::BdevDesc) have theirs in a slab of the channel.

mod boxed;
pub(crate) mod slots;

pub use boxed::{Completer, Completion, completion};
