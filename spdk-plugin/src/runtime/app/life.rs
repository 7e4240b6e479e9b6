//! From the app's start to its end.
//!
//! ```text
//!  NONE --run--> STARTING --SPDK calls us--> RUNNING --stop, signal--> STOPPING --SPDK returns--> ENDED
//! ```

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};
use crate::guard::{catch, install_hook};
use crate::plugin;
use crate::runtime::home::HomeRef;
use crate::runtime::options::Raw;
use crate::runtime::{env, reactor, send_to_app, task};

const NONE: u8 = 0;
const STARTING: u8 = 1;
const RUNNING: u8 = 2;
const STOPPING: u8 = 3;
const ENDED: u8 = 4;

static STATE: AtomicU8 = AtomicU8::new(NONE);
/// What the app framework is to return.
static CODE: AtomicI32 = AtomicI32::new(0);

/// Whether an app of this crate's runs in the process.
pub(crate) fn in_app() -> bool {
    matches!(STATE.load(Ordering::Acquire), STARTING..=STOPPING)
}

struct Start<'a> {
    function: Option<Box<dyn FnOnce() + 'a>>,
}

/// Runs the app; `start` is called on the app thread when SPDK is up. Gives what SPDK returned.
pub(super) fn run<'a>(raw: &Raw, start: Box<dyn FnOnce() + 'a>) -> Result<i32> {
    // SAFETY: reads a thread-local of SPDK's.
    if !unsafe { sys::spdk_get_thread() }.is_null() {
        return Err(Error::WrongThread(
            "an app cannot be started on an SPDK thread: it would block it; spawn a task instead"
                .into(),
        ));
    }
    // SAFETY: asks whether a symbol is there.
    if !unsafe { sys::spdkp_has_app() } {
        return Err(Error::NotFound("this program has no app framework: link `event`".into()));
    }
    let mut what = ptr::null();
    // SAFETY: looks at the options.
    let needs = unsafe { sys::spdkp_app_lacks(&raw const raw.opts, &raw mut what) };
    if !needs.is_null() {
        // SAFETY: the shim gives literals.
        return Err(unsafe { Error::lacking(what, needs) });
    }
    let share = env::claim()?;
    install_hook();
    crate::log::install();
    STATE.store(STARTING, Ordering::Release);
    plugin::expect_app();
    let mut start = Start { function: Some(start) };
    let mut rc = 0;
    // SAFETY: `raw` holds strings that live for ever and an `argv` of `argc` and a NULL; `start`
    // outlives the call, and after it SPDK calls neither function again.
    let how = unsafe {
        sys::spdkp_app_on_end(Some(on_end));
        sys::spdkp_app_run(
            &raw const raw.opts,
            raw.argc,
            raw.argv,
            Some(on_start),
            Some(on_shutdown),
            (&raw mut start).cast(),
            &raw mut rc,
        )
    };
    STATE.store(ENDED, Ordering::Release);
    crate::runtime::shut_down();
    match how {
        sys::SPDKP_APP_HELP => std::process::exit(0),
        sys::SPDKP_APP_USAGE => std::process::exit(1),
        _ => env::end_with(share, || {
            // SAFETY: the app has returned, and no memory of SPDK's is in use.
            unsafe { sys::spdkp_app_fini() }
        }),
    }
    Ok(rc)
}

unsafe extern "C" fn on_start(ctx: *mut c_void) {
    plugin::started();
    if STATE.compare_exchange(STARTING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // A signal came first.
        return;
    }
    // SAFETY: `run` passed it and waits; nobody else looks at it meanwhile.
    let start = unsafe { &mut *ctx.cast::<Start<'_>>() };
    let (Some(function), Some(home)) = (start.function.take(), HomeRef::current()) else { return };
    home.get().enter(|| {
        if catch("the start of the app", function).is_err() {
            begin_stop(-libc::EIO);
        }
    });
}

/// SPDK has got a signal. On the app thread.
unsafe extern "C" fn on_shutdown() {
    plugin::started();
    let Some(home) = HomeRef::current() else { return };
    home.get().enter(|| begin_stop(0));
}

unsafe extern "C" fn on_end() {
    plugin::module_stopped();
}

pub(super) fn stop(code: i32) -> Result<()> {
    if !in_app() {
        return Err(Error::NotFound("no app runs in this process".into()));
    }
    match send_to_app(Box::new(move || begin_stop(code))) {
        // It is going down already.
        Err(Error::Errno { errno: libc::ESHUTDOWN, .. }) => Ok(()),
        sent => sent,
    }
}

/// Ends the app from its own thread.
pub(super) fn end_here() {
    if STATE.load(Ordering::Acquire) == RUNNING {
        begin_stop(0);
    }
}

/// Drops all our tasks on their threads, ends the threads that are ours, then has SPDK stop. On the app
/// thread.
fn begin_stop(code: i32) {
    let state = STATE.swap(STOPPING, Ordering::AcqRel);
    if state == STOPPING {
        return;
    }
    CODE.store(code, Ordering::Release);
    // SAFETY: on an SPDK thread, with functions that need no context.
    unsafe { sys::spdk_for_each_thread(Some(drop_tasks), ptr::null_mut(), Some(dropped)) };
}

unsafe extern "C" fn drop_tasks(_: *mut c_void) {
    task::drop_all();
}

unsafe extern "C" fn dropped(ctx: *mut c_void) {
    // Reactors ask for it since 23.01, and end the threads themselves before. One that exits early would miss
    // the end of a bdev that it was the last to close: before 21.01 SPDK does not wait for that.
    if sys::VERSION_MAJOR < 23 {
        // SAFETY: on the app thread, as this is.
        return unsafe { exited(ctx) };
    }
    // SAFETY: as in `begin_stop`.
    unsafe { sys::spdk_for_each_thread(Some(exit_thread), ptr::null_mut(), Some(exited)) };
}

unsafe extern "C" fn exit_thread(_: *mut c_void) {
    reactor::exit_thread();
}

unsafe extern "C" fn exited(_: *mut c_void) {
    // SAFETY: the app runs; SPDK stops it once.
    unsafe { sys::spdkp_app_stop(CODE.load(Ordering::Acquire)) };
}
