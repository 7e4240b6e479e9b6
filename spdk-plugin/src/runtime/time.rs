//! Time on an SPDK thread: waiting for a while, at a beat, and for no longer than that.
//!
//! A thread's sleepers are in one ordered map, whose earliest one or few have a timed poller of SPDK's
//! (`spdk/thread.h`). So a timeout that is dropped unused costs a map entry, where a poller of its own
//! would stay with SPDK until its time has come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::home::{Home, HomeRef};
use crate::error::{Error, Result};
use crate::guard::catch;

/// The longest period. SPDK counts in ticks, of which an `u64` holds some centuries.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The longest that a poller of ours waits. When its sleepers are gone, it stays for no longer than this.
const LONGEST_ARMED: Duration = Duration::from_millis(100);
/// Pollers at a time. With more sleepers, each sooner than all before, one is replaced.
const MOST_ARMED: usize = 8;

/// How many of SPDK's ticks make up `duration`, rounded up.
pub(super) fn ticks_of(duration: Duration) -> u64 {
    // SAFETY: reads a constant of the machine.
    let hz = u128::from(unsafe { sys::spdk_get_ticks_hz() });
    let ticks = (duration.min(LONGEST).as_nanos() * hz).div_ceil(1_000_000_000);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    // SAFETY: reads the machine's counter.
    unsafe { sys::spdk_get_ticks() }
}

/// SPDK's number of the current thread.
fn current_id() -> Option<u64> {
    // SAFETY: reads a thread-local of SPDK's; the current thread is alive.
    unsafe {
        let thread = sys::spdk_get_thread();
        (!thread.is_null()).then(|| sys::spdk_thread_get_id(thread))
    }
}

/// When a sleeper is due, and a number that no other sleeper of its thread has.
type Key = (u64, u64);

/// The sleepers of one thread.
pub(super) struct Timers {
    sleepers: RefCell<BTreeMap<Key, Waker>>,
    next: Cell<u64>,
    /// Pollers that wait, the soonest last.
    armed: RefCell<Vec<Armed>>,
}

struct Armed {
    at: u64,
    poller: *mut sys::spdk_poller,
    home: HomeRef,
}

impl Drop for Armed {
    fn drop(&mut self) {
        // SAFETY: registered on this thread, and not yet undone. SPDK allows it inside the poller's own
        // function too.
        unsafe { sys::spdk_poller_unregister(&raw mut self.poller) };
    }
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self {
            sleepers: RefCell::new(BTreeMap::new()),
            next: Cell::new(0),
            armed: RefCell::new(Vec::new()),
        }
    }

    /// Has `waker` woken at `at`.
    fn add(&self, home: &HomeRef, at: u64, waker: Waker) -> Result<Key> {
        self.arm(home, at)?;
        let number = self.next.get();
        self.next.set(number + 1);
        self.sleepers.borrow_mut().insert((at, number), waker);
        Ok((at, number))
    }

    /// Whether the sleeper still waits; then `waker` takes its waker's place.
    fn renew(&self, key: Key, waker: &Waker) -> bool {
        let mut sleepers = self.sleepers.borrow_mut();
        let former = match sleepers.get_mut(&key) {
            None => return false,
            Some(there) if there.will_wake(waker) => return true,
            Some(there) => std::mem::replace(there, waker.clone()),
        };
        drop(sleepers);
        drop(former);
        true
    }

    fn remove(&self, key: Key) {
        let former = self.sleepers.borrow_mut().remove(&key);
        drop(former);
    }

    /// Sees to it that a poller runs at `at`, or before and arms the next.
    fn arm(&self, home: &HomeRef, at: u64) -> Result<()> {
        let now = now();
        let at = at.min(now.saturating_add(ticks_of(LONGEST_ARMED)));
        let mut armed = self.armed.borrow_mut();
        if armed.last().is_some_and(|soonest| soonest.at <= at) {
            return Ok(());
        }
        // SAFETY: reads a constant of the machine.
        let hz = u128::from(unsafe { sys::spdk_get_ticks_hz() });
        // One more than is needed: SPDK rounds down when it makes ticks of it.
        let micros = (u128::from(at.saturating_sub(now)) * 1_000_000).div_ceil(hz) as u64 + 1;
        let ctx = ptr::from_ref(home.get()).cast_mut().cast();
        // SAFETY: a `Home` is never freed, and `Armed` unregisters the poller.
        let poller = unsafe {
            sys::spdk_poller_register_named(Some(on_time), ctx, micros, c"spdk_sleep".as_ptr())
        };
        if poller.is_null() {
            return Err(Error::NoMemory("a poller".into()));
        }
        if armed.len() == MOST_ARMED {
            armed.pop();
        }
        armed.push(Armed { at, poller, home: home.clone() });
        Ok(())
    }

    /// A poller's time has come. Gives whether somebody was woken.
    fn run(&self) -> bool {
        let now = now();
        // An exiting thread waits for its pollers, so nobody waits on it.
        // SAFETY: reads the state of the current thread, which is SPDK's.
        let exiting = unsafe { sys::spdkp_thread_is_exiting() };
        let woken = self.wake_until(if exiting { u64::MAX } else { now });
        // The one that runs is among them, and keeps the home.
        let passed = self.disarm(now);
        let next = self.sleepers.borrow().keys().next().map(|key| key.0);
        if let (Some(at), Some(one)) = (next, passed.first())
            && self.arm(&one.home, at).is_err()
        {
            // They run again, each after its period.
            self.armed.borrow_mut().extend(passed);
        }
        woken
    }

    /// Wakes those who are due until then. Gives whether there were any.
    fn wake_until(&self, until: u64) -> bool {
        let due = {
            let mut sleepers = self.sleepers.borrow_mut();
            if sleepers.first_key_value().is_none_or(|(key, _)| key.0 > until) {
                return false;
            }
            let later = sleepers.split_off(&(until.saturating_add(1), 0));
            std::mem::replace(&mut *sleepers, later)
        };
        for waker in due.into_values() {
            // It may be another executor's.
            let _ = catch("a timer", move || waker.wake());
        }
        true
    }

    /// Ends all sleeps, and lets the thread end.
    pub(super) fn end_all(&self) {
        self.wake_until(u64::MAX);
        if self.sleepers.borrow().is_empty() {
            let armed = self.armed.take();
            drop(armed);
        }
    }

    /// Takes out the pollers whose time has passed.
    fn disarm(&self, now: u64) -> Vec<Armed> {
        let mut armed = self.armed.borrow_mut();
        let first = armed.partition_point(|one| one.at > now);
        armed.split_off(first)
    }
}

unsafe extern "C" fn on_time(home: *mut c_void) -> i32 {
    // SAFETY: `arm` passed a `Home`, which is never freed.
    let home: &'static Home = unsafe { &*home.cast() };
    i32::from(home.enter(|| home.timers().run()))
}

/// Waits for `duration` on the current SPDK thread, by SPDK's clock; ten years are the most. The time
/// begins with the first poll. It ends early when the thread exits, and with
/// [`task::drop_all`](super::task::drop_all).
///
/// # Panics
/// When it is polled on a thread that is not one of SPDK's, or on another than the first time, or when
/// memory is short.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep::new(When::After(duration))
}

/// The future of [`sleep`].
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep {
    when: When,
    waits: Option<Place>,
    _not_send: PhantomData<*const ()>,
}

/// Where a sleep waits.
#[derive(Clone, Copy)]
struct Place {
    /// SPDK's number of the thread.
    thread: u64,
    /// The thread's home, while anybody sleeps there.
    home: &'static Home,
    /// No other sleeper of the home ever has it.
    key: Key,
}

#[derive(Clone, Copy)]
enum When {
    After(Duration),
    At(u64),
    Over,
}

impl Sleep {
    fn new(when: When) -> Self {
        Self { when, waits: None, _not_send: PhantomData }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(Place { thread, home, key }) = self.waits {
            assert!(
                current_id() == Some(thread),
                "a sleep is polled on another thread than it began on"
            );
            // A home that has gone elsewhere has no sleepers of this thread.
            if home.is_current() && home.timers().renew(key, cx.waker()) {
                return Poll::Pending;
            }
            self.waits = None;
            self.when = When::Over;
        }
        let at = match self.when {
            When::After(duration) => now().saturating_add(ticks_of(duration)),
            When::At(at) if at > now() => at,
            When::At(_) | When::Over => return Poll::Ready(()),
        };
        let (Some(home), Some(thread)) = (HomeRef::current(), current_id()) else {
            panic!("a sleep is polled on a thread that is not one of SPDK's")
        };
        let key = home.timers().add(&home, at, cx.waker().clone());
        let key = key.unwrap_or_else(|error| panic!("sleep: {error}"));
        self.waits = Some(Place { thread, home: home.get(), key });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // Elsewhere it stays with its thread until it is due, and then wakes somebody for nothing.
        if let Some(Place { thread, home, key }) = self.waits.take()
            && current_id() == Some(thread)
            && home.is_current()
        {
            home.timers().remove(key);
        }
    }
}

/// Ticks every `period`, the first time at once. A tick that nobody waited for is left out: the next one
/// keeps to the beat.
///
/// ```no_run
/// use std::time::Duration;
/// use spdk_plugin::runtime::interval;
///
/// # async fn example() {
/// let mut beat = interval(Duration::from_secs(1));
/// loop {
///     beat.tick().await;
///     log::info!("still here");
/// }
/// # }
/// ```
///
/// # Panics
/// When `period` is zero.
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval's period is zero");
    Interval { period: ticks_of(period).max(1), sleep: Sleep::new(When::Over), due: None }
}

/// A beat; see [`interval`].
pub struct Interval {
    period: u64,
    /// The wait for the next tick, due at `due`.
    sleep: Sleep,
    due: Option<u64>,
}

impl Interval {
    /// Waits for the next tick. Dropping the future loses none.
    pub async fn tick(&mut self) {
        poll_fn(|cx| self.poll_tick(cx)).await;
    }

    /// As [`tick`](Self::tick), for use in a future's `poll`.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due.unwrap_or_else(now);
        if Pin::new(&mut self.sleep).poll(cx).is_pending() {
            return Poll::Pending;
        }
        let late = now().saturating_sub(due) / self.period;
        let next = due.saturating_add((late + 1).saturating_mul(self.period));
        self.due = Some(next);
        self.sleep = Sleep::new(When::At(next));
        Poll::Ready(())
    }
}

/// Gives what `future` gives, or [`Error::TimedOut`] when that takes longer than `duration`, which
/// begins with the first poll. The future is dropped with this one.
///
/// # Errors
/// [`Error::TimedOut`].
///
/// # Panics
/// As [`sleep`].
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration), duration }
}

/// The future of [`timeout`].
#[must_use = "a future does nothing until it is awaited"]
pub struct Timeout<F> {
    future: F,
    sleep: Sleep,
    duration: Duration,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is not moved out of here, and is pinned as we are; `sleep` need not be.
        let (future, sleep, duration) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), &mut this.sleep, this.duration)
        };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(sleep)
            .poll(cx)
            .map(|()| Err(Error::TimedOut(format!("there was no result within {duration:?}"))))
    }
}
