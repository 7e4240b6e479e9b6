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

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::hint::cold_path;
use std::mem::{ManuallyDrop, offset_of};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use spdk_plugin_sys as sys;

use super::env;
use super::home::HomeRef;
use super::join::{Finish, JoinHandle, pair};
use super::queue::{ASKED, DisposeFn, Node, OWNERS, RUNNING};
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

/// The part of a task that does not depend on its future. What each poll touches comes last, next to the future.
#[repr(C)]
struct Head {
    /// What each poll touches begins with a cache line.
    _line: u64,
    what: &'static str,
    /// The round of `drop_all` in or after which it was spawned.
    born: Cell<u64>,
    prev: Cell<*const Head>,
    next: Cell<*const Head>,
    cancel: unsafe fn(*const Head),
    home: HomeRef,
    /// It is polled while it has the node's mark [`RUNNING`], and over when it has [`OVER`].
    node: Node,
}

/// To be dropped after the poll that it is in.
const DOOMED: u64 = OWNERS;
/// Its future is gone or going.
const OVER: u64 = OWNERS << 1;

#[repr(C, align(64))]
struct Task<F: Future> {
    head: Head,
    /// Its poll has it, which is not nested, or the end, which comes once and keeps polls away.
    future: UnsafeCell<ManuallyDrop<F>>,
    finish: RefCell<Option<Finish<F::Output>>>,
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
    // References to the head reach no further; `of` makes the pointer to all of it anew.
    task.expose_provenance();
    // SAFETY: a place in the box.
    let node = queue.attach(unsafe { &raw const (*task).head.node });
    if let Some(finish) = &finish {
        finish.started(node.asking_waker());
        // It may have been aborted before that.
        node.ask();
    }
    let head = Head {
        _line: 0,
        what,
        born: Cell::new(0),
        prev: Cell::new(ptr::null()),
        next: Cell::new(ptr::null()),
        cancel: cancel::<F>,
        home,
        node,
    };
    let (finish, future) = (RefCell::new(finish), UnsafeCell::new(ManuallyDrop::new(future)));
    // SAFETY: the box has room for a task, which `dispose` frees after its last poll.
    let head = unsafe {
        task.write(Task { head, future, finish });
        &(*task).head
    };
    queue.tasks().push(head);
    queue.park(&head.node, poll::<F>);
    queue.schedule(&head.node);
}

/// The task whose head is at `head`.
///
/// # Safety
/// There is one, of this type, and it is not freed while the reference is used.
#[inline]
unsafe fn of<'a, F: Future>(head: *const Head) -> &'a Task<F> {
    // SAFETY: says the caller; the head comes first, and `spawn_with` has exposed the box. Nobody holds a
    // `&mut` to any of it but its future.
    unsafe { &*ptr::with_exposed_provenance(head.addr()) }
}

/// The head of a node.
#[inline]
fn head_of(node: *const Node) -> *const Head {
    node.wrapping_byte_sub(offset_of!(Head, node)).cast()
}

unsafe fn poll<F: Future>(node: *const Node, marks: u64, cx: &mut Context<'_>) -> Poll<DisposeFn> {
    // SAFETY: the node is that of a task that `spawn_with` made, which is not over. All of these.
    let task = || unsafe { of::<F>(head_of(node)) };
    if marks & (ASKED | OVER) != 0 {
        cold_path();
        if task().ends_now() {
            return Poll::Ready(dispose::<F>);
        }
    }
    let polled = catch_message(
        || task().head.what,
        || {
            // SAFETY: the future lies in the task's box and is dropped in place, not before its end. Polls of
            // a node are not nested.
            unsafe { Pin::new_unchecked(&mut **task().future.get()) }.poll(cx)
        },
    );
    match polled {
        Ok(Poll::Pending) if task().head.node.marks() & DOOMED == 0 => return Poll::Pending,
        Ok(Poll::Pending) => task().end(None),
        Ok(Poll::Ready(output)) => task().end(Some(Ok(output))),
        Err(message) => {
            let what = task().head.what;
            task().end(Some(Err(Error::Panicked(format!("{what}: {message}")))));
        }
    }
    Poll::Ready(dispose::<F>)
}

impl<F: Future> Task<F> {
    /// Whether there is nothing to poll. Ends it first if it was aborted.
    #[cold]
    fn ends_now(&self) -> bool {
        if self.head.has(OVER) {
            return true;
        }
        self.head.node.set_marks(self.head.node.marks() & !ASKED);
        // Who aborts does so before the wake that leaves the mark.
        let aborted = self.finish.borrow().as_ref().is_some_and(Finish::is_aborted);
        if aborted {
            self.end(None);
        }
        aborted
    }

    /// Drops the future where it lies and gives the handle its result; `None`: it was cancelled. The
    /// task is in its last poll, or kept from being polled.
    #[cold]
    fn end(&self, result: Option<Result<F::Output>>) {
        let Head { what, home, node, .. } = &self.head;
        node.set_marks(node.marks() | OVER);
        home.get().tasks().remove(&self.head);
        // What is dropped may panic, and waking the handle's owner may. The log has it.
        // SAFETY: it is dropped where it lies, this once, and the mark keeps polls away.
        let _ = catch_message(|| what, || unsafe { ManuallyDrop::drop(&mut *self.future.get()) });
        let finish = self.finish.take();
        let _ = catch_message(
            || what,
            move || match (finish, result) {
                (Some(finish), Some(result)) => finish.finish(result),
                (finish, result) => drop((finish, result)),
            },
        );
    }
}

/// # Safety
/// The head is that of a task that waits, inside a callback, so that its next poll comes later.
unsafe fn cancel<F: Future>(head: *const Head) {
    // SAFETY: says the caller; the poll that is asked for frees it.
    let task = unsafe { of::<F>(head) };
    task.end(None);
    task.head.home.get().schedule(&task.head.node);
}

unsafe fn dispose<F: Future>(node: *const Node) {
    let task = ptr::with_exposed_provenance_mut::<Task<F>>(head_of(node).addr());
    // SAFETY: the node is that of a task whose last poll is over.
    let Task { head: Head { node, home, .. }, .. } = *unsafe { Box::from_raw(task) };
    home.detach(&node);
    let tasks = home.tasks();
    tasks.alive.set(tasks.alive.get() - 1);
}

impl Head {
    fn has(&self, mark: u64) -> bool {
        self.node.marks() & mark != 0
    }
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
            if !head.has(RUNNING) {
                return Some(at);
            }
            head.node.set_marks(head.node.marks() | DOOMED);
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
