//! SPDK's environment (`spdk/env.h`): memory, cores and PCI, once a process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use spdk_plugin_sys as sys;

use super::options::{Options, env_setters};
use crate::error::{Error, Result};
use crate::guard::install_hook;

/// SPDK's environment in a program that has its own main loop, and so no [`SpdkApp`](crate::SpdkApp):
/// DMA memory, cores and PCI devices. With it a program makes [threads](crate::SpdkThread).
///
/// It lasts until the guard and every [`SpdkThread`](crate::SpdkThread) and all DMA memory are gone.
/// DPDK comes up once a process: a second one is an error, also when the first has gone.
///
/// ```no_run
/// use spdk_plugin::{SpdkEnv, SpdkThread};
///
/// # fn main() -> spdk_plugin::Result<()> {
/// let env = SpdkEnv::builder().name("copy").core_mask("0x1").no_pci(true).init()?;
/// let thread = SpdkThread::current("main")?;
/// thread.block_on(async { println!("on an SPDK thread") })?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the environment ends with the guard"]
pub struct SpdkEnv {
    share: Option<Share>,
}

impl SpdkEnv {
    /// Brings the environment up with SPDK's defaults (`spdk_env_init`): core 0, all hugepages.
    ///
    /// # Errors
    /// As for [`SpdkEnvBuilder::init`].
    pub fn init() -> Result<Self> {
        Self::builder().init()
    }

    /// Describes an environment.
    pub fn builder() -> SpdkEnvBuilder {
        SpdkEnvBuilder::default()
    }
}

impl Drop for SpdkEnv {
    fn drop(&mut self) {
        if let Some(share) = self.share.take() {
            end_with(share, || {
                // SAFETY: nothing of the environment is in use: each thing has a share in it.
                unsafe { sys::spdkp_env_fini() }
            });
        }
    }
}

/// Describes an [`SpdkEnv`]. What is not said is SPDK's own default.
#[derive(Clone, Debug, Default)]
#[must_use = "a description starts nothing"]
pub struct SpdkEnvBuilder {
    options: Options,
}

impl SpdkEnvBuilder {
    /// The program's name in DPDK's messages. `spdk_plugin` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// The cores that DPDK knows, as a mask (`0x3`) or a list (`[0,1]`). The calling thread is bound to
    /// the first of them; on the others DPDK starts threads of its own, which wait.
    pub fn core_mask(mut self, mask: impl Into<String>) -> Self {
        self.options.reactor_mask = Some(mask.into());
        self
    }

    /// Runs in ordinary memory: slower to start, and no DMA of real devices. Say how much with
    /// [`mem_size_mb`](Self::mem_size_mb).
    pub fn no_huge(mut self, no_huge: bool) -> Self {
        self.options.no_huge = no_huge;
        self
    }

    env_setters!();

    /// Brings the environment up.
    ///
    /// # Errors
    /// [`Error::Exists`] when the process has had one, or runs under an SPDK program;
    /// [`Error::Invalid`] for options that cannot be; [`Error::Errno`] when SPDK or DPDK refuses, which
    /// they explain on standard error.
    pub fn init(self) -> Result<SpdkEnv> {
        let raw = self.options.raw(None)?;
        let share = claim()?;
        install_hook();
        // SAFETY: the options hold strings that live for ever.
        match unsafe { sys::spdkp_env_init(&raw const raw.opts) } {
            0 => {
                OURS.store(true, Ordering::Release);
                Ok(SpdkEnv { share: Some(share) })
            }
            rc => {
                end_with(share, || ());
                Err(Error::from_rc("SPDK's environment did not come up", rc))
            }
        }
    }
}

/// Whether the environment is a [`SpdkEnv`], in which SPDK's threads are the program's own.
pub(crate) fn is_ours() -> bool {
    OURS.load(Ordering::Acquire)
}

static OURS: AtomicBool = AtomicBool::new(false);

/// Whether this process has had an environment of ours.
static CLAIMED: AtomicBool = AtomicBool::new(false);
/// Who needs the environment: the app or the guard, and all memory that came from it. [`GONE`] for ever
/// once it has ended.
static SHARES: AtomicUsize = AtomicUsize::new(0);
const GONE: usize = usize::MAX;
/// Ends it, when the last share goes.
static END: Mutex<Option<fn()>> = Mutex::new(None);

/// Keeps the environment from ending. Memory that was allocated from it holds one.
#[derive(Debug)]
pub(crate) struct Share(());

impl Share {
    /// `None` when the environment has ended, or could not be brought up. One that somebody else brings
    /// up is there always.
    pub(crate) fn new() -> Option<Self> {
        let more = |shares| (shares != GONE).then(|| shares + 1);
        SHARES.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok().then(|| Self(()))
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        SHARES.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if SHARES.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut end = END.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have got a new share meanwhile.
        let gone = || SHARES.compare_exchange(0, GONE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if end.is_some()
            && gone()
            && let Some(end) = end.take()
        {
            OURS.store(false, Ordering::Release);
            end();
        }
    }
}

/// Makes the caller the one that brings the environment up.
pub(crate) fn claim() -> Result<Share> {
    let had = || {
        Error::Exists(
            "this process has had its SPDK environment: DPDK comes up once a process".into(),
        )
    };
    // SAFETY: counts cores; without an environment there are none.
    let up = unsafe { sys::spdk_env_get_core_count() } != 0;
    if CLAIMED.swap(true, Ordering::AcqRel) || up {
        return Err(had());
    }
    Share::new().ok_or_else(had)
}

/// Ends the environment by `end`, when all memory that came from it is back.
pub(crate) fn end_with(share: Share, end: fn()) {
    *END.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    drop(share);
}
