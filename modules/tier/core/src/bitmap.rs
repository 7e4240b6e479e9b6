//! A bit for each set, set and cleared by any thread.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Bitmap(Box<[AtomicU64]>);

impl Bitmap {
    pub(crate) fn new(bits: u64) -> Self {
        Self((0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn set(&self, bit: u64) {
        let (word, mask) = (&self.0[(bit / 64) as usize], 1 << (bit % 64));
        if word.load(Ordering::Relaxed) & mask == 0 {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(&self, bit: u64) {
        self.0[(bit / 64) as usize].fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
    }

    /// The first bit from `from` on that is set.
    pub(crate) fn next(&self, from: u64) -> Option<u64> {
        let mut index = (from / 64) as usize;
        let mut word = self.0.get(index)?.load(Ordering::Relaxed) & (!0 << (from % 64));
        while word == 0 {
            index += 1;
            word = self.0.get(index)?.load(Ordering::Relaxed);
        }
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use super::Bitmap;

    #[test]
    fn what_is_set_is_found() {
        let map = Bitmap::new(200);
        assert_eq!(map.next(0), None);
        for bit in [0, 63, 64, 199] {
            map.set(bit);
        }
        assert_eq!(
            [map.next(0), map.next(1), map.next(64), map.next(65)],
            [0, 63, 64, 199].map(Some)
        );
        map.clear(199);
        assert_eq!((map.next(65), map.next(200), map.next(1000)), (None, None, None));
    }
}
