//! Virtual bdevs: those that sit on others, and come and go with them (`spdk/bdev_module.h`).
//!
//! A module says what its bdevs are by [`Vbdev`]; the crate sees to the rest of their life:
//!
//! ```text
//!            create                                    a base has come (examine)
//!              |                                                 |
//!              v              all bases, or can_start            v
//!   +------ WAITING <----------------------------------------- its bases are opened and claimed
//!   |          |  ^                                              as they come
//!   |          v  |  failed: bases closed
//!   |       BUILDING: can_start, build, register
//!   |          |
//!   | delete   v
//!   |        BUILT --- a base is removed: base_removed, which unregisters by default
//!   |          |             |
//!   v          v             v
//!  forgotten, unregistered   unregistered -> WAITING: it comes again with its base
//! ```
//! All of this happens on the app thread, where RPC methods run.

use std::cell::{Cell, RefCell};
use std::future::{Future, ready};
use std::ops::Index;
use std::rc::Rc;

use futures_channel::oneshot;
use serde::Serialize;

use super::base::Base;
use super::builder::{BdevBuilder, free_name};
use super::{BdevHandle, RpcCall};
use crate::bdev::{Bdev, BdevDesc, Event, IoChannel};
use crate::error::{Error, Result};
use crate::runtime::home::HomeRef;
use crate::runtime::{on_app_thread, task};

/// A [`Bdev`](super::Bdev) that sits on other bdevs.
///
/// The module's RPC methods call [`create`], [`delete`] and [`list`]; `save_config` writes what was
/// created, also what still waits for its bases.
pub trait Vbdev: super::Bdev {
    /// What the method that creates one takes, and what `save_config` writes.
    type Config: Serialize + 'static;

    /// The name of the RPC method that creates one.
    const CREATE: &'static str;

    /// The name that the bdev is to have.
    fn name(config: &Self::Config) -> &str;

    /// The names, aliases or UUIDs of what it sits on.
    fn bases(config: &Self::Config) -> Vec<String>;

    /// Whether it can be built with the bases that are there, which is asked again whenever one has come. By
    /// default it takes all of them. It may read from them.
    fn can_start(config: &Self::Config, bases: &Bases) -> impl Future<Output = bool> {
        let _ = config;
        ready(bases.is_complete())
    }

    /// Makes the bdev and its description upon its bases, which are open for writing and claimed. It may do
    /// I/O on them. [`BdevBuilder::like`] begins with what a base says of itself.
    ///
    /// # Errors
    /// [`create`] fails with it; for one that has waited it goes to the log. The bases are closed.
    fn build(
        config: &Self::Config,
        bases: &Bases,
    ) -> impl Future<Output = Result<(BdevBuilder<Self>, Self)>>;

    /// A base is being removed, which waits until it is closed. By default the bdev is unregistered, which
    /// closes its bases. What goes on without the base drops its channels, on all threads, and
    /// [closes](Base::close) it.
    fn base_removed(bdev: &BdevHandle<Self>, base: &Base) -> impl Future<Output = ()> {
        async move {
            match bdev.unregister().await {
                // It is on its way.
                Ok(()) | Err(Error::NotFound(_) | Error::Busy(_)) => (),
                Err(error) => log::error!("base {} goes: {error}", base.name()),
            }
        }
    }

    /// A base has another size. By default nothing is done.
    fn base_resized(bdev: &BdevHandle<Self>, base: &Base) -> impl Future<Output = ()> {
        let _ = (bdev, base);
        ready(())
    }

    /// A base that was missing when the bdev was built has come. By default it is closed again.
    fn base_added(bdev: &BdevHandle<Self>, base: Base) -> impl Future<Output = ()> {
        let _ = bdev;
        base.close();
        ready(())
    }

    /// What `save_config` writes. There is no `bdev` while it waits for its bases.
    fn saved(config: &Self::Config, bdev: Option<&BdevHandle<Self>>) -> RpcCall {
        let _ = bdev;
        RpcCall::new(Self::CREATE, config)
    }

    /// Whether several bdevs of the module may sit on one base, as partitions do: they share its claim. See
    /// [`Part`](super::Part).
    const SHARES_BASES: bool = false;

    /// Whether [`probe`](Self::probe) is to be asked about every bdev that comes and is not claimed.
    const PROBES: bool = false;

    /// Looks whether a bdev holds, by a superblock, one of this module's, which is created then as by
    /// [`create`]. Start-up waits for it.
    ///
    /// # Errors
    /// Goes to the log.
    fn probe(
        bdev: &BdevDesc,
        channel: &IoChannel,
    ) -> impl Future<Output = Result<Option<Self::Config>>> {
        let _ = (bdev, channel);
        ready(Ok(None))
    }
}

/// The bases of a bdev, by their place in [`Vbdev::bases`]. Some may be missing.
#[derive(Clone, Debug)]
pub struct Bases(Vec<Option<Base>>);

impl Bases {
    /// Whether none is missing.
    pub fn is_complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// The base of this place, if it is there.
    pub fn get(&self, index: usize) -> Option<&Base> {
        self.0.get(index)?.as_ref()
    }

    /// How many there are to be.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are to be none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are there, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Base)> {
        self.0.iter().enumerate().filter_map(|(at, base)| Some((at, base.as_ref()?)))
    }
}

impl Index<usize> for Bases {
    type Output = Base;

    /// # Panics
    /// If it is missing, which none is unless [`Vbdev::can_start`] allows it.
    fn index(&self, index: usize) -> &Base {
        self.get(index).expect("the base is missing")
    }
}

/// What has become of [`create`].
#[derive(Debug)]
pub enum Created<V> {
    /// The bdev is there.
    Now(BdevHandle<V>),
    /// It will be, when its bases are.
    Waits,
}

/// A bdev that was created, as [`list`] tells of it.
#[derive(Debug)]
pub struct Listed<V: Vbdev> {
    /// What it was created with.
    pub config: Rc<V::Config>,
    /// `None` while it waits for its bases.
    pub bdev: Option<BdevHandle<V>>,
    /// It is being built right now.
    pub building: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Building,
    Built,
    Forgotten,
}

/// A bdev that was created and not deleted.
pub(super) struct Entry<V: Vbdev> {
    config: RefCell<Rc<V::Config>>,
    phase: Cell<Phase>,
    bases: RefCell<Vec<Option<Base>>>,
    /// A base has come or gone since it was last looked.
    changed: Cell<bool>,
    bdev: RefCell<Option<BdevHandle<V>>>,
    /// Who waits until it is no longer being built.
    waiters: RefCell<Vec<oneshot::Sender<()>>>,
}

impl<V: Vbdev> Entry<V> {
    fn new(config: V::Config, bases: usize) -> Rc<Self> {
        Rc::new(Self {
            config: RefCell::new(Rc::new(config)),
            phase: Cell::new(Phase::Waiting),
            bases: RefCell::new(vec![None; bases]),
            changed: Cell::new(false),
            bdev: RefCell::new(None),
            waiters: RefCell::default(),
        })
    }

    fn config(&self) -> Rc<V::Config> {
        Rc::clone(&self.config.borrow())
    }

    fn is_called(&self, name: &str) -> bool {
        V::name(&self.config.borrow()) == name
    }

    /// The places of bases that are missing and may be the bdev that `is_it` knows.
    fn missing(&self, is_it: impl Fn(&str) -> bool) -> Vec<usize> {
        let bases = self.bases.borrow();
        let names = V::bases(&self.config.borrow());
        // One that the module has closed may come again.
        let gone = |base: &Option<Base>| base.as_ref().is_none_or(|base| base.raw().is_null());
        let missing = |at: &usize| bases.get(*at).is_some_and(gone) && is_it(&names[*at]);
        (0..names.len()).filter(missing).collect()
    }

    fn put(self: &Rc<Self>, at: usize, base: Base) {
        let weak = Rc::downgrade(self);
        // The hook is called on this thread alone.
        let weak = AppThread(weak);
        base.set_hook(Some(move |base: &Base, event: Event| {
            let weak = &weak;
            if event == Event::Remove
                && let Some(entry) = weak.0.upgrade()
            {
                entry.lose(base);
            }
        }));
        self.bases.borrow_mut()[at] = Some(base);
        self.changed.set(true);
    }

    /// A base is being removed before the bdev is there.
    fn lose(&self, base: &Base) {
        for place in &mut *self.bases.borrow_mut() {
            if place.as_ref().is_some_and(|other| other.is(base)) {
                *place = None;
                self.changed.set(true);
            }
        }
        base.close();
    }

    fn close_bases(&self) {
        let mut bases = self.bases.borrow_mut();
        bases.iter_mut().filter_map(Option::take).for_each(|base| base.close());
    }

    /// Opens the bases that are there.
    fn collect(self: &Rc<Self>) -> Result<()> {
        let names = V::bases(&self.config());
        for at in self.missing(|_| true) {
            // SPDK calls it an error to open what is not there.
            let Some(name) = Bdev::name_of(&names[at]) else { continue };
            match Base::open_here::<V>(&name) {
                Ok(base) => self.put(at, base),
                // It is being removed.
                Err(Error::NotFound(_)) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
        if phase != Phase::Building {
            let waiters = self.waiters.take();
            for waiter in waiters {
                // It may not be waiting any more.
                let _ = waiter.send(());
            }
        }
    }

    /// Builds the bdev, if it can be with the bases that are there. The phase is `Building`.
    async fn build(self: &Rc<Self>) -> Result<Option<BdevHandle<V>>> {
        struct Unless<'a, V: Vbdev>(&'a Entry<V>);
        impl<V: Vbdev> Drop for Unless<'_, V> {
            fn drop(&mut self) {
                if self.0.phase.get() == Phase::Building {
                    self.0.set_phase(Phase::Waiting);
                }
            }
        }
        let unless = Unless(self);
        let outcome = self.try_build().await;
        if outcome.is_err() {
            self.close_bases();
        }
        drop(unless);
        outcome
    }

    async fn try_build(self: &Rc<Self>) -> Result<Option<BdevHandle<V>>> {
        loop {
            self.changed.set(false);
            let (config, bases) = (self.config(), Bases(self.bases.borrow().clone()));
            let outcome = match V::can_start(&config, &bases).await {
                true => Some(V::build(&config, &bases).await),
                false => None,
            };
            if self.phase.get() == Phase::Forgotten {
                let name = V::name(&config);
                return Err(Error::Cancelled(format!("the creation of bdev {name}")));
            }
            let lost = bases.iter().any(|(_, base)| base.is_removed());
            match outcome {
                _ if lost => continue,
                None if self.changed.get() => continue,
                None => return Ok(None),
                Some(outcome) => {
                    let (builder, bdev) = outcome?;
                    let bdev = builder.register_here(bdev)?;
                    self.built(&bdev, &bases);
                    return Ok(Some(bdev));
                }
            }
        }
    }

    /// The bdev is there.
    fn built(self: &Rc<Self>, bdev: &BdevHandle<V>, bases: &Bases) {
        *self.bdev.borrow_mut() = Some(bdev.clone());
        self.set_phase(Phase::Built);
        let weak = AppThread(Rc::downgrade(self));
        bdev.device().when_gone(Box::new(move || {
            let weak = weak;
            if let Some(entry) = weak.0.upgrade() {
                entry.gone();
            }
        }));
        for (_, base) in bases.iter() {
            bdev.attach_here(base);
        }
        let late = self.bases.borrow().clone();
        for base in late.into_iter().flatten() {
            if !bases.iter().any(|(_, known)| known.is(&base)) {
                self.add(bdev, base);
            }
        }
    }

    /// One more base has come.
    fn add(&self, bdev: &BdevHandle<V>, base: Base) {
        let Some(home) = HomeRef::current() else { return };
        bdev.attach_here(&base);
        let bdev = bdev.clone();
        task::spawn(home, "adding a base", async move { V::base_added(&bdev, base).await });
    }

    /// The bdev is being unregistered, and comes again with its bases unless it was deleted.
    fn gone(&self) {
        let bdev = self.bdev.take();
        self.bases.borrow_mut().fill(None);
        if self.phase.get() == Phase::Built {
            self.set_phase(Phase::Waiting);
        }
        drop(bdev);
    }

    /// Builds it in a task of its own.
    fn start(self: &Rc<Self>) {
        let Some(home) = HomeRef::current() else { return };
        self.set_phase(Phase::Building);
        let entry = Rc::clone(self);
        task::spawn(home, "the making of a bdev", async move {
            if let Err(error) = entry.build().await {
                log::error!("bdev {} cannot be made: {error}", V::name(&entry.config()));
            }
        });
    }

    /// A bdev has come that `is_it` knows by its names, and whose own is `name`.
    pub(super) fn examine(self: &Rc<Self>, name: &str, is_it: impl Fn(&str) -> bool) {
        for at in self.missing(is_it) {
            match Base::open_here::<V>(name) {
                Ok(base) => self.put(at, base),
                Err(error) => {
                    log::error!("bdev {} on {name}: {error}", V::name(&self.config()));
                    continue;
                }
            }
            let bdev = self.bdev.borrow().clone();
            match (self.phase.get(), bdev) {
                (Phase::Waiting, _) => self.start(),
                (Phase::Built, Some(bdev)) => {
                    let base = self.bases.borrow()[at].clone();
                    base.into_iter().for_each(|base| self.add(&bdev, base));
                }
                _ => (),
            }
        }
    }

    /// What ends when the bdev that is being built on the base `name` is, or is not; `None` if none is.
    pub(super) fn in_the_making(&self, name: &str) -> Option<oneshot::Receiver<()>> {
        let on_it = |base: &Base| base.name() == name;
        if self.phase.get() != Phase::Building || !self.bases.borrow().iter().flatten().any(on_it) {
            return None;
        }
        let (done, wait) = oneshot::channel();
        self.waiters.borrow_mut().push(done);
        Some(wait)
    }

    pub(super) fn saved(&self) -> RpcCall {
        V::saved(&self.config(), self.bdev.borrow().as_ref())
    }
}

/// What goes no further than the app thread, in a place that must be `Send`.
struct AppThread<T>(T);

// SAFETY: all that the type is used for is made, called and dropped on the app thread: see `when_gone` and
// `Base::set_hook`.
unsafe impl<T> Send for AppThread<T> {}

fn require<V: Vbdev>(what: &str) -> Result<()> {
    if !on_app_thread() {
        return Err(Error::WrongThread(format!(
            "{what} a bdev is for the app thread, where RPC methods run"
        )));
    }
    if V::registration().raw().is_null() {
        return Err(Error::NotFound(format!(
            "module {} is not registered: name its crate in spdk_plugin!",
            V::NAME
        )));
    }
    Ok(())
}

fn find<V: Vbdev>(name: &str) -> Option<Rc<Entry<V>>> {
    V::registration().vbdevs::<V>().into_iter().find(|entry| entry.is_called(name))
}

/// Creates a bdev, at once if its bases are there, or else when they come. On the app thread.
///
/// # Errors
/// [`Error::Exists`] when the name is taken, [`Error::Busy`] when something else has claimed a base,
/// [`Error::Invalid`] for bases that cannot be, and as [`Vbdev::build`]. Nothing is left behind.
pub async fn create<V: Vbdev>(config: V::Config) -> Result<Created<V>> {
    struct Unless<V: Vbdev>(Option<Rc<Entry<V>>>);
    impl<V: Vbdev> Drop for Unless<V> {
        fn drop(&mut self) {
            if let Some(entry) = self.0.take() {
                forget(&entry);
            }
        }
    }
    require::<V>("creating")?;
    let name = V::name(&config).to_owned();
    let bases = V::bases(&config);
    if find::<V>(&name).is_some() {
        return Err(Error::Exists(format!(
            "bdev {name:?} was created already, and waits for its bases or has them"
        )));
    }
    free_name(&name)?;
    for (at, base) in bases.iter().enumerate() {
        if *base == name || bases[..at].contains(base) {
            return Err(Error::Invalid(format!(
                "bdev {name:?} cannot sit on {base:?} {}",
                if *base == name { "itself" } else { "twice" }
            )));
        }
    }
    let entry = Entry::<V>::new(config, bases.len());
    V::registration().add_vbdev(Rc::clone(&entry));
    let mut unless = Unless(Some(Rc::clone(&entry)));
    entry.collect()?;
    entry.set_phase(Phase::Building);
    let created = match entry.build().await? {
        Some(bdev) => Created::Now(bdev),
        None => {
            let missing = entry.missing(|_| true).into_iter().map(|at| &*bases[at]);
            let missing = missing.collect::<Vec<_>>().join(", ");
            log::info!("bdev {name} waits for {missing}");
            Created::Waits
        }
    };
    unless.0 = None;
    Ok(created)
}

/// Takes it off the list. What it has been waiting with is closed.
fn forget<V: Vbdev>(entry: &Rc<Entry<V>>) -> Option<BdevHandle<V>> {
    V::registration().remove_vbdev(entry);
    let bdev = entry.bdev.take();
    entry.set_phase(Phase::Forgotten);
    if bdev.is_none() {
        entry.close_bases();
    }
    bdev
}

/// Deletes a bdev of this module, built or waiting, and waits until it has gone. It does not come again with
/// its bases. On the app thread.
///
/// # Errors
/// [`Error::NotFound`] when there is none of this name, and as [`BdevHandle::unregister`].
pub async fn delete<V: Vbdev>(name: &str) -> Result<()> {
    require::<V>("deleting")?;
    let bdev = match find::<V>(name) {
        Some(entry) => forget(&entry),
        None => Some(BdevHandle::<V>::find(name)?),
    };
    match bdev {
        Some(bdev) => bdev.unregister().await,
        None => Ok(()),
    }
}

/// All that was created and not deleted, in the order of creation. On the app thread; empty elsewhere.
pub fn list<V: Vbdev>() -> Vec<Listed<V>> {
    if require::<V>("listing").is_err() {
        return Vec::new();
    }
    let entries = V::registration().vbdevs::<V>().into_iter();
    let listed = |entry: Rc<Entry<V>>| Listed {
        config: entry.config(),
        bdev: entry.bdev.borrow().clone(),
        building: entry.phase.get() == Phase::Building,
    };
    entries.map(listed).collect()
}

/// Changes what a bdev will be made of when it comes again, and what `save_config` writes. The name stays.
/// Bases that are new to it are not opened by this. On the app thread.
///
/// # Errors
/// [`Error::NotFound`] when there is none of this name.
pub fn update<V: Vbdev>(config: V::Config) -> Result<()> {
    require::<V>("changing")?;
    let name = V::name(&config).to_owned();
    let missing = || Error::NotFound(format!("there is no bdev {name:?} of module {}", V::NAME));
    let entry = find::<V>(&name).ok_or_else(missing)?;
    let (old, new) = (V::bases(&entry.config()), V::bases(&config));
    let mut bases = entry.bases.borrow_mut();
    let kept = |name: &String| bases.get(old.iter().position(|other| other == name)?)?.clone();
    let moved = new.iter().map(kept).collect();
    *bases = moved;
    entry.config.replace(Rc::new(config));
    Ok(())
}

/// Whether one of this name was created.
pub(super) fn is_known<V: Vbdev>(name: &str) -> bool {
    find::<V>(name).is_some()
}
