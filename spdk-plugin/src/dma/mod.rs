//! Memory that devices and other processes may reach (`spdk_malloc` in `spdk/env.h`).
//!
//! - [`DmaBuf`]: a buffer for I/O, with one owner.
//! - [`IoVec`]: several of them for one vectored operation.
//! - [`DmaPool`]: buffers of one size, got and given back without the allocator.
//! - [`DmaRegion`]: memory that several threads read and write at once, as they do a disk.
//!
//! All of it comes out of what the SPDK program was given with `-s`, and may be had, sent and dropped on
//! any thread once the environment is up.

mod buf;
mod iovec;
mod pool;
mod region;

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use spdk_plugin_sys as sys;

pub use buf::DmaBuf;
pub use iovec::IoVec;
pub use pool::DmaPool;
pub use region::DmaRegion;
pub(crate) use region::racy_copy;

use crate::error::{Error, Result};
use crate::runtime::env::Share;

/// `SPDK_ENV_SOCKET_ID_ANY` and, since 24.05, `SPDK_ENV_NUMA_ID_ANY`.
const NUMA_ANY: i32 = -1;

/// A piece of memory of SPDK's allocator, which is freed with it.
struct Block {
    base: NonNull<u8>,
    /// Keeps SPDK's environment up until the memory is freed.
    environment: Share,
}

// SAFETY: it is only an address; those who read and write there see to races.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// `len` bytes at a multiple of `align`, which is a power of two, on the NUMA node `numa` or
    /// [`NUMA_ANY`].
    fn new(len: usize, align: usize, numa: i32, zeroed: bool) -> Result<Self> {
        let no_memory = || Error::NoMemory(format!("{len} bytes of DMA memory in one piece"));
        if len == 0 {
            return Err(Error::Invalid("a DMA buffer cannot be of 0 bytes".into()));
        }
        if !align.is_power_of_two() {
            return Err(Error::Invalid(format!(
                "DMA memory cannot be aligned to {align} bytes, which is no power of two"
            )));
        }
        let environment = Share::new().ok_or_else(no_memory)?;
        let alloc = if zeroed { sys::spdk_zmalloc } else { sys::spdk_malloc };
        // SAFETY: plain allocation; NULL means that there is none.
        let base = unsafe { alloc(len, align, ptr::null_mut(), numa, sys::SPDK_MALLOC_DMA) };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(no_memory)?;
        Ok(Self { base, environment })
    }

    /// Its memory, and what keeps the environment up meanwhile.
    fn into_parts(self) -> (NonNull<u8>, Share) {
        let this = ManuallyDrop::new(self);
        // SAFETY: what it is taken from is not used again.
        (this.base, unsafe { ptr::read(&raw const this.environment) })
    }

    /// Undoes [`into_parts`](Self::into_parts).
    fn from_parts(base: NonNull<u8>, environment: Share) -> Self {
        Self { base, environment }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; the last user is gone.
        unsafe { sys::spdk_free(self.base.as_ptr().cast()) };
    }
}
