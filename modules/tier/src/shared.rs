//! What all threads of a tier share, and what each has.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use serde_json::{Value, json};
use spdk_plugin::Result;
use spdk_plugin::dma::DmaPool;
use spdk_plugin::module::{Base, Bases};
use spdk_plugin::runtime::yield_now;
use spdk_plugin_tier_core::{Cache, Counters, Stats};

use crate::config::{Create, Settings};
use crate::disks::{Ports, Streams};
use crate::pair::{FAST, SLOW, Supers, open};

/// Memory for lines that requests bring in, in bytes, and how many of them at least and at most.
const LINE_MEMORY: usize = 4 << 20;
const LINES: (usize, usize) = (32, 256);
/// Blocks of records that are written at once without more memory.
const BLOCKS: u32 = 64;

/// A tier.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) id: [u8; 16],
    pub(crate) cache: Cache,
    pub(crate) fast: Base,
    pub(crate) slow: Base,
    lines: DmaPool,
    blocks: DmaPool,
    barriers: bool,
    settings: Mutex<Settings>,
    cutoff_blocks: AtomicU64,
    /// Taken by one task of the app thread at a time, which leaves `None` meanwhile.
    supers: Mutex<Option<Supers>>,
    counters: Mutex<Vec<Arc<Counters>>>,
    /// Of threads that have ended.
    ended: Mutex<Stats>,
    /// How many want everything written back.
    drains: AtomicU32,
    /// Rounds of writing back that came to nothing, as a base has failed.
    failed_rounds: AtomicU64,
    stop: AtomicBool,
    dissolve: AtomicBool,
    discard_dirty: AtomicBool,
    background: Mutex<Option<oneshot::Receiver<()>>>,
}

/// A tier's state on one thread.
pub(crate) struct Channel {
    shared: Arc<Shared>,
    pub(crate) ports: Ports,
    pub(crate) counters: Arc<Counters>,
    pub(crate) rows: Streams,
}

impl Channel {
    #[inline]
    pub(crate) fn cutoff_blocks(&self) -> u64 {
        self.shared.cutoff_blocks.load(Ordering::Relaxed)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        lock(&self.shared.ended).add(&self.counters);
        lock(&self.shared.counters).retain(|counters| !Arc::ptr_eq(counters, &self.counters));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Finds or makes a tier on its bases.
    pub(crate) async fn open(config: &Create, bases: &Bases) -> Result<Arc<Self>> {
        let (fast, slow) = (&bases[FAST], &bases[SLOW]);
        let block_size = fast.block_size() as usize;
        let blocks = DmaPool::new(BLOCKS, block_size, 4096)?;
        // Records are read by lines, whose size is known when the superblock is.
        let largest = DmaPool::new(1, 64 << 10, 4096)?;
        let (fast_port, slow_port) = (fast.channel()?, slow.channel()?);
        let ports = Ports::new(Some(fast_port), slow_port, largest, blocks.clone(), true);
        let pair = open(config, bases, &ports).await?;
        drop(ports);
        let line_size = pair.cache.geometry().line_size();
        let count = (LINE_MEMORY / line_size).clamp(LINES.0, LINES.1);
        let shared = Self {
            name: config.name.clone(),
            id: pair.supers.fast.id,
            cache: pair.cache,
            fast: fast.clone(),
            slow: slow.clone(),
            lines: DmaPool::new(count as u32, line_size, 4096)?,
            blocks,
            barriers: config.barriers,
            settings: Mutex::new(config.settings()),
            cutoff_blocks: AtomicU64::new(0),
            supers: Mutex::new(Some(pair.supers)),
            counters: Mutex::default(),
            ended: Mutex::default(),
            drains: AtomicU32::new(0),
            failed_rounds: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            dissolve: AtomicBool::new(false),
            discard_dirty: AtomicBool::new(false),
            background: Mutex::new(None),
        };
        shared.set_settings(config.settings());
        Ok(Arc::new(shared))
    }

    /// The present thread's ways to the bases, with its memory for lines in `lines`.
    pub(crate) fn ports(&self, lines: DmaPool) -> Result<Ports> {
        let fast = if self.cache.is_fast_gone() { None } else { Some(self.fast.channel()?) };
        Ok(Ports::new(fast, self.slow.channel()?, lines, self.blocks.clone(), self.barriers))
    }

    pub(crate) fn channel(self: &Arc<Self>) -> Result<Channel> {
        let ports = self.ports(self.lines.clone())?;
        let (counters, rows) = (self.new_counters(), Streams::default());
        Ok(Channel { shared: Arc::clone(self), ports, counters, rows })
    }

    pub(crate) fn new_counters(&self) -> Arc<Counters> {
        let counters = Arc::<Counters>::default();
        lock(&self.counters).push(Arc::clone(&counters));
        counters
    }

    pub(crate) fn settings(&self) -> Settings {
        *lock(&self.settings)
    }

    /// All but the mode takes effect.
    pub(crate) fn set_settings(&self, settings: Settings) {
        let blocks = u64::from(settings.sequential_cutoff_kb) * 1024;
        let blocks = blocks / u64::from(self.cache.geometry().block_size);
        self.cutoff_blocks.store(blocks, Ordering::Relaxed);
        *lock(&self.settings) = settings;
    }

    /// `None` while another task has them.
    pub(crate) fn take_supers(&self) -> Option<Supers> {
        lock(&self.supers).take()
    }

    pub(crate) fn put_supers(&self, supers: Supers) {
        *lock(&self.supers) = Some(supers);
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut sum = *lock(&self.ended);
        lock(&self.counters).iter().for_each(|counters| sum.add(counters));
        sum
    }

    /// What can be said without waiting.
    pub(crate) fn describe(&self) -> Value {
        let (geometry, stats) = (self.cache.geometry(), self.stats());
        let state = match (self.cache.is_fast_gone(), self.cache.is_failing()) {
            (true, _) => "fast_lost",
            (false, true) => "fast_failing",
            (false, false) => "online",
        };
        json!({
            "fast": self.fast.name(),
            "slow": self.slow.name(),
            "state": state,
            "mode": self.settings().mode,
            "line_size": geometry.line_size(),
            "lines": geometry.fast_lines(),
            "dirty_lines": self.cache.dirty(),
            "barriers": self.barriers,
            "read_hits": stats.read_hits,
            "read_misses": stats.read_misses,
            "write_hits": stats.write_hits,
            "write_misses": stats.write_misses,
            "write_arounds": stats.write_arounds,
            "fills": stats.fills,
            "evictions": stats.evictions,
            "write_backs": stats.write_backs,
            "commits": stats.commits,
            "fast_errors": stats.fast_errors,
            "slow_errors": stats.slow_errors,
        })
    }

    /// Looks at all sets: how many lines they hold. What was said before of where writes go is known to all of
    /// them then.
    pub(crate) async fn cached(&self) -> u64 {
        const STEP: u64 = 1 << 14;
        let mut sum = 0;
        for at in (0..self.cache.geometry().sets).step_by(STEP as usize) {
            sum += self.cache.cached(at..at + STEP);
            yield_now().await;
        }
        sum
    }

    /// Has everything written back, and nothing get dirty, until the guard goes.
    pub(crate) fn drain(self: &Arc<Self>) -> Drain {
        self.drains.fetch_add(1, Ordering::AcqRel);
        self.cache.set_draining(true);
        Drain(Arc::clone(self))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drains.load(Ordering::Acquire) > 0
    }

    pub(crate) fn failed_rounds(&self) -> u64 {
        self.failed_rounds.load(Ordering::Relaxed)
    }

    pub(crate) fn count_failed_round(&self) {
        self.failed_rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// The background comes to its end, some time.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// When it ends, the pair is one no more.
    pub(crate) fn set_dissolve(&self, discard_dirty: bool) {
        self.discard_dirty.store(discard_dirty, Ordering::Release);
        self.dissolve.store(true, Ordering::Release);
    }

    pub(crate) fn is_to_dissolve(&self) -> bool {
        self.dissolve.load(Ordering::Acquire)
    }

    pub(crate) fn discards_dirty(&self) -> bool {
        self.discard_dirty.load(Ordering::Acquire)
    }

    pub(crate) fn set_background(&self, ended: oneshot::Receiver<()>) {
        *lock(&self.background) = Some(ended);
    }

    /// Waits for the end of the background.
    pub(crate) async fn end(&self) {
        self.stop();
        let background = lock(&self.background).take();
        if let Some(ended) = background {
            // It is dropped unsent if the task is.
            let _ = ended.await;
        }
    }
}

/// While it is there, everything is written back and nothing gets dirty.
pub(crate) struct Drain(Arc<Shared>);

impl Drop for Drain {
    fn drop(&mut self) {
        if self.0.drains.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.cache.set_draining(false);
        }
    }
}
