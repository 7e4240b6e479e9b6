//! Cores, and running things on each of them (`spdk/env.h`, `spdk/event.h`).

use std::ffi::CString;
use std::future::Future;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use spdk_plugin_sys as sys;

use super::cpuset::CpuSet;
use super::handle::{CurrentThread, ThreadHandle};
use super::{env, thread};
use crate::error::{Error, Result};

/// The program's cores: those of its core mask. Empty while there is no SPDK environment.
pub fn cores() -> CpuSet {
    let mut set = CpuSet::new();
    // DPDK goes on to count the cores of an environment that has ended or has not come up.
    let Some(_up) = env::Share::new() else { return set };
    // SAFETY: counts cores; without an environment there are none.
    unsafe {
        if sys::spdk_env_get_core_count() == 0 {
            return set;
        }
        let mut core = sys::spdk_env_get_first_core();
        while core != u32::MAX {
            let _ = set.insert(core);
            core = sys::spdk_env_get_next_core(core);
        }
    }
    set
}

/// The core that the code runs on; `None` on an OS thread that is not one of the cores' own.
pub fn current_core() -> Option<u32> {
    // SAFETY: reads a thread-local of DPDK's.
    let core = unsafe { sys::spdk_env_get_current_core() };
    (core != u32::MAX).then_some(core)
}

/// The threads that [`spawn_on`] has made, by their cores.
static THREADS: Mutex<Vec<(u32, ThreadHandle)>> = Mutex::new(Vec::new());

/// Has the reactor of a core make a future of `function` and run it, on an SPDK thread that is bound to
/// the core, and gives what the future returns. It starts at once; dropping what this returns does not
/// stop it.
///
/// ```no_run
/// use spdk_plugin::runtime::{current_core, spawn_on};
///
/// # async fn example() -> spdk_plugin::Result<()> {
/// let core = spawn_on(1, || async { current_core() })?.await?;
/// assert_eq!(core, Some(1));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Invalid`] for a core that is not one of the program's; [`Error::WrongThread`] on a thread
/// that is not SPDK's, or when the program polls its threads itself; [`Error::NoMemory`]. What it
/// returns fails as [`ThreadHandle::call`] does.
pub fn spawn_on<F, T>(
    core: u32,
    function: impl FnOnce() -> F + Send + 'static,
) -> Result<impl Future<Output = Result<T>> + Send + 'static>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    Ok(on_core(core)?.call(function))
}

/// Runs `function`'s future on each of the program's cores at once, and gives what they return, with
/// their cores, in the order of these.
///
/// ```no_run
/// # async fn example() -> spdk_plugin::Result<()> {
/// use spdk_plugin::runtime::for_each_core;
///
/// let squares = for_each_core(|core| async move { core * core }).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As for [`spawn_on`]; the first error, when all have ended.
pub async fn for_each_core<F, T>(
    function: impl Fn(u32) -> F + Clone + Send + 'static,
) -> Result<Vec<(u32, T)>>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let mut running = Vec::new();
    for core in cores().iter() {
        let function = function.clone();
        running.push((core, spawn_on(core, move || function(core))?));
    }
    let mut ended = Vec::with_capacity(running.len());
    for (core, running) in running {
        ended.push(running.await.map(|value| (core, value)));
    }
    ended.into_iter().collect()
}

/// The thread for a core.
fn on_core(core: u32) -> Result<ThreadHandle> {
    CurrentThread::need("spawn_on")?;
    if env::is_ours() {
        let why = "no reactors run: the program polls its threads itself; use SpdkThread::spawn";
        return Err(Error::WrongThread(why.into()));
    }
    let known = cores();
    if !known.contains(core) {
        return Err(Error::Invalid(format!("core {core} is none of the program's ({known})")));
    }
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    threads.retain(|(_, thread)| thread.is_alive());
    if let Some((_, thread)) = threads.iter().find(|(at, _)| *at == core) {
        return Ok(thread.clone());
    }
    if thread::is_down() {
        return Err(Error::Stopped("SPDK is going down: no thread can be made".into()));
    }
    let name = CString::new(format!("spdk_plugin_{core}")).unwrap_or_default();
    // SAFETY: on an SPDK thread, so the library is up; SPDK copies the name and the set.
    let raw =
        CpuSet::of(core)?.with_raw(|set| unsafe { sys::spdk_thread_create(name.as_ptr(), set) });
    if raw.is_null() {
        return Err(Error::NoMemory(format!("a thread on core {core}")));
    }
    // SAFETY: it was just made, and nobody has told it to exit.
    let thread = unsafe { ThreadHandle::of(raw) };
    threads.push((core, thread.clone()));
    Ok(thread)
}

/// Has the current thread exit if it was made for a core. The app ends, and all its tasks are gone: SPDK wants
/// every thread but its own to have been told.
pub(super) fn exit_thread() {
    let Some(current) = CurrentThread::get() else { return };
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(at) = threads.iter().position(|(_, thread)| thread.id() == current.id()) else {
        return;
    };
    threads.swap_remove(at);
    drop(threads);
    // A reactor frees it soon: nobody may send to it any more.
    thread::close(current.id());
    // SAFETY: the current thread, which is ours to end.
    unsafe { sys::spdk_thread_exit(sys::spdk_get_thread()) };
}

/// Runs `function` without the binding to one core that DPDK gives its threads: OS threads that it makes
/// may run on every CPU of the machine.
///
/// ```no_run
/// let worker = spdk_plugin::runtime::unaffinitized(|| std::thread::spawn(|| 40 + 2));
/// ```
pub fn unaffinitized<R>(function: impl FnOnce() -> R) -> R {
    struct Restore(libc::cpu_set_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the set is whole, and of the size told.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
        }
    }
    let mut was = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: all zeroes is the empty set, which the call fills; the other binds this OS thread alone.
    let _restore = unsafe {
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), was.as_mut_ptr());
        sys::spdk_unaffinitize_thread();
        Restore(was.assume_init())
    };
    function()
}
