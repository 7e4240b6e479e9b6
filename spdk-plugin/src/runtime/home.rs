//! What a plugin keeps for one SPDK thread: its run queue, its completion batch and its wakers.
//! Stands on `spdk/thread.h`.
//!
//! State belongs to the SPDK thread and not to the OS thread below it, which changes when the
//! scheduler moves the thread to another core. Every channel, task and poller of ours holds a
//! [`HomeRef`]; the last one to go gives the [`Home`] back for the next thread.
//!
//! ```text
//!                 wake, same thread                    wake, foreign thread
//!                        |                                      |
//!                        v                                      v
//!   poll <-- drain <-- ready (FIFO of Node)  <-- message <-- inbox
//!     |
//!     +-- an I/O that ended in its first poll --> done (FIFO of Link) --> poller: complete
//! ```

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::hint::cold_path;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::task::{Context, Poll};

use spdk_plugin_sys as sys;

use super::drive::wake_driver_of;
use super::inbox::{Inbox, Sent};
use super::queue::{Fifo, Link, Node, PollFn};
use super::sync::lock;
use super::task::Tasks;
use super::thread::put;
use super::time::Timers;
use super::turn;
use super::waker::Slot;
use crate::guard::catch;

/// Polls in one go before the thread's other work gets a turn.
const DRAIN_BUDGET: u32 = 128;

/// Completes the I/O of a whole batch, from the first link on.
pub(crate) type CompleteFn = unsafe fn(*const Link);

/// Where a home's messages go: the thread, and SPDK's number of it.
#[derive(Clone, Copy)]
struct Target {
    thread: *mut sys::spdk_thread,
    id: u64,
}

/// See the module's page.
pub(crate) struct Home {
    /// The thread that this belongs to, null while it is free.
    thread: AtomicPtr<sys::spdk_thread>,
    /// SPDK's number of that thread, which unlike its address no later thread has.
    thread_id: AtomicU64,
    /// The [turn](super::turn) in which it polls, 0 while it does not.
    turn: AtomicU64,
    depth: Cell<u32>,
    /// The last share went inside a callback.
    unused: Cell<bool>,
    ready: Fifo,
    done: Fifo,
    complete: Cell<Option<CompleteFn>>,
    free_slots: Cell<Option<Slot>>,
    users: Cell<u32>,
    batches: Cell<u32>,
    poller: Cell<*mut sys::spdk_poller>,
    drain_queued: Cell<bool>,
    /// Wakes that come from other threads. It is open while the home is in use, which is while something
    /// of ours is registered with the thread: channels, pollers, or what the tasks and the timers have
    /// there. So SPDK does not end the thread while a message is sent to it.
    inbox: Inbox<Slot, Target>,
    /// What the inbox fills, empty between messages.
    woken: Cell<Vec<Slot>>,
    tasks: Tasks,
    timers: Timers,
    _home_thread_only: PhantomData<UnsafeCell<()>>,
}

// SAFETY: other threads reach a `Home` through wakers and strayed pollers alone and touch `thread`,
// `thread_id`, `turn` (atomic) and `inbox` (locked) only. Everything else is used by code that runs on the home
// thread: `HomeRef` is `!Send` and is made on that thread.
unsafe impl Sync for Home {}
// SAFETY: as for `Sync`; a `Home` is only ever shared.
unsafe impl Send for Home {}

static HOMES: Mutex<Vec<&'static Home>> = Mutex::new(Vec::new());

fn current_thread() -> *mut sys::spdk_thread {
    // SAFETY: reads a thread-local of SPDK's.
    unsafe { sys::spdk_get_thread() }
}

impl Home {
    fn new() -> Self {
        Self {
            thread: AtomicPtr::new(ptr::null_mut()),
            thread_id: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            depth: Cell::new(0),
            unused: Cell::new(false),
            ready: Fifo::new(),
            done: Fifo::new(),
            complete: Cell::new(None),
            free_slots: Cell::new(None),
            users: Cell::new(0),
            batches: Cell::new(0),
            poller: Cell::new(ptr::null_mut()),
            drain_queued: Cell::new(false),
            inbox: Inbox::new(),
            woken: Cell::default(),
            tasks: Tasks::new(),
            timers: Timers::new(),
            _home_thread_only: PhantomData,
        }
    }

    pub(crate) fn is_current(&self) -> bool {
        let home = self.thread.load(Ordering::Acquire);
        !home.is_null() && home == current_thread()
    }

    /// Whether it polls the code that asks. If so, it [is current](Self::is_current), which it may also be
    /// otherwise.
    #[inline(always)]
    pub(crate) fn polls(&self) -> bool {
        let now = turn::now();
        now != 0 && self.turn.load(Ordering::Relaxed) == now
    }

    /// Whether it [is current](Self::is_current), asked where [`polls`](Self::polls) did not say so. It may know
    /// the next time.
    pub(crate) fn is_current_after_all(&self) -> bool {
        if turn::now() == 0 {
            turn::begin();
        }
        self.is_current()
    }

    /// The tasks that live here. Home thread only.
    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Who sleeps here. Home thread only.
    pub(super) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Runs `body`, which must not unwind, as a callback of this thread, and polls on the way out
    /// whatever it woke. Callbacks nest: the outermost one polls, so no task is polled inside
    /// another's poll.
    #[inline]
    pub(crate) fn enter<R>(&'static self, body: impl FnOnce() -> R) -> R {
        self.begin();
        let result = body();
        self.end();
        result
    }

    /// The first half of [`enter`](Self::enter).
    #[inline(always)]
    pub(crate) fn begin(&self) {
        self.depth.set(self.depth.get() + 1);
    }

    /// The second half of [`enter`](Self::enter).
    #[inline(always)]
    pub(crate) fn end(&'static self) {
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        if depth == 0 && (self.unused.get() || !self.ready.is_empty()) {
            self.leave();
        }
    }

    /// As [`end`](Self::end), after it has woken the slot's node. If that is all there is to poll, it needs
    /// no place on the queue.
    #[inline(always)]
    pub(crate) fn end_by_waking(&'static self, slot: Slot) {
        let node = slot.node();
        // SAFETY: a node that holds a slot is alive; it gives the slot back before it goes.
        let Some(marks) = (unsafe { node.as_ref() })
            .filter(|_| self.depth.get() == 1 && self.ready.is_empty())
            .and_then(Node::run_at_once)
        else {
            cold_path();
            slot.wake_here();
            return self.end();
        };
        self.turn.store(turn::now(), Ordering::Relaxed);
        // SAFETY: as above; it is marked as running, and the slot is one of ours.
        unsafe { self.poll(node, marks) };
        self.turn.store(0, Ordering::Relaxed);
        if !self.ready.is_empty() {
            cold_path();
            self.queue_drain();
        }
        self.depth.set(0);
        if self.unused.get() {
            cold_path();
            self.leave();
        }
    }

    /// Does what is left to do at the end of the outermost callback.
    #[inline(never)]
    fn leave(&'static self) {
        self.depth.set(1);
        if !self.ready.is_empty() {
            self.turn.store(turn::now(), Ordering::Relaxed);
            self.drain();
            self.turn.store(0, Ordering::Relaxed);
        }
        self.depth.set(0);
        if self.unused.replace(false) && self.users.get() == 0 {
            self.give_back();
        }
    }

    /// Makes the home free for another thread.
    #[cold]
    fn give_back(&self) {
        let _homes = lock(&HOMES);
        self.inbox.close();
        self.drain_queued.set(false);
        self.thread.store(ptr::null_mut(), Ordering::Release);
    }

    #[inline(always)]
    fn drain(&'static self) {
        // What is queued meanwhile waits for the next turn: a task that wakes itself would run on and on.
        let last = self.ready.last();
        for _ in 0..DRAIN_BUDGET {
            let Some(link) = self.ready.pop() else { return };
            let node: *const Node = link.cast();
            // SAFETY: it was queued, so it is alive and waits to be polled.
            unsafe { self.poll(node, (*node).run()) };
            if link == last {
                break;
            }
        }
        if !self.ready.is_empty() {
            self.queue_drain();
        }
    }

    /// Has this thread drain again after its other work. If SPDK has no message to spare, the next
    /// callback on this thread does it.
    #[cold]
    fn queue_drain(&'static self) {
        if self.drain_queued.replace(true) {
            return;
        }
        let this = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the thread is the one we run on, and a `Home` is never freed.
        let rc = unsafe { sys::spdk_thread_send_msg(current_thread(), Some(on_drain), this) };
        if rc != 0 {
            self.drain_queued.set(false);
        }
        wake_driver_of(current_thread());
    }

    /// Polls a node that had these marks.
    ///
    /// # Safety
    /// The node is alive, not queued, marked as running by the caller, and belongs to this home.
    #[inline(always)]
    unsafe fn poll(&'static self, node: *const Node, marks: u64) {
        // SAFETY: alive, says the caller; it stays so until its poll function says that it ended.
        let node_ref = unsafe { &*node };
        let mut cx = Context::from_waker(node_ref.waker());
        // SAFETY: the function is the one that the node's owner set for it.
        match unsafe { node_ref.poll_fn()(node, marks, &mut cx) } {
            Poll::Pending => {
                if node_ref.wait() {
                    cold_path();
                    self.schedule(node_ref);
                }
            }
            // SAFETY: the node's owner named the function.
            Poll::Ready(dispose) => unsafe { dispose(node) },
        }
    }

    /// A node whose wakers find it at `place`, where the caller puts it at once and where it stays until
    /// [`detach`](Self::detach).
    pub(crate) fn attach(&'static self, place: *const Node) -> Node {
        let slot = self.free_slots.get().unwrap_or_else(|| Slot::more(self));
        self.free_slots.set(slot.next_free().get());
        slot.set_node(place);
        Node::new(slot)
    }

    /// No waker finds the node any more.
    pub(crate) fn detach(&self, node: &Node) {
        let slot = node.slot();
        slot.set_node(ptr::null());
        slot.next_free().set(self.free_slots.replace(Some(slot)));
    }

    /// The node had its first poll, and waits for the next one, which is by `poll`.
    pub(crate) fn park(&'static self, node: &Node, poll: PollFn) {
        node.set_poll_fn(poll);
        if node.wait() {
            self.schedule(node);
        }
    }

    /// Has the node polled when the outermost callback returns. The caller runs on the home thread.
    pub(crate) fn schedule(&'static self, node: &Node) {
        if node.wake() {
            // A reference to the node would not do for what the node is part of.
            let whole = node.slot().node();
            // SAFETY: it is alive until its last poll, and says that it was on no queue.
            unsafe { self.ready.push(whole.cast()) };
            if self.depth.get() == 0 {
                self.queue_drain();
            }
        }
    }

    #[cold]
    pub(super) fn wake_remote(&'static self, slot: Slot) {
        let this = ptr::from_ref(self).cast_mut().cast();
        let mut sent_to = ptr::null_mut();
        self.inbox.post(slot, |target| {
            sent_to = target.thread;
            // SAFETY: `on_remote` takes a `Home`, which is never freed.
            match -unsafe { send(target, on_remote, this) } {
                0 => Sent::Yes,
                // 20.07 says the latter when the thread has no room.
                libc::ENOMEM | libc::EIO => Sent::Full,
                _ => Sent::Gone,
            }
        });
        // Not in the inbox's lock: a driver's waker is an executor's, which may be ours.
        if !sent_to.is_null() {
            wake_driver_of(sent_to);
        }
    }

    /// Has `function` called with `ctx` on the home's thread; false when that thread cannot be reached.
    ///
    /// # Safety
    /// That call is sound.
    #[cold]
    pub(crate) unsafe fn call(
        &self,
        function: unsafe extern "C" fn(*mut c_void),
        ctx: *mut c_void,
    ) -> bool {
        // SAFETY: says the caller.
        let send = |target: Target| (target.thread, unsafe { send(target, function, ctx) });
        let Some((thread, 0)) = self.inbox.with_target(send) else { return false };
        wake_driver_of(thread);
        true
    }

    /// Runs `body` on the home's thread, now when we are on it. What belongs there may have come to another
    /// SPDK thread of the same OS thread, through a thread-local or a like place. Without a way home the
    /// body never runs, and what it holds is left to leak.
    ///
    /// # Safety
    /// What `body` holds belongs to that thread, and nothing of it is used here any more.
    pub(crate) unsafe fn run(&'static self, body: impl FnOnce() + 'static) {
        if self.is_current() {
            return body();
        }
        let body: Box<dyn FnOnce()> = Box::new(body);
        let ctx = Box::into_raw(Box::new((self, body)));
        // SAFETY: `on_run` takes the box.
        unsafe { self.call(on_run, ctx.cast()) };
    }

    fn take_remote(&'static self) {
        let mut woken = self.woken.take();
        self.inbox.take(&mut woken, Slot::wake_for_others);
        self.woken.set(woken);
    }

    /// Puts an ended I/O on the batch that the poller completes.
    ///
    /// # Safety
    /// What the link begins may be completed by the function of [`start_batches`](HomeRef::start_batches),
    /// once, and the pointer reaches all of it.
    #[inline]
    pub(crate) unsafe fn push_done(&self, link: *const Link) {
        // SAFETY: says the caller.
        unsafe { self.done.push(link) };
    }

    /// What was pushed and is not yet being completed.
    pub(crate) fn pushed(&self) -> impl Iterator<Item = *const Link> {
        self.done.iter()
    }

    /// Completes what was pushed; false if that is nothing.
    pub(crate) fn complete_batch(&'static self) -> bool {
        if self.done.is_empty() {
            return false;
        }
        let Some(complete) = self.complete.get() else { return false };
        let batch = self.done.take();
        // SAFETY: what is on the batch is alive until it is completed, which is here.
        self.enter(|| unsafe { complete(batch) });
        true
    }
}

/// Sends a home's thread a message, in its inbox's lock. Gives 0 or a negative errno.
///
/// # Safety
/// `function` may be called with `ctx` on that thread.
unsafe fn send(
    target: Target,
    function: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
) -> i32 {
    // SAFETY: says the caller.
    unsafe { put(target.id, function, ctx) }.err().unwrap_or(0)
}

unsafe extern "C" fn on_drain(home: *mut c_void) {
    // SAFETY: `queue_drain` passed a `Home`, which is never freed.
    let home: &'static Home = unsafe { &*home.cast() };
    if home.is_current() {
        home.drain_queued.set(false);
        home.enter(|| ());
    }
}

unsafe extern "C" fn on_run(ctx: *mut c_void) {
    // SAFETY: `Home::run` boxed it, and this is the one call.
    let (home, body) = *unsafe { Box::from_raw(ctx.cast::<(&'static Home, Box<dyn FnOnce()>)>()) };
    home.enter(|| drop(catch("a value that came home", body)));
}

unsafe extern "C" fn on_remote(home: *mut c_void) {
    // SAFETY: `wake_remote` passed a `Home`, which is never freed.
    let home: &'static Home = unsafe { &*home.cast() };
    if home.is_current() {
        home.enter(|| home.take_remote());
    }
}

unsafe extern "C" fn on_poll(home: *mut c_void) -> i32 {
    // SAFETY: `start_batches` passed a `Home`, which is never freed.
    let home: &'static Home = unsafe { &*home.cast() };
    i32::from(home.complete_batch())
}

/// A share in the current thread's [`Home`]. It stays on its thread.
pub(crate) struct HomeRef {
    home: &'static Home,
    _not_send: PhantomData<*const ()>,
}

impl HomeRef {
    /// The home of the current SPDK thread; `None` on a thread that is not SPDK's.
    pub(crate) fn current() -> Option<Self> {
        let thread = current_thread();
        if thread.is_null() {
            return None;
        }
        // SAFETY: the thread that we run on.
        let id = unsafe { sys::spdk_thread_get_id(thread) };
        let mut homes = lock(&HOMES);
        let by_thread = |wanted: *mut sys::spdk_thread| {
            move |home: &&&'static Home| home.thread.load(Ordering::Acquire) == wanted
        };
        let home = match homes.iter().find(by_thread(thread)) {
            Some(home) if home.thread_id.load(Ordering::Relaxed) == id => *home,
            other => {
                if let Some(stale) = other {
                    // An earlier thread exited at this address with tasks left. They never run again,
                    // and the address of the home itself is no thread's.
                    stale.thread.store(ptr::from_ref(*stale).cast_mut().cast(), Ordering::Release);
                    stale.inbox.close();
                }
                let free = homes.iter().find(by_thread(ptr::null_mut())).copied();
                let home = free.unwrap_or_else(|| {
                    let home: &'static Home = Box::leak(Box::new(Home::new()));
                    home.ready.settle();
                    home.done.settle();
                    homes.push(home);
                    home
                });
                home.thread_id.store(id, Ordering::Relaxed);
                home.thread.store(thread, Ordering::Release);
                home.inbox.open(Target { thread, id });
                home
            }
        };
        home.users.set(home.users.get() + 1);
        Some(Self { home, _not_send: PhantomData })
    }

    /// Whether anything else of ours is on the thread.
    pub(crate) fn is_shared(&self) -> bool {
        self.home.users.get() > 1
    }

    /// The home itself, which outlives this share in it.
    pub(crate) fn get(&self) -> &'static Home {
        self.home
    }

    /// Starts the poller that completes what is pushed on the batch by `complete`. False: no memory.
    #[must_use]
    pub(crate) fn start_batches(&self, complete: CompleteFn) -> bool {
        let home = self.home;
        if home.batches.get() == 0 {
            let this = ptr::from_ref(home).cast_mut().cast();
            // SAFETY: a `Home` is never freed, and the poller goes in `stop_batches`.
            let poller = unsafe {
                sys::spdk_poller_register_named(Some(on_poll), this, 0, c"spdk_plugin".as_ptr())
            };
            if poller.is_null() {
                return false;
            }
            home.poller.set(poller);
        }
        home.complete.set(Some(complete));
        home.batches.set(home.batches.get() + 1);
        true
    }

    /// Undoes one [`start_batches`](Self::start_batches).
    pub(crate) fn stop_batches(&self) {
        let home = self.home;
        home.batches.set(home.batches.get() - 1);
        if home.batches.get() == 0 {
            let mut poller = home.poller.replace(ptr::null_mut());
            // SAFETY: the poller is of this thread and registered.
            unsafe { sys::spdk_poller_unregister(&raw mut poller) };
        }
    }
}

impl Clone for HomeRef {
    fn clone(&self) -> Self {
        self.home.users.set(self.home.users.get() + 1);
        Self { home: self.home, _not_send: PhantomData }
    }
}

impl Deref for HomeRef {
    type Target = Home;

    fn deref(&self) -> &Home {
        self.home
    }
}

impl Drop for HomeRef {
    fn drop(&mut self) {
        let home = self.home;
        home.users.set(home.users.get() - 1);
        if home.users.get() > 0 {
            return;
        }
        // Inside a callback the home is still in use; `leave` gives it back.
        match home.depth.get() {
            0 => home.give_back(),
            _ => home.unused.set(true),
        }
    }
}
