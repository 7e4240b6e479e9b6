//! What the cache needs of the world: two disks and requests.

use std::fmt::Debug;
use std::future::Future;
use std::ops::DerefMut;

/// One of the two disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dev {
    /// The cache's.
    Fast,
    /// The one that is cached.
    Slow,
}

/// The two ways to be rid of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// What is read afterwards is anything.
    Unmap,
    /// It reads as zeroes afterwards.
    Zero,
}

/// The two disks, as one thread reaches them. Blocks are of the cache's block size on both.
///
/// An operation that was polled is polled to its end: the cache does not drop one.
pub trait Disks {
    /// Memory that both disks read and write.
    type Buf: DerefMut<Target = [u8]>;
    /// Why an operation has failed.
    type Error: Copy + Debug;

    /// Memory for a line, if there is some to spare.
    fn line_buf(&self) -> Option<Self::Buf>;

    /// Memory for a block.
    ///
    /// # Errors
    /// There is none.
    fn block_buf(&self) -> Result<Self::Buf, Self::Error>;

    /// The error for data that cannot be had.
    fn lost(&self) -> Self::Error;

    /// Fills `buf` from `block` on.
    fn read(
        &self,
        dev: Dev,
        buf: &mut Self::Buf,
        block: u64,
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Writes all of `buf` at `block`.
    fn write(
        &self,
        dev: Dev,
        buf: &mut Self::Buf,
        block: u64,
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Writes all of `bufs`, one behind the other, at `block`, and gives them back.
    fn write_all(
        &self,
        dev: Dev,
        bufs: Vec<Self::Buf>,
        block: u64,
    ) -> impl Future<Output = (Result<(), Self::Error>, Vec<Self::Buf>)>;

    /// Makes durable what was written before. Cheap if nothing is volatile.
    fn flush(&self, dev: Dev) -> impl Future<Output = Result<(), Self::Error>>;

    /// Whether `dev` may lose or reorder writes that were not flushed, and the cache is to mind that.
    fn is_volatile(&self, dev: Dev) -> bool;

    /// Discards blocks.
    fn discard(
        &self,
        dev: Dev,
        how: Discard,
        block: u64,
        blocks: u64,
    ) -> impl Future<Output = Result<(), Self::Error>>;
}

/// A read or a write of blocks that lie in one line.
pub trait Request<D: Disks> {
    /// Reads its data from, or writes them to, `block` of `dev`.
    fn forward(
        &mut self,
        disks: &D,
        dev: Dev,
        block: u64,
    ) -> impl Future<Output = Result<(), D::Error>>;

    /// Its first block within the line, and how many there are.
    fn blocks(&self) -> (u32, u32);

    /// A read's data are these.
    fn fill(&mut self, from: &[u8]);

    /// Copies out a write's data.
    fn copy(&self, into: &mut [u8]);

    /// A read's data, and not a write's, are to be kept out of the cache: it passes through once.
    fn streams(&self) -> bool;
}
