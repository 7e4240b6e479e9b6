//! Driving an SPDK thread from any executor (`spdk/thread.h`).
//!
//! An SPDK thread has to be polled, and nothing tells when. So the driver polls on every turn that the
//! executor gives it while there is work, and some turns longer. Then it sleeps for a while that grows,
//! never past the next timed poller. Messages and wakes that this crate sends to the thread end the
//! sleep at once.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::alarm::Alarm;
use super::own::{self, Polling, SpdkThread};
use super::sync::lock;

/// Polls in one turn of the executor while there is work.
const BURST: u32 = 16;
/// The first sleep of a driver with nothing to do; each one after it is twice as long.
const SHORTEST: Duration = Duration::from_micros(20);

/// How a [`PollerTask`] treats an SPDK thread that has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// So many turns without work go by before the first sleep.
    pub idle_turns: u32,
    /// The longest sleep. Zero: it never sleeps, which has the lowest latency and takes all of a core.
    ///
    /// What SPDK's pollers wait for, such as a completion of a device, is found this much later at the most
    /// when nothing else has happened for a while; timed pollers and what this crate sends are not delayed.
    pub longest_sleep: Duration,
}

impl Default for Backoff {
    /// 2000 turns, and 1 ms.
    fn default() -> Self {
        Self { idle_turns: 2000, longest_sleep: Duration::from_millis(1) }
    }
}

impl Backoff {
    /// Never sleeps.
    pub const NONE: Self = Self { idle_turns: u32::MAX, longest_sleep: Duration::ZERO };
}

/// An SPDK thread as its drivers know it, who may live longer.
#[derive(Debug)]
pub(super) struct Link(Cell<*mut sys::spdk_thread>);

impl Link {
    /// # Safety
    /// The thread is of this OS thread alone, and alive until [`cut`](Self::cut).
    pub(super) unsafe fn new(thread: *mut sys::spdk_thread) -> Rc<Self> {
        Rc::new(Self(Cell::new(thread)))
    }

    /// The thread is about to go.
    pub(super) fn cut(&self) {
        wake_driver_of(self.0.replace(ptr::null_mut()));
    }
}

/// Drives `thread` under any executor that runs futures on the current OS thread: tokio's `LocalSet`,
/// smol's or async-executor's `LocalExecutor`, a `futures` `LocalPool`. Spawn it there, or poll it beside
/// the future that matters; it is ready when the thread is dropped.
///
/// ```no_run
/// use spdk_plugin::runtime::poller_task;
/// use spdk_plugin::{SpdkEnv, SpdkThread};
///
/// # fn spawn_local(_: impl Future<Output = ()> + 'static) {}
/// # async fn example() -> spdk_plugin::Result<()> {
/// let env = SpdkEnv::init()?;
/// let thread = SpdkThread::current("main")?;
/// spawn_local(poller_task(&thread)); // e.g. tokio::task::spawn_local
/// # Ok(())
/// # }
/// ```
pub fn poller_task(thread: &SpdkThread) -> PollerTask {
    PollerTask {
        link: Rc::clone(thread.link()),
        backoff: Backoff::default(),
        idle: 0,
        sleep: SHORTEST,
        alarm: None,
        listed: None,
    }
}

/// The future of [`poller_task`].
#[must_use = "a future does nothing until it is awaited"]
pub struct PollerTask {
    link: Rc<Link>,
    backoff: Backoff,
    /// Turns without work.
    idle: u32,
    /// How long the next sleep is.
    sleep: Duration,
    alarm: Option<Alarm>,
    listed: Option<Listed>,
}

impl PollerTask {
    /// Says what it does when the thread has nothing to do.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Polls the thread while it has work. Gives whether it had any.
    fn turn(&self, thread: *mut sys::spdk_thread) -> bool {
        // Inside a poll of the thread's there is nothing to do for us.
        let Some(_polling) = Polling::begin(thread) else { return false };
        for n in 0..BURST {
            // SAFETY: the thread is alive, as the link is not cut; it is of this OS thread alone, as is
            // the link; and nobody else polls it just now. It may be cut in the first poll.
            if !unsafe { own::poll(thread, 0) } {
                return n > 0;
            }
            if self.link.0.get().is_null() {
                break;
            }
        }
        true
    }

    /// How long it may sleep now.
    fn nap(&self, thread: *mut sys::spdk_thread) -> Duration {
        let most = self.sleep.min(self.backoff.longest_sleep);
        // SAFETY: as in `turn`.
        let (now, next, hz) = unsafe {
            (
                sys::spdk_get_ticks(),
                sys::spdk_thread_next_poller_expiration(thread),
                sys::spdk_get_ticks_hz(),
            )
        };
        if next == 0 {
            return most;
        }
        let nanos = u128::from(next.saturating_sub(now)) * 1_000_000_000 / u128::from(hz.max(1));
        most.min(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

impl Future for PollerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm = None;
        self.listed = None;
        let thread = self.link.0.get();
        if thread.is_null() {
            return Poll::Ready(());
        }
        let worked = self.turn(thread);
        if self.link.0.get().is_null() {
            return Poll::Ready(());
        }
        if worked {
            self.idle = 0;
            self.sleep = SHORTEST;
        } else {
            self.idle = self.idle.saturating_add(1);
        }
        if self.idle <= self.backoff.idle_turns || self.backoff.longest_sleep.is_zero() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Who sends from now on wakes us; what was sent before is found by one more look.
        self.listed = Some(Listed::new(thread, cx.waker().clone()));
        let nap = self.nap(thread);
        if self.turn(thread) || nap.is_zero() {
            self.idle = 0;
        } else if !self.link.0.get().is_null() {
            self.alarm = Alarm::set(nap, cx.waker().clone()).ok();
            self.sleep = self.sleep.saturating_mul(2).min(self.backoff.longest_sleep);
        }
        if self.alarm.is_none() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Drivers that sleep, by the address of their thread.
static SLEEPERS: Mutex<Vec<(usize, u64, Waker)>> = Mutex::new(Vec::new());
static ASLEEP: AtomicUsize = AtomicUsize::new(0);

/// A driver that sleeps.
struct Listed(u64);

impl Listed {
    fn new(thread: *mut sys::spdk_thread, waker: Waker) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&SLEEPERS).push((thread.addr(), number, waker));
        ASLEEP.fetch_add(1, Ordering::Relaxed);
        // With the one in `wake_driver_of`: either our next look finds the message, or its sender finds us.
        fence(Ordering::SeqCst);
        Self(number)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        ASLEEP.fetch_sub(1, Ordering::Relaxed);
        let mut sleepers = lock(&SLEEPERS);
        let at = sleepers.iter().position(|(_, number, _)| *number == self.0);
        let waker = at.map(|at| sleepers.swap_remove(at));
        drop(sleepers);
        drop(waker);
    }
}

/// The thread has got a message, or will have work: whoever drives it does not sleep on.
pub(crate) fn wake_driver_of(thread: *mut sys::spdk_thread) {
    fence(Ordering::SeqCst);
    if ASLEEP.load(Ordering::Relaxed) > 0 {
        wake_sleeper(thread);
    }
}

#[cold]
fn wake_sleeper(thread: *mut sys::spdk_thread) {
    let waker = {
        let sleepers = lock(&SLEEPERS);
        sleepers.iter().find(|(at, ..)| *at == thread.addr()).map(|(.., waker)| waker.clone())
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}
