//! SPDK's threads, messages, pollers and clock as the runtime of `spdk-plugin` sees them, in plain Rust.
//! Time stands still until a test moves it.

#![allow(non_camel_case_types, reason = "the names are those of SPDK")]

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

type Message = (unsafe extern "C" fn(*mut c_void), usize);

/// A thread. It is freed by [`destroy`].
#[derive(Debug)]
pub struct spdk_thread {
    id: u64,
    messages: Mutex<VecDeque<Message>>,
    pollers: Mutex<Vec<usize>>,
    exiting: AtomicBool,
    exited: AtomicBool,
}

/// A poller. It is freed after its thread has seen that it was unregistered.
#[derive(Debug)]
pub struct spdk_poller {
    function: unsafe extern "C" fn(*mut c_void) -> i32,
    ctx: *mut c_void,
    period: u64,
    next: Cell<u64>,
    gone: Cell<bool>,
    paused: Cell<bool>,
}

static THREADS: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(1);
static TICKS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static CURRENT: Cell<*mut spdk_thread> = const { Cell::new(ptr::null_mut()) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Makes a thread.
pub fn create() -> *mut spdk_thread {
    let thread = Box::into_raw(Box::new(spdk_thread {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        messages: Mutex::default(),
        pollers: Mutex::default(),
        exiting: AtomicBool::new(false),
        exited: AtomicBool::new(false),
    }));
    lock(&THREADS).push(thread.expose_provenance());
    thread
}

/// Moves the clock on by this many microseconds.
pub fn advance(micros: u64) {
    TICKS.fetch_add(micros, Ordering::Relaxed);
}

/// Runs `body` on the thread, as a call that is no callback of SPDK's.
///
/// # Safety
/// The thread is alive, and on no other OS thread now.
pub unsafe fn on<R>(thread: *mut spdk_thread, body: impl FnOnce() -> R) -> R {
    let former = CURRENT.replace(thread);
    let result = body();
    CURRENT.set(former);
    result
}

/// Runs the messages and the pollers that are due. Gives whether there were any messages.
///
/// # Safety
/// As for [`on`].
pub unsafe fn poll(thread: *mut spdk_thread) -> bool {
    // SAFETY: says the caller; pollers are freed here alone, and each function was given with its context.
    unsafe {
        on(thread, || {
            let this = &*thread;
            let messages = lock(&this.messages).len();
            for _ in 0..messages {
                let (function, ctx) = lock(&this.messages).pop_front().unwrap();
                function(ptr::with_exposed_provenance_mut(ctx));
            }
            let pollers: Vec<usize> = lock(&this.pollers).clone();
            for at in pollers {
                let poller = &*ptr::with_exposed_provenance::<spdk_poller>(at);
                let now = TICKS.load(Ordering::Relaxed);
                if !poller.gone.get() && !poller.paused.get() && now >= poller.next.get() {
                    (poller.function)(poller.ctx);
                    poller.next.set(now + poller.period);
                }
                if poller.gone.get() {
                    lock(&this.pollers).retain(|other| *other != at);
                    drop(Box::from_raw(ptr::with_exposed_provenance_mut::<spdk_poller>(at)));
                }
            }
            messages > 0
        })
    }
}

/// Tells the thread to exit, and polls it until it has; then it is freed.
///
/// # Safety
/// As for [`on`]; the thread is gone afterwards.
pub unsafe fn destroy(thread: *mut spdk_thread) {
    // SAFETY: says the caller.
    unsafe {
        let this = &*thread;
        this.exiting.store(true, Ordering::Relaxed);
        for turn in 0.. {
            poll(thread);
            if lock(&this.messages).is_empty() && lock(&this.pollers).is_empty() {
                break;
            }
            assert!(turn < 1000, "the thread does not come to rest");
            advance(10_000);
        }
        this.exited.store(true, Ordering::Relaxed);
        lock(&THREADS).retain(|at| *at != thread.addr());
        drop(Box::from_raw(thread));
    }
}

/// How many pollers the thread has.
///
/// # Safety
/// The thread is alive.
pub unsafe fn pollers(thread: *mut spdk_thread) -> usize {
    // SAFETY: says the caller.
    lock(unsafe { &(*thread).pollers }).len()
}

/// As SPDK's.
///
/// # Safety
/// None.
pub unsafe fn spdk_get_thread() -> *mut spdk_thread {
    CURRENT.get()
}

/// As SPDK's.
///
/// # Safety
/// The thread is alive.
pub unsafe fn spdk_thread_get_id(thread: *mut spdk_thread) -> u64 {
    // SAFETY: says the caller.
    unsafe { (*thread).id }
}

/// As SPDK's.
///
/// # Safety
/// None.
pub unsafe fn spdk_thread_get_by_id(id: u64) -> *mut spdk_thread {
    let threads = lock(&THREADS);
    let thread = |at: &usize| ptr::with_exposed_provenance_mut::<spdk_thread>(*at);
    // SAFETY: what is listed is alive.
    threads.iter().map(thread).find(|at| unsafe { (**at).id } == id).unwrap_or(ptr::null_mut())
}

/// As SPDK's.
///
/// # Safety
/// The thread is alive.
pub unsafe fn spdk_thread_is_exited(thread: *mut spdk_thread) -> bool {
    // SAFETY: says the caller.
    unsafe { (*thread).exited.load(Ordering::Relaxed) }
}

/// As the shim's.
///
/// # Safety
/// On a thread.
pub unsafe fn spdkp_thread_is_exiting() -> bool {
    // SAFETY: the current thread is alive.
    unsafe { (*CURRENT.get()).exiting.load(Ordering::Relaxed) }
}

/// As SPDK's.
///
/// # Safety
/// The thread is alive, and the function may be called there.
pub unsafe fn spdk_thread_send_msg(
    thread: *mut spdk_thread,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    ctx: *mut c_void,
) -> i32 {
    // SAFETY: says the caller.
    let this = unsafe { &*thread };
    assert!(!this.exited.load(Ordering::Relaxed), "a message to a thread that has exited");
    lock(&this.messages).push_back((function.unwrap(), ctx.expose_provenance()));
    0
}

/// As SPDK's.
///
/// # Safety
/// On a thread, and the function may be called with the context until the poller is unregistered.
pub unsafe fn spdk_poller_register_named(
    function: Option<unsafe extern "C" fn(*mut c_void) -> i32>,
    ctx: *mut c_void,
    period: u64,
    _name: *const c_char,
) -> *mut spdk_poller {
    let poller = Box::into_raw(Box::new(spdk_poller {
        function: function.unwrap(),
        ctx,
        period,
        next: Cell::new(TICKS.load(Ordering::Relaxed) + period),
        gone: Cell::new(false),
        paused: Cell::new(false),
    }));
    // SAFETY: the current thread is alive.
    lock(unsafe { &(*CURRENT.get()).pollers }).push(poller.expose_provenance());
    poller
}

/// As SPDK's.
///
/// # Safety
/// On the poller's thread, once.
pub unsafe fn spdk_poller_unregister(poller: *mut *mut spdk_poller) {
    // SAFETY: says the caller.
    unsafe {
        (**poller).gone.set(true);
        *poller = ptr::null_mut();
    }
}

/// As SPDK's.
///
/// # Safety
/// On the poller's thread.
pub unsafe fn spdk_poller_pause(poller: *mut spdk_poller) {
    // SAFETY: says the caller.
    unsafe { (*poller).paused.set(true) };
}

/// As SPDK's.
///
/// # Safety
/// On the poller's thread.
pub unsafe fn spdk_poller_resume(poller: *mut spdk_poller) {
    // SAFETY: says the caller.
    unsafe { (*poller).paused.set(false) };
}

/// As the shim's, for a release without interrupts.
///
/// # Safety
/// None.
pub unsafe fn spdkp_poller_on_interrupt(
    _poller: *mut spdk_poller,
    _changed: Option<unsafe extern "C" fn(*mut spdk_poller, *mut c_void, bool)>,
    _ctx: *mut c_void,
) -> bool {
    false
}

/// As SPDK's: microseconds.
///
/// # Safety
/// None.
pub unsafe fn spdk_get_ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// As SPDK's.
///
/// # Safety
/// None.
pub unsafe fn spdk_get_ticks_hz() -> u64 {
    1_000_000
}
