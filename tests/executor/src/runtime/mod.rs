//! The runtime's sources, and as much of their neighbours as they use.

#[path = "../../../../spdk-plugin/src/runtime/home.rs"]
pub(crate) mod home;
#[path = "../../../../spdk-plugin/src/runtime/inbox.rs"]
mod inbox;
#[path = "../../../../spdk-plugin/src/runtime/join.rs"]
pub(crate) mod join;
#[path = "../../../../spdk-plugin/src/runtime/poller.rs"]
pub(crate) mod poller;
#[path = "../../../../spdk-plugin/src/runtime/queue.rs"]
pub(crate) mod queue;
#[path = "../../../../spdk-plugin/src/runtime/sync.rs"]
mod sync;
#[path = "../../../../spdk-plugin/src/runtime/task.rs"]
pub(crate) mod task;
#[path = "../../../../spdk-plugin/src/runtime/time.rs"]
pub(crate) mod time;
#[path = "../../../../spdk-plugin/src/runtime/turn.rs"]
mod turn;
#[path = "../../../../spdk-plugin/src/runtime/waker.rs"]
mod waker;

/// As much of `drive.rs` as is used.
mod drive {
    pub(crate) fn wake_driver_of(_: *mut spdk_plugin_sys::spdk_thread) {}
}

/// As much of `env.rs` as is used.
mod env {
    pub(crate) fn is_ours() -> bool {
        true
    }
}

/// As much of `thread.rs` as is used.
mod thread {
    use std::ffi::c_void;

    use spdk_plugin_sys as sys;

    pub(crate) unsafe fn put(
        id: u64,
        function: unsafe extern "C" fn(*mut c_void),
        ctx: *mut c_void,
    ) -> Result<*mut sys::spdk_thread, i32> {
        // SAFETY: the inbox is open, so the thread is alive; the rest says the caller.
        unsafe {
            let thread = sys::spdk_thread_get_by_id(id);
            assert!(!thread.is_null(), "an inbox is open, and its thread is gone");
            sys::spdk_thread_send_msg(thread, Some(function), ctx);
            Ok(thread)
        }
    }

    pub(crate) fn is_down() -> bool {
        false
    }
}
