//! Room for the futures that do not fit into their request, made when the channel is.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Requests of a channel that can wait at once when their futures are large. The bdev layer retries
/// what finds the slab full.
const PLACES: usize = 256;

/// Places of one size, all in one block, the free ones in a list through themselves.
pub(crate) struct Slab {
    block: *mut u8,
    layout: Layout,
    free: Cell<*mut u8>,
}

impl Slab {
    /// A slab of places of `size` bytes, aligned to 16; none where `size` is 0. `None`: no memory.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let size = size.next_multiple_of(16);
        let layout = Layout::from_size_align(size * PLACES, 16).ok()?;
        if size == 0 {
            return Some(Self { block: ptr::null_mut(), layout, free: Cell::new(ptr::null_mut()) });
        }
        // SAFETY: the layout is not empty.
        let block = NonNull::new(unsafe { alloc(layout) })?.as_ptr();
        let slab = Self { block, layout, free: Cell::new(ptr::null_mut()) };
        for i in (0..PLACES).rev() {
            slab.give(NonNull::new(block.wrapping_add(i * size))?);
        }
        Some(slab)
    }

    /// A free place.
    pub(crate) fn take(&self) -> Option<NonNull<u8>> {
        let place = NonNull::new(self.free.get())?;
        // SAFETY: a free place holds the address of the next one, which `give` put there.
        self.free.set(unsafe { place.cast::<*mut u8>().read() });
        Some(place)
    }

    /// Takes back a place that came from this slab.
    pub(crate) fn give(&self, place: NonNull<u8>) {
        // SAFETY: the place is one of ours, of 16 bytes or more, and what it held is gone.
        unsafe { place.cast::<*mut u8>().write(self.free.get()) };
        self.free.set(place.as_ptr());
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        if !self.block.is_null() {
            // SAFETY: allocated by `new` with this layout; the channel frees us when no request of
            // its own is left.
            unsafe { dealloc(self.block, self.layout) };
        }
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
    fn an_empty_slab_has_no_place() {
        assert!(Slab::new(0).unwrap().take().is_none());
    }
}
