//! Places for operations that are in flight, which are used again and never move.
//!
//! ```text
//!   FREE --take--> held --launch--> FLYING --land--> DONE, LANDED --give--> FREE
//!                   ^                 |  \                    the future reads the payload
//!                   +----- recall ----+   +-- abandon --> ORPHANED --land--> FREE
//!                     C refused the call        the future was dropped
//! ```
//! What is DONE has ended well; of what has LANDED the payload says how it did. A future that is forgotten
//! leaves its slot like that until the slab goes. The slab goes with its last
//! handle and its last operation in flight, whichever comes later, and takes along what it was told to
//! keep until then. A future borrows a handle, so its slot is there while it may look.
//!
//! All of this happens on one thread.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::task::Waker;

use crate::guard::catch;
use crate::runtime::home::{Home, HomeRef};
use crate::runtime::waker::{Others, Waiter};

/// What an operation needs until its callback. A payload is used again by the next operation.
pub(crate) trait Payload: Default + 'static {
    /// Drops what the operation was lent: nobody will ask for it.
    fn clear(&mut self);
}

/// Held, too: whoever has taken it knows.
const FREE: u8 = 0;
const FLYING: u8 = 1;
const ORPHANED: u8 = 2;
const LANDED: u8 = 3;
const DONE: u8 = 4;

/// Slots of the first piece of a slab, and the most that are made at once.
const FIRST: usize = 32;
const MOST: usize = 512;

/// The place of an operation. What every operation touches lies in its first cache line, with as much of the
/// payload as that has room for.
#[repr(C, align(64))]
pub(crate) struct Slot<P: Payload, K> {
    owner: NonNull<Inner<P, K>>,
    /// The next free slot, or the next one that waits.
    next: Cell<*const Slot<P, K>>,
    waiter: Waiter,
    state: Cell<u8>,
    /// How often it was used.
    uses: Cell<u32>,
    payload: UnsafeCell<P>,
    others: Others,
    index: u32,
}

/// Slots that were made at once.
type Piece<P, K> = Box<[Slot<P, K>]>;

/// A handle to a slab.
pub(crate) struct Slots<P: Payload, K: 'static>(NonNull<Inner<P, K>>);

pub(crate) struct Inner<P: Payload, K> {
    free: Cell<*const Slot<P, K>>,
    /// Handles, and operations in flight.
    users: Cell<usize>,
    handles: Cell<usize>,
    /// The slab itself, by the pointer that it is freed with.
    this: Cell<NonNull<Self>>,
    pieces: RefCell<Vec<Piece<P, K>>>,
    keep: K,
    home: HomeRef,
}

impl<P: Payload, K: 'static> Slots<P, K> {
    /// A slab of the current thread's, which `home` is, that keeps `keep`.
    pub(crate) fn new(home: HomeRef, keep: K) -> Self {
        let inner = Box::new(Inner {
            free: Cell::new(ptr::null()),
            users: Cell::new(1),
            handles: Cell::new(1),
            this: Cell::new(NonNull::dangling()),
            pieces: RefCell::default(),
            keep,
            home,
        });
        let slots = Self(NonNull::from(Box::leak(inner)));
        slots.this.set(slots.0);
        slots.grow();
        slots
    }

    /// A handle for C to keep, which comes back by [`from_raw`](Self::from_raw).
    pub(crate) fn into_raw(self) -> *mut c_void {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }

    /// # Safety
    /// It is from [`into_raw`](Self::into_raw) of the same types, comes back this once, and this is the
    /// slab's thread.
    pub(crate) unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: says the caller: it is the address of a slab.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) })
    }
}

impl<P: Payload, K: 'static> Clone for Slots<P, K> {
    fn clone(&self) -> Self {
        self.handle()
    }
}

impl<P: Payload, K: 'static> Deref for Slots<P, K> {
    type Target = Inner<P, K>;

    #[inline]
    fn deref(&self) -> &Inner<P, K> {
        // SAFETY: the slab lives as long as a handle does.
        unsafe { self.0.as_ref() }
    }
}

impl<P: Payload, K: 'static> Drop for Slots<P, K> {
    fn drop(&mut self) {
        self.handles.set(self.handles.get() - 1);
        self.users.set(self.users.get() - 1);
        if self.users.get() == 0 {
            // SAFETY: this was the last one who could reach it.
            unsafe { Inner::free(self.0) };
        }
    }
}

impl<P: Payload, K: 'static> Inner<P, K> {
    /// A handle to the slab.
    pub(crate) fn handle(&self) -> Slots<P, K> {
        self.handles.set(self.handles.get() + 1);
        self.users.set(self.users.get() + 1);
        Slots(self.this.get())
    }

    pub(crate) fn keep(&self) -> &K {
        &self.keep
    }

    #[inline]
    pub(crate) fn home(&self) -> &'static Home {
        self.home.get()
    }

    /// Operations that C has not called back for.
    pub(crate) fn in_flight(&self) -> usize {
        self.users.get() - self.handles.get()
    }

    /// A free slot, the one that was used last.
    #[inline]
    pub(crate) fn take(&self) -> &Slot<P, K> {
        let mut slot = self.free.get();
        if slot.is_null() {
            slot = self.grow();
        }
        // SAFETY: slots are never freed before the slab is.
        let slot = unsafe { &*slot };
        self.free.set(slot.next.get());
        slot
    }

    #[cold]
    fn grow(&self) -> *const Slot<P, K> {
        let mut pieces = self.pieces.borrow_mut();
        let before: usize = pieces.iter().map(|piece| piece.len()).sum();
        let more = before.clamp(FIRST, MOST);
        let piece: Piece<P, K> = (before..before + more)
            .map(|index| Slot {
                owner: self.this.get(),
                next: Cell::new(ptr::null()),
                waiter: Waiter::new(),
                state: Cell::new(FREE),
                uses: Cell::new(0),
                payload: UnsafeCell::default(),
                others: Cell::new(None),
                index: index as u32,
            })
            .collect();
        for pair in piece.windows(2) {
            pair[0].next.set(&raw const pair[1]);
        }
        piece[more - 1].next.set(self.free.get());
        let first: *const Slot<P, K> = &raw const piece[0];
        self.free.set(first);
        pieces.push(piece);
        first
    }

    /// The slot of this number, if it is in the same use as when [`Slot::number`] was asked and the
    /// operation is in flight.
    pub(crate) fn find(&self, (index, uses): (u32, u32)) -> Option<*const Slot<P, K>> {
        let pieces = self.pieces.borrow();
        let slot = pieces.iter().flatten().nth(index as usize)?;
        let flies = matches!(slot.state.get(), FLYING | ORPHANED);
        (flies && slot.uses.get() == uses).then_some(ptr::from_ref(slot))
    }

    /// Frees the slab, on its thread.
    ///
    /// # Safety
    /// Nobody can reach it any more.
    #[cold]
    unsafe fn free(this: NonNull<Self>) {
        // SAFETY: the caller has seen to it that it is there; it was leaked by `new`, and nobody else frees
        // it or uses what it keeps.
        unsafe {
            let home = this.as_ref().home();
            home.run(move || drop(Box::from_raw(this.as_ptr())));
        }
    }
}

impl<P: Payload, K: 'static> Slot<P, K> {
    #[inline]
    pub(crate) fn owner(&self) -> &Inner<P, K> {
        // SAFETY: a slot is part of its slab.
        unsafe { self.owner.as_ref() }
    }

    /// The payload, which belongs to the future while the slot is held or has landed, and to C and the
    /// callback while it flies.
    #[inline]
    pub(crate) fn payload(&self) -> *mut P {
        self.payload.get()
    }

    /// What names this use of the slot in its slab.
    pub(crate) fn number(&self) -> (u32, u32) {
        (self.index, self.uses.get())
    }

    /// For lists of slots that fly.
    pub(crate) fn next(&self) -> &Cell<*const Slot<P, K>> {
        &self.next
    }

    /// Whether it has ended, well or not.
    #[inline]
    pub(crate) fn has_landed(&self) -> bool {
        self.state.get() >= LANDED
    }

    /// Whether it has ended well.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.state.get() == DONE
    }

    #[inline]
    pub(crate) fn is_flying(&self) -> bool {
        self.state.get() == FLYING
    }

    #[inline]
    pub(crate) fn is_orphaned(&self) -> bool {
        self.state.get() == ORPHANED
    }

    /// The operation is about to be handed to C.
    #[inline]
    pub(crate) fn launch(&self) {
        self.launch_from(self.owner());
    }

    /// As [`launch`](Self::launch), where the owner is at hand.
    #[inline]
    pub(crate) fn launch_from(&self, owner: &Inner<P, K>) {
        owner.users.set(owner.users.get() + 1);
        self.state.set(FLYING);
    }

    /// C did not take it, so the callback will not come.
    pub(crate) fn recall(&self) {
        let owner = self.owner();
        owner.users.set(owner.users.get() - 1);
        self.state.set(FREE);
    }

    /// There is nothing to do for C: it is done already.
    pub(crate) fn skip(&self) {
        self.state.set(DONE);
    }

    /// The operation has landed in a state that C holds on to, and is handed to C again.
    pub(crate) fn relaunch(&self, orphaned: bool) {
        self.state.set(if orphaned { ORPHANED } else { FLYING });
    }

    /// Has `waker` woken when it lands.
    #[inline]
    pub(crate) fn set_waker(&self, waker: &Waker) {
        self.waiter.set(&self.others, self.owner().home(), waker);
    }

    /// The callback has come: wakes the future, or cleans up after one that is gone. If the operation has
    /// not ended well, the payload says how it did.
    ///
    /// # Safety
    /// It was in flight. The slot must not be touched afterwards, nor anything that the slab keeps.
    pub(crate) unsafe fn land(this: *const Self, well: bool) {
        // SAFETY: the slab lives while an operation is in flight.
        let slot = unsafe { &*this };
        if slot.is_orphaned() {
            slot.give_back();
        } else {
            slot.touch_down(well);
        }
        // SAFETY: says the caller.
        unsafe { Self::leave_flight(slot.owner) };
    }

    /// As [`land`](Self::land) for what has ended well, in a callback that has nothing else to do: ends that,
    /// too.
    ///
    /// # Safety
    /// As for [`land`](Self::land). The callback is in the `home` of the slab.
    #[inline(always)]
    pub(crate) unsafe fn land_and_end(this: *const Self, home: &'static Home) {
        // SAFETY: as in `land`.
        let slot = unsafe { &*this };
        if slot.state.get() == FLYING
            && let Some(own) = slot.waiter.own()
        {
            slot.state.set(DONE);
            // SAFETY: says the caller.
            unsafe { Self::leave_flight(slot.owner) };
            return home.end_by_waking(own);
        }
        // SAFETY: says the caller.
        unsafe { Self::land_and_end_otherwise(this, home) };
    }

    /// # Safety
    /// As for [`land_and_end`](Self::land_and_end).
    #[cold]
    unsafe fn land_and_end_otherwise(this: *const Self, home: &'static Home) {
        // SAFETY: says the caller.
        unsafe { Self::land(this, true) };
        home.end();
    }

    /// # Safety
    /// As for [`land`](Self::land).
    #[inline(always)]
    unsafe fn leave_flight(owner: NonNull<Inner<P, K>>) {
        // SAFETY: the slab lives while an operation is in flight.
        let inner = unsafe { owner.as_ref() };
        inner.users.set(inner.users.get() - 1);
        if inner.users.get() == 0 {
            // SAFETY: nobody is left who could reach it.
            unsafe { Inner::free(owner) };
        }
    }

    /// As [`land`](Self::land) for what has ended well, [is flying](Self::is_flying), and whose future is woken
    /// by other means.
    ///
    /// # Safety
    /// It was in flight, and a handle to the slab is there.
    #[inline]
    pub(crate) unsafe fn land_quietly(this: *const Self) {
        // SAFETY: says the caller.
        let slot = unsafe { &*this };
        slot.state.set(DONE);
        let owner = slot.owner();
        owner.users.set(owner.users.get() - 1);
    }

    /// Part of [`land`](Self::land), and all of it while C holds on to something of the operation: it
    /// still counts as in flight.
    pub(crate) fn touch_down(&self, well: bool) {
        self.state.set(if well { DONE } else { LANDED });
        self.waiter.wake(&self.others);
    }

    /// Makes a slot free whose payload the future has emptied.
    #[inline]
    pub(crate) fn give(&self) {
        let owner = self.owner();
        self.state.set(FREE);
        self.uses.set(self.uses.get().wrapping_add(1));
        self.next.set(owner.free.replace(self));
    }

    #[cold]
    fn give_back(&self) {
        // SAFETY: not in flight, and the future is gone.
        let _ = catch("a buffer's drop", || unsafe { (*self.payload.get()).clear() });
        self.give();
    }

    /// The future goes before the operation has ended, or without having looked at how it did.
    #[cold]
    pub(crate) fn abandon(&self) {
        match self.state.get() {
            FLYING => {
                self.state.set(ORPHANED);
                self.waiter.forget(&self.others);
            }
            LANDED | DONE => self.give_back(),
            _ => (),
        }
    }
}
