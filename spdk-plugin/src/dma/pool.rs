//! Buffers of one size that are used again and again.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Block, DmaBuf, NUMA_ANY};
use crate::error::{Error, Result};

/// Buffers of one size, all made at once. Any thread may get one, and dropping it anywhere puts it back;
/// neither calls the allocator or takes a lock. A clone is the same pool, whose memory goes with its last
/// clone and its last buffer.
///
/// ```no_run
/// use spdk_plugin::dma::DmaPool;
///
/// let pool = DmaPool::new(128, 4096, 4096)?;
/// let buf = pool.get().expect("none is out");
/// assert_eq!(pool.available(), 127);
/// drop(buf);
/// # Ok::<(), spdk_plugin::Error>(())
/// ```
#[derive(Clone)]
pub struct DmaPool(Arc<Inner>);

struct Inner {
    block: Block,
    size: usize,
    stride: usize,
    free: Stack,
}

/// The numbers of the free buffers, the last one put back first.
struct Stack {
    /// The first number plus 1, and in the upper half the count of changes: a thread that was
    /// interrupted between reading and changing the top sees that it is not the same any more.
    top: AtomicU64,
    /// For each number the next one plus 1; 0 ends the list.
    next: Box<[AtomicU32]>,
    len: AtomicU32,
}

impl Stack {
    fn full(count: u32) -> Self {
        let next = (0..count).map(AtomicU32::new).collect();
        Self { top: AtomicU64::new(count.into()), next, len: AtomicU32::new(count) }
    }

    fn change(top: u64, first: u32) -> u64 {
        ((top >> 32).wrapping_add(1) << 32) | u64::from(first)
    }

    fn pop(&self) -> Option<u32> {
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let index = (top as u32).checked_sub(1)?;
            let next = self.next[index as usize].load(Ordering::Relaxed);
            let new = Self::change(top, next);
            match self.top.compare_exchange_weak(top, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                    return Some(index);
                }
                Err(other) => top = other,
            }
        }
    }

    fn push(&self, index: u32) {
        self.len.fetch_add(1, Ordering::Relaxed);
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            self.next[index as usize].store(top as u32, Ordering::Relaxed);
            let new = Self::change(top, index + 1);
            match self.top.compare_exchange_weak(top, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => top = other,
            }
        }
    }
}

/// What a buffer of a pool goes back to.
pub(super) struct Pool(Arc<Inner>);

impl Pool {
    /// Takes back the memory of a buffer that began there when it was got.
    pub(super) fn give_back(self, base: NonNull<u8>) {
        let offset = base.addr().get() - self.0.block.base.addr().get();
        self.0.free.push((offset / self.0.stride) as u32);
    }
}

impl DmaPool {
    /// `count` zeroed buffers of `size` bytes, each at a multiple of `align` bytes.
    ///
    /// # Errors
    /// [`Error::NoMemory`] when there is no room for all of them in one piece, [`Error::Invalid`] when
    /// `count` or `size` is 0 or `align` is no power of two.
    pub fn new(count: u32, size: usize, align: usize) -> Result<Self> {
        let no_memory =
            || Error::NoMemory(format!("{count} DMA buffers of {size} bytes in one piece"));
        let stride = size.checked_next_multiple_of(align.max(1)).ok_or_else(no_memory)?;
        let len = stride.checked_mul(count as usize).ok_or_else(no_memory)?;
        let block = Block::new(len, align, NUMA_ANY, true)?;
        Ok(Self(Arc::new(Inner { block, size, stride, free: Stack::full(count) })))
    }

    /// A buffer, with what its last user left in it; `None` when all are out.
    pub fn get(&self) -> Option<DmaBuf> {
        let index = self.0.free.pop()?;
        // SAFETY: a number of the stack, so the place lies inside the block.
        let base = unsafe { self.0.block.base.add(index as usize * self.0.stride) };
        Some(DmaBuf::leased(base, self.0.size, Pool(Arc::clone(&self.0))))
    }

    /// The buffers that can be had right now.
    pub fn available(&self) -> u32 {
        self.0.free.len.load(Ordering::Relaxed)
    }

    /// The size of a buffer in bytes.
    pub fn buf_len(&self) -> usize {
        self.0.size
    }
}

impl fmt::Debug for DmaPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (available, all) = (self.available(), self.0.free.next.len());
        write!(f, "DmaPool({available} of {all} buffers of {} bytes)", self.0.size)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::Stack;

    #[test]
    fn numbers_are_given_once_and_run_out() {
        let stack = Stack::full(3);
        let all: HashSet<_> = std::iter::from_fn(|| stack.pop()).collect();
        assert_eq!(all, HashSet::from([0, 1, 2]));
        stack.push(1);
        assert_eq!((stack.pop(), stack.pop()), (Some(1), None));
    }

    #[test]
    fn threads_never_hold_the_same_number() {
        let stack = Stack::full(4);
        let held: Vec<_> = (0..4).map(|_| AtomicBool::new(false)).collect();
        let rounds = if cfg!(miri) { 100 } else { 50_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let Some(index) = stack.pop() else { continue };
                        assert!(!held[index as usize].swap(true, Ordering::Relaxed));
                        held[index as usize].store(false, Ordering::Relaxed);
                        stack.push(index);
                    }
                });
            }
        });
        assert_eq!(std::iter::from_fn(|| stack.pop()).count(), 4);
    }
}
