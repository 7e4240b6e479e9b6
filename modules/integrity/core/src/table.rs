//! The pages of checksums in memory, and the table of where they lie.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::check::{self, BAD, Sums, UNWRITTEN};
use crate::disk::{Disk, Result};
use crate::layout::Layout;
use crate::page::{self, Address};
use crate::report::{Report, count};

/// In which checkpoint a page was written, and in which of its places it lies. 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version(pub(crate) u32);

impl Version {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn new(checkpoint: u64, slot: u64) -> Self {
        Self((checkpoint as u32) << 1 | slot as u32)
    }

    pub(crate) fn slot(self) -> u64 {
        u64::from(self.0 & 1)
    }

    /// The place that the page is written to next.
    pub(crate) fn other_slot(self) -> u64 {
        if self == Self::NONE { 0 } else { 1 - self.slot() }
    }

    /// The checkpoint after `last` whose versions are no [`NONE`](Self::NONE).
    pub(crate) fn next_checkpoint(last: u64) -> u64 {
        let next = last + 1;
        if next as u32 & (u32::MAX >> 1) == 0 { next + 1 } else { next }
    }
}

/// A page of checksums.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) no: u64,
    pub(crate) sums: Sums,
    /// It is in the list of those that have changed since they were written.
    dirty: AtomicBool,
    /// It was used since the hand of the clock passed.
    used: AtomicBool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Absent,
    Loading(Vec<Waker>),
    Ready(Arc<Page>),
}

#[derive(Debug, Default)]
struct Slot {
    version: AtomicU32,
    state: Mutex<State>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    slots: Box<[Slot]>,
    /// Pages that may be in memory.
    limit: usize,
    resident: AtomicUsize,
    hand: AtomicUsize,
    changed: Mutex<Vec<Arc<Page>>>,
    /// How many they are.
    changes: AtomicUsize,
}

/// Clears up after a load that was given up.
struct Loading<'a> {
    slot: &'a Slot,
    page: Option<Arc<Page>>,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let state = self.page.take().map_or(State::Absent, State::Ready);
        let was = std::mem::replace(&mut *self.slot.state(), state);
        if let State::Loading(wakers) = was {
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

impl Table {
    pub(crate) fn new(pages: u64, limit: usize) -> Self {
        Self {
            slots: (0..pages).map(|_| Slot::default()).collect(),
            limit: limit.max(16),
            resident: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            changed: Mutex::default(),
            changes: AtomicUsize::new(0),
        }
    }

    fn slot(&self, no: u64) -> &Slot {
        &self.slots[no as usize]
    }

    pub(crate) fn version(&self, no: u64) -> Version {
        Version(self.slot(no).version.load(Ordering::Acquire))
    }

    pub(crate) fn set_version(&self, no: u64, version: Version) {
        self.slot(no).version.store(version.0, Ordering::Release);
    }

    /// All versions from page `first` on.
    pub(crate) fn versions(&self, first: u64) -> impl Iterator<Item = u32> {
        let slots = self.slots.get(first as usize..).unwrap_or_default();
        slots.iter().map(|slot| slot.version.load(Ordering::Acquire))
    }

    /// The checksum of all versions.
    pub(crate) fn sum(&self) -> u32 {
        let mut bytes = [0; 1024];
        self.slots.chunks(256).fold(0, |sum, slots| {
            for (place, slot) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(slots) {
                *place = slot.version.load(Ordering::Acquire).to_le_bytes();
            }
            crc32c::crc32c_append(sum, &bytes[..4 * slots.len()])
        })
    }

    /// A page that is in memory.
    pub(crate) fn ready(&self, no: u64) -> Option<Arc<Page>> {
        match &*self.slot(no).state() {
            State::Ready(page) => {
                if !page.used.load(Ordering::Relaxed) {
                    page.used.store(true, Ordering::Relaxed);
                }
                Some(Arc::clone(page))
            }
            _ => None,
        }
    }

    /// A page, read from the base if need be. One that is damaged has nothing but bad checksums.
    pub(crate) async fn page<D: Disk>(
        &self,
        disk: &D,
        (layout, id): (&Layout, u64),
        report: &Report,
        no: u64,
    ) -> Result<Arc<Page>> {
        let slot = self.slot(no);
        let ready = poll_fn(|cx| {
            let mut state = slot.state();
            match &mut *state {
                State::Ready(page) => Poll::Ready(Some(Arc::clone(page))),
                State::Loading(wakers) => {
                    wakers.push(cx.waker().clone());
                    Poll::Pending
                }
                State::Absent => {
                    *state = State::Loading(Vec::new());
                    Poll::Ready(None)
                }
            }
        });
        if let Some(page) = ready.await {
            return Ok(page);
        }
        let mut loading = Loading { slot, page: None };
        let version = self.version(no);
        let count_of = layout.per_page().min(layout.blocks - no * layout.per_page()) as usize;
        let sums = if version == Version::NONE {
            check::sums((0..count_of).map(|_| UNWRITTEN))
        } else {
            let mut buf = disk.buf(layout.unit())?;
            disk.read(layout.page(no, version.slot()), layout.unit_blocks, &mut buf).await?;
            if is_version(&buf, id, no, version) {
                check::sums(page::values(&buf).take(count_of))
            } else {
                count(&report.counters.lost_pages);
                check::sums((0..count_of).map(|_| BAD))
            }
        };
        let (dirty, used) = (AtomicBool::new(false), AtomicBool::new(true));
        let page = Arc::new(Page { no, sums, dirty, used });
        loading.page = Some(Arc::clone(&page));
        drop(loading);
        if self.resident.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.evict();
        }
        Ok(page)
    }

    /// Makes room for a page or two, if there are any that are not used and not changed.
    fn evict(&self) {
        let mut evicted = 0;
        for _ in 0..(2 * self.slots.len()).min(4096) {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % self.slots.len();
            let mut state = self.slots[at].state();
            let State::Ready(page) = &*state else { continue };
            // Whoever uses or changes it has a count of its own, and takes it under this lock.
            if Arc::strong_count(page) == 1 && !page.used.swap(false, Ordering::Relaxed) {
                *state = State::Absent;
                self.resident.fetch_sub(1, Ordering::Relaxed);
                evicted += 1;
                if evicted == 2 {
                    return;
                }
            }
        }
    }

    /// Notes that checksums of a page were changed.
    pub(crate) fn touch(&self, page: &Arc<Page>) {
        if !page.dirty.swap(true, Ordering::AcqRel) {
            self.changed().push(Arc::clone(page));
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn changed(&self) -> MutexGuard<'_, Vec<Arc<Page>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many pages have changed that a checkpoint is due.
    pub(crate) fn is_due(&self) -> bool {
        self.changes.load(Ordering::Relaxed) > self.limit / 2
    }

    /// Whether more changes are to wait until they are written.
    pub(crate) fn is_crowded(&self) -> bool {
        self.changes.load(Ordering::Relaxed) > self.limit
    }

    /// Takes the pages that have changed. What is changed from now on is in the next list.
    pub(crate) fn take_changed(&self) -> Vec<Arc<Page>> {
        let pages = std::mem::take(&mut *self.changed());
        self.changes.fetch_sub(pages.len(), Ordering::Relaxed);
        pages.iter().for_each(|page| {
            page.dirty.swap(false, Ordering::AcqRel);
        });
        pages
    }
}

/// Whether a unit that was read is that version of that page.
pub(crate) fn is_version(unit: &[u8], id: u64, no: u64, version: Version) -> bool {
    let checkpoint = page::decode(unit, id, Address::Sums(no));
    checkpoint.is_some_and(|checkpoint| Version::new(checkpoint, version.slot()) == version)
}
