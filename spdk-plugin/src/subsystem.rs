//! Subsystems: what an SPDK program starts before it serves, and stops after (`spdk/init.h`).
//!
//! ```
//! use spdk_plugin::module::RpcCall;
//! use spdk_plugin::{Result, Subsystem, subsystem};
//!
//! struct Licence;
//!
//! #[subsystem(name = "licence", depends_on = ["bdev"])]
//! impl Subsystem for Licence {
//!     async fn init() -> Result<()> {
//!         Ok(())
//!     }
//! }
//! ```

use std::ffi::CString;
use std::future::{Future, poll_fn, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};
use crate::guard::{Panicked, catch, drop_caught};
use crate::json;
use crate::module::RpcCall;
use crate::plugin;
use crate::runtime::home::HomeRef;
use crate::runtime::sleep;
use crate::runtime::subsystems::without_app;
use crate::runtime::task::spawn;

/// A subsystem. Mark the implementation with [`#[subsystem]`](crate::subsystem), which registers it.
///
/// SPDK starts it after what it depends on and stops it before. Its own RPCs are plain
/// [`#[rpc]`](macro@crate::rpc)s; with `state = "startup"` they configure it before it starts, when the
/// program was given `--wait-for-rpc`.
pub trait Subsystem: Registered + 'static {
    /// How long `init` and `fini` may each take. After that the start fails, and the stop goes on
    /// without.
    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Starts it, on the app thread.
    ///
    /// # Errors
    /// The program ends, and its log names the subsystem and the error.
    fn init() -> impl Future<Output = Result<()>> {
        ready(Ok(()))
    }

    /// Stops it, on the app thread. Called if `init` has succeeded.
    ///
    /// # Errors
    /// Goes to the log; the program stops all the same.
    fn fini() -> impl Future<Output = Result<()>> {
        ready(Ok(()))
    }

    /// The RPCs that configure it as it is now, for `save_config`.
    fn config() -> Vec<RpcCall> {
        Vec::new()
    }
}

/// A subsystem's entry in the table that the plugin's constructor walks.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct SubsystemEntry {
    pub(crate) name: &'static str,
    pub(crate) depends_on: &'static [&'static str],
    pub(crate) owner: &'static str,
    ops: fn() -> sys::spdkp_subsystem_ops,
}

/// A subsystem's name and its state. [`#[subsystem]`](crate::subsystem) implements it.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not marked as a subsystem",
    label = "not a subsystem",
    note = "write `#[subsystem(name = \"...\")]` above `impl Subsystem for {Self}`"
)]
pub trait Registered {
    const NAME: &'static str;
    fn state() -> &'static Lifecycle;
}

/// Whether `fini` is owed.
#[doc(hidden)]
#[derive(Debug)]
pub struct Lifecycle(AtomicBool);

impl Lifecycle {
    #[doc(hidden)]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl SubsystemEntry {
    #[doc(hidden)]
    pub const fn new<S: Subsystem>(
        owner: &'static str,
        depends_on: &'static [&'static str],
    ) -> Self {
        Self { name: S::NAME, depends_on, owner, ops: ops::<S> }
    }

    /// Adds the subsystem and what it depends on to SPDK's tables. `broken`: a sentence that says why
    /// it cannot start; then it is registered without dependencies and its start fails.
    pub(crate) fn register(&self, broken: Option<String>) {
        let c = |text: &str| CString::new(text).unwrap_or_default().into_raw();
        let mut ops = (self.ops)();
        if let Some(why) = &broken {
            log::error!("{why}");
            ops.init = Some(refuse);
            ops.fini = Some(skip);
        }
        // SAFETY: SPDK keeps the names for as long as the process lives, and so do we.
        unsafe {
            sys::spdkp_subsystem_add(c(self.name), &raw const ops);
            if broken.is_none() {
                for depends_on in self.depends_on {
                    sys::spdkp_subsystem_depend(c(self.name), c(depends_on));
                }
            }
        }
    }
}

fn ops<S: Subsystem>() -> sys::spdkp_subsystem_ops {
    sys::spdkp_subsystem_ops {
        init: Some(init::<S>),
        fini: Some(fini::<S>),
        write_config: Some(write_config::<S>),
    }
}

unsafe extern "C" fn refuse() {
    // SAFETY: SPDK waits for this subsystem's start. The reason is in the log.
    unsafe { sys::spdkp_subsystem_init_next(-libc::EINVAL) };
    end_app(-libc::EINVAL);
}

unsafe extern "C" fn skip() {
    STOPPING.store(true, Ordering::Release);
    // SAFETY: SPDK waits for this subsystem's stop.
    unsafe { sys::spdkp_subsystem_fini_next() };
}

unsafe extern "C" fn init<S: Subsystem>() {
    plugin::started();
    run::<S, _>("init", S::init, |result| {
        let rc = match &result {
            Ok(()) => 0,
            Err(error) => -error.errno(),
        };
        if rc == 0 {
            S::state().0.store(true, Ordering::Release);
            plugin::subsystem_started();
        }
        // SAFETY: SPDK waits for this subsystem's start; `run` answers once.
        unsafe { sys::spdkp_subsystem_init_next(rc) };
        if rc != 0 {
            end_app(rc);
        }
    });
}

/// The program stops already. Releases that need [`end_app`] first stop the subsystem that has failed,
/// and would stop everything a second time if they were told to.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Ends the program whose start has failed, where SPDK only says so to who sent `framework_start_init`.
fn end_app(rc: i32) {
    // SAFETY: reads SPDK's state.
    if without_app() || !unsafe { sys::spdkp_failed_start_lives_on() } {
        return;
    }
    let Some(home) = HomeRef::current() else { return };
    spawn(home, "the end of the program", async move {
        // The reply to `framework_start_init` is on its way.
        sleep(Duration::from_millis(100)).await;
        if !STOPPING.load(Ordering::Acquire) {
            // SAFETY: on the app thread, while the app runs.
            unsafe { sys::spdkp_app_stop(rc) };
        }
    });
}

unsafe extern "C" fn fini<S: Subsystem>() {
    STOPPING.store(true, Ordering::Release);
    if !S::state().0.swap(false, Ordering::AcqRel) {
        // SAFETY: SPDK waits for this subsystem's stop.
        return unsafe { sys::spdkp_subsystem_fini_next() };
    }
    run::<S, _>("fini", S::fini, |_| {
        plugin::subsystem_stopped();
        // SAFETY: SPDK waits for this subsystem's stop; `run` answers once.
        unsafe { sys::spdkp_subsystem_fini_next() };
    });
}

/// Runs one step of the subsystem's life and then `answer`, once, also when the step fails, panics or
/// does not end in time.
fn run<S: Subsystem, F: Future<Output = Result<()>> + 'static>(
    step: &'static str,
    start: fn() -> F,
    answer: fn(Result<()>),
) {
    let what = move || format!("{step} of subsystem {}", S::NAME);
    let panicked = move |_: Panicked| Error::Panicked(what());
    let Some(home) = HomeRef::current() else {
        return answer(Err(Error::WrongThread(what())));
    };
    home.get().enter(|| {
        spawn(home, "a subsystem", async move {
            let ended = match catch("a subsystem", start) {
                Ok(future) => {
                    let mut future = Box::pin(future);
                    let mut timeout = pin!(sleep(S::TIMEOUT));
                    let ended = poll_fn(|cx| {
                        // Neither may keep SPDK from its answer.
                        let polled = catch("a subsystem", || match future.as_mut().poll(cx) {
                            Poll::Ready(result) => Poll::Ready(result),
                            Poll::Pending => timeout.as_mut().poll(cx).map(|()| {
                                let secs = S::TIMEOUT.as_secs_f32();
                                Err(Error::Errno {
                                    what: format!("{} did not end within {secs} s", what()),
                                    errno: libc::ETIMEDOUT,
                                })
                            }),
                        });
                        polled.unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic))))
                    })
                    .await;
                    drop_caught("a subsystem", future);
                    ended
                }
                Err(error) => Err(panicked(error)),
            };
            if let Err(error) = &ended {
                log::error!("{} failed: {error}", what());
            }
            answer(ended);
        });
    });
}

unsafe extern "C" fn write_config<S: Subsystem>(writer: *mut sys::spdk_json_write_ctx) {
    let calls = catch("saving a subsystem", S::config).unwrap_or_default();
    // SAFETY: SPDK passes a writer that stands where a value may come.
    unsafe { json::write(writer, &calls) };
}
