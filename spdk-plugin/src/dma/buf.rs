//! A buffer for I/O.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use super::pool::Pool;
use super::{Block, NUMA_ANY};
use crate::error::Result;
use crate::runtime::env::Share;

/// A buffer that devices may read and write, with one owner. It may be sent to other threads, and reads
/// and writes as a slice of bytes.
///
/// An operation takes the memory out of the buffer that it borrows and puts it back when it ends. When
/// its future is dropped or forgotten before, the buffer stays empty, and the memory goes when the
/// device is done with it.
///
/// ```no_run
/// use spdk_plugin::dma::DmaBuf;
///
/// let mut buf = DmaBuf::alloc_zeroed(8192, 4096)?;
/// buf[..5].copy_from_slice(b"hello");
/// let (head, tail) = buf.split_at(4096);
/// assert_eq!((head.len(), tail.len()), (4096, 4096));
/// # Ok::<(), spdk_plugin::Error>(())
/// ```
pub struct DmaBuf {
    /// Nobody else reads or writes the `len` bytes here for as long as the buffer has them.
    base: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// What keeps the memory.
enum Owner {
    Nobody,
    /// All of it is the buffer's, and is freed with it. Keeps the environment.
    Block(Share),
    /// It goes back to a pool.
    Lease(Pool),
    /// The buffer was split: each part has a share in the whole.
    Shared(Arc<DmaBuf>),
}

// SAFETY: the bytes are the buffer's alone, and what keeps them may go anywhere.
unsafe impl Send for DmaBuf {}
// SAFETY: a shared buffer is only read.
unsafe impl Sync for DmaBuf {}

impl DmaBuf {
    /// `len` bytes at a multiple of `align` bytes, with anything in them (`spdk_malloc`). The page size, 4096,
    /// suits every device; [`BdevDesc::alignment`](crate::bdev::BdevDesc::alignment) tells what one
    /// asks for.
    ///
    /// # Errors
    /// [`Error::NoMemory`](crate::Error::NoMemory) when there is not so much in one piece,
    /// [`Error::Invalid`](crate::Error::Invalid) when `len` is 0 or `align` is no power of two.
    pub fn alloc(len: usize, align: usize) -> Result<Self> {
        Block::new(len, align, NUMA_ANY, false).map(|block| Self::of(block, len))
    }

    /// As [`alloc`](Self::alloc), filled with zeroes (`spdk_zmalloc`).
    ///
    /// # Errors
    /// As for [`alloc`](Self::alloc).
    pub fn alloc_zeroed(len: usize, align: usize) -> Result<Self> {
        Block::new(len, align, NUMA_ANY, true).map(|block| Self::of(block, len))
    }

    /// As [`alloc_zeroed`](Self::alloc_zeroed), in the memory of the NUMA node `node`.
    ///
    /// # Errors
    /// As for [`alloc`](Self::alloc), and when that node has no memory for SPDK.
    pub fn alloc_on_node(len: usize, align: usize, node: u32) -> Result<Self> {
        let numa = i32::try_from(node).map_err(|_| {
            crate::Error::Invalid(format!("{node} is not the number of a NUMA node"))
        })?;
        Block::new(len, align, numa, true).map(|block| Self::of(block, len))
    }

    fn of(block: Block, len: usize) -> Self {
        let (base, environment) = block.into_parts();
        Self { base, len, owner: Owner::Block(environment) }
    }

    /// A buffer of a pool's, to which it goes back.
    pub(super) fn leased(base: NonNull<u8>, len: usize, pool: Pool) -> Self {
        Self { base, len, owner: Owner::Lease(pool) }
    }

    /// A buffer of no bytes and no memory.
    pub const fn empty() -> Self {
        Self { base: NonNull::dangling(), len: 0, owner: Owner::Nobody }
    }

    /// Moves everything to `to`, which is empty, and leaves this one empty. As `mem::take`, but for the
    /// questions what to drop.
    #[inline]
    pub(crate) fn move_to(&mut self, to: &mut Self) {
        debug_assert!(matches!(to.owner, Owner::Nobody), "what is there would leak");
        // SAFETY: two distinct buffers; what was in `self` now is in `to` alone.
        unsafe {
            ptr::copy_nonoverlapping(self, to, 1);
            (&raw mut self.owner).write(Owner::Nobody);
        }
        self.len = 0;
    }

    /// The address of the first byte, for SPDK.
    #[inline]
    pub(crate) fn addr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The first `at` bytes, and the rest. The memory is freed when both are gone.
    ///
    /// # Panics
    /// If `at` lies beyond the end.
    pub fn split_at(mut self, at: usize) -> (Self, Self) {
        let rest = self.split_off(at);
        (self, rest)
    }

    /// Takes off and gives what lies behind the first `at` bytes.
    ///
    /// # Panics
    /// If `at` lies beyond the end.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len, "a buffer of {} bytes cannot be split at {at}", self.len);
        let owner = self.share();
        // SAFETY: `at` lies inside, or at the end of, the bytes that the owner keeps.
        let base = unsafe { self.base.add(at) };
        let rest = Self { base, len: self.len - at, owner };
        self.len = at;
        rest
    }

    /// Parts of `size` bytes each, in order; the last one may be shorter.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn into_chunks(mut self, size: usize) -> Vec<Self> {
        assert!(size > 0, "a buffer cannot be split into parts of 0 bytes");
        let mut parts = Vec::with_capacity(self.len.div_ceil(size));
        while self.len > size {
            let rest = self.split_off(size);
            parts.push(mem::replace(&mut self, rest));
        }
        parts.push(self);
        parts
    }

    /// Puts `next` behind this one again, if it was split off there.
    ///
    /// # Errors
    /// Gives `next` back when the two are not neighbours of one buffer.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        let of_one = match (&self.owner, &next.owner) {
            (Owner::Shared(ours), Owner::Shared(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        };
        if !of_one || self.base.as_ptr().wrapping_add(self.len) != next.base.as_ptr() {
            return Err(next);
        }
        self.len += next.len;
        Ok(())
    }

    /// Another share in what keeps the memory.
    fn share(&mut self) -> Owner {
        let owner = match mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Nobody => return Owner::Nobody,
            Owner::Shared(whole) => whole,
            owner => Arc::new(Self { base: self.base, len: self.len, owner }),
        };
        self.owner = Owner::Shared(Arc::clone(&owner));
        Owner::Shared(owner)
    }

    #[cold]
    fn release(&mut self) {
        match mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Nobody => (),
            Owner::Block(environment) => drop(Block::from_parts(self.base, environment)),
            Owner::Lease(pool) => pool.give_back(self.base),
            Owner::Shared(whole) => drop(whole),
        }
    }
}

impl Drop for DmaBuf {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.owner, Owner::Nobody) {
            self.release();
        }
    }
}

impl Default for DmaBuf {
    fn default() -> Self {
        Self::empty()
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are there while the buffer has them, initialised by whoever had the memory
        // before, and nobody writes them while the buffer is borrowed.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the bytes are the buffer's alone.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuf({} bytes)", self.len)
    }
}
