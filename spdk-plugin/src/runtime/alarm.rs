//! Wakes somebody later, for executors whose timers are not ours to use: one OS thread, which sleeps
//! until the next one is due.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::guard::catch;

/// When somebody is due, and a number that no other has.
type Key = (Instant, u64);

struct Alarms {
    due: BTreeMap<Key, Waker>,
    next: u64,
    /// Whether the thread runs.
    runs: bool,
}

static ALARMS: Mutex<Alarms> = Mutex::new(Alarms { due: BTreeMap::new(), next: 0, runs: false });
static SOONER: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Alarms> {
    // Each change is one step, so what a panic leaves is whole.
    ALARMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wake that is to come. Dropped, it does not come.
pub(super) struct Alarm(Key);

impl Alarm {
    /// Wakes `waker` after `delay`.
    pub(super) fn set(delay: Duration, waker: Waker) -> Result<Self> {
        let mut alarms = lock();
        if !alarms.runs {
            let thread = std::thread::Builder::new().name("spdk_plugin_alarm".into());
            thread.spawn(run).map_err(|error| Error::Errno {
                what: "an OS thread that wakes others".into(),
                errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
            })?;
            alarms.runs = true;
        }
        let key = (Instant::now() + delay, alarms.next);
        alarms.next += 1;
        alarms.due.insert(key, waker);
        if alarms.due.first_key_value().is_some_and(|(first, _)| *first == key) {
            SOONER.notify_one();
        }
        Ok(Self(key))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let waker = lock().due.remove(&self.0);
        drop(waker);
    }
}

fn run() {
    let mut alarms = lock();
    loop {
        let now = Instant::now();
        let first = alarms.due.first_entry();
        alarms = match first {
            Some(first) if first.key().0 <= now => {
                let waker = first.remove();
                drop(alarms);
                // It is another executor's.
                let _ = catch("an alarm", || waker.wake());
                lock()
            }
            Some(first) => {
                let left = first.key().0 - now;
                let waited = SOONER.wait_timeout(alarms, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => SOONER.wait(alarms).unwrap_or_else(PoisonError::into_inner),
        };
    }
}
