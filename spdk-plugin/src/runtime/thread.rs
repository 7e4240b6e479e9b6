//! SPDK threads (`spdk/thread.h`): which one is this, and running something on the app thread.

use std::ffi::c_void;
use std::sync::{PoisonError, RwLock};

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::drive::wake_driver_of;
use super::handle::ThreadHandle;
use super::home::HomeRef;
use crate::error::{Error, Result};
use crate::guard::catch;

/// Whether SPDK's threads are about to exit. Held for reading while a message goes to another thread.
static DOWN: RwLock<bool> = RwLock::new(false);

/// From now on no message goes to another thread: SPDK ends its threads without asking us, and a
/// message to one that has exited aborts the program or writes to freed memory.
pub(crate) fn shut_down() {
    *DOWN.write().unwrap_or_else(PoisonError::into_inner) = true;
}

/// Whether [`shut_down`] was called.
pub(super) fn is_down() -> bool {
    *DOWN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a message to a thread that is not the current one. Gives 0 or a negative errno, -ESHUTDOWN
/// when SPDK is going down.
///
/// # Safety
/// The thread is alive unless SPDK is going down; `function` may be called with `ctx` on it.
pub(crate) unsafe fn send_away(
    thread: *mut sys::spdk_thread,
    function: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
) -> i32 {
    let down = DOWN.read().unwrap_or_else(PoisonError::into_inner);
    if *down {
        return -libc::ESHUTDOWN;
    }
    // SAFETY: alive, says the caller, and the lock keeps SPDK from going down meanwhile.
    unsafe { sys::spdk_thread_send_msg(thread, Some(function), ctx) }
}

/// Sends a message to the thread of this number. Gives 0 or a negative errno, -ESRCH when it has ended.
///
/// # Safety
/// `function` may be called with `ctx` on it.
pub(crate) unsafe fn send_to(
    id: u64,
    function: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
) -> i32 {
    // Held until the message is sent: threads of the program's own end under it.
    let down = DOWN.read().unwrap_or_else(PoisonError::into_inner);
    if *down {
        return -libc::ESHUTDOWN;
    }
    // SAFETY: asks SPDK's list of threads, which a thread leaves when it is freed. One that a reactor
    // ends is freed a turn after it exited, if at all.
    let (thread, rc) = unsafe {
        let thread = sys::spdk_thread_get_by_id(id);
        if thread.is_null() || sys::spdk_thread_is_exited(thread) {
            return -libc::ESRCH;
        }
        (thread, sys::spdk_thread_send_msg(thread, Some(function), ctx))
    };
    drop(down);
    wake_driver_of(thread);
    rc
}

/// Whether the thread of this number has not ended.
pub(crate) fn is_alive(id: u64) -> bool {
    let down = DOWN.read().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: as in `send_to`.
    unsafe {
        let thread = sys::spdk_thread_get_by_id(id);
        !*down && !thread.is_null() && !sys::spdk_thread_is_exited(thread)
    }
}

/// Runs `end`, which frees a thread, while nobody sends messages.
pub(crate) fn end_thread(end: impl FnOnce()) {
    let _down = DOWN.write().unwrap_or_else(PoisonError::into_inner);
    end();
}

/// Whether the current thread is the app thread, on which bdevs come and go.
pub fn on_app_thread() -> bool {
    // SAFETY: reads two pointers of SPDK's.
    unsafe { sys::spdkp_on_app_thread() }
}

/// Runs `function` on the app thread and gives its result: at once when we are on it, by a message
/// otherwise.
pub(crate) async fn on_app<R: Send + 'static>(
    function: impl FnOnce() -> R + Send + 'static,
) -> Result<R> {
    if on_app_thread() {
        return Ok(function());
    }
    let (reply, result) = oneshot::channel();
    // The receiver may have gone; then nobody wants the result.
    send_to_app(Box::new(move || drop(reply.send(function()))))?;
    result.await.map_err(|_| Error::Panicked("a call on the app thread".into()))
}

/// Runs `function` on the app thread, later.
pub(crate) fn send_to_app(function: Box<dyn FnOnce() + Send>) -> Result<()> {
    let Some(app) = app_handle() else {
        return Err(Error::WrongThread("SPDK's app thread does not run".into()));
    };
    let ctx = Box::into_raw(Box::new(function));
    // SAFETY: `run` takes the box.
    let rc = unsafe { send_to(app.id(), run, ctx.cast()) };
    if rc != 0 {
        // SAFETY: the message was not sent, so the box is still ours.
        drop(unsafe { Box::from_raw(ctx) });
        return Err(Error::from_rc("a message to the app thread", rc));
    }
    Ok(())
}

/// The app thread, while it runs.
pub(crate) fn app_handle() -> Option<ThreadHandle> {
    // Held while we look: threads of the program's own end under it.
    let down = DOWN.read().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the app thread is the last to go, which it does when SPDK is down or under the lock.
    unsafe {
        let raw = sys::spdkp_app_thread();
        let gone = *down || raw.is_null() || sys::spdk_thread_is_exited(raw);
        (!gone).then(|| ThreadHandle::of(raw))
    }
}

unsafe extern "C" fn run(ctx: *mut c_void) {
    // SAFETY: `send_to_app` boxed it, and this is the one call.
    let function = unsafe { Box::from_raw(ctx.cast::<Box<dyn FnOnce() + Send>>()) };
    let Some(home) = HomeRef::current() else { return };
    // A panic is logged, and dropping what the function held tells whoever waits.
    home.get().enter(|| drop(catch("a call on the app thread", function)));
}
