//! Room for a channel's frames, made when the channel is.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Requests of a channel that can wait at once. The bdev layer retries what finds the slab full.
const PLACES: usize = 1024;
/// More places, for those who come to free the others.
const RESERVE: usize = 8;

/// Places of one size, all in one block: the freed ones in a list through themselves, the last one first,
/// and behind them those that were never used.
pub(crate) struct Slab {
    block: NonNull<u8>,
    layout: Layout,
    place: usize,
    free: Cell<*mut u8>,
    /// Bytes of the block that were used once.
    used: Cell<usize>,
    /// Free places of the reserve, which lies at the end of the block, and where it begins.
    reserve: Cell<*mut u8>,
    reserve_start: *mut u8,
}

impl Slab {
    /// A slab of places of `size` bytes, aligned to a cache line. `None`: no memory.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let size = size.next_multiple_of(64);
        let layout =
            Layout::from_size_align(size * (PLACES + RESERVE), 64).ok().filter(|l| l.size() > 0)?;
        // SAFETY: the layout is not empty.
        let block = NonNull::new(unsafe { alloc(layout) })?;
        // Frames are found again from what lies in them.
        let _ = block.expose_provenance();
        let none = || Cell::new(ptr::null_mut());
        let reserve_start = block.as_ptr().wrapping_add(PLACES * size);
        let slab = Self {
            block,
            layout,
            place: size,
            free: none(),
            used: Cell::new(0),
            reserve: none(),
            reserve_start,
        };
        for i in 0..RESERVE {
            slab.give(NonNull::new(reserve_start.wrapping_add(i * size))?);
        }
        Some(slab)
    }

    /// The size of a place in bytes.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// A free place.
    #[inline]
    pub(crate) fn take(&self) -> Option<NonNull<u8>> {
        let Some(place) = NonNull::new(self.free.get()) else { return self.fresh() };
        // SAFETY: a free place holds the address of the next one, which `give` put there.
        self.free.set(unsafe { place.cast::<*mut u8>().read() });
        Some(place)
    }

    #[cold]
    fn fresh(&self) -> Option<NonNull<u8>> {
        let at = self.used.get();
        if at == PLACES * self.place() {
            return None;
        }
        self.used.set(at + self.place());
        NonNull::new(self.block.as_ptr().wrapping_add(at))
    }

    /// Takes back a place that came from this slab.
    #[inline]
    pub(crate) fn give(&self, place: NonNull<u8>) {
        let list = if place.as_ptr() >= self.reserve_start { &self.reserve } else { &self.free };
        // SAFETY: the place is one of ours, of 64 bytes or more, and what it held is gone.
        unsafe { place.cast::<*mut u8>().write(list.get()) };
        list.set(place.as_ptr());
    }

    /// A free place of the reserve.
    pub(crate) fn take_reserve(&self) -> Option<NonNull<u8>> {
        let place = NonNull::new(self.reserve.get())?;
        // SAFETY: as in `take`.
        self.reserve.set(unsafe { place.cast::<*mut u8>().read() });
        Some(place)
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
        let slab = Slab::new(24).unwrap();
        let mut places: Vec<usize> =
            std::iter::from_fn(|| slab.take()).map(|p| p.addr().get()).collect();
        assert_eq!(places.len(), super::PLACES);
        places.sort_unstable();
        assert!(places.windows(2).all(|w| w[1] - w[0] >= 24));
    }

    #[test]
    fn the_reserve_is_apart() {
        let slab = Slab::new(64).unwrap();
        while slab.take().is_some() {}
        let place = slab.take_reserve().unwrap();
        slab.give(place);
        assert!(slab.take().is_none());
        assert_eq!(slab.take_reserve(), Some(place));
    }

    #[test]
    fn the_last_one_freed_is_the_next_one_taken() {
        let slab = Slab::new(100).unwrap();
        let (first, second) = (slab.take().unwrap(), slab.take().unwrap());
        slab.give(second);
        slab.give(first);
        assert_eq!(slab.take(), Some(first));
        assert_eq!(slab.take(), Some(second));
    }
}
