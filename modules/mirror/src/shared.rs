//! What all threads of a mirror share: atomics that the I/O path reads, and lists that it does not.

use std::array;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::{mpsc, oneshot};
use spdk_plugin::module::{Base, IoError, IoResult};
use spdk_plugin_mirror_core::{Geometry, Legs, MAX_LEGS, RangeLocks, Record, Regions};

use crate::config::Create;
use crate::owner::Command;

/// A leg that is written, for threads that begin to use the mirror.
#[derive(Clone)]
pub(crate) struct Leg {
    pub(crate) base: Base,
    /// How many legs this slot had before: an error of one that has gone is not that of its successor.
    pub(crate) turn: u32,
}

/// What a check of the legs has found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Check {
    pub(crate) running: bool,
    pub(crate) done: bool,
    pub(crate) blocks: u64,
    pub(crate) differing: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) read_errors: AtomicU32,
    pub(crate) repairs: AtomicU32,
}

/// A mirror that runs.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    pub(crate) regions: Regions,
    pub(crate) locks: RangeLocks,
    readable: AtomicU32,
    written: AtomicU32,
    trusted: AtomicU32,
    source: AtomicUsize,
    /// There may be something to copy.
    pub(crate) kick: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) check_wanted: AtomicBool,
    /// The superblocks are to be wiped at the end.
    pub(crate) wipe: AtomicBool,
    pub(crate) rebuild_mb_per_sec: AtomicU32,
    pub(crate) quiet_ms: AtomicU32,
    pub(crate) max_read_errors: AtomicU32,
    pub(crate) copied_blocks: AtomicU64,
    pub(crate) counters: [Counters; MAX_LEGS],
    legs: Mutex<[Option<Leg>; MAX_LEGS]>,
    turns: Mutex<[u32; MAX_LEGS]>,
    record: Mutex<Record>,
    check: Mutex<Check>,
    /// Requests in flight, one counter for each thread.
    busy: Mutex<Vec<Arc<AtomicU32>>>,
    commands: mpsc::UnboundedSender<Command>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(record: &Record, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            name: record.name.clone(),
            geometry: record.geometry.clone(),
            regions: Regions::new(record.geometry.regions()),
            locks: RangeLocks::new(record.geometry.block_size),
            readable: AtomicU32::new(0),
            written: AtomicU32::new(0),
            trusted: AtomicU32::new(0),
            source: AtomicUsize::new(0),
            kick: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            check_wanted: AtomicBool::new(false),
            wipe: AtomicBool::new(false),
            rebuild_mb_per_sec: AtomicU32::new(0),
            quiet_ms: AtomicU32::new(0),
            max_read_errors: AtomicU32::new(0),
            copied_blocks: AtomicU64::new(0),
            counters: array::from_fn(|_| Counters::default()),
            legs: Mutex::new(array::from_fn(|_| None)),
            turns: Mutex::default(),
            record: Mutex::new(record.clone()),
            check: Mutex::default(),
            busy: Mutex::default(),
            commands,
        }
    }

    /// The legs that reads may go to (invariant 3).
    #[inline]
    pub(crate) fn readable(&self) -> Legs {
        Legs(self.readable.load(Ordering::SeqCst))
    }

    pub(crate) fn set_readable(&self, legs: Legs) {
        self.readable.store(legs.0, Ordering::SeqCst);
        let source = self.source.load(Ordering::SeqCst);
        if let Some(first) = legs.first().filter(|_| !legs.has(source)) {
            self.source.store(first, Ordering::SeqCst);
        }
    }

    /// The legs that writes go to.
    #[inline]
    pub(crate) fn written(&self) -> Legs {
        Legs(self.written.load(Ordering::SeqCst))
    }

    pub(crate) fn set_written(&self, legs: Legs) {
        self.written.store(legs.0, Ordering::SeqCst);
    }

    /// The legs that must have a write before it is acknowledged (invariant 2).
    #[inline]
    pub(crate) fn trusted(&self) -> Legs {
        Legs(self.trusted.load(Ordering::SeqCst))
    }

    pub(crate) fn set_trusted(&self, legs: Legs) {
        self.trusted.store(legs.0, Ordering::SeqCst);
    }

    /// The leg that unsynced regions are read and copied from.
    #[inline]
    pub(crate) fn source(&self) -> usize {
        self.source.load(Ordering::SeqCst)
    }

    pub(crate) fn legs(&self) -> MutexGuard<'_, [Option<Leg>; MAX_LEGS]> {
        lock(&self.legs)
    }

    /// How many legs each slot had.
    pub(crate) fn turns(&self) -> MutexGuard<'_, [u32; MAX_LEGS]> {
        lock(&self.turns)
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    pub(crate) fn check(&self) -> MutexGuard<'_, Check> {
        lock(&self.check)
    }

    /// A counter of requests for one more thread.
    pub(crate) fn new_busy(&self) -> Arc<AtomicU32> {
        let mut all = lock(&self.busy);
        all.retain(|counter| Arc::strong_count(counter) > 1);
        let counter = Arc::new(AtomicU32::new(0));
        all.push(Arc::clone(&counter));
        counter
    }

    /// Requests in flight on all threads.
    pub(crate) fn busy(&self) -> u32 {
        lock(&self.busy).iter().map(|counter| counter.load(Ordering::SeqCst)).sum()
    }

    pub(crate) fn send(&self, command: Command) {
        // The owner is there until the last request has gone.
        let _ = self.commands.unbounded_send(command);
    }

    /// Has the owner do something and gives its answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> IoResult<T> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply));
        answer.await.map_err(|_| IoError::Failed)
    }

    /// Takes over what may be changed.
    pub(crate) fn set_options(&self, config: &Create) {
        self.rebuild_mb_per_sec.store(config.rebuild_mb_per_sec, Ordering::Relaxed);
        self.quiet_ms.store(config.quiet_ms, Ordering::Relaxed);
        self.max_read_errors.store(config.max_read_errors, Ordering::Relaxed);
    }

    /// Has the copier look.
    pub(crate) fn kick(&self) {
        self.kick.store(true, Ordering::SeqCst);
    }
}
