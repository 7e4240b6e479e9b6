//! Several buffers for one vectored operation.

use std::fmt;

use spdk_plugin_sys as sys;

use super::DmaBuf;

/// A list of buffers that one vectored operation reads into or writes from (`struct iovec`s).
///
/// As with [`DmaBuf`], an operation takes the buffers out and puts them back when it ends.
///
/// ```no_run
/// use spdk_plugin::dma::{DmaBuf, IoVec};
///
/// let header = DmaBuf::alloc_zeroed(512, 512)?;
/// let body = DmaBuf::alloc_zeroed(4096, 4096)?;
/// let mut list = IoVec::from(vec![header, body]);
/// list.get_mut(0).expect("two buffers")[..4].copy_from_slice(b"head");
/// assert_eq!(list.len(), 4608);
/// # Ok::<(), spdk_plugin::Error>(())
/// ```
#[derive(Default)]
pub struct IoVec {
    bufs: Vec<DmaBuf>,
    /// The same for SPDK. An operation that uses fewer bytes shortens one entry, until it ends.
    raw: Vec<sys::iovec>,
    len: usize,
}

// SAFETY: the addresses are those of the buffers, which may be sent.
unsafe impl Send for IoVec {}
// SAFETY: a shared list is only read.
unsafe impl Sync for IoVec {}

impl IoVec {
    /// An empty list.
    pub const fn new() -> Self {
        Self { bufs: Vec::new(), raw: Vec::new(), len: 0 }
    }

    /// Adds a buffer at the end. An empty one is dropped.
    pub fn push(&mut self, buf: DmaBuf) {
        if !buf.is_empty() {
            self.len += buf.len();
            self.raw.push(sys::iovec { iov_base: buf.addr().cast(), iov_len: buf.len() });
            self.bufs.push(buf);
        }
    }

    /// Takes the last buffer off.
    pub fn pop(&mut self) -> Option<DmaBuf> {
        let buf = self.bufs.pop()?;
        self.raw.pop();
        self.len -= buf.len();
        Some(buf)
    }

    /// The bytes of all buffers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers.
    pub fn bufs(&self) -> &[DmaBuf] {
        &self.bufs
    }

    /// The bytes of one buffer, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        self.bufs.get_mut(index).map(|buf| &mut **buf)
    }

    /// The bytes of each buffer in turn, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bufs.iter_mut().map(|buf| &mut **buf)
    }

    /// The buffers, no longer in a list.
    pub fn into_bufs(self) -> Vec<DmaBuf> {
        self.bufs
    }

    /// Fills the buffers from `data` and tells how many bytes went there.
    pub fn fill_from(&mut self, data: &[u8]) -> usize {
        let mut rest = data;
        for buf in self.iter_mut() {
            let (now, later) = rest.split_at(buf.len().min(rest.len()));
            buf[..now.len()].copy_from_slice(now);
            rest = later;
        }
        data.len() - rest.len()
    }

    /// All bytes in a row.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bufs.iter().flat_map(|buf| buf.iter().copied()).collect()
    }

    /// The entries for the first `len` bytes, of which there are so many: the list for SPDK and its
    /// length. Until [`restore`](Self::restore) the list has no more than that.
    pub(crate) fn first(&mut self, len: usize) -> (*mut sys::iovec, u32) {
        let mut count = self.raw.len();
        if len < self.len {
            let mut rest = len;
            count = 0;
            for entry in &mut self.raw {
                count += 1;
                if rest <= entry.iov_len {
                    entry.iov_len = rest;
                    break;
                }
                rest -= entry.iov_len;
            }
        }
        (self.raw.as_mut_ptr(), count as u32)
    }

    /// Undoes [`first`](Self::first).
    pub(crate) fn restore(&mut self, len: usize) {
        if len < self.len {
            for (entry, buf) in self.raw.iter_mut().zip(&self.bufs) {
                entry.iov_len = buf.len();
            }
        }
    }
}

impl From<Vec<DmaBuf>> for IoVec {
    fn from(bufs: Vec<DmaBuf>) -> Self {
        bufs.into_iter().collect()
    }
}

impl FromIterator<DmaBuf> for IoVec {
    fn from_iter<I: IntoIterator<Item = DmaBuf>>(bufs: I) -> Self {
        let mut list = Self::new();
        list.extend(bufs);
        list
    }
}

impl Extend<DmaBuf> for IoVec {
    fn extend<I: IntoIterator<Item = DmaBuf>>(&mut self, bufs: I) {
        bufs.into_iter().for_each(|buf| self.push(buf));
    }
}

impl fmt::Debug for IoVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoVec({} bytes in {} buffers)", self.len, self.bufs.len())
    }
}
