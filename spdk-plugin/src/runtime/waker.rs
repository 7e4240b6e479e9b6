//! Wakers that cost nothing to clone, to drop and to make.

use std::cell::Cell;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::home::Home;
use super::inbox::Entry;
use super::queue::Node;
use crate::guard::catch;

/// What a [`Waker`] of ours points at. Slots are never freed, only used again: a waker that outlives
/// its node points at a live slot and at worst polls somebody once for nothing, which every future
/// must bear. So cloning and dropping a waker costs nothing and needs no count.
///
/// This is where in a [`Piece`] the slot's own waker lies. Who was lent that knows the slot by its address.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Slot(NonNull<Waker>);

/// Slots that were made at once, each in three parts, so that those that each wake reads lie close together.
#[repr(C)]
struct Piece {
    nodes: [Held; SLOTS],
    wakers: [Waker; SLOTS],
    rest: [Rest; SLOTS],
}

const SLOTS: usize = 64;
/// From one part of a slot to the next.
const SPAN: usize = SLOTS * size_of::<Waker>();
const _: () = assert!(size_of::<Held>() * SLOTS == SPAN && size_of::<Rest>() * SLOTS == SPAN);
const _: () = assert!(offset_of!(Piece, wakers) == SPAN && offset_of!(Piece, rest) == 2 * SPAN);

/// The part that belongs to the home thread.
struct Held {
    /// The node that holds the slot, null while it is free.
    node: Cell<*const Node>,
    next_free: Cell<Option<Slot>>,
}

/// The part that any thread may read.
struct Rest {
    home: &'static Home,
    /// Whether the slot is among the home's wakes from other threads.
    remote: AtomicBool,
    /// Whether that wake is to leave the mark of the [asking waker](Slot::asking_waker).
    asked: AtomicBool,
}

// SAFETY: foreign threads touch a slot's waker and `Rest` alone, which are made for it; `Held` belongs to the
// home thread.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Send for Slot {}

impl Entry for Slot {
    fn mark(&self) -> &AtomicBool {
        &self.rest().remote
    }
}

impl Slot {
    /// Makes some slots and gives the first one, which leads to the others.
    #[cold]
    pub(super) fn more(home: &'static Home) -> Self {
        let piece = Box::into_raw(Box::<Piece>::new_uninit()).cast::<Piece>();
        let mut next = None;
        for index in (0..SLOTS).rev() {
            // SAFETY: the places lie in the box, which is leaked and was not written yet. The table's
            // functions keep `RawWaker`'s contract: the data is a slot, which is never freed, and they are
            // safe to call from any thread. The pointers reach all of the box.
            unsafe {
                let waker = (&raw mut (*piece).wakers).cast::<Waker>().add(index);
                let slot = Self(NonNull::new_unchecked(waker));
                waker.write(Waker::from_raw(slot.raw_waker(&WAKER)));
                let held = (&raw mut (*piece).nodes).cast::<Held>().add(index);
                held.write(Held { node: Cell::new(ptr::null()), next_free: Cell::new(next) });
                let rest = (&raw mut (*piece).rest).cast::<Rest>().add(index);
                let (remote, asked) = (AtomicBool::new(false), AtomicBool::new(false));
                rest.write(Rest { home, remote, asked });
                next = Some(slot);
            }
        }
        next.expect("there are more than none")
    }

    #[inline]
    fn held(self) -> &'static Held {
        // SAFETY: a slot lies in a piece, which is never freed, and its pointer reaches all of that.
        unsafe { self.0.byte_sub(SPAN).cast().as_ref() }
    }

    #[inline]
    fn rest(self) -> &'static Rest {
        // SAFETY: as above.
        unsafe { self.0.byte_add(SPAN).cast().as_ref() }
    }

    #[inline]
    pub(super) fn waker(self) -> &'static Waker {
        // SAFETY: as above; nobody changes it.
        unsafe { self.0.as_ref() }
    }

    fn raw_waker(self, table: &'static RawWakerVTable) -> RawWaker {
        RawWaker::new(self.0.as_ptr().cast_const().cast(), table)
    }

    /// # Safety
    /// It is the data of one of our wakers.
    unsafe fn from_data(data: *const ()) -> Self {
        // SAFETY: says the caller.
        Self(unsafe { NonNull::new_unchecked(data.cast_mut().cast()) })
    }

    /// Whom the slot's wakers wake: a node that lives until it is set to another or to null.
    pub(super) fn set_node(self, node: *const Node) {
        self.held().node.set(node);
    }

    /// The node, by the pointer that it was set by.
    #[inline]
    pub(super) fn node(self) -> *const Node {
        self.held().node.get()
    }

    /// The next one of those that are free.
    pub(super) fn next_free(self) -> &'static Cell<Option<Self>> {
        &self.held().next_free
    }

    /// As [`waker`](Self::waker), and leaves the mark [`ASKED`](super::queue::ASKED).
    pub(super) fn asking_waker(self) -> Waker {
        // SAFETY: as in `more`.
        unsafe { Waker::from_raw(self.raw_waker(&ASKING)) }
    }

    /// The slot of a waker, if that wakes a node of `home`.
    fn of(waker: &Waker, home: &'static Home) -> Option<Self> {
        if !ptr::eq(waker.vtable(), &WAKER) {
            return None;
        }
        // SAFETY: it has our table.
        let slot = unsafe { Self::from_data(waker.data()) };
        ptr::eq(slot.rest().home, home).then_some(slot)
    }

    /// Wakes the node, on the home thread.
    #[inline]
    pub(super) fn wake_here(self) {
        let node = self.node();
        if !node.is_null() {
            // SAFETY: a node that holds a slot is alive; it gives the slot back before it goes.
            self.rest().home.schedule(unsafe { &*node });
        }
    }

    /// Wakes the node, as another thread has asked to.
    pub(super) fn wake_for_others(self) {
        if self.rest().asked.swap(false, Ordering::AcqRel) {
            self.ask();
        }
        self.wake_here();
    }

    /// Leaves the mark, on the home thread.
    fn ask(self) {
        // SAFETY: as in `wake_here`.
        if let Some(node) = unsafe { self.node().as_ref() } {
            node.ask();
        }
    }

    fn wake(self) {
        if self.rest().home.is_current() {
            self.wake_here();
        } else {
            self.rest().home.wake_remote(self);
        }
    }

    /// If the slot has another node by now, that one is asked for nothing, as it may be woken for nothing.
    #[cold]
    fn wake_asking(self) {
        if self.rest().home.is_current() {
            self.ask();
            self.wake_here();
        } else {
            // Before the wake, which the home thread sees first.
            self.rest().asked.store(true, Ordering::Release);
            self.rest().home.wake_remote(self);
        }
    }
}

/// Who is to be woken on a home's thread, in a callback of C's.
///
/// A waker of that home's own is remembered as its slot: to see that it is the same again takes one comparison,
/// and to wake it no question which thread this is, and no guard against a panic, as there is nothing of a
/// user's in it.
pub(crate) struct Waiter {
    own: Cell<Option<Slot>>,
}

/// What a [`Waiter`] has for wakers of others. It lies apart, as it is seldom used.
pub(crate) type Others = Cell<Option<Waker>>;

impl Waiter {
    pub(crate) fn new() -> Self {
        Self { own: Cell::new(None) }
    }

    /// Has `waker` woken from now on.
    #[inline]
    pub(crate) fn set(&self, others: &Others, home: &'static Home, waker: &Waker) {
        // Nothing else ever lies where a slot's waker does.
        if self.own.get() != Some(Slot(NonNull::from(waker))) {
            self.change(others, home, waker);
        }
    }

    #[cold]
    fn change(&self, others: &Others, home: &'static Home, waker: &Waker) {
        let own = Slot::of(waker, home);
        self.own.set(own);
        let former = others.take();
        match former {
            Some(former) if own.is_none() && former.will_wake(waker) => others.set(Some(former)),
            _ => {
                others.set(own.is_none().then(|| waker.clone()));
                drop(former);
            }
        }
    }

    /// Whom to wake if it is one of the home's own.
    #[inline]
    pub(crate) fn own(&self) -> Option<Slot> {
        self.own.get()
    }

    /// Wakes, on the home's thread, in a callback.
    pub(crate) fn wake(&self, others: &Others) {
        match self.own() {
            Some(slot) => slot.wake_here(),
            None => Self::wake_others(others),
        }
    }

    /// Nobody needs to be woken any more.
    pub(crate) fn forget(&self, others: &Others) {
        self.own.set(None);
        drop(others.take());
    }

    #[cold]
    fn wake_others(others: &Others) {
        let waker = others.take();
        let _ = catch("a waker", || waker.map(Waker::wake));
    }
}

static WAKER: RawWakerVTable = RawWakerVTable::new(
    |slot| RawWaker::new(slot, &WAKER),
    // SAFETY: the data of this table's wakers is a slot.
    |slot| unsafe { Slot::from_data(slot) }.wake(),
    // SAFETY: as above.
    |slot| unsafe { Slot::from_data(slot) }.wake(),
    |_| (),
);

static ASKING: RawWakerVTable = RawWakerVTable::new(
    |slot| RawWaker::new(slot, &ASKING),
    // SAFETY: as for `WAKER`.
    |slot| unsafe { Slot::from_data(slot) }.wake_asking(),
    // SAFETY: as above.
    |slot| unsafe { Slot::from_data(slot) }.wake_asking(),
    |_| (),
);
