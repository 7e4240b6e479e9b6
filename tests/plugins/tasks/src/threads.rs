//! Runs something on every SPDK thread.

use std::ffi::c_void;
use std::sync::Arc;

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

type Function = Arc<dyn Fn() + Send + Sync>;

struct Each {
    function: Function,
    done: Option<oneshot::Sender<()>>,
}

/// Calls `function` on each SPDK thread, and returns when all have.
pub(crate) async fn on_each(function: impl Fn() + Send + Sync + 'static) {
    let (done, over) = oneshot::channel();
    let ctx = Box::into_raw(Box::new(Each { function: Arc::new(function), done: Some(done) }));
    // SAFETY: `after` takes the box; the function may run on any thread.
    unsafe { sys::spdk_for_each_thread(Some(run), ctx.cast(), Some(after)) };
    over.await.unwrap();
}

unsafe extern "C" fn run(ctx: *mut c_void) {
    // SAFETY: `on_each` passed it; SPDK calls this on one thread after the other.
    let function = unsafe { Arc::clone(&(*ctx.cast::<Each>()).function) };
    function();
}

unsafe extern "C" fn after(ctx: *mut c_void) {
    // SAFETY: as above, and this is the last call.
    let mut each = unsafe { Box::from_raw(ctx.cast::<Each>()) };
    let _ = each.done.take().unwrap().send(());
}
