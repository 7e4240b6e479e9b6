//! Pollers: functions that an SPDK thread calls again and again. Stands on `spdk/thread.h`.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_void};
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
use super::time::LONGEST;
use crate::error::{Error, Result};
use crate::guard::{catch, catch_message, drop_caught};

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
/// let poller = Poller::builder().name("queue").period(Duration::from_millis(10)).register(|| {
///     match queue_len() {
///         0 => PollStatus::Idle,
///         _ => PollStatus::Busy,
///     }
/// })?;
/// poller.pause()?;
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
    paused: Cell<bool>,
    /// `None` once the function has panicked.
    function: RefCell<Option<Box<dyn FnMut() -> PollStatus>>>,
    mode: RefCell<Option<ModeFn>>,
}

type ModeFn = Box<dyn FnMut(bool)>;

/// How a [`Poller`] is to be called; see [`Poller::builder`].
#[derive(Default)]
#[must_use = "a builder does nothing until `register`"]
pub struct PollerBuilder {
    name: Option<String>,
    period: Duration,
    mode: Option<ModeFn>,
}

impl PollerBuilder {
    /// Its name in `thread_get_pollers` and in SPDK's traces. SPDK cuts it where it has no more room.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Calls it once a `period`, which counts in microseconds; below one it is called on every turn of
    /// the thread, and ten years are the most.
    pub fn period(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Takes part in SPDK's interrupt mode (`spdk_poller_register_interrupt`): `changed` is called with
    /// `true` when the thread goes to sleep between events and with `false` when it polls again, each
    /// time before the first poll in the new mode, and at once if the thread sleeps already. While it
    /// sleeps the poller is not called, and something else has to wake the thread.
    ///
    /// Without this a poller runs in interrupt mode as well: one with a period by a timer, any other
    /// without a pause, so that the thread never sleeps.
    pub fn on_interrupt_mode(mut self, changed: impl FnMut(bool) + 'static) -> Self {
        self.mode = Some(Box::new(changed));
        self
    }

    /// Registers `function` on the current thread.
    ///
    /// # Errors
    /// [`Error::WrongThread`] when the current thread is not one of SPDK's, [`Error::NoMemory`],
    /// [`Error::Invalid`] for a name with a NUL byte, and with
    /// [`on_interrupt_mode`](Self::on_interrupt_mode) [`Error::Unsupported`] before SPDK 21.04.
    pub fn register(self, function: impl FnMut() -> PollStatus + 'static) -> Result<Poller> {
        let home = HomeRef::current().ok_or_else(|| {
            Error::WrongThread("a poller is registered on an SPDK thread, and this is none".into())
        })?;
        let name = self.name.unwrap_or_else(|| "spdk_plugin_user".into());
        let name = CString::new(name)
            .map_err(|_| Error::Invalid("a poller's name has no NUL byte".into()))?;
        let takes_part = self.mode.is_some();
        let state = Rc::new(State {
            raw: Cell::new(ptr::null_mut()),
            home,
            paused: Cell::new(false),
            function: RefCell::new(Some(Box::new(function))),
            mode: RefCell::new(self.mode),
        });
        let micros = u64::try_from(self.period.min(LONGEST).as_micros()).unwrap_or(u64::MAX);
        let ctx = Rc::as_ptr(&state).cast_mut().cast();
        // SAFETY: the state lives until `drop` has unregistered the poller; SPDK copies the name.
        let raw =
            unsafe { sys::spdk_poller_register_named(Some(on_poll), ctx, micros, name.as_ptr()) };
        if raw.is_null() {
            return Err(Error::NoMemory("a poller".into()));
        }
        state.raw.set(raw);
        let poller = Poller { state: ManuallyDrop::new(state), _not_send: PhantomData };
        // SAFETY: registered just now; the context as above.
        if takes_part && !unsafe { sys::spdkp_poller_on_interrupt(raw, Some(on_mode), ctx) } {
            return Err(Error::Unsupported {
                what: "a poller that knows of interrupt mode".into(),
                needs: "21.04",
            });
        }
        Ok(poller)
    }

    /// Calls `function` until it is ready, and resolves to what it gives; see [`Poller::poll_fn`].
    pub fn poll_fn<T, F>(self, function: F) -> PollerFn<T, F>
    where
        F: FnMut() -> Poll<T> + 'static,
        T: 'static,
    {
        PollerFn { start: Some((self, function)), running: None }
    }
}

impl Poller {
    /// Says how a poller is to be called before it is registered.
    pub fn builder() -> PollerBuilder {
        PollerBuilder::default()
    }

    /// Calls `function` on every turn of the current thread.
    ///
    /// # Errors
    /// As for [`PollerBuilder::register`].
    pub fn register(function: impl FnMut() -> PollStatus + 'static) -> Result<Self> {
        Self::builder().register(function)
    }

    /// Calls `function` once a `period`; see [`PollerBuilder::period`].
    ///
    /// # Errors
    /// As for [`PollerBuilder::register`].
    pub fn every(period: Duration, function: impl FnMut() -> PollStatus + 'static) -> Result<Self> {
        Self::builder().period(period).register(function)
    }

    /// Calls `function` on every turn of the current thread until it is ready, and resolves to what it
    /// gives. The poller is registered at the first poll and goes with the future.
    ///
    /// ```no_run
    /// use std::task::Poll;
    /// use spdk_plugin::runtime::Poller;
    ///
    /// # fn try_receive() -> Option<u32> { None }
    /// # async fn example() -> spdk_plugin::Result<()> {
    /// let message = Poller::poll_fn(|| match try_receive() {
    ///     Some(message) => Poll::Ready(message),
    ///     None => Poll::Pending,
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`PollerBuilder::register`], and [`Error::Panicked`] when the function panics.
    pub fn poll_fn<T, F>(function: F) -> PollerFn<T, F>
    where
        F: FnMut() -> Poll<T> + 'static,
        T: 'static,
    {
        Self::builder().poll_fn(function)
    }

    /// Has the function not called until [`resume`](Self::resume) (`spdk_poller_pause`). Inside the
    /// function it takes effect when that returns.
    ///
    /// # Errors
    /// [`Error::WrongThread`] on another thread than the poller's.
    pub fn pause(&self) -> Result<()> {
        self.set_paused(true)
    }

    /// Undoes [`pause`](Self::pause) (`spdk_poller_resume`). A period begins anew.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        self.set_paused(false)
    }

    fn set_paused(&self, paused: bool) -> Result<()> {
        if !self.state.home.is_current() {
            return Err(Error::WrongThread("a poller is paused on its own thread".into()));
        }
        if self.state.paused.replace(paused) != paused {
            let raw = self.state.raw.get();
            // SAFETY: registered, and we are on its thread.
            unsafe {
                if paused { sys::spdk_poller_pause(raw) } else { sys::spdk_poller_resume(raw) }
            }
        }
        Ok(())
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        // SAFETY: this is the drop.
        let state = unsafe { ManuallyDrop::take(&mut self.state) };
        let home = state.home.get();
        // SPDK refuses to unregister it elsewhere.
        // SAFETY: the share belongs to the home's thread, and we give it up.
        unsafe { home.run(move || unregister(state)) };
    }
}

/// Undoes the registration, on its thread.
fn unregister(state: Rc<State>) {
    let mut raw = state.raw.replace(ptr::null_mut());
    // SAFETY: registered on this thread and not yet undone. SPDK allows it inside the poller's own
    // function too, but 20.07 mixes up its lists when a poller was paused in there as well.
    unsafe {
        if state.paused.get() {
            sys::spdk_poller_resume(raw);
        }
        sys::spdk_poller_unregister(&raw mut raw);
    }
}

/// A share in the state that a callback of SPDK's names.
///
/// # Safety
/// `ctx` came from `Rc::as_ptr`, and the poller is registered, so the owner still holds its count.
unsafe fn share(ctx: *mut c_void) -> Rc<State> {
    let ctx = ctx.cast::<State>().cast_const();
    // SAFETY: says the caller.
    unsafe {
        Rc::increment_strong_count(ctx);
        Rc::from_raw(ctx)
    }
}

unsafe extern "C" fn on_poll(ctx: *mut c_void) -> i32 {
    // SAFETY: SPDK calls registered pollers. The share keeps the state through a drop of the poller inside
    // its own function.
    let state = unsafe { share(ctx) };
    state.home.get().enter(move || {
        let found = state.call();
        // The last share, if the function has dropped its poller.
        drop_caught("a poller", state);
        i32::from(found == PollStatus::Busy)
    })
}

unsafe extern "C" fn on_mode(_: *mut sys::spdk_poller, ctx: *mut c_void, interrupts: bool) {
    // SAFETY: as in `on_poll`.
    let state = unsafe { share(ctx) };
    state.home.get().enter(move || {
        let _ = catch("a poller", || {
            if let Ok(mut mode) = state.mode.try_borrow_mut()
                && let Some(changed) = mode.as_mut()
            {
                changed(interrupts);
            }
        });
        drop_caught("a poller", state);
    });
}

impl State {
    fn call(&self) -> PollStatus {
        // In interrupt mode SPDK calls paused pollers too.
        if self.paused.get() {
            return PollStatus::Idle;
        }
        // A function that runs the thread's messages could come back here: once is enough.
        let Ok(mut function) = self.function.try_borrow_mut() else { return PollStatus::Idle };
        let Some(call) = function.as_mut() else { return PollStatus::Idle };
        catch("a poller", call).unwrap_or_else(|_| {
            std::mem::forget(function.take());
            PollStatus::Idle
        })
    }
}

/// The future of [`Poller::poll_fn`].
#[must_use = "a future does nothing until it is awaited"]
pub struct PollerFn<T, F> {
    start: Option<(PollerBuilder, F)>,
    running: Option<(Rc<Outcome<T>>, Poller)>,
}

struct Outcome<T> {
    result: Cell<Option<Result<T>>>,
    waker: Cell<Option<Waker>>,
}

impl<T> Outcome<T> {
    fn set(&self, result: Result<T>) {
        self.result.set(Some(result));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<T, F> Future for PollerFn<T, F>
where
    F: FnMut() -> Poll<T> + 'static,
    T: 'static,
{
    type Output = Result<T>;

    /// # Panics
    /// When it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some((builder, mut function)) = self.start.take() {
            let outcome = Rc::new(Outcome { result: Cell::new(None), waker: Cell::new(None) });
            let told = Rc::clone(&outcome);
            let mut over = false;
            let poller = builder.register(move || {
                if over {
                    return PollStatus::Idle;
                }
                // What the function keeps may be broken after a panic: it is not called again.
                over = true;
                match catch_message(|| "a poller", &mut function) {
                    Ok(Poll::Pending) => {
                        over = false;
                        return PollStatus::Idle;
                    }
                    Ok(Poll::Ready(value)) => told.set(Ok(value)),
                    Err(message) => {
                        told.set(Err(Error::Panicked(format!("a poller: {message}"))));
                    }
                }
                PollStatus::Busy
            })?;
            self.running = Some((outcome, poller));
        }
        let Some((outcome, _)) = &self.running else {
            panic!("a future of poll_fn was polled after it was ready")
        };
        match outcome.result.take() {
            Some(result) => {
                self.running = None;
                Poll::Ready(result)
            }
            None => {
                outcome.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T, F> Unpin for PollerFn<T, F> {}
