//! What threads share state with, in one place: the model checker's build of [`join`](super::join) and
//! [`inbox`](super::inbox) puts its own here.

use std::sync::PoisonError;
pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
pub(crate) use std::thread::yield_now;

/// Locks, also after a panic: no code that can panic runs under these locks, so what they guard is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
