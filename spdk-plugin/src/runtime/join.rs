//! What a task leaves behind: its result, and the handle that waits for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
use crate::error::{Error, Result};

/// Waits for a task that was spawned, and gives what it returned.
///
/// As a future it resolves to `Ok` with the task's output, to [`Error::Panicked`] with the message when
/// the task panicked, or to [`Error::Cancelled`] when it was [aborted](Self::abort) or its thread ended
/// first. Dropping the handle detaches the task, which runs on. Where the output is `Send`, the handle
/// may be awaited on any thread, by any executor.
///
/// ```no_run
/// use spdk_plugin::runtime::{spawn_local, yield_now};
///
/// # async fn example() -> spdk_plugin::Result<()> {
/// let sum = spawn_local(async {
///     yield_now().await;
///     40 + 2
/// });
/// assert_eq!(sum.await?, 42);
/// # Ok(())
/// # }
/// ```
pub struct JoinHandle<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// Someone wants the task to end. Read by the task before each poll.
    aborted: AtomicBool,
    state: Mutex<State<T>>,
}

enum State<T> {
    /// The wakers of the task, once it has one, and of whoever waits.
    Running {
        task: Option<Waker>,
        waiter: Option<Waker>,
    },
    Done(Result<T>),
    Taken,
}

/// The task's end of a [`JoinHandle`]. Dropped, it says that the task was cancelled.
pub(crate) struct Finish<T> {
    what: &'static str,
    shared: Option<Arc<Shared<T>>>,
}

/// Both ends; `what` names the task in errors.
pub(crate) fn pair<T>(what: &'static str) -> (Finish<T>, JoinHandle<T>) {
    let shared = Arc::new(Shared {
        aborted: AtomicBool::new(false),
        state: Mutex::new(State::Running { task: None, waiter: None }),
    });
    (Finish { what, shared: Some(Arc::clone(&shared)) }, JoinHandle { shared })
}

impl<T> JoinHandle<T> {
    /// Asks the task to end. It is dropped when its thread next runs it, unless it ends by itself before
    /// that; await the handle to know which.
    pub fn abort(&self) {
        // Before the wake, so that the poll that the wake leads to sees it.
        self.shared.aborted.store(true, Ordering::Release);
        let task = match &*lock(&self.shared.state) {
            State::Running { task, .. } => task.clone(),
            _ => None,
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Whether the result is there.
    pub fn is_finished(&self) -> bool {
        !matches!(*lock(&self.shared.state), State::Running { .. })
    }

    /// Lets the task run on by itself, as dropping the handle does.
    pub fn detach(self) {}

    /// Takes the result if it is there.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) fn try_take(&mut self) -> Option<Result<T>> {
        let mut state = lock(&self.shared.state);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(result) => Some(result),
            other => {
                *state = other;
                None
            }
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T>;

    /// # Panics
    /// When it is polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.shared.state);
        // The former waker may run code of its executor's when it goes: not under the lock.
        let former = match &mut *state {
            State::Running { waiter: Some(waiter), .. } if waiter.will_wake(cx.waker()) => None,
            State::Running { waiter, .. } => waiter.replace(cx.waker().clone()),
            State::Done(_) => {
                let State::Done(result) = std::mem::replace(&mut *state, State::Taken) else {
                    unreachable!("it is done")
                };
                return Poll::Ready(result);
            }
            State::Taken => panic!("a JoinHandle was polled after it was ready"),
        };
        drop(state);
        drop(former);
        Poll::Pending
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> Finish<T> {
    /// Names the waker by which [`JoinHandle::abort`] reaches the task.
    pub(crate) fn started(&self, waker: Waker) {
        let Some(shared) = &self.shared else { return };
        if let State::Running { task, .. } = &mut *lock(&shared.state) {
            *task = Some(waker);
        }
    }

    /// Whether the task is to end.
    pub(crate) fn is_aborted(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.aborted.load(Ordering::Acquire))
    }

    pub(crate) fn finish(mut self, result: Result<T>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<T>) {
        let Some(shared) = self.shared.take() else { return };
        let former = std::mem::replace(&mut *lock(&shared.state), State::Done(result));
        if let State::Running { waiter: Some(waiter), .. } = former {
            waiter.wake();
        }
    }
}

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        self.end(Err(Error::Cancelled(self.what.into())));
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(handle: &mut JoinHandle<T>) -> Poll<Result<T>> {
        Pin::new(handle).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_result_is_taken_once() {
        let (finish, mut handle) = pair("a task");
        assert!(poll(&mut handle).is_pending() && !handle.is_finished());
        finish.finish(Ok(1));
        assert!(handle.is_finished());
        assert!(matches!(poll(&mut handle), Poll::Ready(Ok(1))));
        assert!(handle.try_take().is_none());
    }

    #[test]
    fn a_task_that_goes_was_cancelled() {
        let (finish, mut handle) = pair::<()>("a task");
        handle.abort();
        assert!(finish.is_aborted());
        drop(finish);
        let Some(Err(error)) = handle.try_take() else { panic!("no error") };
        assert_eq!(
            (error.to_string().as_str(), error.errno()),
            ("a task was cancelled", libc::ECANCELED)
        );
    }

    #[test]
    fn only_a_sendable_result_may_cross_threads() {
        fn is_send<T: Send + Sync>() {}
        is_send::<JoinHandle<u8>>();
    }
}
