//! What happens to an open bdev (`enum spdk_bdev_event_type`), as a stream.
//!
//! Events are kept as counters that each stream compares with its own, so that none is lost before a
//! stream is first polled, and none takes memory.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use spdk_plugin_sys as sys;

use crate::guard::{catch, drop_caught};
use crate::runtime::home::{Home, HomeRef};

/// Something that has happened to an open bdev.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The bdev is being removed, which waits until everyone has closed it: drop the channels and the
    /// descriptor. It is a stream's last event.
    Remove,
    /// The bdev has another size. Several changes that nobody asked for in between are one event.
    Resize {
        /// The present number of blocks.
        num_blocks: u64,
    },
    /// The device wants data moved: what lies in this range will be lost or slow unless it is written
    /// again (`spdk_bdev_get_media_events`). SPDK keeps the newest 64 or so until they are asked for,
    /// and tells of them one descriptor that may write.
    Media(MediaEvent),
}

/// A range of blocks that a device wants moved (`struct spdk_bdev_media_event`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MediaEvent {
    /// The first block.
    pub offset_blocks: u64,
    /// The number of blocks.
    pub num_blocks: u64,
}

/// What a descriptor's events are kept in. SPDK holds a share while the descriptor is open.
pub(crate) struct Shared {
    home: &'static Home,
    /// Null before it is open and from when it is about to close.
    desc: Cell<*mut sys::spdk_bdev_desc>,
    ended: Cell<bool>,
    removed: Cell<bool>,
    resizes: Cell<u64>,
    watchers: RefCell<Vec<Watcher>>,
    last_id: Cell<u64>,
    /// Are told first, at once.
    hooks: Cell<Vec<(usize, Hook)>>,
}

/// What a module does when one of its bases changes.
pub(crate) type Hook = Box<dyn Fn(Event) + Send>;

struct Watcher {
    id: u64,
    waker: Waker,
}

// SAFETY: another thread than the descriptor's reads `home` only, in `on_event` of releases that tell of
// media events wherever they come up; all else is touched on the descriptor's thread.
unsafe impl Sync for Shared {}
// SAFETY: as above, and dropping it anywhere is sound: wakers may go anywhere.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) fn new(home: &'static Home) -> Self {
        Self {
            home,
            desc: Cell::new(ptr::null_mut()),
            ended: Cell::new(false),
            removed: Cell::new(false),
            resizes: Cell::new(0),
            watchers: RefCell::default(),
            last_id: Cell::new(0),
            hooks: Cell::default(),
        }
    }

    pub(super) fn opened(&self, desc: *mut sys::spdk_bdev_desc) {
        self.desc.set(desc);
    }

    pub(super) fn closing(&self) {
        self.desc.set(ptr::null_mut());
        self.ended.set(true);
        // Others than this thread may drop the rest.
        drop_caught("a base's events", self.hooks.take());
    }

    pub(super) fn closed(&self) {
        self.wake();
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.get()
    }

    /// Has `hook` called with each [`Event::Remove`] and [`Event::Resize`] from now on, instead of the one of
    /// this key before. On the descriptor's thread.
    pub(crate) fn set_hook(&self, key: usize, hook: Option<Hook>) {
        let mut hooks = self.hooks.take();
        let old = hooks.iter().position(|(other, _)| *other == key).map(|at| hooks.remove(at));
        if let Some(hook) = hook.filter(|_| !self.ended.get()) {
            hooks.push((key, hook));
        }
        self.hooks.set(hooks);
        drop_caught("a base's events", old);
    }

    fn call_hooks(&self, event: &Event) {
        let hooks = self.hooks.take();
        for (_, hook) in &hooks {
            let _ = catch("a base's events", || hook(event.clone()));
        }
        // Those that were set meanwhile come instead.
        let newer = self.hooks.take();
        let (mut hooks, replaced): (Vec<_>, Vec<_>) =
            hooks.into_iter().partition(|(key, _)| newer.iter().all(|(other, _)| other != key));
        hooks.extend(newer);
        if self.ended.get() {
            hooks.clear();
        }
        self.hooks.set(hooks);
        drop_caught("a base's events", replaced);
    }

    /// Wakes all streams. Wakers are foreign code, so none is called while the list is borrowed.
    fn wake(&self) {
        let watchers = self.watchers.take();
        for watcher in watchers {
            let _ = catch("a waker", || watcher.waker.wake());
        }
    }

    fn media(&self) -> Option<MediaEvent> {
        let desc = self.desc.get();
        if desc.is_null() {
            return None;
        }
        let mut event = sys::spdk_bdev_media_event::default();
        // SAFETY: the descriptor is open, and we are on its thread.
        let found = unsafe { sys::spdk_bdev_get_media_events(desc, &raw mut event, 1) };
        (found == 1)
            .then_some(MediaEvent { offset_blocks: event.offset, num_blocks: event.num_blocks })
    }
}

/// The `event_cb` of every descriptor of ours.
pub(super) unsafe extern "C" fn on_event(
    kind: sys::spdk_bdev_event_type,
    _bdev: *mut sys::spdk_bdev,
    ctx: *mut c_void,
) {
    let shared = ctx.cast::<Shared>().cast_const();
    // SAFETY: SPDK has a share while the descriptor is open, and it is while it is told of an event.
    let home = unsafe { (*shared).home };
    if kind == sys::SPDK_BDEV_EVENT_MEDIA_MANAGEMENT {
        // Before 23.05 this is not the descriptor's thread, and SPDK holds a lock of the bdev's: nothing
        // of the user's may run here. Without a message to spare the event waits for the next one.
        // SAFETY: as above; `on_media` takes the new share.
        unsafe {
            Arc::increment_strong_count(shared);
            if !home.call(on_media, ctx) {
                Arc::decrement_strong_count(shared);
            }
        }
        return;
    }
    // SAFETY: as above. A waker may drop the descriptor, so the share here is our own.
    let shared = unsafe {
        Arc::increment_strong_count(shared);
        Arc::from_raw(shared)
    };
    home.enter(move || {
        let event = if kind == sys::SPDK_BDEV_EVENT_REMOVE {
            shared.removed.set(true);
            Event::Remove
        } else if kind == sys::SPDK_BDEV_EVENT_RESIZE {
            shared.resizes.set(shared.resizes.get() + 1);
            Event::Resize { num_blocks: shared.num_blocks() }
        } else {
            return;
        };
        shared.call_hooks(&event);
        shared.wake();
    });
}

unsafe extern "C" fn on_media(ctx: *mut c_void) {
    // SAFETY: `on_event` gave up this share.
    let shared = unsafe { Arc::from_raw(ctx.cast::<Shared>().cast_const()) };
    if let Some(home) = HomeRef::current() {
        home.get().enter(move || shared.wake());
    }
}

/// The events of a descriptor, see [`BdevDesc::events`](super::BdevDesc::events). It ends after
/// [`Event::Remove`], or when the descriptor is closed.
///
/// ```no_run
/// use spdk_plugin::bdev::{BdevDesc, Event};
///
/// # async fn watch() -> spdk_plugin::Result<()> {
/// let desc = BdevDesc::open("Malloc0", false)?;
/// let mut events = desc.events();
/// while let Some(event) = events.next().await {
///     match event {
///         Event::Resize { num_blocks } => println!("now {num_blocks} blocks"),
///         Event::Remove => break,
///         _ => (),
///     }
/// }
/// drop(desc);
/// # Ok(())
/// # }
/// ```
#[must_use = "a stream does nothing unless it is polled"]
pub struct Events {
    shared: Arc<Shared>,
    id: u64,
    resizes: u64,
    done: bool,
    _not_send: PhantomData<*const ()>,
}

impl Events {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let id = shared.last_id.get() + 1;
        shared.last_id.set(id);
        Self { shared, id, resizes: 0, done: false, _not_send: PhantomData }
    }

    /// The next event; `None` when there will be none. It may be dropped at any time, and nothing is
    /// lost.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let shared = &self.shared;
        if self.done || shared.ended.get() {
            return Poll::Ready(None);
        }
        if self.resizes != shared.resizes.get() {
            self.resizes = shared.resizes.get();
            return Poll::Ready(Some(Event::Resize { num_blocks: shared.num_blocks() }));
        }
        if let Some(event) = shared.media() {
            return Poll::Ready(Some(Event::Media(event)));
        }
        if shared.removed.get() {
            self.done = true;
            return Poll::Ready(Some(Event::Remove));
        }
        // The old waker is foreign code, dropped when the list is no longer borrowed.
        let waker = cx.waker().clone();
        let mut watchers = shared.watchers.borrow_mut();
        let old = match watchers.iter_mut().find(|watcher| watcher.id == self.id) {
            Some(watcher) => Some(std::mem::replace(&mut watcher.waker, waker)),
            None => {
                watchers.push(Watcher { id: self.id, waker });
                None
            }
        };
        drop(watchers);
        drop(old);
        Poll::Pending
    }
}

impl Shared {
    fn num_blocks(&self) -> u64 {
        // SAFETY: a stream asks this before it has ended, so the descriptor is open.
        unsafe { sys::spdk_bdev_get_num_blocks(sys::spdk_bdev_desc_get_bdev(self.desc.get())) }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut watchers = self.shared.watchers.borrow_mut();
        let at = watchers.iter().position(|watcher| watcher.id == self.id);
        let old = at.map(|at| watchers.swap_remove(at));
        drop(watchers);
        drop(old);
    }
}
