//! Making a mirror, and assembling one that is there.

use std::array;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_channel::mpsc;
use spdk_plugin::module::{Base, Bases, BdevBuilder, vbdev};
use spdk_plugin::runtime::{sleep, spawn_local};
use spdk_plugin::{Error, Result};
use spdk_plugin_mirror_core::assembly::{Candidate, Found, Plan, Role, Verdict, decide};
use spdk_plugin_mirror_core::{Geometry, Legs, Record, SlotState};
use uuid::Uuid;

use crate::Mirror;
use crate::config::Create;
use crate::copier::Copier;
use crate::disk::Disk;
use crate::legs::{plain, suits};
use crate::owner::{Command, Owner, nonce};
use crate::rpc;
use crate::shared::Shared;

/// What the bases of a mirror are.
pub(crate) struct Survey {
    disks: Vec<Option<Disk>>,
    pub(crate) verdict: Verdict,
}

/// Reads all superblocks and decides.
pub(crate) async fn survey(config: &Create, bases: &Bases) -> Result<Survey> {
    let (mut disks, mut candidates) = (Vec::new(), Vec::new());
    for (_, base) in bases.iter() {
        plain(base)?;
        let disk = Disk::new(base)?;
        let found = disk.superblock().await?;
        disks.push(Some(disk));
        candidates.push(Candidate { base: base.name().to_owned(), found });
    }
    let absent: Vec<_> = (0..bases.len())
        .filter(|at| bases.get(*at).is_none())
        .map(|at| config.base_bdevs[at].clone())
        .collect();
    let verdict = decide(&candidates, &absent, config.uuid, config.degraded);
    Ok(Survey { disks, verdict })
}

/// The mirror and its bdev, with the tasks that go with it running.
pub(crate) async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Mirror>, Mirror)> {
    let about = |why: String| Error::Invalid(format!("mirror {:?}: {why}", config.name));
    let Survey { disks, verdict } = survey(config, bases).await?;
    let (commands, inbox) = mpsc::unbounded();
    let owner = match verdict {
        Verdict::Fresh => make(config, disks, commands).await?,
        Verdict::Start(plan) => {
            if plan.top.name != config.name {
                return Err(about(format!(
                    "its legs know it as {:?}; create it by that name",
                    plan.top.name
                )));
            }
            assemble(config, plan, disks, commands).await?
        }
        Verdict::Wait(why) | Verdict::Refuse(why) => return Err(about(why)),
    };
    let shared = Arc::clone(&owner.shared);
    let builder = describe(&owner, &shared);
    // It may have been changed meanwhile. The next start has its own reasons to be degraded, or none.
    let uuid = Some(shared.record().array);
    let now =
        rpc::listed(&config.name).map_or_else(|| config.clone(), |it| Create::clone(&it.config));
    shared.set_options(&now);
    vbdev::update::<Mirror>(Create { uuid, degraded: false, ..now })?;
    let copier = Copier { shared: Arc::clone(&shared), disks: Rc::clone(&owner.disks) };
    spawn_local(copier.run());
    spawn_local(sweep(Arc::clone(&shared)));
    spawn_local(owner.run(inbox));
    Ok((builder, Mirror::new(shared)))
}

/// Has quiet regions cleared now and then.
async fn sweep(shared: Arc<Shared>) {
    const LOOK: Duration = Duration::from_millis(200);
    let mut passed = Duration::ZERO;
    while !shared.stops() {
        let quiet = Duration::from_millis(shared.quiet_ms.load(Ordering::Relaxed).into());
        let nap = quiet.saturating_sub(passed).min(LOOK);
        sleep(nap).await;
        passed += nap;
        if passed >= quiet {
            passed = Duration::ZERO;
            shared.send(Command::Sweep);
        }
    }
}

fn describe(owner: &Owner, shared: &Shared) -> BdevBuilder<Mirror> {
    let disks = owner.disks.borrow();
    let bases = || disks.iter().flatten().map(|disk| &disk.base);
    let most = |of: fn(&Base) -> u32| bases().map(of).max().unwrap_or(0);
    let geometry = &shared.geometry;
    let boundary = most(|base| base.optimal_io_boundary());
    BdevBuilder::new(&*shared.name, geometry.block_size, geometry.num_blocks)
        .product_name("Mirror in Rust")
        .uuid(Some(owner.record.array))
        .buffer_alignment(bases().map(|base| base.alignment()).max().unwrap_or(1))
        .write_cache(bases().any(|base| base.has_write_cache()))
        .write_unit_size(most(|base| base.write_unit_size()).max(1))
        .optimal_io_boundary(boundary)
}

fn failed(what: &str) -> Error {
    Error::Errno { what: what.into(), errno: 5 }
}

fn owner(record: Record, shared: Shared) -> Owner {
    let disks = Rc::new(RefCell::new(array::from_fn(|_| None)));
    Owner { shared: Arc::new(shared), record, disks }
}

async fn make(
    config: &Create,
    disks: Vec<Option<Disk>>,
    commands: mpsc::UnboundedSender<Command>,
) -> Result<Owner> {
    let disks: Vec<Disk> = disks.into_iter().flatten().collect();
    let size = disks.first().map_or(0, |disk| disk.base.block_size());
    if let Some(odd) = disks.iter().find(|disk| disk.base.block_size() != size) {
        return Err(Error::Invalid(format!(
            "base {} has blocks of {} bytes, and {} of {size}; a mirror needs them alike",
            odd.base.name(),
            odd.base.block_size(),
            disks[0].base.name()
        )));
    }
    let shortest = disks.iter().map(|disk| disk.base.num_blocks()).min().unwrap_or(0);
    let unit = disks
        .iter()
        .map(|disk| disk.base.optimal_io_boundary().max(disk.base.write_unit_size()))
        .max();
    let geometry = Geometry::new(size, shortest, config.region_size_kb, unit.unwrap_or(1).into())
        .map_err(Error::Invalid)?;
    let legs: Vec<_> = disks.iter().map(|disk| (Uuid::new_v4(), disk.base.name())).collect();
    let array = config.uuid.unwrap_or_else(Uuid::new_v4);
    let record = Record::new(array, &config.name, geometry, &legs);
    let all: Legs = (0..legs.len()).collect();
    let mut owner = owner(record.clone(), Shared::new(&record, commands));
    let shared = Arc::clone(&owner.shared);
    for (slot, disk) in disks.into_iter().enumerate() {
        owner.take_in(slot, disk).await?;
    }
    let unequal = !config.assume_clean && all.len() > 1;
    let pages = (0..shared.geometry.pages()).collect();
    let mut lost = owner.write_pages(all, &pages, |_| unequal).await;
    if lost.is_empty() {
        lost = owner
            .on_all(all, "storing the superblock", |slot, disk| {
                let record = record.clone();
                async move { disk.store(&record, record.slots[slot].leg).await }
            })
            .await;
    }
    if !lost.is_empty() {
        return Err(failed("writing to the legs of a new mirror; see the log"));
    }
    for region in (0..shared.regions.len()).filter(|_| unequal) {
        shared.regions.set_dirty(region, Legs::NONE);
        shared.regions.set_unsynced(region);
    }
    shared.set_trusted(all);
    shared.set_readable(all);
    if !owner.commit(record.next(nonce())).await {
        return Err(failed("writing to the legs of a new mirror; see the log"));
    }
    owner.let_go().await;
    Ok(owner)
}

async fn assemble(
    config: &Create,
    plan: Plan,
    mut disks: Vec<Option<Disk>>,
    commands: mpsc::UnboundedSender<Command>,
) -> Result<Owner> {
    let current = plan.current();
    let Plan { top, roles, refused } = plan;
    let mut owner = owner(top.clone(), Shared::new(&top, commands));
    let shared = Arc::clone(&owner.shared);
    for (at, why) in refused {
        if let Some(disk) = disks[at].take() {
            log::error!("mirror {}: base {} is refused: {why}", config.name, disk.base.name());
            disk.base.close();
        }
    }
    let mut next = top.next(nonce());
    let (mut back, mut lost) = (Legs::NONE, false);
    for (slot, role) in roles.iter().enumerate() {
        let (Role::Current(at) | Role::Behind(at) | Role::Lost(at)) = *role else { continue };
        let Some(disk) = disks[at].take() else { continue };
        suits(&disk.base, &shared.geometry)?;
        next.slots[slot].base = disk.base.name().to_owned();
        if !current.has(slot) {
            back.add(slot);
            lost |= matches!(role, Role::Lost(_));
        }
        owner.take_in(slot, disk).await?;
    }
    let others = top.legs() - current;
    read_bits(&owner, current, others, lost).await?;
    // The union of what the legs say, before any of them is written again.
    let pages = (0..shared.geometry.pages()).collect();
    let failing = owner.write_pages(current | back, &pages, |r| shared.regions.is_dirty(r)).await;
    if !(failing & current).is_empty() {
        return Err(failed("writing the bitmap; see the log"));
    }
    for (slot, place) in next.slots.iter_mut().enumerate() {
        let since = next.stamp.events;
        match place.state {
            SlotState::Active | SlotState::Rebuilding if !(current | back).has(slot) => {
                log::error!("mirror {}: leg {slot} ({}) is missing", config.name, place.base);
                place.state = SlotState::Failed { since };
            }
            SlotState::Vacant => (),
            _ if back.has(slot) => place.state = SlotState::Rebuilding,
            _ => (),
        }
    }
    shared.set_trusted(current);
    shared.set_readable(current);
    let stored = owner.commit(next).await && owner.fail(failing).await;
    if !stored {
        return Err(failed("storing the superblocks; see the log"));
    }
    owner.let_go().await;
    let (dirty, ..) = shared.regions.count();
    log::info!(
        "mirror {}: {} of {} legs have all data, {dirty} of {} regions are to be compared or copied",
        config.name,
        shared.readable().len(),
        top.legs().len(),
        shared.regions.len()
    );
    Ok(owner)
}

/// Learns from the bitmaps which regions are dirty.
async fn read_bits(owner: &Owner, current: Legs, others: Legs, all: bool) -> Result<()> {
    let shared = &owner.shared;
    let set = |region: usize| {
        shared.regions.set_dirty(region, others);
        shared.regions.set_unsynced(region);
    };
    if all {
        (0..shared.regions.len()).for_each(set);
        return Ok(());
    }
    for slot in current.iter() {
        let Some(disk) = owner.disk(slot) else { continue };
        for page in 0..shared.geometry.pages() {
            disk.read_page(&shared.geometry, owner.record.array, page, set).await?;
        }
    }
    Ok(())
}

/// The mirror that a superblock tells of, on a bdev of this name.
pub(crate) fn found_on(bdev: &str, found: Found) -> Option<Create> {
    let Found::Leg(record, leg) = found else { return None };
    let here = record.slot_of(leg)?;
    let base = |slot: usize| match slot == here {
        true => bdev.to_owned(),
        false => record.slots[slot].base.clone(),
    };
    let bases: Vec<_> = record.legs().iter().map(base).collect();
    let twice = bases.iter().enumerate().any(|(at, name)| bases[..at].contains(name));
    (!twice).then(|| Create::found(record.name.clone(), bases, record.array))
}
