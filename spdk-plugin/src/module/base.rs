//! A bdev that a bdev of ours sits on (`spdk_bdev_open_ext` and `spdk_bdev_module_claim_bdev`).

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{BdevHandle, Vbdev};
use crate::bdev::{Bdev, BdevDesc, DescInner, Event, IoChannel, Op, OpenOptions, kind};
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result};
use crate::runtime::home::HomeRef;
use crate::runtime::{on_app, task};

/// A base: open for writing, and claimed by the module whose bdev sits on it.
///
/// It dereferences to what the bdev said of itself when it was opened. Clones are the same base. SPDK's
/// descriptor closes, and the claim ends, on the app thread when the base was [closed](Self::close), which
/// the end of the bdev on it does, and the last channel is gone.
#[derive(Clone)]
pub struct Base {
    inner: Arc<Inner>,
}

struct Inner {
    info: Bdev,
    removed: AtomicBool,
    /// `None` when it was closed.
    desc: Mutex<Option<Arc<DescInner>>>,
}

/// A base that may have gone.
pub(super) struct WeakBase(Weak<Inner>);

impl WeakBase {
    pub(super) fn upgrade(&self) -> Option<Base> {
        self.0.upgrade().map(|inner| Base { inner })
    }
}

impl Base {
    /// Opens one more base and claims it for the module of `V`, such as a leg that is added to a mirror.
    /// [`BdevHandle::attach`] makes it the bdev's.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such bdev, [`Error::Busy`] when it is claimed.
    pub async fn open<V: Vbdev>(name: &str) -> Result<Self> {
        let name = name.to_owned();
        on_app(move || Self::open_here::<V>(&name)).await?
    }

    /// On the app thread.
    pub(super) fn open_here<V: Vbdev>(name: &str) -> Result<Self> {
        let desc = match V::SHARES_BASES {
            true => Self::shared::<V>(name)?,
            false => Arc::new(Self::claimed::<V>(name)?),
        };
        // SAFETY: on the app thread, with the bdev open.
        let info = unsafe { Bdev::read(desc.bdev()) };
        let (removed, desc) = (AtomicBool::new(false), Mutex::new(Some(desc)));
        Ok(Self { inner: Arc::new(Inner { info, removed, desc }) })
    }

    fn claimed<V: Vbdev>(name: &str) -> Result<DescInner> {
        let desc = DescInner::open(name, OpenOptions::new().write(true))?;
        desc.claim(V::registration().raw())?;
        Ok(desc)
    }

    /// What another bdev of the module has opened, if there is one.
    fn shared<V: Vbdev>(name: &str) -> Result<Arc<DescInner>> {
        let look = DescInner::open(name, OpenOptions::new())?;
        if let Some(desc) = V::registration().shared(look.bdev()) {
            return Ok(desc);
        }
        let desc = Arc::new(Self::claimed::<V>(name)?);
        V::registration().share(&desc);
        Ok(desc)
    }

    fn desc(&self) -> MutexGuard<'_, Option<Arc<DescInner>>> {
        self.inner.desc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current SPDK thread's channel: what a [`Bdev::Channel`](super::Bdev::Channel) keeps, or a task on
    /// the app thread.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the base was closed, [`Error::NoMemory`] when it cannot make a channel.
    pub fn channel(&self) -> Result<BaseChannel> {
        let desc = self.desc().clone();
        let desc = desc.ok_or_else(|| {
            Error::NotFound(format!("the base {} was closed", self.inner.info.name()))
        })?;
        let desc = BdevDesc::of(desc);
        let channel = desc.channel_here(true)?;
        Ok(BaseChannel { base: self.clone(), desc, channel })
    }

    /// The present number of blocks, or the last one known.
    pub fn num_blocks(&self) -> u64 {
        self.desc().as_ref().map_or(self.inner.info.num_blocks(), |desc| desc.num_blocks())
    }

    /// Whether the bdev is being removed, or was.
    pub fn is_removed(&self) -> bool {
        self.inner.removed.load(Ordering::Acquire)
    }

    /// Gives the base up: no channel can be made of it any more. It is closed when the last one is gone.
    /// The end of the bdev on it does this by itself.
    pub fn close(&self) {
        // Its drop goes to the app thread by itself, and not under the lock.
        let desc = self.desc().take();
        drop(desc);
    }

    /// Has `hook` told what happens to it, or nobody. On the app thread.
    pub(super) fn set_hook(&self, hook: Option<impl Fn(&Base, Event) + Send + 'static>) {
        let Some(desc) = self.desc().clone() else { return };
        let weak = self.downgrade();
        // Others may share the descriptor.
        let key = Arc::as_ptr(&self.inner).addr();
        desc.shared().set_hook(
            key,
            hook.map(|hook| {
                Box::new(move |event: Event| {
                    let Some(base) = weak.upgrade() else { return };
                    if event == Event::Remove {
                        base.inner.removed.store(true, Ordering::Release);
                    }
                    hook(&base, event);
                }) as Box<dyn Fn(Event) + Send>
            }),
        );
        if desc.shared().is_removed() {
            self.inner.removed.store(true, Ordering::Release);
        }
    }

    /// Has the bdev's module told what happens to the base. On the app thread.
    pub(super) fn watch<V: Vbdev>(&self, bdev: &BdevHandle<V>) {
        let device = Arc::downgrade(bdev.device());
        let tell = move |base: &Base, event: Event| {
            let Some(device) = device.upgrade() else { return };
            tell(BdevHandle::of(device), base.clone(), event);
        };
        self.set_hook(Some(tell));
        if self.is_removed() {
            tell_of(bdev, self);
        }
    }

    pub(super) fn downgrade(&self) -> WeakBase {
        WeakBase(Arc::downgrade(&self.inner))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// SPDK's bdev, which is there until the base is closed; null afterwards.
    pub(super) fn raw(&self) -> *mut spdk_plugin_sys::spdk_bdev {
        self.desc().as_ref().map_or(std::ptr::null_mut(), |desc| desc.bdev())
    }
}

/// It was removed before anyone listened.
fn tell_of<V: Vbdev>(bdev: &BdevHandle<V>, base: &Base) {
    tell(bdev.clone(), base.clone(), Event::Remove);
}

fn tell<V: Vbdev>(bdev: BdevHandle<V>, base: Base, event: Event) {
    let Some(home) = HomeRef::current() else { return };
    task::spawn(home, "what a module does about a base", async move {
        match event {
            Event::Remove => V::base_removed(&bdev, &base).await,
            Event::Resize { .. } => V::base_resized(&bdev, &base).await,
            Event::Media(_) => (),
        }
    });
}

impl Deref for Base {
    type Target = Bdev;

    fn deref(&self) -> &Bdev {
        &self.inner.info
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("name", &self.name())
            .field("removed", &self.is_removed())
            .finish_non_exhaustive()
    }
}

/// A thread's way to a base. It stays on its thread; clones are the same channel.
///
/// Requests go through it as they are by [`BdevIo::forward`](super::BdevIo::forward). The other methods are
/// operations with data of the module's own, as those of [`BdevDesc`]: what they take, when they start and
/// how they fail is said [there](crate::bdev).
pub struct BaseChannel {
    base: Base,
    desc: BdevDesc,
    channel: IoChannel,
}

impl Clone for BaseChannel {
    fn clone(&self) -> Self {
        let desc = BdevDesc::of(Arc::clone(self.desc.inner()));
        Self { base: self.base.clone(), desc, channel: self.channel.clone() }
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $kind:ident $(($data:ty))?;)*) => {
        $(
            operations!(@ $(#[$doc])* $name: $kind $(($data))?);
        )*
    };
    (@ $(#[$doc:meta])* $name:ident: $kind:ident) => {
        $(#[$doc])*
        pub fn $name(&self, offset_blocks: u64, num_blocks: u64) -> Op<'_, (), kind::$kind> {
            self.desc.$name(&self.channel, offset_blocks, num_blocks)
        }
    };
    (@ $(#[$doc:meta])* $name:ident: $kind:ident($data:ty)) => {
        $(#[$doc])*
        #[inline]
        pub fn $name<'a>(
            &'a self,
            data: &'a mut $data,
            offset_blocks: u64,
            num_blocks: u64,
        ) -> Op<'a, &'a mut $data, kind::$kind> {
            self.desc.$name(&self.channel, data, offset_blocks, num_blocks)
        }
    };
}

impl BaseChannel {
    /// The base.
    pub fn base(&self) -> &Base {
        &self.base
    }

    #[inline]
    pub(super) fn io(&self) -> &IoChannel {
        &self.channel
    }

    pub(super) fn parts(&self) -> (&BdevDesc, &IoChannel) {
        (&self.desc, &self.channel)
    }

    /// What is in flight through it, also for requests and futures that have gone.
    pub fn in_flight(&self) -> usize {
        self.channel.in_flight()
    }

    operations! {
        /// Reads blocks into a buffer.
        read_blocks: Read(DmaBuf);
        /// Writes a buffer.
        write_blocks: Write(DmaBuf);
        /// Reads blocks into several buffers.
        readv_blocks: Read(IoVec);
        /// Writes several buffers.
        writev_blocks: Write(IoVec);
        /// Compares blocks with a buffer.
        compare_blocks: Compare(DmaBuf);
        /// Compares blocks with several buffers.
        comparev_blocks: Compare(IoVec);
        /// Makes durable what was written.
        flush_blocks: Flush;
        /// Drops the contents of blocks.
        unmap_blocks: Unmap;
        /// Makes blocks read as zeroes.
        write_zeroes_blocks: WriteZeroes;
    }

    /// Copies blocks within the base. SPDK 23.01 or later.
    pub fn copy_blocks(
        &self,
        dst_offset_blocks: u64,
        src_offset_blocks: u64,
        num_blocks: u64,
    ) -> impl Future<Output = Result<()>> {
        self.desc.copy_blocks(&self.channel, dst_offset_blocks, src_offset_blocks, num_blocks)
    }

    /// Resets the base, which ends all I/O on it.
    pub fn reset(&self) -> Op<'_, (), kind::Reset> {
        self.desc.reset(&self.channel)
    }
}

impl fmt::Debug for BaseChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BaseChannel").field(&self.channel).finish()
    }
}
