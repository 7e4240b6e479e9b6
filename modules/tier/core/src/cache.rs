//! The cache: its sets, and what all paths through it share.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::bitmap::Bitmap;
use crate::commit::Page;
use crate::geometry::Geometry;
use crate::ports::{Dev, Disks};
use crate::record::{self, Damage};
use crate::set::{Claim, Pins, Set, State, Use, WAYS, Way};
use crate::stats::Counters;

/// Where writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// To the fast disk, and to the slow one some time later.
    WriteBack,
    /// To the slow disk, and to the fast one too where the line lies there.
    WriteThrough,
    /// To the slow disk; the cache is left alone, and forgets what is written.
    Pass,
}

/// Whether the fast disk is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Fast {
    There,
    /// It is gone; the slow disk does not say so yet.
    Going,
    Gone,
}

/// A fast disk in front of a slow one.
///
/// It is shared by all threads; each brings its own [`Disks`]. No future of it may be dropped once it was
/// polled and before it has ended.
pub struct Cache {
    pub(crate) geometry: Geometry,
    pub(crate) stamp: u64,
    sets: Box<[Mutex<Set>]>,
    pins: Box<[AtomicU32]>,
    pub(crate) pages: Box<[Mutex<Page>]>,
    /// Sets that may have dirty lines.
    pub(crate) dirty_sets: Bitmap,
    /// Sets whose record may know less than there is to know.
    pub(crate) unsaved: Bitmap,
    dirty: AtomicU64,
    /// Writes under way that leave a line dirty that is not yet.
    dirtying: AtomicU64,
    mode: AtomicU8,
    fast: AtomicU8,
    /// Nothing more gets dirty, whatever the mode.
    draining: AtomicBool,
    /// The fast disk has failed a write: nothing new goes there.
    failing: AtomicBool,
    /// A set has had no room, as all of it was dirty.
    pressed: AtomicBool,
}

/// What was found on the fast disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Lines that are also on the slow disk.
    pub clean: u64,
    /// Lines that are to be written back.
    pub dirty: u64,
    /// Lines that were dropped, as the slow disk was written to without them.
    pub dropped: u64,
    /// Records that could not be trusted, and one of them.
    pub damaged: u64,
    /// The first of them.
    pub damage: Option<Damage>,
    /// Blocks of records that say more than the cache has.
    pages: Vec<u64>,
}

impl Cache {
    /// An empty cache, for a fast disk whose records are all zeroes.
    pub fn new(geometry: Geometry, stamp: u64, mode: Mode) -> Self {
        let each = |count: u64| 0..count as usize;
        Self {
            geometry,
            stamp,
            sets: each(geometry.sets).map(|_| Mutex::new(Set::new())).collect(),
            pins: each(geometry.fast_lines()).map(|_| AtomicU32::new(0)).collect(),
            pages: each(geometry.record_blocks()).map(|_| Mutex::default()).collect(),
            dirty_sets: Bitmap::new(geometry.sets),
            unsaved: Bitmap::new(geometry.sets),
            dirty: AtomicU64::new(0),
            dirtying: AtomicU64::new(0),
            mode: AtomicU8::new(mode as u8),
            fast: AtomicU8::new(Fast::There as u8),
            draining: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
        }
    }

    /// Reads the records of a fast disk that was used before. Nobody else uses the cache yet. `stale`
    /// drops what they call clean. What is damaged counts as empty, and must not be gone on with unless
    /// somebody has said so. Nothing is written: [`repair`](Self::repair) does that.
    ///
    /// # Errors
    /// A disk's.
    pub async fn load<D: Disks>(&self, disks: &D, stale: bool) -> Result<Loaded, D::Error> {
        let mut loaded = Loaded::default();
        let Some(mut buf) = disks.line_buf() else { return Err(disks.lost()) };
        let block_size = self.geometry.block_size as usize;
        let (at_once, mut page) = ((buf.len() / block_size) as u64, 0);
        while page < self.geometry.record_blocks() {
            // The last ones may have lines behind them, which do no harm.
            let at = (self.geometry.records_at + page).min(self.geometry.fast_end() - at_once);
            disks.read(Dev::Fast, &mut buf, at).await?;
            let skip = (self.geometry.records_at + page - at) as usize * block_size;
            for bytes in buf[skip..].chunks_exact(block_size) {
                if page < self.geometry.record_blocks() {
                    if self.load_page(page, bytes, stale, &mut loaded) {
                        loaded.pages.push(page);
                    }
                    page += 1;
                }
            }
        }
        // What was read need not be durable yet.
        disks.flush(Dev::Fast).await?;
        Ok(loaded)
    }

    /// Has the disk forget what was not loaded. Before anything else.
    ///
    /// # Errors
    /// A disk's.
    pub async fn repair<D: Disks>(&self, disks: &D, loaded: &Loaded) -> Result<(), D::Error> {
        for page in &loaded.pages {
            self.commit(disks, *page, &Counters::default()).await?;
        }
        if loaded.pages.is_empty() { Ok(()) } else { disks.flush(Dev::Fast).await }
    }

    /// `true`: something was dropped, and the disk is to know.
    fn load_page(&self, page: u64, bytes: &[u8], stale: bool, loaded: &mut Loaded) -> bool {
        let mut dropped = false;
        for (set, bytes) in self.geometry.sets_of(page).zip(bytes.chunks_exact(record::SIZE)) {
            let entries = match record::decode(bytes, &self.geometry, self.stamp, set) {
                Ok(entries) => entries,
                Err(damage) => {
                    loaded.damaged += 1;
                    loaded.damage.get_or_insert(damage);
                    dropped = true;
                    continue;
                }
            };
            let mut state = self.set(set);
            for (way, (claim, line)) in state.ways.iter_mut().zip(entries) {
                *way = Way { line, claim, state: State::Valid, ..Way::free() };
                match claim {
                    Claim::None => *way = Way::free(),
                    Claim::Clean if stale => {
                        *way = Way::free();
                        loaded.dropped += 1;
                        dropped = true;
                    }
                    Claim::Clean => loaded.clean += 1,
                    Claim::Dirty => {
                        self.make_dirty(set, way);
                        loaded.dirty += 1;
                    }
                }
            }
        }
        dropped
    }

    /// The layout.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Lines that the slow disk lacks, and those that are about to be.
    pub fn dirty(&self) -> u64 {
        // In the order opposite to that in which a line goes from the one to the other.
        self.dirtying.load(Ordering::Acquire) + self.dirty.load(Ordering::Acquire)
    }

    /// Lines that some sets hold, counted now.
    ///
    /// For sets whose numbers follow each other, as all may take long: look at some, then let others run.
    /// That also makes sure that a mode that was set before is known to all writes that come to them, and
    /// that those which did not know it are counted in [`dirty`](Self::dirty).
    pub fn cached(&self, sets: Range<u64>) -> u64 {
        let held = |set: u64| {
            let set = self.set(set);
            set.ways.iter().filter(|way| way.state == State::Valid).count() as u64
        };
        (sets.start..sets.end.min(self.geometry.sets)).map(held).sum()
    }

    /// Where writes go.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            0 => Mode::WriteBack,
            1 => Mode::WriteThrough,
            _ => Mode::Pass,
        }
    }

    /// Sends later writes elsewhere. Lines that are dirty stay so until they are written back.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Lets no more lines get dirty, or lets them again.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether the fast disk has failed a write, since when nothing new goes there.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Tries the fast disk again.
    pub fn retry(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// The fast disk is gone: what is only there fails, all writes fail.
    pub fn fast_is_going(&self) {
        self.fast.store(Fast::Going as u8, Ordering::Release);
    }

    /// The slow disk says that it is used without its cache: it is written to again, but for what is only
    /// on the other.
    pub fn fast_is_gone(&self) {
        self.fast.store(Fast::Gone as u8, Ordering::Release);
    }

    /// Whether the fast disk is gone.
    pub fn is_fast_gone(&self) -> bool {
        self.fast() != Fast::There
    }

    fn fast(&self) -> Fast {
        match self.fast.load(Ordering::Acquire) {
            0 => Fast::There,
            1 => Fast::Going,
            _ => Fast::Gone,
        }
    }

    pub(crate) fn accepts_writes(&self) -> bool {
        self.fast() != Fast::Going
    }

    pub(crate) fn set_failing(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether writes leave lines dirty.
    pub(crate) fn writes_back(&self) -> bool {
        self.mode() == Mode::WriteBack && !self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn press(&self) {
        self.pressed.store(true, Ordering::Relaxed);
    }

    /// Whether a set had no room since this was asked last.
    pub fn take_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed) && self.pressed.swap(false, Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set(&self, set: u64) -> MutexGuard<'_, Set> {
        self.sets[set as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn pins(&self, set: u64) -> Pins<'_> {
        let first = set as usize * WAYS;
        Pins(&self.pins[first..first + WAYS])
    }

    /// Gives a pin back.
    #[inline]
    pub(crate) fn unpin(&self, set: u64, way: usize, what: Use) {
        if self.pins(set).unpin(way, what) {
            self.wake(set);
        }
    }

    #[cold]
    fn wake(&self, set: u64) {
        let woken = self.set(set).changed();
        woken.wake();
    }

    /// Waits until nobody but the caller, who has made it busy, uses a way.
    pub(crate) async fn drain(&self, set: u64, way: usize) {
        poll_fn(|cx| {
            let mut state = self.set(set);
            if !state.ways[way].cleaning && self.pins(set).drained(way) {
                return Poll::Ready(());
            }
            state.wait(cx);
            Poll::Pending
        })
        .await;
    }

    /// Changes a way and wakes who waits for its set.
    pub(crate) fn change<T>(&self, set: u64, way: usize, change: impl FnOnce(&mut Way) -> T) -> T {
        let mut state = self.set(set);
        let result = change(&mut state.ways[way]);
        let woken = state.changed();
        drop(state);
        woken.wake();
        result
    }

    pub(crate) fn make_dirty(&self, set: u64, way: &mut Way) {
        if !way.dirty {
            way.dirty = true;
            self.dirty.fetch_add(1, Ordering::AcqRel);
            self.dirty_sets.set(set);
        }
    }

    /// A write is planned, under the lock of its set, that will make a line dirty.
    pub(crate) fn start_dirtying(&self) {
        self.dirtying.fetch_add(1, Ordering::AcqRel);
    }

    /// It has, or it has failed.
    pub(crate) fn end_dirtying(&self) {
        self.dirtying.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn make_clean(&self, way: &mut Way) {
        if way.dirty {
            way.dirty = false;
            self.dirty.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Writes to a line that is not in the cache are on their way to the slow disk, or have ended.
    pub(crate) fn end_around(&self, set: u64) {
        let mut state = self.set(set);
        state.arounds -= 1;
        let woken = state.changed();
        drop(state);
        woken.wake();
    }
}
