//! What the checksums are kept on.

use std::future::Future;
use std::ops::DerefMut;
use std::time::Duration;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The base has failed an operation.
    #[error("{0}")]
    Io(String),
    /// What lies on the base cannot be ours, or is damaged beyond what can be told apart.
    #[error("{0}")]
    Damaged(String),
    /// A parameter that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The device is being stopped.
    #[error("the device is being stopped")]
    Stopped,
}

/// What an operation gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The base, as seen by one thread.
pub trait Disk {
    /// Memory for its reads and writes.
    type Buf: DerefMut<Target = [u8]>;

    /// Memory of `len` zero bytes.
    ///
    /// # Errors
    /// There is none.
    fn buf(&self, len: usize) -> Result<Self::Buf>;

    /// Fills the first `blocks` blocks of `buf` from `lba` on.
    fn read(&self, lba: u64, blocks: u64, buf: &mut Self::Buf) -> impl Future<Output = Result<()>>;

    /// Writes the first `blocks` blocks of `buf`.
    fn write(&self, lba: u64, blocks: u64, buf: &mut Self::Buf)
    -> impl Future<Output = Result<()>>;

    /// Makes durable all writes that have ended.
    fn flush(&self) -> impl Future<Output = Result<()>>;

    /// Replaces the root, in one step: after a crash it is the old or the new one, and what was written before
    /// is durable when the new one is.
    fn store_root(&self, root: &[u8]) -> impl Future<Output = Result<()>>;

    /// Waits.
    fn pause(&self, time: Duration) -> impl Future<Output = ()>;
}
