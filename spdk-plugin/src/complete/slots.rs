//! Places for operations that are in flight, which are used again and never move.
//!
//! ```text
//!   FREE --take--> HELD --launch--> FLYING --land--> LANDED --give--> FREE
//!                   ^                 |  \                    the future reads the payload
//!                   +----- recall ----+   +-- abandon --> ORPHANED --land--> FREE
//!                     C refused the call        the future was dropped
//! ```
//! A future that is forgotten leaves its slot LANDED until the slab goes. The slab goes with its last
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
use crate::runtime::waker::wake_at;

/// What an operation needs until its callback. A payload is used again by the next operation.
pub(crate) trait Payload: Default + 'static {
    /// Drops what the operation was lent: nobody will ask for it.
    fn clear(&mut self);
}

const FREE: u8 = 0;
const HELD: u8 = 1;
const FLYING: u8 = 2;
const LANDED: u8 = 3;
const ORPHANED: u8 = 4;

/// Slots of the first piece of a slab, and the most that are made at once.
const FIRST: usize = 32;
const MOST: usize = 512;

/// The place of an operation. What every operation touches lies in its first cache lines.
#[repr(C, align(64))]
pub(crate) struct Slot<P: Payload, K> {
    owner: NonNull<Inner<P, K>>,
    /// The next free slot, or the next one that waits.
    next: Cell<*const Slot<P, K>>,
    waker: Cell<Option<Waker>>,
    state: Cell<u8>,
    /// How often it was used.
    uses: Cell<u32>,
    index: u32,
    payload: UnsafeCell<P>,
}

/// Slots that were made at once.
type Piece<P, K> = Box<[Slot<P, K>]>;

/// A handle to a slab.
pub(crate) struct Slots<P: Payload, K: 'static>(NonNull<Inner<P, K>>);

pub(crate) struct Inner<P: Payload, K> {
    free: Cell<*const Slot<P, K>>,
    in_flight: Cell<usize>,
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
            in_flight: Cell::new(0),
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
        self.handles.set(self.handles.get() + 1);
        Self(self.0)
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
        if self.handles.get() == 0 && self.in_flight.get() == 0 {
            // SAFETY: this was the last one who could reach it.
            unsafe { Inner::free(self.0) };
        }
    }
}

impl<P: Payload, K: 'static> Inner<P, K> {
    /// A handle to the slab.
    pub(crate) fn handle(&self) -> Slots<P, K> {
        self.handles.set(self.handles.get() + 1);
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
        self.in_flight.get()
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
        slot.state.set(HELD);
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
                waker: Cell::new(None),
                state: Cell::new(FREE),
                uses: Cell::new(0),
                index: index as u32,
                payload: UnsafeCell::default(),
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

    #[inline]
    pub(crate) fn has_landed(&self) -> bool {
        self.state.get() == LANDED
    }

    #[inline]
    pub(crate) fn is_orphaned(&self) -> bool {
        self.state.get() == ORPHANED
    }

    /// The operation is about to be handed to C.
    #[inline]
    pub(crate) fn launch(&self) {
        let owner = self.owner();
        owner.in_flight.set(owner.in_flight.get() + 1);
        self.state.set(FLYING);
    }

    /// C did not take it, so the callback will not come.
    pub(crate) fn recall(&self) {
        let owner = self.owner();
        owner.in_flight.set(owner.in_flight.get() - 1);
        self.state.set(HELD);
    }

    /// There is nothing to do for C: it has landed already.
    pub(crate) fn skip(&self) {
        self.state.set(LANDED);
    }

    /// The operation has landed in a state that C holds on to, and is handed to C again.
    pub(crate) fn relaunch(&self, orphaned: bool) {
        self.state.set(if orphaned { ORPHANED } else { FLYING });
    }

    /// Has `waker` woken when it lands.
    #[inline]
    pub(crate) fn set_waker(&self, waker: &Waker) {
        // SAFETY: nothing else reads or writes the cell during the comparison.
        let known = unsafe { &*self.waker.as_ptr() };
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker.set(Some(waker.clone()));
        }
    }

    /// The callback has come and the payload says how it ended: wakes the future, or cleans up after one
    /// that is gone.
    ///
    /// # Safety
    /// It was in flight. The slot must not be touched afterwards, nor anything that the slab keeps.
    #[inline]
    pub(crate) unsafe fn land(this: *const Self) {
        // SAFETY: the slab lives while an operation is in flight.
        let slot = unsafe { &*this };
        if slot.is_orphaned() {
            slot.give_back();
        } else {
            slot.touch_down();
        }
        let owner = slot.owner();
        owner.in_flight.set(owner.in_flight.get() - 1);
        if owner.in_flight.get() == 0 && owner.handles.get() == 0 {
            // SAFETY: nobody is left who could reach it.
            unsafe { Inner::free(slot.owner) };
        }
    }

    /// Part of [`land`](Self::land), and all of it while C holds on to something of the operation: it
    /// still counts as in flight.
    #[inline]
    pub(crate) fn touch_down(&self) {
        self.state.set(LANDED);
        wake_at(self.owner().home(), &self.waker);
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
                drop(self.waker.take());
            }
            LANDED | HELD => self.give_back(),
            _ => (),
        }
    }
}
