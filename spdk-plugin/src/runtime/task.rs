//! Tasks: futures that an SPDK thread runs by itself. Stands on `spdk/thread.h`.
//!
//! ```text
//!   spawn --> WAITING --- poll ---> POLLING --- pending ---> WAITING
//!                |                     |
//!                |                     +-- ready, panicked, aborted --> OVER --> freed
//!                +-- drop_all --> OVER --> the next poll frees it
//! ```
//! All tasks of a thread are on one list, so that they can be dropped, with what they own, before the
//! thread ends. While there are any, a poller of ours keeps SPDK from ending the thread: a waker that
//! another thread holds has somebody to send to.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::env;
use super::home::HomeRef;
use super::join::{Finish, JoinHandle, pair};
use super::queue::{DisposeFn, Node};
use super::thread::is_down;
use super::time::ticks_of;
use crate::error::{Error, Result};
use crate::guard::{catch_message, drop_caught};

/// How often a thread with tasks looks whether it is to exit.
const LOOK: Duration = Duration::from_millis(50);
/// What tasks have from the moment that SPDK stops the bdev layer.
const GRACE: Duration = Duration::from_secs(5);
/// Tasks whose drop spawns tasks whose drop spawns tasks: some time it has to end.
const MOST_ROUNDS: u32 = 64;

/// The part of a task that does not depend on its future. The node comes first, so that the run
/// queue's pointer is the task's.
#[repr(C)]
struct Head {
    node: Node,
    state: Cell<State>,
    /// To be dropped after the poll that it is in.
    doomed: Cell<bool>,
    /// The round of `drop_all` in or after which it was spawned.
    born: Cell<u64>,
    prev: Cell<*const Head>,
    next: Cell<*const Head>,
    cancel: unsafe fn(*const Head),
    home: HomeRef,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Polling,
    Over,
}

#[repr(C)]
struct Task<F: Future> {
    head: Head,
    what: &'static str,
    /// What only polls, and the end that keeps polls away, touch.
    finish: RefCell<Option<Finish<F::Output>>>,
    future: RefCell<Option<F>>,
}

/// The tasks of one thread.
pub(super) struct Tasks {
    first: Cell<*const Head>,
    last: Cell<*const Head>,
    /// Also those that are over and wait to be freed.
    alive: Cell<usize>,
    round: Cell<u64>,
    anchor: Cell<Option<Anchor>>,
}

/// A poller that is there while there are tasks.
struct Anchor {
    poller: *mut sys::spdk_poller,
    _home: HomeRef,
}

/// When tasks that are left are dropped because SPDK stops the bdev layer, in ticks; 0: it does not.
static STOP_AT: AtomicU64 = AtomicU64::new(0);

/// Runs a future on the current SPDK thread, by itself.
///
/// It is polled for the first time when the callback that we are in returns. A panic ends it, goes to
/// SPDK's log and is what the handle resolves to. A task that is left when its thread ends is dropped
/// there; one that waits for longer than 5 s after SPDK began to stop its bdevs is, too, as it may hold
/// what they wait for.
///
/// SPDK's scheduler, where it is switched on, moves SPDK threads between cores. So a future must not
/// share with the tasks of another SPDK thread, by a `thread_local!` of their OS thread, what is not
/// `Send`: the compiler cannot see that.
///
/// # Panics
/// When the current thread is not one of SPDK's.
pub fn spawn_local<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    let Some(home) = HomeRef::current() else {
        panic!("spawn_local was called on a thread that is not one of SPDK's")
    };
    spawn_joined(home, "a task", future)
}

/// Drops all tasks of the current SPDK thread, with what they own, and wakes whoever awaits them. One
/// that runs just now is dropped when its poll returns. Sleeps of the thread that other executors wait for
/// end.
///
/// An app that ends calls it on each thread before SPDK stops its subsystems: a bdev stays until the
/// last task that has it open is gone.
pub fn drop_all() {
    let Some(share) = HomeRef::current() else { return };
    let home = share.get();
    home.enter(|| {
        home.tasks().drop_all();
        home.timers().end_all();
    });
    // Inside a callback they are not freed yet, and what keeps the thread goes later.
    home.tasks().release_unless_used();
}

/// SPDK stops the bdev layer: what tasks hold open is not awaited for ever.
pub(crate) fn bdevs_stop() {
    if env::is_ours() {
        // Threads, and what is on them, are the program's own affair.
        return;
    }
    // SAFETY: reads the time.
    let now = unsafe { sys::spdk_get_ticks() };
    let _ = STOP_AT.compare_exchange(
        0,
        now.saturating_add(ticks_of(GRACE)).max(1),
        Ordering::Release,
        Ordering::Relaxed,
    );
}

/// As [`spawn_local`], for a future whose result nobody wants. A panic is logged as one of `what`.
pub(crate) fn spawn<F>(home: HomeRef, what: &'static str, future: F)
where
    F: Future<Output = ()> + 'static,
{
    spawn_with(home, what, future, None);
}

/// As [`spawn_local`], on the home's thread, which is the current one.
pub(crate) fn spawn_joined<F>(home: HomeRef, what: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let (finish, handle) = pair(what);
    spawn_with(home, what, future, Some(finish));
    handle
}

/// As [`spawn_joined`], for whoever has made the handle before.
pub(crate) fn spawn_with<F>(
    home: HomeRef,
    what: &'static str,
    future: F,
    finish: Option<Finish<F::Output>>,
) where
    F: Future + 'static,
{
    let queue = home.get();
    if let Err(error) = queue.tasks().hold(&home) {
        log::error!("{what} is not run: {error}");
        drop_caught(what, future);
        if let Some(finish) = finish {
            finish.finish(Err(error));
        }
        return;
    }
    let task = Box::into_raw(Box::<Task<F>>::new_uninit()).cast::<Task<F>>();
    // References to the node reach no further; `of` makes the pointer to all of it anew.
    task.expose_provenance();
    let node = queue.attach(task.cast());
    if let Some(finish) = &finish {
        finish.started(node.waker());
    }
    let head = Head {
        node,
        state: Cell::new(State::Waiting),
        doomed: Cell::new(false),
        born: Cell::new(0),
        prev: Cell::new(ptr::null()),
        next: Cell::new(ptr::null()),
        cancel: cancel::<F>,
        home,
    };
    let (finish, future) = (RefCell::new(finish), RefCell::new(Some(future)));
    // SAFETY: the box has room for a task, which `dispose` frees after its last poll.
    let head = unsafe {
        task.write(Task { head, what, finish, future });
        &(*task).head
    };
    queue.tasks().push(head);
    queue.park(&head.node, poll::<F>);
    queue.schedule(&head.node);
}

/// The task that begins at `start`.
///
/// # Safety
/// There is one, of this type, and it is not freed while the reference is used.
unsafe fn of<'a, F: Future>(start: *const ()) -> &'a Task<F> {
    // SAFETY: says the caller; `spawn_with` has exposed the box. Nobody holds a `&mut` to any of it.
    unsafe { &*ptr::with_exposed_provenance(start.addr()) }
}

unsafe fn poll<F: Future>(node: *const Node, cx: &mut Context<'_>) -> Poll<DisposeFn> {
    // SAFETY: the node is the first field of a task that `spawn_with` made.
    let task = unsafe { of::<F>(node.cast()) };
    if task.head.state.get() == State::Waiting {
        if task.is_aborted() {
            task.head.state.set(State::Polling);
            task.end(None);
        } else if task.poll(cx).is_pending() {
            return Poll::Pending;
        }
    }
    Poll::Ready(dispose::<F>)
}

impl<F: Future> Task<F> {
    fn is_aborted(&self) -> bool {
        self.finish.borrow().as_ref().is_some_and(Finish::is_aborted)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.head.state.set(State::Polling);
        let polled = catch_message(self.what, || match &mut *self.future.borrow_mut() {
            // SAFETY: the future lies in the task's box and is dropped in place.
            Some(future) => unsafe { Pin::new_unchecked(future) }.poll(cx).map(Some),
            None => Poll::Ready(None),
        });
        match polled {
            Ok(Poll::Pending) if !self.head.doomed.get() => {
                self.head.state.set(State::Waiting);
                return Poll::Pending;
            }
            Ok(Poll::Pending) => self.end(None),
            Ok(Poll::Ready(output)) => self.end(output.map(Ok)),
            Err(message) => {
                self.end(Some(Err(Error::Panicked(format!("{}: {message}", self.what)))));
            }
        }
        Poll::Ready(())
    }

    /// Drops the future where it lies and gives the handle its result; `None`: it was cancelled. The
    /// task is in its last poll, or kept from being polled.
    fn end(&self, result: Option<Result<F::Output>>) {
        self.head.home.get().tasks().remove(&self.head);
        // What is dropped may panic, and waking the handle's owner may. The log has it.
        let _ = catch_message(self.what, || {
            let mut future = self.future.borrow_mut();
            // SAFETY: as in `poll`; `set` drops it in place.
            unsafe { Pin::new_unchecked(&mut *future) }.set(None);
        });
        let finish = self.finish.take();
        let _ = catch_message(self.what, move || match (finish, result) {
            (Some(finish), Some(result)) => finish.finish(result),
            (finish, result) => drop((finish, result)),
        });
        self.head.state.set(State::Over);
    }
}

/// # Safety
/// The head is that of a task that waits, inside a callback, so that its next poll comes later.
unsafe fn cancel<F: Future>(head: *const Head) {
    // SAFETY: says the caller; the poll that is asked for frees it.
    let task = unsafe { of::<F>(head.cast()) };
    task.head.state.set(State::Polling);
    task.end(None);
    task.head.home.get().schedule(&task.head.node);
}

unsafe fn dispose<F: Future>(node: *const Node) {
    // SAFETY: the node is that of a task whose last poll is over.
    let task = unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<Task<F>>(node.addr())) };
    let Task { head: Head { node, home, .. }, .. } = *task;
    home.detach(&node);
    let tasks = home.tasks();
    tasks.alive.set(tasks.alive.get() - 1);
}

impl Tasks {
    pub(super) const fn new() -> Self {
        Self {
            first: Cell::new(ptr::null()),
            last: Cell::new(ptr::null()),
            alive: Cell::new(0),
            round: Cell::new(0),
            anchor: Cell::new(None),
        }
    }

    /// Keeps the thread from ending before its tasks.
    fn hold(&self, home: &HomeRef) -> Result<()> {
        if let Some(anchor) = self.anchor.take() {
            self.anchor.set(Some(anchor));
            return Ok(());
        }
        let (ctx, micros) = (ptr::null_mut(), LOOK.as_micros() as u64);
        // SAFETY: the function needs no context, and the poller goes in `release_unless_used`.
        let poller = unsafe {
            sys::spdk_poller_register_named(Some(on_anchor), ctx, micros, c"spdk_tasks".as_ptr())
        };
        if poller.is_null() {
            return Err(Error::NoMemory("a poller".into()));
        }
        self.anchor.set(Some(Anchor { poller, _home: home.clone() }));
        Ok(())
    }

    fn release_unless_used(&self) {
        if self.alive.get() > 0 {
            return;
        }
        if let Some(mut anchor) = self.anchor.take() {
            // SAFETY: registered by `hold` on this thread.
            unsafe { sys::spdk_poller_unregister(&raw mut anchor.poller) };
        }
    }

    fn push(&self, head: &Head) {
        self.alive.set(self.alive.get() + 1);
        head.born.set(self.round.get());
        let last = self.last.replace(head);
        head.prev.set(last);
        // SAFETY: what is listed is alive: it leaves the list in its end, before it is freed.
        match unsafe { last.as_ref() } {
            Some(last) => last.next.set(head),
            None => self.first.set(head),
        }
    }

    fn remove(&self, head: &Head) {
        let (prev, next) = (head.prev.get(), head.next.get());
        // SAFETY: as in `push`.
        match unsafe { prev.as_ref() } {
            Some(prev) => prev.next.set(next),
            None => self.first.set(next),
        }
        // SAFETY: as in `push`.
        match unsafe { next.as_ref() } {
            Some(next) => next.prev.set(prev),
            None => self.last.set(prev),
        }
    }

    /// See [`drop_all`]. Inside a callback.
    fn drop_all(&self) {
        for _ in 0..MOST_ROUNDS {
            self.round.set(self.round.get() + 1);
            let mut any = false;
            while let Some(head) = self.next_to_drop() {
                any = true;
                // SAFETY: listed and waiting, and we are inside a callback, says the caller.
                unsafe { ((*head).cancel)(head) };
            }
            if !any {
                return;
            }
        }
        log::error!("dropped tasks spawn tasks again and again: those that are left stay");
    }

    /// A task that waits and was there when the round began. What a drop does to the list does no harm:
    /// each search starts anew.
    fn next_to_drop(&self) -> Option<*const Head> {
        let mut at = self.first.get();
        // SAFETY: as in `push`.
        while let Some(head) = unsafe { at.as_ref() } {
            if head.born.get() == self.round.get() {
                return None;
            }
            if head.state.get() == State::Waiting {
                return Some(at);
            }
            head.doomed.set(true);
            at = head.next.get();
        }
        None
    }
}

unsafe extern "C" fn on_anchor(_: *mut c_void) -> i32 {
    // The home of the anchor, which may go here.
    let Some(share) = HomeRef::current() else { return 0 };
    if is_ending() {
        drop_all();
    }
    share.tasks().release_unless_used();
    0
}

/// Whether the current thread is about to exit, or those who wait for its tasks are to wait no longer.
fn is_ending() -> bool {
    let stop_at = STOP_AT.load(Ordering::Acquire);
    // SAFETY: both read what SPDK keeps, on one of its threads.
    let (exiting, now) = unsafe { (sys::spdkp_thread_is_exiting(), sys::spdk_get_ticks()) };
    exiting || is_down() || (stop_at != 0 && now >= stop_at)
}

/// Lets the other tasks of the thread, and its other work, have their turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
