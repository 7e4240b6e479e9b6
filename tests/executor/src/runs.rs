//! What is run. Each is the body of a test of its name.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use crate::error::Error;
use crate::runtime::join::JoinHandle;
use crate::runtime::poller::{PollStatus, Poller};
use crate::runtime::task::{drop_all, spawn_local, yield_now};
use crate::runtime::time::{interval, sleep, timeout};

/// A thread of the stub's, driven by the test.
struct Thread(*mut sys::spdk_thread);

impl Thread {
    fn new() -> Self {
        Self(sys::create())
    }

    fn on<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: alive until it is dropped, and used on this OS thread alone.
        unsafe { sys::on(self.0, body) }
    }

    /// Polls so often.
    fn turns(&self, turns: usize) {
        for _ in 0..turns {
            // SAFETY: as in `on`.
            unsafe { sys::poll(self.0) };
        }
    }

    /// Runs a task to its end.
    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let told = Rc::clone(&result);
        self.on(|| {
            spawn_local(async move { *told.borrow_mut() = Some(future.await) });
        });
        for _ in 0..1_000_000 {
            self.turns(1);
            if let Some(result) = result.borrow_mut().take() {
                return result;
            }
            sys::advance(1000);
            thread::yield_now();
        }
        panic!("the task does not end");
    }

    fn pollers(&self) -> usize {
        // SAFETY: as in `on`.
        unsafe { sys::pollers(self.0) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: this is its end.
        unsafe { sys::destroy(self.0) };
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Handles: results, panics, aborts.
pub fn handles() {
    let thread = Thread::new();
    thread.run(async {
        assert_eq!(spawn_local(async { Box::new(7) }).await.unwrap().as_ref(), &7);
        let panics = spawn_local(async {
            yield_now().await;
            panic!("said");
        });
        let Err(Error::Panicked(said)) = panics.await else { panic!("no panic") };
        assert!(said.contains("said"));
        let aborted = spawn_local(pending::<()>());
        yield_now().await;
        aborted.abort();
        assert!(matches!(aborted.await, Err(Error::Cancelled(_))));
        let bomb = spawn_local(async {
            let _bomb = OnDrop(|| panic!("in a drop"));
            pending::<()>().await;
        });
        yield_now().await;
        bomb.abort();
        assert!(matches!(bomb.await, Err(Error::Cancelled(_))));
        let own: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
        let inner = Rc::clone(&own);
        let task = spawn_local(async move {
            inner.borrow().as_ref().unwrap().abort();
            pending::<()>().await;
        });
        *own.borrow_mut() = Some(task);
        yield_now().await;
        yield_now().await;
        let task = own.borrow_mut().take().unwrap();
        assert!(task.is_finished());
    });
}

/// A thread ends with tasks, whose drops wake, spawn and abort others.
pub fn a_thread_ends_with_tasks() {
    let left = Rc::new(Cell::new(0));
    for explicit in [false, true] {
        let thread = Thread::new();
        thread.on(|| {
            for n in 0..20 {
                let (wake, woken) = oneshot::channel::<()>();
                let waits = spawn_local(woken);
                let victim = spawn_local(pending::<()>());
                left.set(left.get() + 1);
                let (count, mut wake) = (Rc::clone(&left), Some(wake));
                let guard = OnDrop(move || {
                    count.set(count.get() - 1);
                    drop(wake.take());
                    victim.abort();
                    spawn_local(pending::<()>());
                    if n % 5 == 0 {
                        drop_all();
                    }
                });
                spawn_local(async move {
                    let _guard = guard;
                    let _ = waits.await;
                    pending::<()>().await;
                });
            }
        });
        thread.turns(3);
        if explicit {
            thread.on(drop_all);
            assert_eq!(left.get(), 0);
        }
        drop(thread);
        assert_eq!(left.get(), 0);
    }
}

/// The homes of threads that have gone serve others, and old wakers harm nobody.
pub fn old_wakers() {
    let mut wakers: Vec<Waker> = Vec::new();
    for _ in 0..5 {
        let thread = Thread::new();
        for waker in &wakers {
            waker.wake_by_ref();
        }
        let kept: Rc<RefCell<Vec<Waker>>> = Rc::default();
        let keep = Rc::clone(&kept);
        thread.run(async move {
            for _ in 0..3 {
                let mut first = true;
                poll_fn(|cx| {
                    keep.borrow_mut().push(cx.waker().clone());
                    if std::mem::take(&mut first) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
                .await;
            }
        });
        wakers.extend(kept.take());
        thread.turns(2);
        for waker in &wakers {
            waker.wake_by_ref();
            thread.on(|| waker.wake_by_ref());
        }
    }
    for waker in wakers {
        thread::spawn(move || waker.wake()).join().unwrap();
    }
}

/// Time, with a clock that stands still unless it is moved.
pub fn time() {
    let thread = Thread::new();
    thread.run(async {
        for ms in [5, 1, 300, 0] {
            sleep(Duration::from_millis(ms)).await;
        }
        let mut beat = interval(Duration::from_millis(10));
        for _ in 0..5 {
            beat.tick().await;
        }
        assert!(timeout(Duration::from_millis(5), pending::<()>()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(5), async { 1 }).await.unwrap(), 1);
        let many: Vec<_> =
            (0..50_u64).map(|n| spawn_local(sleep(Duration::from_millis(n * 37 % 50)))).collect();
        for one in many {
            one.await.unwrap();
        }
    });
    // One that nobody polls any more leaves nothing.
    thread.on(|| {
        let slept = spawn_local(sleep(Duration::from_secs(1000)));
        slept.detach();
    });
    thread.turns(2);
    assert!(thread.pollers() > 0);
    thread.on(drop_all);
    thread.turns(1);
    assert_eq!(thread.pollers(), 0);
}

/// Pollers that pause and drop themselves.
pub fn pollers() {
    let thread = Thread::new();
    thread.on(|| {
        let own: Rc<RefCell<Option<Poller>>> = Rc::default();
        let (me, runs) = (Rc::clone(&own), Rc::new(Cell::new(0)));
        let count = Rc::clone(&runs);
        let poller = Poller::register(move || {
            count.set(count.get() + 1);
            if count.get() == 3 {
                me.borrow().as_ref().unwrap().pause().unwrap();
                drop(me.borrow_mut().take());
            }
            PollStatus::Busy
        });
        *own.borrow_mut() = Some(poller.unwrap());
        thread.turns(5);
        assert_eq!((runs.get(), Rc::strong_count(&runs)), (3, 1));
    });
    thread.run(async {
        let mut left = 4;
        let counted = Poller::poll_fn(move || {
            left -= 1;
            if left == 0 { Poll::Ready(9) } else { Poll::Pending }
        });
        assert_eq!(counted.await.unwrap(), 9);
    });
}

/// What tasks wait for in [`across_threads`].
struct Target {
    wants: usize,
    woken: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

/// Tasks on two threads, woken and aborted from all sides while the threads run.
pub fn across_threads(tasks: usize) {
    let targets: Arc<Vec<Target>> = Arc::new(
        (0..2 * tasks)
            .map(|n| Target { wants: n % 4, woken: AtomicUsize::new(0), waker: Mutex::default() })
            .collect(),
    );
    let handles: Arc<Mutex<Vec<Option<JoinHandle<usize>>>>> =
        Arc::new(Mutex::new((0..2 * tasks).map(|_| None).collect()));
    let dropped = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let homes: Vec<_> = [0, 1]
        .map(|home| {
            let (targets, handles) = (Arc::clone(&targets), Arc::clone(&handles));
            let (dropped, stop) = (Arc::clone(&dropped), Arc::clone(&stop));
            thread::spawn(move || {
                let thread = Thread::new();
                thread.on(|| {
                    for n in home * tasks..(home + 1) * tasks {
                        let (targets, dropped) = (Arc::clone(&targets), Arc::clone(&dropped));
                        let guard = OnDrop(move || {
                            dropped.fetch_add(1, Ordering::Relaxed);
                        });
                        let handle = spawn_local(async move {
                            let _guard = guard;
                            poll_fn(|cx| {
                                *targets[n].waker.lock().unwrap() = Some(cx.waker().clone());
                                let woken = targets[n].woken.load(Ordering::Relaxed);
                                if woken >= targets[n].wants {
                                    Poll::Ready(n)
                                } else {
                                    Poll::Pending
                                }
                            })
                            .await
                        });
                        handles.lock().unwrap()[n] = Some(handle);
                    }
                });
                while !stop.load(Ordering::Relaxed) {
                    thread.turns(1);
                    thread::yield_now();
                }
            })
        })
        .into();
    let wakers: Vec<_> = (0..3)
        .map(|round| {
            let (targets, handles) = (Arc::clone(&targets), Arc::clone(&handles));
            thread::spawn(move || {
                for i in 0..targets.len() {
                    let n = (i * (2 * round + 1) + round) % targets.len();
                    targets[n].woken.fetch_add(1, Ordering::Relaxed);
                    let waker = targets[n].waker.lock().unwrap().take();
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    if n % 7 == round
                        && let Some(handle) = &handles.lock().unwrap()[n]
                    {
                        handle.abort();
                    }
                }
            })
        })
        .collect();
    for waker in wakers {
        waker.join().unwrap();
    }
    // What the rounds left out.
    for target in targets.iter() {
        target.woken.fetch_add(3, Ordering::Relaxed);
        let waker = target.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
    for n in 0..targets.len() {
        loop {
            let ended = handles.lock().unwrap()[n].as_ref().is_some_and(JoinHandle::is_finished);
            if ended {
                break;
            }
            thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for home in homes {
        home.join().unwrap();
    }
    assert_eq!(dropped.load(Ordering::Relaxed), targets.len());
}

/// Threads end while others wake what is on them.
pub fn threads_end_while_others_wake(rounds: usize) {
    for _ in 0..rounds {
        let shared: Arc<Mutex<Vec<Waker>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (shared, over) = (Arc::clone(&shared), Arc::clone(&over));
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let wakers = shared.lock().unwrap().clone();
                        for waker in wakers {
                            waker.wake();
                        }
                        thread::yield_now();
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            let thread = Thread::new();
            let keep = Arc::clone(&shared);
            thread.on(|| {
                for _ in 0..4 {
                    let keep = Arc::clone(&keep);
                    spawn_local(poll_fn(move |cx| {
                        keep.lock().unwrap().push(cx.waker().clone());
                        keep.lock().unwrap().truncate(16);
                        Poll::<()>::Pending
                    }));
                }
            });
            thread.turns(5);
        }
        over.store(true, Ordering::Relaxed);
        for waker in wakers {
            waker.join().unwrap();
        }
    }
}
