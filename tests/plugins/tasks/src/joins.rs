//! Handles, and what becomes of tasks that are not awaited.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use spdk_plugin::Error;
use spdk_plugin::runtime::{JoinHandle, sleep, spawn_local, task, yield_now};

use crate::Case;
use crate::stress::block_on;

pub(crate) const CASES: &[(&str, Case)] = &[
    ("join", || Box::pin(join())),
    ("panic", || Box::pin(panics())),
    ("abort", || Box::pin(abort())),
    ("detach", || Box::pin(detach())),
    ("across", || Box::pin(across())),
    ("yield", || Box::pin(yields())),
    ("drop_all", || Box::pin(drop_all())),
    ("drop_all_later", || Box::pin(drop_all_later())),
];

/// Runs when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

async fn join() {
    // What is not `Send` stays on the thread.
    let handle = spawn_local(async { Rc::new(41) });
    assert!(!handle.is_finished());
    let value = handle.await.unwrap();
    assert_eq!((*value, Rc::strong_count(&value)), (41, 1));
    // One that is over before it is awaited.
    let early = spawn_local(async { 1 });
    sleep(Duration::from_millis(1)).await;
    assert!(early.is_finished());
    assert_eq!(early.await.unwrap(), 1);
}

async fn panics() {
    for later in [false, true] {
        let handle = spawn_local(async move {
            if later {
                yield_now().await;
            }
            assert!(!later, "said {}", "later");
            panic!("said at once");
        });
        let Err(Error::Panicked(said)) = handle.await else { panic!("no panic") };
        assert!(said.contains(if later { "said later" } else { "said at once" }), "{said}");
    }
    // A panic in the drop of the future is not the result's.
    let handle = spawn_local(async {
        let _bomb = OnDrop(|| panic!("in a drop"));
        yield_now().await;
        7
    });
    assert!(matches!(handle.await, Err(Error::Panicked(_))));
    let handle = spawn_local(async {
        let _bomb = OnDrop(|| panic!("in a drop"));
        pending::<()>().await;
    });
    yield_now().await;
    handle.abort();
    assert!(matches!(handle.await, Err(Error::Cancelled(_))));
    // Nor one in a result that nobody takes.
    spawn_local(async { OnDrop(|| panic!("in a result's drop")) }).detach();
    yield_now().await;
}

async fn abort() {
    let dropped = Rc::new(Cell::new(false));
    let told = Rc::clone(&dropped);
    let handle = spawn_local(async move {
        let _guard = OnDrop(move || told.set(true));
        pending::<()>().await;
    });
    yield_now().await;
    assert!(!dropped.get() && !handle.is_finished());
    handle.abort();
    assert!(matches!(handle.await, Err(Error::Cancelled(_))));
    assert!(dropped.get());
    // Before its first poll, it never runs.
    let ran = Rc::new(Cell::new(false));
    let told = Rc::clone(&ran);
    let handle = spawn_local(async move { told.set(true) });
    handle.abort();
    assert!(handle.await.is_err() && !ran.get());
    // After its end, nothing changes.
    let handle = spawn_local(async { 5 });
    yield_now().await;
    yield_now().await;
    handle.abort();
    assert_eq!(handle.await.unwrap(), 5);
    // One that aborts itself.
    let own: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let inner = Rc::clone(&own);
    let (told, over) = oneshot::channel::<()>();
    *own.borrow_mut() = Some(spawn_local(async move {
        let _told = told;
        inner.borrow().as_ref().unwrap().abort();
        pending::<()>().await;
    }));
    assert!(over.await.is_err());
}

async fn detach() {
    let (told, heard) = oneshot::channel();
    drop(spawn_local(async move {
        sleep(Duration::from_millis(1)).await;
        let _ = told.send(3);
    }));
    assert_eq!(heard.await, Ok(3));
}

async fn across() {
    let (go, wait) = oneshot::channel::<u32>();
    let handle = spawn_local(async move { wait.await.unwrap() + 1 });
    let aborted = spawn_local(pending::<()>());
    let (told, heard) = oneshot::channel();
    let thread = thread::spawn(move || {
        aborted.abort();
        let cancelled = matches!(block_on(aborted), Err(Error::Cancelled(_)));
        go.send(10).unwrap();
        let _ = told.send((cancelled, block_on(handle).unwrap()));
    });
    assert_eq!(heard.await.unwrap(), (true, 11));
    thread.join().unwrap();
}

async fn yields() {
    // Those that yield take turns.
    let order: Rc<RefCell<Vec<u32>>> = Rc::default();
    let tasks = [0, 1].map(|i| {
        let order = Rc::clone(&order);
        spawn_local(async move {
            for _ in 0..3 {
                order.borrow_mut().push(i);
                yield_now().await;
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.borrow(), [0, 1, 0, 1, 0, 1]);
    // And one that yields for ever does not keep the thread from its other work.
    let busy = spawn_local(async {
        loop {
            yield_now().await;
        }
    });
    sleep(Duration::from_millis(5)).await;
    busy.abort();
    assert!(busy.await.is_err());
}

static LEFT: AtomicUsize = AtomicUsize::new(0);

fn less(by: usize) {
    LEFT.fetch_sub(by, Ordering::Relaxed);
}

/// Drops all tasks of the thread, from within one of them, whose drops wake, spawn and abort others.
/// The task that this runs in is one, too: what becomes of it is told by `drop_all_later`.
async fn drop_all() {
    LEFT.store(0, Ordering::Relaxed);
    let waits = |n: usize| {
        LEFT.fetch_add(1, Ordering::Relaxed);
        let (_wake, woken) = oneshot::channel::<()>();
        let victim = spawn_local(pending::<()>());
        spawn_local(async move {
            let (wake, never) = oneshot::channel::<()>();
            let mut wake = Some(wake);
            let waiting = spawn_local(async move { assert!(never.await.is_err()) });
            let _guard = OnDrop(move || {
                less(1);
                drop(wake.take());
                victim.abort();
                LEFT.fetch_add(1, Ordering::Relaxed);
                let guard = OnDrop(|| less(1));
                spawn_local(async move {
                    let _guard = guard;
                    pending::<()>().await;
                })
                .detach();
                if n.is_multiple_of(10) {
                    task::drop_all();
                }
                if n.is_multiple_of(7) {
                    panic!("in a drop");
                }
            });
            let _ = waiting.await;
            pending::<()>().await;
        })
        .detach();
        drop(woken);
    };
    (0..200).for_each(waits);
    yield_now().await;
    task::drop_all();
    // We run, so we are dropped at our next wait.
    LEFT.fetch_add(1000, Ordering::Relaxed);
    let _guard = OnDrop(|| less(1000));
    pending::<()>().await;
}

async fn drop_all_later() {
    assert_eq!(LEFT.load(Ordering::Relaxed), 0);
}
