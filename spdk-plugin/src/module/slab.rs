//! Room for a channel's frames, made when the channel is.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Places of one size, all in one block: the freed ones in a list through themselves, the last one first,
/// and behind them those that were never used.
pub(crate) struct Slab {
    block: NonNull<u8>,
    layout: Layout,
    place: usize,
    free: Cell<*mut u8>,
    /// Bytes of the block that were used once.
    used: Cell<usize>,
}

impl Slab {
    /// A slab of places of `size` bytes, aligned to a cache line. `None`: no memory.
    pub(crate) fn new(size: usize, places: usize) -> Option<Self> {
        let place = size.next_multiple_of(64);
        let layout = Layout::from_size_align(place * places, 64).ok().filter(|l| l.size() > 0)?;
        // SAFETY: the layout is not empty.
        let block = NonNull::new(unsafe { alloc(layout) })?;
        // Frames are found again from what lies in them.
        let _ = block.expose_provenance();
        Some(Self { block, layout, place, free: Cell::new(ptr::null_mut()), used: Cell::new(0) })
    }

    /// The size of a place in bytes.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// The place that was freed last. Its first word is not as it was left.
    #[inline]
    pub(crate) fn take(&self) -> Option<NonNull<u8>> {
        let place = NonNull::new(self.free.get())?;
        // SAFETY: a free place holds the address of the next one, which `give` put there.
        self.free.set(unsafe { place.cast::<*mut u8>().read() });
        Some(place)
    }

    /// A place that was never used.
    #[cold]
    pub(crate) fn fresh(&self) -> Option<NonNull<u8>> {
        let at = self.used.get();
        if at == self.layout.size() {
            return None;
        }
        self.used.set(at + self.place);
        NonNull::new(self.block.as_ptr().wrapping_add(at))
    }

    /// Takes back a place that came from this slab. What lies in it beyond the first word stays.
    #[inline]
    pub(crate) fn give(&self, place: NonNull<u8>) {
        // SAFETY: the place is one of ours, of 64 bytes or more.
        unsafe { place.cast::<*mut u8>().write(self.free.get()) };
        self.free.set(place.as_ptr());
    }

    /// All places that were ever used.
    pub(crate) fn used(&self) -> impl Iterator<Item = NonNull<u8>> {
        let places = (0..self.used.get()).step_by(self.place);
        places.filter_map(|at| NonNull::new(self.block.as_ptr().wrapping_add(at)))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout; the channel frees us when no request of its own
        // is left.
        unsafe { dealloc(self.block.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;

    #[test]
    fn places_are_distinct_and_run_out() {
        let slab = Slab::new(24, 100).unwrap();
        let mut places: Vec<usize> =
            std::iter::from_fn(|| slab.fresh()).map(|p| p.addr().get()).collect();
        assert_eq!(places.len(), 100);
        assert!(slab.used().map(|p| p.addr().get()).eq(places.iter().copied()));
        places.sort_unstable();
        assert!(places.windows(2).all(|w| w[1] - w[0] >= 24));
    }

    #[test]
    fn the_last_one_freed_is_the_next_one_taken() {
        let slab = Slab::new(100, 2).unwrap();
        let (first, second) = (slab.fresh().unwrap(), slab.fresh().unwrap());
        assert_eq!(slab.take(), None);
        slab.give(second);
        slab.give(first);
        assert_eq!(slab.take(), Some(first));
        assert_eq!(slab.take(), Some(second));
    }
}
