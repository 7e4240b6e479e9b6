//! Runs them.

use spdk_plugin_test_executor::runs;

/// Fewer where it is slow.
const MANY: usize = if cfg!(miri) { 20 } else { 5000 };

#[test]
fn handles() {
    runs::handles();
}

#[test]
fn a_thread_ends_with_tasks() {
    runs::a_thread_ends_with_tasks();
}

#[test]
fn old_wakers() {
    runs::old_wakers();
}

#[test]
fn time() {
    runs::time();
}

#[test]
fn pollers() {
    runs::pollers();
}

#[test]
fn across_threads() {
    runs::across_threads(MANY);
}

#[test]
fn threads_end_while_others_wake() {
    runs::threads_end_while_others_wake(MANY.div_ceil(20));
}
