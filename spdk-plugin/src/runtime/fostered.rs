//! Threads that SPDK's own code makes in a program without reactors, as its NVMe-oF target does for its
//! poll groups. Whoever polls the app thread polls them as well.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use spdk_plugin_sys as sys;

use super::thread;

struct Fostered(*mut sys::spdk_thread);

// SAFETY: a thread may be made on any OS thread; that of the app thread alone polls and frees it.
unsafe impl Send for Fostered {}

static FOSTERED: Mutex<Vec<Fostered>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The thread that is being made is somebody's own.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

fn lock() -> MutexGuard<'static, Vec<Fostered>> {
    FOSTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a thread that is not to be fostered.
pub(super) fn except<R>(make: impl FnOnce() -> R) -> R {
    OWN.set(true);
    let made = make();
    OWN.set(false);
    made
}

pub(super) unsafe extern "C" fn on_made(thread: *mut sys::spdk_thread) {
    if !OWN.get() {
        let mut fostered = lock();
        fostered.push(Fostered(thread));
        COUNT.store(fostered.len(), Ordering::Release);
    }
}

/// Whether there are any.
pub(super) fn any() -> bool {
    COUNT.load(Ordering::Acquire) != 0
}

/// Polls all of them, and frees those that have exited. On the OS thread of the app thread. True when one
/// was busy.
pub(super) fn poll() -> bool {
    if !any() {
        return false;
    }
    // Not under the lock: they may make threads.
    let threads: Vec<_> = lock().iter().map(|fostered| fostered.0).collect();
    let mut busy = false;
    for raw in threads {
        // SAFETY: it is freed here alone.
        unsafe {
            busy |= sys::spdk_thread_poll(raw, 0, 0) > 0;
            if !sys::spdk_thread_is_exited(raw) || !sys::spdk_thread_is_idle(raw) {
                continue;
            }
            let mut fostered = lock();
            fostered.retain(|other| other.0 != raw);
            COUNT.store(fostered.len(), Ordering::Release);
            drop(fostered);
            thread::free(sys::spdk_thread_get_id(raw), || sys::spdk_thread_destroy(raw));
        }
    }
    busy
}
