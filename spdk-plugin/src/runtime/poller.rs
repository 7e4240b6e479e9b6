//! Pollers: functions that an SPDK thread calls again and again. Stands on `spdk/thread.h`.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::home::HomeRef;
use crate::error::{Error, Result};
use crate::guard::catch;

/// What a poller found.
///
/// SPDK's statistics, its scheduler and its interrupt mode rely on it: a poller that says [`Busy`]
/// with nothing done makes an idle thread look loaded.
///
/// [`Busy`]: PollStatus::Busy
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollStatus {
    /// There was nothing to do.
    Idle,
    /// Some work was done.
    Busy,
}

/// A function that the current SPDK thread calls until the poller is dropped
/// (`spdk_poller_register`).
///
/// It stays on its thread. Keep it where its work is: in a
/// [`Bdev::Channel`](crate::module::Bdev::Channel) it runs on each thread that uses the bdev and goes
/// with the channel; for one that belongs to the whole bdev there is
/// [`BdevBuilder::poller`](crate::module::BdevBuilder::poller). A poller that panics is logged and
/// never called again.
///
/// ```no_run
/// use std::time::Duration;
/// use spdk_plugin::runtime::{PollStatus, Poller};
///
/// # fn queue_len() -> usize { 0 }
/// let poller = Poller::every(Duration::from_millis(10), || match queue_len() {
///     0 => PollStatus::Idle,
///     _ => PollStatus::Busy,
/// })?;
/// # Ok::<(), spdk_plugin::Error>(())
/// ```
#[must_use = "dropping a poller unregisters it"]
pub struct Poller {
    state: Rc<State>,
    _not_send: PhantomData<*const ()>,
}

struct State {
    raw: Cell<*mut sys::spdk_poller>,
    home: HomeRef,
    /// `None` once the function has panicked.
    function: RefCell<Option<Box<dyn FnMut() -> PollStatus>>>,
}

impl Poller {
    /// Calls `function` on every turn of the current thread.
    ///
    /// # Errors
    /// [`Error::WrongThread`] when the current thread is not one of SPDK's, [`Error::NoMemory`].
    pub fn busy(function: impl FnMut() -> PollStatus + 'static) -> Result<Self> {
        Self::register(Duration::ZERO, Box::new(function))
    }

    /// Calls `function` once a `period`, which counts in microseconds; below one it is
    /// [`busy`](Self::busy).
    ///
    /// # Errors
    /// As for [`busy`](Self::busy).
    pub fn every(period: Duration, function: impl FnMut() -> PollStatus + 'static) -> Result<Self> {
        Self::register(period, Box::new(function))
    }

    fn register(period: Duration, function: Box<dyn FnMut() -> PollStatus>) -> Result<Self> {
        let home = HomeRef::current().ok_or_else(|| {
            Error::WrongThread("a poller is registered on an SPDK thread, and this is none".into())
        })?;
        let state = Rc::new(State {
            raw: Cell::new(ptr::null_mut()),
            home,
            function: RefCell::new(Some(function)),
        });
        let micros = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        let ctx = Rc::as_ptr(&state).cast_mut().cast();
        // SAFETY: the state lives until `drop` has unregistered the poller.
        let raw = unsafe {
            sys::spdk_poller_register_named(
                Some(on_poll),
                ctx,
                micros,
                c"spdk_plugin_user".as_ptr(),
            )
        };
        if raw.is_null() {
            return Err(Error::NoMemory("a poller".into()));
        }
        state.raw.set(raw);
        Ok(Self { state, _not_send: PhantomData })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let mut raw = self.state.raw.replace(ptr::null_mut());
        // SAFETY: registered on this thread, which a poller does not leave, and not yet undone. SPDK
        // allows it inside the poller's own function too.
        unsafe { sys::spdk_poller_unregister(&raw mut raw) };
    }
}

unsafe extern "C" fn on_poll(ctx: *mut c_void) -> i32 {
    // SAFETY: `ctx` came from `Rc::as_ptr`, and the poller is registered, so the owner still holds
    // its count. Ours keeps the state through a drop of the poller inside its own function.
    let state = unsafe {
        let ctx = ctx.cast::<State>().cast_const();
        Rc::increment_strong_count(ctx);
        Rc::from_raw(ctx)
    };
    state.home.get().enter(|| {
        // A function that runs the thread's messages could come back here: once is enough.
        let Ok(mut function) = state.function.try_borrow_mut() else { return 0 };
        let Some(call) = function.as_mut() else { return 0 };
        match catch("a poller", call) {
            Ok(PollStatus::Idle) => 0,
            Ok(PollStatus::Busy) => 1,
            Err(_) => {
                std::mem::forget(function.take());
                0
            }
        }
    })
}

/// Waits for `duration`, which counts in microseconds, on the current SPDK thread.
///
/// # Panics
/// At its first poll, when that is not on an SPDK thread.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { duration, timer: None }
}

/// The future of [`sleep`].
pub struct Sleep {
    duration: Duration,
    timer: Option<(Poller, Rc<Timer>)>,
}

#[derive(Default)]
struct Timer {
    fired: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &self.timer {
            Some((_, timer)) => timer,
            None => {
                let timer = Rc::new(Timer::default());
                let fire = Rc::clone(&timer);
                let poller =
                    Poller::every(self.duration.max(Duration::from_micros(1)), move || {
                        if !fire.fired.replace(true)
                            && let Some(waker) = fire.waker.take()
                        {
                            waker.wake();
                        }
                        PollStatus::Busy
                    });
                let poller = poller.unwrap_or_else(|error| panic!("sleep: {error}"));
                &self.timer.insert((poller, timer)).1
            }
        };
        if timer.fired.get() {
            self.timer = None;
            return Poll::Ready(());
        }
        timer.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}
