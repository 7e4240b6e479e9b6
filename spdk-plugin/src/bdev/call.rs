//! Calls on an open bdev that SPDK answers by a callback.
//!
//! What a call needs lives in a box of its own, with a share in the descriptor, until the callback has
//! returned. So it does not matter when the future that waits for the answer goes.
//!
//! ```text
//! start -> SPDK ... -> done, on whatever thread -> message to that thread: hop -> home: finish
//! ```
//! The hop is there because SPDK may look at the bdev again after the callback returns, and the answer
//! may make someone close it.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::channel::wrong_thread;
use super::desc::DescInner;
use crate::error::{Error, Result};
use crate::guard::catch;
use crate::runtime::home::Home;
use crate::runtime::{on_app_thread, send_to_app};

/// `spdkp_done_fn`.
pub(super) type DoneFn = unsafe extern "C" fn(*mut c_void, i32);

type Finish<O> = Box<dyn FnOnce(&Arc<DescInner>, i32, O)>;

/// A call under way, with the `O` that SPDK writes its answer to.
pub(super) struct Call<O> {
    home: &'static Home,
    rc: i32,
    /// There was no message to spare, so the callback may not have returned at the end.
    hurried: bool,
    pub(super) out: O,
    desc: Arc<DescInner>,
    finish: Finish<O>,
}

/// The answer to a call. Dropping it leaves the call to end on its own.
#[must_use = "a call answers when it is awaited"]
pub(super) struct Answer<R>(oneshot::Receiver<R>);

impl<R> Answer<R> {
    pub(super) async fn get(self) -> Result<R> {
        self.0.await.map_err(|_| Error::Panicked("the end of a call on a bdev".into()))
    }
}

/// Starts a call: `begin` has SPDK call `done` with the context once, or fails and it is never called.
/// What `finish` makes of the result is the answer; where nobody waits any more it is dropped. Fails where
/// the descriptor's thread is not current.
pub(super) fn start<O: 'static, R: 'static>(
    desc: &Arc<DescInner>,
    out: O,
    begin: impl FnOnce(*mut O, DoneFn, *mut c_void) -> Result<()>,
    finish: impl FnOnce(&Arc<DescInner>, i32, O) -> R + 'static,
) -> Result<Answer<R>> {
    check_thread(desc)?;
    start_anywhere(desc, out, begin, finish)
}

/// Fails where the descriptor's thread is not current.
pub(super) fn check_thread(desc: &DescInner) -> Result<()> {
    if desc.home().is_current() {
        return Ok(());
    }
    Err(wrong_thread("a call on", desc.name()))
}

fn start_anywhere<O: 'static, R: 'static>(
    desc: &Arc<DescInner>,
    out: O,
    begin: impl FnOnce(*mut O, DoneFn, *mut c_void) -> Result<()>,
    finish: impl FnOnce(&Arc<DescInner>, i32, O) -> R + 'static,
) -> Result<Answer<R>> {
    let (reply, answer) = oneshot::channel();
    let call = Box::into_raw(Box::new(Call {
        home: desc.home(),
        rc: 0,
        hurried: false,
        out,
        desc: Arc::clone(desc),
        finish: Box::new(move |desc, rc, out| {
            // What cannot be delivered is dropped here, with the descriptor still open.
            drop(reply.send(finish(desc, rc, out)));
        }),
    }));
    // SAFETY: the box was just made.
    let out = unsafe { &raw mut (*call).out };
    if let Err(error) = begin(out, done::<O>, call.cast()) {
        // SAFETY: the call has not begun, so the box is still ours.
        drop(unsafe { Box::from_raw(call) });
        return Err(error);
    }
    Ok(Answer(answer))
}

/// A call of `function` on the app thread, at once when we are on it. Its result is the call's.
///
/// # Safety
/// `function` may be called there with the descriptor, which is open meanwhile.
pub(super) unsafe fn start_on_app<O: 'static, R: 'static>(
    desc: &Arc<DescInner>,
    out: O,
    function: impl FnOnce(*mut sys::spdk_bdev_desc, *mut O) -> i32 + Send + 'static,
    finish: impl FnOnce(&Arc<DescInner>, i32, O) -> R + 'static,
) -> Result<Answer<R>> {
    let raw = desc.raw();
    let begin = move |out: *mut O, _: DoneFn, call: *mut c_void| {
        if on_app_thread() {
            // SAFETY: the call is under way; nothing of SPDK's is below us that needs the bdev.
            unsafe { done_here::<O>(call, function(raw, out)) };
            return Ok(());
        }
        let (raw, out) = (raw.expose_provenance(), out.expose_provenance());
        let call = call.expose_provenance();
        send_to_app(Box::new(move || {
            // SAFETY: as above; the call keeps both until it has finished.
            unsafe {
                let rc = function(
                    ptr::with_exposed_provenance_mut(raw),
                    ptr::with_exposed_provenance_mut(out),
                );
                done_here::<O>(ptr::with_exposed_provenance_mut(call), rc);
            }
        }))
    };
    start_anywhere(desc, out, begin, finish)
}

/// # Safety
/// The context is a `Call<O>` under way, and this is the one time that it is done.
unsafe extern "C" fn done<O: 'static>(ctx: *mut c_void, rc: i32) {
    let call = ctx.cast::<Call<O>>();
    // SAFETY: says the caller; whoever is called back is on an SPDK thread.
    unsafe {
        (*call).rc = rc;
        if sys::spdk_thread_send_msg(sys::spdk_get_thread(), Some(hop::<O>), ctx) != 0 {
            (*call).hurried = true;
            hop::<O>(ctx);
        }
    }
}

/// # Safety
/// As for [`done`], and nothing of SPDK's is below us that needs the bdev.
unsafe fn done_here<O: 'static>(ctx: *mut c_void, rc: i32) {
    // SAFETY: says the caller.
    unsafe {
        (*ctx.cast::<Call<O>>()).rc = rc;
        hop::<O>(ctx);
    }
}

unsafe extern "C" fn hop<O: 'static>(ctx: *mut c_void) {
    // SAFETY: the context is a call that is done, which only `finish` frees.
    let home = unsafe { (*ctx.cast::<Call<O>>()).home };
    if home.is_current() {
        // SAFETY: as above.
        unsafe { finish::<O>(ctx) };
    } else {
        // SAFETY: as above. Without a way home the thread has gone, and who waited on it.
        unsafe { home.call(finish::<O>, ctx) };
    }
}

unsafe extern "C" fn finish<O: 'static>(ctx: *mut c_void) {
    // SAFETY: `start` boxed it, and a call is finished once.
    let call = *unsafe { Box::from_raw(ctx.cast::<Call<O>>()) };
    let Call { home, rc, hurried, out, desc, finish } = call;
    home.enter(move || {
        if hurried {
            std::mem::forget(Arc::clone(&desc));
        }
        // Wakers are foreign code.
        let _ = catch("a waker", || finish(&desc, rc, out));
        drop(desc);
    });
}
