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
//!   poll <-- drain <-- ready (FIFO of Node)  <-- message <-- remote.woken
//!     |
//!     +-- an I/O that ended in its first poll --> done (FIFO of Link) --> poller: complete
//! ```

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use spdk_plugin_sys as sys;

use super::task::Tasks;
use super::thread::send_away;
use super::time::Timers;

/// Polls in one go before the thread's other work gets a turn.
const DRAIN_BUDGET: u32 = 128;

/// What a queue goes through. It lies at the start of what is queued.
#[repr(C)]
pub(crate) struct Link {
    next: Cell<*const Link>,
}

impl Link {
    #[inline]
    pub(crate) fn new() -> Self {
        Self { next: Cell::new(ptr::null()) }
    }
}

/// The schedulable part of a task or of an I/O request. It lies at the start of either.
#[repr(C)]
pub(crate) struct Node {
    link: Link,
    /// What is needed to poll it again: set before it is first queued.
    rest: Cell<*const Rest>,
    flags: Cell<u8>,
}

/// The part of a node that one which ends in its first poll never touches.
pub(crate) struct Rest {
    poll: PollFn,
    slot: &'static Slot,
}

/// Polls what the node belongs to. `Ready`: it has ended, and the function disposes of the node once
/// no waker reaches it any more.
pub(crate) type PollFn = unsafe fn(*const Node, &mut Context<'_>) -> Poll<DisposeFn>;
/// Ends a node's life, be it by completing an I/O or by freeing a task.
pub(crate) type DisposeFn = unsafe fn(*const Node);
/// Completes an I/O that is on the batch.
pub(crate) type CompleteFn = unsafe fn(*const Link);

const RUNNING: u8 = 1;
const QUEUED: u8 = 2;
const WOKEN: u8 = 4;

impl Node {
    /// A node that is about to be polled for the first time, by [`Home::poll_first`].
    #[inline]
    pub(crate) fn new() -> Self {
        Self { link: Link::new(), rest: Cell::new(ptr::null()), flags: Cell::new(RUNNING) }
    }
}

/// A singly linked FIFO.
struct Fifo {
    head: Cell<*const Link>,
    tail: Cell<*const Link>,
}

impl Fifo {
    const fn new() -> Self {
        Self { head: Cell::new(ptr::null()), tail: Cell::new(ptr::null()) }
    }

    #[inline]
    fn push(&self, link: &Link) {
        link.next.set(ptr::null());
        let last = self.tail.replace(link);
        if last.is_null() {
            self.head.set(link);
        } else {
            // SAFETY: what is queued is alive until it was popped: its owner frees it only after
            // its last poll, or its completion, and what is queued has not had that.
            unsafe { (*last).next.set(link) };
        }
    }

    #[inline]
    fn pop(&self) -> Option<*const Link> {
        let link = self.head.get();
        if link.is_null() {
            return None;
        }
        // SAFETY: as in `push`: whatever is queued is alive.
        let next = unsafe { (*link).next.get() };
        self.head.set(next);
        if next.is_null() {
            self.tail.set(ptr::null());
        }
        Some(link)
    }

    fn take(&self) -> Self {
        Self {
            head: Cell::new(self.head.replace(ptr::null())),
            tail: Cell::new(self.tail.replace(ptr::null())),
        }
    }

    fn is_empty(&self) -> bool {
        self.head.get().is_null()
    }
}

/// What a [`Waker`] of ours points at. Slots are never freed, only used again: a waker that outlives
/// its task points at a live slot and at worst polls somebody once for nothing, which every future
/// must bear. So cloning and dropping a waker costs nothing and needs no count.
struct Slot {
    home: &'static Home,
    /// The node that holds the slot, null while it is free. Home thread only.
    node: Cell<*const Node>,
    next_free: Cell<Option<&'static Slot>>,
    /// Whether the slot is in `Remote::woken`.
    remote: AtomicBool,
}

// SAFETY: foreign threads touch `home` and `remote` alone, which are made for it; the cells belong
// to the home thread.
unsafe impl Sync for Slot {}
// SAFETY: a shared reference to a `Sync` slot may go anywhere; slots are never owned.
unsafe impl Send for Slot {}

/// Wakes that came from other threads.
#[derive(Default)]
struct Remote {
    woken: Vec<&'static Slot>,
    /// A message that will look at `woken` is on its way.
    announced: bool,
}

impl Remote {
    /// Drops wakes that nobody is there to look at.
    fn forget(&mut self) {
        for slot in self.woken.drain(..) {
            slot.remote.store(false, Ordering::Release);
        }
    }
}

/// See the module's page.
pub(crate) struct Home {
    /// The thread that this belongs to, null while it is free.
    thread: AtomicPtr<sys::spdk_thread>,
    /// SPDK's number of that thread, which unlike its address no later thread has.
    thread_id: AtomicU64,
    depth: Cell<u32>,
    ready: Fifo,
    done: Fifo,
    complete: Cell<Option<CompleteFn>>,
    free_slots: Cell<Option<&'static Slot>>,
    /// The slot of first polls, which most often are also the last.
    spare: Cell<Option<&'static Slot>>,
    users: Cell<u32>,
    batches: Cell<u32>,
    poller: Cell<*mut sys::spdk_poller>,
    drain_queued: Cell<bool>,
    remote: Mutex<Remote>,
    tasks: Tasks,
    timers: Timers,
    _home_thread_only: PhantomData<UnsafeCell<()>>,
}

// SAFETY: other threads reach a `Home` through wakers and strayed pollers alone and touch `thread`,
// `thread_id` (atomic) and `remote` (locked) only. Everything else is used by code that runs on the home thread: `HomeRef` is `!Send`
// and is made on that thread.
unsafe impl Sync for Home {}
// SAFETY: as for `Sync`; a `Home` is only ever shared.
unsafe impl Send for Home {}

static HOMES: Mutex<Vec<&'static Home>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks, so what a poisoned one guards is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn current_thread() -> *mut sys::spdk_thread {
    // SAFETY: reads a thread-local of SPDK's.
    unsafe { sys::spdk_get_thread() }
}

impl Home {
    fn new() -> Self {
        Self {
            thread: AtomicPtr::new(ptr::null_mut()),
            thread_id: AtomicU64::new(0),
            depth: Cell::new(0),
            ready: Fifo::new(),
            done: Fifo::new(),
            complete: Cell::new(None),
            free_slots: Cell::new(None),
            spare: Cell::new(None),
            users: Cell::new(0),
            batches: Cell::new(0),
            poller: Cell::new(ptr::null_mut()),
            drain_queued: Cell::new(false),
            remote: Mutex::default(),
            tasks: Tasks::new(),
            timers: Timers::new(),
            _home_thread_only: PhantomData,
        }
    }

    pub(crate) fn is_current(&self) -> bool {
        let home = self.thread.load(Ordering::Acquire);
        !home.is_null() && home == current_thread()
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
        self.depth.set(self.depth.get() + 1);
        let result = body();
        if self.depth.get() == 1 && !self.ready.is_empty() {
            self.drain();
        }
        self.depth.set(self.depth.get() - 1);
        if self.depth.get() == 0 && self.users.get() == 0 {
            self.give_back();
        }
        result
    }

    /// Makes the home free for another thread.
    #[cold]
    fn give_back(&self) {
        let _homes = lock(&HOMES);
        let mut remote = lock(&self.remote);
        remote.forget();
        remote.announced = false;
        self.drain_queued.set(false);
        self.thread.store(ptr::null_mut(), Ordering::Release);
    }

    #[cold]
    fn drain(&'static self) {
        // What is queued meanwhile waits for the next turn: a task that wakes itself would run on and on.
        let last = self.ready.tail.get();
        for _ in 0..DRAIN_BUDGET {
            let Some(link) = self.ready.pop() else { return };
            let node = link.cast::<Node>();
            // SAFETY: it was queued, so it is alive and waits to be polled.
            unsafe {
                (*node).flags.set((*node).flags.get() & !QUEUED);
                self.poll(node);
            }
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
    }

    /// Polls a node that was queued.
    ///
    /// # Safety
    /// The node is alive, not queued, not running, and belongs to this home; `rest` is set.
    unsafe fn poll(&'static self, node: *const Node) {
        // SAFETY: alive, says the caller; it stays so until its poll function says that it ended.
        let (node_ref, rest) = unsafe { (&*node, &*(*node).rest.get()) };
        node_ref.flags.set(RUNNING);
        let waker = rest.slot.waker();
        // SAFETY: the function is the one that the node's owner set for it.
        let polled = unsafe { (rest.poll)(node, &mut Context::from_waker(&waker)) };
        if let Poll::Ready(dispose) = polled {
            self.release(rest.slot);
            // SAFETY: the node's owner named the function, and no waker finds the node any more.
            return unsafe { dispose(node) };
        }
        self.polled(node_ref);
    }

    /// Polls a new node by `poll`; when it has to wait, `keep` puts what is needed to go on into its
    /// place in the node's owner. `Ready`: it has ended, and no waker finds it any more.
    ///
    /// # Safety
    /// The node is new, belongs to this home and stays alive until it has ended; what `keep` returns
    /// stays where it is as long.
    #[inline]
    pub(crate) unsafe fn poll_first<R>(
        &'static self,
        node: &Node,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<R>,
        keep: impl FnOnce(Rest) -> *const Rest,
        then: PollFn,
    ) -> Poll<R> {
        let slot = match self.spare.get() {
            Some(spare) if spare.node.get().is_null() => spare,
            _ => self.another_slot(),
        };
        slot.node.set(node);
        let waker = slot.waker();
        let polled = poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            if self.is_spare(slot) {
                self.spare.set(None);
            }
            node.rest.set(keep(Rest { poll: then, slot }));
            self.polled(node);
        } else if self.is_spare(slot) {
            slot.node.set(ptr::null());
        } else {
            self.release(slot);
        }
        polled
    }

    #[inline]
    fn is_spare(&self, slot: &'static Slot) -> bool {
        self.spare.get().is_some_and(|spare| ptr::eq(spare, slot))
    }

    /// A slot for a first poll when the spare one is gone, which it then becomes, or in use by a first
    /// poll that we are inside of.
    #[cold]
    fn another_slot(&'static self) -> &'static Slot {
        let slot = self.free_slots.get().unwrap_or_else(|| self.more_slots());
        self.free_slots.set(slot.next_free.get());
        if self.spare.get().is_none() {
            self.spare.set(Some(slot));
        }
        slot
    }

    /// The node has been polled and waits.
    #[inline]
    fn polled(&'static self, node: &Node) {
        let woken = node.flags.replace(0) & WOKEN != 0;
        if woken {
            self.schedule(node);
        }
    }

    #[inline]
    fn release(&self, slot: &'static Slot) {
        slot.node.set(ptr::null());
        slot.next_free.set(self.free_slots.replace(Some(slot)));
    }

    #[cold]
    fn more_slots(&'static self) -> &'static Slot {
        let slots: Vec<Slot> = (0..64)
            .map(|_| Slot {
                home: self,
                node: Cell::new(ptr::null()),
                next_free: Cell::new(None),
                remote: AtomicBool::new(false),
            })
            .collect();
        let slots: &'static [Slot] = slots.leak();
        for pair in slots.windows(2) {
            pair[0].next_free.set(Some(&pair[1]));
        }
        &slots[0]
    }

    /// Has the node polled when the outermost callback returns. The caller runs on the home thread.
    pub(crate) fn schedule(&'static self, node: &Node) {
        let flags = node.flags.get();
        if flags & RUNNING != 0 {
            node.flags.set(flags | WOKEN);
        } else if flags & QUEUED == 0 {
            node.flags.set(flags | QUEUED);
            self.ready.push(&node.link);
            if self.depth.get() == 0 {
                self.queue_drain();
            }
        }
    }

    #[cold]
    fn wake_remote(&'static self, slot: &'static Slot) {
        if slot.remote.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut remote = lock(&self.remote);
        remote.woken.push(slot);
        while !remote.announced && !remote.woken.is_empty() {
            let this = ptr::from_ref(self).cast_mut().cast();
            // SAFETY: `on_remote` takes a `Home`, which is never freed.
            match unsafe { self.send(&remote, on_remote, this) } {
                0 => remote.announced = true,
                rc if rc == -libc::ENOMEM => {
                    // Messages are a finite pool that the threads refill by running.
                    drop(remote);
                    std::thread::yield_now();
                    remote = lock(&self.remote);
                }
                // The thread has gone, and with it whoever waited.
                _ => remote.forget(),
            }
        }
    }

    /// Sends the home's thread a message from another thread. Gives 0 or a negative errno.
    ///
    /// # Safety
    /// `function` may be called with `ctx` on the home's thread.
    unsafe fn send(
        &self,
        _remote: &MutexGuard<'_, Remote>,
        function: unsafe extern "C" fn(*mut c_void),
        ctx: *mut c_void,
    ) -> i32 {
        let thread = self.thread.load(Ordering::Acquire);
        let id = self.thread_id.load(Ordering::Relaxed);
        // SAFETY: asks SPDK's list of threads, which a thread leaves when it is freed.
        let listed = unsafe { sys::spdk_thread_get_by_id(id) };
        // A task does not keep its thread from exiting.
        // SAFETY: a thread that exits is freed by its reactor a turn later, if at all.
        if thread.is_null() || listed != thread || unsafe { sys::spdk_thread_is_exited(thread) } {
            return -libc::ESRCH;
        }
        // SAFETY: as just seen. A home that is in use is given back under the lock that the caller holds.
        unsafe { send_away(thread, function, ctx) }
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
        unsafe { self.send(&lock(&self.remote), function, ctx) == 0 }
    }

    fn take_remote(&'static self) {
        let woken = {
            let mut remote = lock(&self.remote);
            remote.announced = false;
            std::mem::take(&mut remote.woken)
        };
        for slot in woken {
            // A swap and not a store, so that what the waking thread wrote before is seen by the poll.
            slot.remote.swap(false, Ordering::AcqRel);
            let node = slot.node.get();
            if !node.is_null() {
                // SAFETY: a node that holds a slot is alive; it gives the slot back when it ends.
                self.schedule(unsafe { &*node });
            }
        }
    }

    /// Puts an ended I/O on the batch that the poller completes.
    #[inline]
    pub(crate) fn push_done(&self, link: &Link) {
        self.done.push(link);
    }

    fn complete_batch(&'static self) -> bool {
        if self.done.is_empty() {
            return false;
        }
        let Some(complete) = self.complete.get() else { return false };
        let batch = self.done.take();
        self.enter(|| {
            while let Some(link) = batch.pop() {
                // SAFETY: what is on the batch is alive until it is completed, which is here.
                unsafe { complete(link) };
            }
        });
        true
    }
}

unsafe extern "C" fn on_drain(home: *mut c_void) {
    // SAFETY: `queue_drain` passed a `Home`, which is never freed.
    let home: &'static Home = unsafe { &*home.cast() };
    if home.is_current() {
        home.drain_queued.set(false);
        home.enter(|| ());
    }
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

impl Slot {
    fn waker(&'static self) -> Waker {
        // SAFETY: the table's functions keep `RawWaker`'s contract: the data is a slot, which is
        // never freed, and they are safe to call from any thread.
        unsafe { Waker::from_raw(RawWaker::new(ptr::from_ref(self).cast(), &WAKER)) }
    }
}

static WAKER: RawWakerVTable = RawWakerVTable::new(
    |slot| RawWaker::new(slot, &WAKER),
    // SAFETY: the data of this table's wakers is a slot, and slots are never freed.
    |slot| wake(unsafe { &*slot.cast::<Slot>() }),
    // SAFETY: as above.
    |slot| wake(unsafe { &*slot.cast::<Slot>() }),
    |_| (),
);

fn wake(slot: &'static Slot) {
    let home = slot.home;
    if !home.is_current() {
        return home.wake_remote(slot);
    }
    let node = slot.node.get();
    if !node.is_null() {
        // SAFETY: a node that holds a slot is alive, and we are on its thread.
        home.schedule(unsafe { &*node });
    }
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
                }
                let free = homes.iter().find(by_thread(ptr::null_mut())).copied();
                let home = free.unwrap_or_else(|| {
                    let home: &'static Home = Box::leak(Box::new(Home::new()));
                    homes.push(home);
                    home
                });
                home.thread_id.store(id, Ordering::Relaxed);
                home.thread.store(thread, Ordering::Release);
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

    /// Starts the poller that completes what is pushed on the batch by `complete`.
    pub(crate) fn start_batches(&self, complete: CompleteFn) {
        let home = self.home;
        home.complete.set(Some(complete));
        home.batches.set(home.batches.get() + 1);
        if home.batches.get() == 1 {
            let this = ptr::from_ref(home).cast_mut().cast();
            // SAFETY: a `Home` is never freed, and the poller goes in `stop_batches`.
            let poller = unsafe {
                sys::spdk_poller_register_named(Some(on_poll), this, 0, c"spdk_plugin".as_ptr())
            };
            home.poller.set(poller);
        }
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
        // Inside a callback the home is still in use; `enter` gives it back.
        if home.depth.get() == 0 {
            home.give_back();
        }
    }
}
