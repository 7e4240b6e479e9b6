//! One callback, one future, one allocation.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::guard::catch;
use crate::runtime::home::{Home, HomeRef};

/// The future's waker is in its place, and whoever completes may take it.
const WAITS: u8 = 1;
/// The completer is through; the value, if any, is in its place.
const ENDED: u8 = 2;

struct Shared<T, P> {
    state: AtomicU8,
    /// Until `ENDED` the completer's, from then on the future's.
    value: UnsafeCell<Option<T>>,
    /// The future's while `WAITS` is not set, the completer's when it has set `ENDED` and found `WAITS`.
    waker: UnsafeCell<Option<Waker>>,
    /// The completer's, who takes it when it ends.
    payload: UnsafeCell<Option<P>>,
    /// Where it was made, whose run queue a wake goes to.
    home: Option<&'static Home>,
}

// SAFETY: each cell has one user at a time, as said at the cells, handed over through `state` with
// acquire and release. What crosses threads there is a `T`, and the payload with it.
unsafe impl<T: Send, P: Send> Sync for Shared<T, P> {}
// SAFETY: as above.
unsafe impl<T: Send, P: Send> Send for Shared<T, P> {}

impl<T, P> Shared<T, P> {
    fn new(payload: P, home: Option<&'static Home>) -> Self {
        Self {
            state: AtomicU8::new(0),
            value: UnsafeCell::new(None),
            waker: UnsafeCell::new(None),
            payload: UnsafeCell::new(Some(payload)),
            home,
        }
    }
}

/// Two ends of an operation that C ends by a callback: the one for C, and the one to await. `what` names
/// the operation in errors. The `payload` is kept until the callback.
///
/// Called on an SPDK thread, what waits is polled when the callback ends on that thread.
pub fn completion<T, P>(what: &'static str, payload: P) -> (Completer<T, P>, Completion<T, P>) {
    // A home is never freed, and this one is in use for as long as a task or a channel waits there.
    let home = HomeRef::current().map(|home| home.get());
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "the two ends are `Send` only where T and P are"
    )]
    let shared = Arc::new(Shared::new(payload, home));
    (Completer(Arc::clone(&shared), PhantomData), Completion { shared, what })
}

/// The end that goes to C. Dropping it ends the operation with an error.
///
/// It is `Send` when the value and the payload are: then the callback may come on any thread.
#[must_use = "dropping it fails the operation"]
pub struct Completer<T, P = ()>(Arc<Shared<T, P>>, NotSync);

/// One thread at a time has a completer, also when it only looks for the payload.
type NotSync = PhantomData<Cell<()>>;

impl<T, P> Completer<T, P> {
    /// What to hand to C as the callback's context.
    pub fn into_raw(self) -> *mut c_void {
        let raw = Arc::as_ptr(&self.0).cast_mut().cast();
        std::mem::forget(self);
        raw
    }

    /// Takes it back in the callback, or when C refused the call.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Self::into_raw) of the same types and is taken back this once. If
    /// `T` or `P` is not `Send`, this is the SPDK thread where [`completion`] was called.
    pub unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: says the caller.
        Self(unsafe { Arc::from_raw(raw.cast::<Shared<T, P>>().cast_const()) }, PhantomData)
    }

    /// The payload's address, which is the same until the operation ends, for C to read or write there.
    /// It may be dereferenced until then.
    pub fn payload(&self) -> *mut P {
        let place = self.0.payload.get();
        // SAFETY: only the completer touches the payload, and this borrow ends here.
        unsafe { (*place).as_mut() }.map_or(std::ptr::null_mut(), |payload| payload)
    }

    /// Ends the operation with `value` and drops the payload.
    pub fn complete(self, value: T) {
        self.complete_with(|_| value);
    }

    /// Ends the operation with what `value` makes of the payload.
    pub fn complete_with(self, value: impl FnOnce(P) -> T) {
        // SAFETY: the payload is the completer's, and nobody else holds a borrow of it.
        let payload = unsafe { (*self.0.payload.get()).take() };
        if let Some(payload) = payload {
            let value = value(payload);
            // SAFETY: the value's place is the completer's until it has ended.
            unsafe { *self.0.value.get() = Some(value) };
        }
    }
}

impl<T, P> Drop for Completer<T, P> {
    fn drop(&mut self) {
        let shared = &*self.0;
        // SAFETY: as in `complete_with`, which has left nothing here.
        drop(unsafe { (*shared.payload.get()).take() });
        if shared.state.fetch_or(ENDED, Ordering::AcqRel) & WAITS == 0 {
            return;
        }
        // SAFETY: the future was seen to wait, and does not touch the waker once we have ended.
        let waker = unsafe { (*shared.waker.get()).take() };
        let Some(waker) = waker else { return };
        let wake = || {
            // A foreign executor's waker may panic, and there is C above us.
            let _ = catch("a waker", || waker.wake());
        };
        match shared.home {
            Some(home) if home.is_current() => home.enter(wake),
            _ => wake(),
        }
    }
}

impl<T, P> fmt::Debug for Completer<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completer")
    }
}

/// The end to await. Dropping it does not stop the operation.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Completion<T, P = ()> {
    shared: Arc<Shared<T, P>>,
    what: &'static str,
}

impl<T, P> Completion<T, P> {
    fn value(&self) -> Result<T> {
        // SAFETY: it has ended, so the value's place is ours.
        unsafe { (*self.shared.value.get()).take() }.ok_or_else(|| Error::Errno {
            what: format!("{}, which was given up", self.what),
            errno: libc::ECANCELED,
        })
    }
}

impl<T, P> Future for Completion<T, P> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let shared = &*self.shared;
        // The waker's place is ours again, unless the completer is through.
        let mut state = shared.state.fetch_and(!WAITS, Ordering::AcqRel);
        if state & ENDED == 0 {
            // SAFETY: `WAITS` is not set and it had not ended, so whoever ends it leaves the waker alone.
            let place = unsafe { &mut *shared.waker.get() };
            if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *place = Some(cx.waker().clone());
            }
            state = shared.state.fetch_or(WAITS, Ordering::AcqRel);
        }
        if state & ENDED == 0 { Poll::Pending } else { Poll::Ready(self.value()) }
    }
}

impl<T, P> fmt::Debug for Completion<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Completion({})", self.what)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::marker::PhantomData;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::{Completer, Completion, Shared};
    use crate::error::Error;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As `super::completion`, which asks SPDK for the thread.
    fn completion<T, P>(payload: P) -> (Completer<T, P>, Completion<T, P>) {
        let shared = Arc::new(Shared::new(payload, None));
        (Completer(Arc::clone(&shared), PhantomData), Completion { shared, what: "a test" })
    }

    fn through_c<T, P>(completer: Completer<T, P>) -> Completer<T, P> {
        // SAFETY: given just now, and taken back once.
        unsafe { Completer::from_raw(completer.into_raw()) }
    }

    #[test]
    fn a_value_arrives_before_or_after_the_first_poll() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        for polled_first in [false, true] {
            let (completer, completion) = completion::<_, ()>(());
            let mut completion = pin!(completion);
            if polled_first {
                assert!(completion.as_mut().poll(&mut cx).is_pending());
            }
            through_c(completer).complete(7);
            assert!(matches!(completion.as_mut().poll(&mut cx), Poll::Ready(Ok(7))));
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_completer_that_is_dropped_ends_the_future() {
        let mut cx = Context::from_waker(Waker::noop());
        let (completer, completion) = completion::<(), _>([1; 3]);
        drop(through_c(completer));
        match pin!(completion).poll(&mut cx) {
            Poll::Ready(Err(error @ Error::Errno { .. })) => {
                assert_eq!(error.errno(), libc::ECANCELED)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_payload_outlives_a_dropped_future() {
        let payload = Arc::new(());
        let (completer, completion) = completion::<(), _>(Arc::clone(&payload));
        drop(completion);
        let completer = through_c(completer);
        assert_eq!(Arc::strong_count(&payload), 2);
        completer.complete(());
        assert_eq!(Arc::strong_count(&payload), 1);
    }

    #[test]
    fn a_value_for_nobody_is_dropped() {
        let value = Arc::new(());
        let (completer, completion) = completion::<_, ()>(());
        completer.complete(Arc::clone(&value));
        drop(completion);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn another_thread_may_complete() {
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        for round in 0..rounds {
            let count = Arc::new(Count::default());
            let waker = Waker::from(Arc::clone(&count));
            let mut cx = Context::from_waker(&waker);
            let (completer, completion) = completion(vec![round]);
            let mut completion = pin!(completion);
            std::thread::scope(|scope| {
                scope.spawn(|| completer.complete_with(|payload| payload[0]));
                let value = loop {
                    if let Poll::Ready(value) = completion.as_mut().poll(&mut cx) {
                        break value;
                    }
                    // As an executor would: polled again when woken, and not before.
                    while count.0.swap(0, Ordering::Relaxed) == 0 {
                        std::thread::yield_now();
                    }
                };
                assert_eq!(value.ok(), Some(round));
            });
        }
    }
}
