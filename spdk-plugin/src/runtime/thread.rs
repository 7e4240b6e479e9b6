//! SPDK threads (`spdk/thread.h`): which one is this, and running something on the app thread.

use std::ffi::c_void;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::drive::wake_driver_of;
use super::handle::ThreadHandle;
use super::home::HomeRef;
use crate::error::{Error, Result};
use crate::guard::catch;

/// Which threads are about to end. Held for reading while a message goes to another thread.
static GATE: RwLock<Gate> = RwLock::new(Gate { down: false, ending: Vec::new() });

struct Gate {
    /// All of them.
    down: bool,
    /// Of the program's own threads, the numbers of these.
    ending: Vec<u64>,
}

fn gate() -> RwLockReadGuard<'static, Gate> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

fn gate_mut() -> RwLockWriteGuard<'static, Gate> {
    GATE.write().unwrap_or_else(PoisonError::into_inner)
}

/// From now on no message goes to another thread: SPDK ends its threads without asking us, and a
/// message to one that has exited aborts the program or writes to freed memory.
pub(crate) fn shut_down() {
    gate_mut().down = true;
}

/// Whether [`shut_down`] was called.
pub(super) fn is_down() -> bool {
    gate().down
}

/// From now on no message goes to the thread of this number.
pub(super) fn close(id: u64) {
    gate_mut().ending.push(id);
}

/// Frees the thread of this number by `free`, while nobody sends messages.
pub(super) fn free(id: u64, free: impl FnOnce()) {
    let mut gate = gate_mut();
    free();
    gate.ending.retain(|other| *other != id);
}

impl Gate {
    /// The thread of this number, if a message may go to it, which it may as long as the lock is held.
    fn thread(&self, id: u64) -> Option<*mut sys::spdk_thread> {
        if self.down || self.ending.contains(&id) {
            return None;
        }
        // SAFETY: asks SPDK's list of threads, which a thread leaves when it is freed. One that a
        // reactor ends is freed a turn after it exited, if at all; those of the program's own end under
        // the lock.
        unsafe {
            let thread = sys::spdk_thread_get_by_id(id);
            (!thread.is_null() && !sys::spdk_thread_is_exited(thread)).then_some(thread)
        }
    }
}

/// Sends a message to the thread of this number, and tells whoever drives it. Gives 0 or a negative errno:
/// -ESRCH when it has ended, -ESHUTDOWN when SPDK is going down.
///
/// # Safety
/// `function` may be called with `ctx` on it.
pub(crate) unsafe fn send_to(
    id: u64,
    function: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
) -> i32 {
    // SAFETY: says the caller.
    let sent = unsafe { put(id, function, ctx) };
    sent.map_or_else(
        |rc| rc,
        |thread| {
            wake_driver_of(thread);
            0
        },
    )
}

/// As [`send_to`], but tells no driver. Gives the thread, which may have gone by now.
///
/// # Safety
/// As for [`send_to`].
pub(super) unsafe fn put(
    id: u64,
    function: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
) -> Result<*mut sys::spdk_thread, i32> {
    let gate = gate();
    let gone = if gate.down { -libc::ESHUTDOWN } else { -libc::ESRCH };
    let thread = gate.thread(id).ok_or(gone)?;
    // SAFETY: alive, as the gate is held; the rest says the caller.
    match unsafe { sys::spdk_thread_send_msg(thread, Some(function), ctx) } {
        0 => Ok(thread),
        rc => Err(rc),
    }
}

/// Whether the thread of this number takes messages.
pub(crate) fn is_alive(id: u64) -> bool {
    gate().thread(id).is_some()
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
    let gate = gate();
    // SAFETY: the app thread is the last to go, which it does when SPDK is down, or under the lock.
    unsafe {
        let raw = sys::spdkp_app_thread();
        let gone = gate.down || raw.is_null() || sys::spdk_thread_is_exited(raw);
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
