//! Keeps a panic on our side of a C callback.
//!
//! Everything of a user's runs under [`catch`]. The panic hook that [`install_hook`] sets writes the
//! place and the message to SPDK's log; the caller then fails the one operation that it was about.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use spdk_plugin_sys as sys;

use crate::log::{Level, write};

/// A panic that was caught and has been logged.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs `body`; `what` says in the log whose callback it was if it panics.
#[inline]
pub(crate) fn catch<R>(what: &str, body: impl FnOnce() -> R) -> Result<R, Panicked> {
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => Ok(result),
        Err(payload) => Err(panicked(what, payload)),
    }
}

/// As [`catch`]; the error is what the panic said. `what` is asked for if there is one.
#[inline]
pub(crate) fn catch_message<R>(
    what: impl FnOnce() -> &'static str,
    body: impl FnOnce() -> R,
) -> Result<R, String> {
    panic::catch_unwind(AssertUnwindSafe(body)).map_err(|payload| message(what(), payload))
}

#[cold]
fn message(what: &str, payload: Box<dyn Any + Send>) -> String {
    let message = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "(no message)".to_owned(),
    };
    panicked(what, payload);
    message
}

#[cold]
fn panicked(what: &str, payload: Box<dyn Any + Send>) -> Panicked {
    // A payload may panic again in its Drop: the few that are not text are left to leak.
    if payload.is::<&'static str>() || payload.is::<String>() {
        drop(payload);
    } else {
        std::mem::forget(payload);
    }
    write(Level::Error, file!(), line!(), &format!("{what} panicked; its operation fails"));
    Panicked
}

/// Drops a value of a user's, whose `Drop` may panic.
pub(crate) fn drop_caught<T>(what: &str, value: T) {
    // The panic is logged, and there is no operation to fail.
    let _ = catch(what, move || drop(value));
}

/// Sends panics on SPDK threads to SPDK's log; those on other threads go where they went.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // SAFETY: reads a thread-local of SPDK's.
            if unsafe { sys::spdk_get_thread() }.is_null() {
                return previous(info);
            }
            let (file, line) = info.location().map_or(("?", 0), |l| (l.file(), l.line()));
            let message = info.payload_as_str().unwrap_or("(no message)");
            write(Level::Error, file, line, &format!("panic: {message}"));
        }));
    });
}
