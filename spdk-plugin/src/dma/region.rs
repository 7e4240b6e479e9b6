//! Memory that several threads read and write at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{Block, NUMA_ANY};
use crate::error::{Error, Result};

/// DMA memory that several threads read and write at once, as they do a disk.
///
/// It is the store of a RAM disk or a cache. Copies in and out that race with each other are sound:
/// each byte is the one or the other, and which is not said. That is also what a disk promises for I/O
/// that overlaps. A clone is the same memory, which goes with its last clone.
#[derive(Clone)]
pub struct DmaRegion(Arc<Region>);

/// The memory is reached by `DmaRegion`'s copies alone, which may race.
struct Region {
    block: Block,
    len: usize,
}

/// Whether they are the same memory.
impl PartialEq for DmaRegion {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for DmaRegion {}

impl fmt::Debug for DmaRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaRegion({} bytes)", self.len())
    }
}

impl DmaRegion {
    /// Zeroed memory of `len` bytes, aligned to a page. It comes out of what the SPDK program was given
    /// with `-s`.
    ///
    /// # Errors
    /// [`Error::NoMemory`] when there is not so much in one piece.
    pub fn zeroed(len: u64) -> Result<Self> {
        let no_memory = || Error::NoMemory(format!("{len} bytes of DMA memory in one piece"));
        let size = usize::try_from(len).ok().filter(|len| *len > 0).ok_or_else(no_memory)?;
        let block = Block::new(size, 4096, NUMA_ANY, true)?;
        Ok(Self(Arc::new(Region { block, len: size })))
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether it is empty, which it never is.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Where a range begins, if it lies inside.
    pub(crate) fn at(&self, range: &Range<usize>) -> Option<*mut u8> {
        let inside = range.start <= range.end && range.end <= self.len();
        inside.then(|| self.0.block.base.as_ptr().wrapping_add(range.start))
    }

    fn span(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        let at = end.and_then(|end| self.at(&(offset..end)));
        at.unwrap_or_else(|| {
            panic!("{len} bytes at {offset} reach beyond a region of {} bytes", self.len())
        })
    }

    /// Copies out what lies at `offset`.
    ///
    /// # Panics
    /// If that reaches beyond the end.
    #[inline]
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.span(offset, into.len());
        // SAFETY: the source lies inside the region, the destination is the caller's alone.
        unsafe { racy_copy(from, into.as_mut_ptr(), into.len()) };
    }

    /// Copies `from` to `offset`.
    ///
    /// # Panics
    /// If that reaches beyond the end.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.span(offset, from.len());
        // SAFETY: the destination lies inside the region, the source is the caller's.
        unsafe { racy_copy(from.as_ptr(), to, from.len()) };
    }

    /// Zeroes `len` bytes at `offset`.
    ///
    /// # Panics
    /// If that reaches beyond the end.
    pub fn zero(&self, offset: usize, len: usize) {
        const ZEROES: [u8; 4096] = [0; 4096];
        for at in (0..len).step_by(ZEROES.len()) {
            self.write(offset + at, &ZEROES[..ZEROES.len().min(len - at)]);
        }
    }

    /// Whether the bytes at `offset` are `with`.
    ///
    /// # Panics
    /// If that reaches beyond the end.
    pub fn equals(&self, offset: usize, with: &[u8]) -> bool {
        let mut chunk = [0; 4096];
        with.chunks(chunk.len()).enumerate().all(|(i, with)| {
            let chunk = &mut chunk[..with.len()];
            self.read(offset + i * 4096, chunk);
            chunk == with
        })
    }

    /// Copies `len` bytes from `offset` to `to_offset` of `to`, which may be this region and overlap.
    ///
    /// # Panics
    /// If that reaches beyond the end of either.
    pub fn copy(&self, offset: usize, to: &DmaRegion, to_offset: usize, len: usize) {
        let mut chunk = [0; 4096];
        let mut step = |at: usize| {
            let chunk = &mut chunk[..4096.min(len - at)];
            self.read(offset + at, chunk);
            to.write(to_offset + at, chunk);
        };
        // From the end when the destination lies further on, so that nothing is overwritten unread.
        if offset < to_offset {
            (0..len).step_by(4096).rev().for_each(&mut step);
        } else {
            (0..len).step_by(4096).for_each(&mut step);
        }
    }
}

/// Copies bytes that others may write, or read what we write, at the same time.
///
/// A copy in Rust or by `memcpy` would be a data race. To the compiler an instruction of the machine
/// is a sequence of accesses of unknown order, which may race.
///
/// # Safety
/// Both ranges are mapped and lie in memory that is not the target of a Rust reference other than the
/// caller's own; they do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: says the caller; the direction flag is clear, says the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// As above, by relaxed atomic accesses.
///
/// # Safety
/// As above.
#[cfg(any(not(target_arch = "x86_64"), miri))]
pub(crate) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
    let words = if from.addr() % 8 == 0 && to.addr() % 8 == 0 { len / 8 } else { 0 };
    // SAFETY: inside the ranges, as the caller says, and aligned.
    unsafe {
        for i in 0..words {
            let word = AtomicU64::from_ptr(from.cast_mut().cast::<u64>().add(i)).load(Relaxed);
            AtomicU64::from_ptr(to.cast::<u64>().add(i)).store(word, Relaxed);
        }
        for i in words * 8..len {
            let byte = AtomicU8::from_ptr(from.cast_mut().add(i)).load(Relaxed);
            AtomicU8::from_ptr(to.add(i)).store(byte, Relaxed);
        }
    }
}
