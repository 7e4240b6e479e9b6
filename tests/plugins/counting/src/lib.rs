//! The ready-made modules on an allocator that counts, and `counting_heap` to ask it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde::Serialize;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

spdk_plugin::spdk_plugin! { modules: [spdk_plugin_crypt, spdk_plugin_null, spdk_plugin_ram] }

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

impl Counting {
    fn count(grown: usize, shrunk: usize) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let grown = i64::try_from(grown).unwrap_or(0) - i64::try_from(shrunk).unwrap_or(0);
        LIVE.fetch_add(grown, Ordering::Relaxed);
    }
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 0);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::count(new_size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// The plugin's heap.
#[derive(Serialize)]
struct Heap {
    /// Calls of the allocator.
    calls: u64,
    /// Bytes in use.
    live: i64,
}

#[rpc(name = "counting_heap")]
async fn heap() -> Result<Heap, RpcError> {
    Ok(Heap { calls: CALLS.load(Ordering::Relaxed), live: LIVE.load(Ordering::Relaxed) })
}
