//! SPDK's environment (`spdk/env.h`): memory, cores and PCI, once a process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Whether this process has had an environment of ours.
static CLAIMED: AtomicBool = AtomicBool::new(false);
/// Who needs the environment: the app or the guard, and all memory that came from it.
static SHARES: AtomicUsize = AtomicUsize::new(0);
/// Ends it, when the last share goes.
static END: Mutex<Option<fn()>> = Mutex::new(None);

/// Keeps the environment from ending. Memory that was allocated from it holds one.
#[derive(Debug)]
pub(crate) struct Share(());

impl Share {
    pub(crate) fn new() -> Self {
        SHARES.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if SHARES.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let end = END.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(end) = end {
            end();
        }
    }
}

/// Makes the caller the one that brings the environment up.
pub(crate) fn claim() -> Result<Share> {
    // SAFETY: counts cores; without an environment there are none.
    let up = unsafe { spdk_plugin_sys::spdk_env_get_core_count() } != 0;
    if CLAIMED.swap(true, Ordering::AcqRel) || up {
        return Err(Error::Exists(
            "this process has had its SPDK environment: DPDK comes up once a process".into(),
        ));
    }
    Ok(Share::new())
}

/// Ends the environment by `end`, when all memory that came from it is back.
pub(crate) fn end_with(share: Share, end: fn()) {
    *END.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(end);
    drop(share);
}
