//! Pollers: functions that an SPDK thread calls again and again. Stands on `spdk/thread.h`.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::home::HomeRef;
use crate::error::{Error, Result};
use crate::guard::{catch, drop_caught};

/// The longest period. SPDK counts in ticks, of which an `u64` holds some centuries.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

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
    state: ManuallyDrop<Rc<State>>,
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
    /// [`busy`](Self::busy), and ten years are the most.
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
        let micros = u64::try_from(period.min(LONGEST).as_micros()).unwrap_or(u64::MAX);
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
        Ok(Self { state: ManuallyDrop::new(state), _not_send: PhantomData })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        // SAFETY: this is the drop.
        let state = unsafe { ManuallyDrop::take(&mut self.state) };
        let home = state.home.get();
        if home.is_current() {
            return unregister(state);
        }
        // Through a thread-local or a like place it came to another SPDK thread on the same core, where
        // SPDK refuses to unregister it. If there is no way home, it is left to leak.
        let ctx = Rc::into_raw(state).cast_mut().cast();
        // SAFETY: `on_stray` takes the share that we just gave up, on the thread that it belongs to.
        unsafe { home.call(on_stray, ctx) };
    }
}

/// Undoes the registration, on its thread.
fn unregister(state: Rc<State>) {
    let mut raw = state.raw.replace(ptr::null_mut());
    // SAFETY: registered on this thread and not yet undone. SPDK allows it inside the poller's own
    // function too.
    unsafe { sys::spdk_poller_unregister(&raw mut raw) };
}

unsafe extern "C" fn on_stray(ctx: *mut c_void) {
    // SAFETY: `Poller::drop` gave up this share.
    let state = unsafe { Rc::from_raw(ctx.cast::<State>().cast_const()) };
    state.home.get().enter(|| drop_caught("a poller", move || unregister(state)));
}

unsafe extern "C" fn on_poll(ctx: *mut c_void) -> i32 {
    // SAFETY: `ctx` came from `Rc::as_ptr`, and the poller is registered, so the owner still holds
    // its count. Ours keeps the state through a drop of the poller inside its own function.
    let state = unsafe {
        let ctx = ctx.cast::<State>().cast_const();
        Rc::increment_strong_count(ctx);
        Rc::from_raw(ctx)
    };
    state.home.get().enter(move || {
        let found = state.call();
        // The last share, if the function has dropped its poller.
        drop_caught("a poller", state);
        i32::from(found == PollStatus::Busy)
    })
}

impl State {
    fn call(&self) -> PollStatus {
        // A function that runs the thread's messages could come back here: once is enough.
        let Ok(mut function) = self.function.try_borrow_mut() else { return PollStatus::Idle };
        let Some(call) = function.as_mut() else { return PollStatus::Idle };
        catch("a poller", call).unwrap_or_else(|_| {
            std::mem::forget(function.take());
            PollStatus::Idle
        })
    }
}

/// Waits for `duration`, which counts in microseconds, on the current SPDK thread; ten years are the
/// most.
///
/// # Panics
/// At its first poll, when that is not on an SPDK thread.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { duration, timer: None }
}

/// The future of [`sleep`].
pub struct Sleep {
    duration: Duration,
    timer: Option<Rc<Timer>>,
}

#[derive(Default)]
struct Timer {
    fired: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// Until it fires. Its function holds the timer in turn, so someone must take it out.
    poller: Cell<Option<Poller>>,
}

impl Timer {
    fn start(duration: Duration) -> Result<Rc<Self>> {
        let timer = Rc::new(Self::default());
        let fire = Rc::clone(&timer);
        let poller = Poller::every(duration.max(Duration::from_micros(1)), move || {
            fire.fired.set(true);
            drop(fire.poller.take());
            if let Some(waker) = fire.waker.take() {
                waker.wake();
            }
            PollStatus::Busy
        })?;
        timer.poller.set(Some(poller));
        Ok(timer)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let duration = self.duration;
        let timer = self.timer.get_or_insert_with(|| {
            Timer::start(duration).unwrap_or_else(|error| panic!("sleep: {error}"))
        });
        if timer.fired.get() {
            self.timer = None;
            return Poll::Ready(());
        }
        timer.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            drop(timer.poller.take());
        }
    }
}
