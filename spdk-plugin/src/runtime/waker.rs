//! Wakers that cost nothing to clone, to drop and to make.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::home::Home;
use super::inbox::Entry;
use super::queue::Node;
use crate::guard::catch;

/// What a [`Waker`] of ours points at. Slots are never freed, only used again: a waker that outlives
/// its node points at a live slot and at worst polls somebody once for nothing, which every future
/// must bear. So cloning and dropping a waker costs nothing and needs no count.
pub(super) struct Slot {
    pub(super) home: &'static Home,
    /// The node that holds the slot, null while it is free. Home thread only.
    node: Cell<*const Node>,
    pub(super) next_free: Cell<Option<&'static Slot>>,
    /// Whether the slot is among the home's wakes from other threads.
    remote: AtomicBool,
}

// SAFETY: foreign threads touch `home` and `remote` alone, which are made for it; the cells belong
// to the home thread.
unsafe impl Sync for Slot {}
// SAFETY: a shared reference to a `Sync` slot may go anywhere; slots are never owned.
unsafe impl Send for Slot {}

impl Entry for &'static Slot {
    fn mark(&self) -> &AtomicBool {
        &self.remote
    }
}

impl Slot {
    /// Makes some slots and gives the first one, which leads to the others.
    #[cold]
    pub(super) fn more(home: &'static Home) -> &'static Self {
        let slots: Vec<Self> = (0..64)
            .map(|_| Self {
                home,
                node: Cell::new(ptr::null()),
                next_free: Cell::new(None),
                remote: AtomicBool::new(false),
            })
            .collect();
        let slots: &'static [Self] = slots.leak();
        for pair in slots.windows(2) {
            pair[0].next_free.set(Some(&pair[1]));
        }
        &slots[0]
    }

    /// Whom the slot's wakers wake: a node that lives until it is set to another or to null.
    pub(super) fn set_node(&self, node: *const Node) {
        self.node.set(node);
    }

    /// The node, by the pointer that it was set by.
    pub(super) fn node(&self) -> *const Node {
        self.node.get()
    }

    #[inline]
    pub(super) fn waker(&'static self) -> Waker {
        // SAFETY: the table's functions keep `RawWaker`'s contract: the data is a slot, which is
        // never freed, and they are safe to call from any thread.
        unsafe { Waker::from_raw(RawWaker::new(ptr::from_ref(self).cast(), &WAKER)) }
    }

    /// Wakes the node, on the home thread.
    pub(super) fn wake_here(&'static self) {
        let node = self.node.get();
        if !node.is_null() {
            // SAFETY: a node that holds a slot is alive; it gives the slot back before it goes.
            self.home.schedule(unsafe { &*node });
        }
    }

    fn wake(&'static self) {
        if self.home.is_current() {
            self.wake_here();
        } else {
            self.home.wake_remote(self);
        }
    }
}

/// Wakes by the waker in `place`, if there is one, on the thread whose home is `home`, in a callback of
/// C's.
///
/// One of that home's own takes the short way and stays in its place, which costs nothing and may save
/// storing it again: no question which thread this is, and no guard against a panic, as there is nothing
/// of a user's in it.
#[inline]
pub(crate) fn wake_at(home: &'static Home, place: &Cell<Option<Waker>>) {
    // SAFETY: nothing else reads or writes the place while we look at what is in it.
    let Some(waker) = (unsafe { &*place.as_ptr() }) else { return };
    if ptr::eq(waker.vtable(), &WAKER) {
        // SAFETY: the data of this table's wakers is a slot, and slots are never freed.
        let slot: &'static Slot = unsafe { &*waker.data().cast() };
        if ptr::eq(slot.home, home) {
            return slot.wake_here();
        }
    }
    let waker = place.take();
    let _ = catch("a waker", || waker.map(Waker::wake));
}

static WAKER: RawWakerVTable = RawWakerVTable::new(
    |slot| RawWaker::new(slot, &WAKER),
    // SAFETY: the data of this table's wakers is a slot, and slots are never freed.
    |slot| unsafe { &*slot.cast::<Slot>() }.wake(),
    // SAFETY: as above.
    |slot| unsafe { &*slot.cast::<Slot>() }.wake(),
    |_| (),
);
