//! The RPC methods.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin::module::vbdev::{self, Listed};
use spdk_plugin::module::{Base, BdevHandle};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, Result, rpc};
use spdk_plugin_mirror_core::SlotState;

use crate::Mirror;
use crate::config::{Create, check_quiet};
use crate::owner::{Command, Terms};
use crate::shared::Shared;

/// What is to be told of a mirror.
pub(crate) fn info(shared: &Shared) -> Value {
    let (dirty, unsynced, behind) = shared.regions.count();
    let record = shared.record().clone();
    let (readable, written) = (shared.readable(), shared.written());
    let leg = |slot: usize| {
        let place = &record.slots[slot];
        let state = match place.state {
            SlotState::Active if readable.has(slot) => "active",
            SlotState::Active | SlotState::Rebuilding if written.has(slot) => "rebuilding",
            _ => "failed",
        };
        let counters = &shared.counters[slot];
        json!({
            "slot": slot,
            "base_bdev": place.base,
            "uuid": place.leg,
            "state": state,
            "regions_behind": behind[slot],
            "read_errors": counters.read_errors.load(Ordering::Relaxed),
            "repairs": counters.repairs.load(Ordering::Relaxed),
        })
    };
    let legs: Vec<_> = record.legs().iter().map(leg).collect();
    let lost = legs.iter().any(|leg| leg["state"] == "failed");
    let whole = readable == record.legs();
    let state = match (whole, lost) {
        (true, _) if unsynced == 0 => "online",
        (true, _) => "resyncing",
        (_, true) => "degraded",
        _ => "rebuilding",
    };
    let regions = shared.regions.len();
    let most = written.iter().map(|slot| behind[slot]).max().unwrap_or(0).max(unsynced);
    let check = *shared.check();
    json!({
        "name": shared.name,
        "uuid": record.array,
        "state": state,
        "legs": legs,
        "events": record.stamp.events,
        "num_blocks": shared.geometry.num_blocks,
        "data_offset_blocks": shared.geometry.data_offset,
        "region_size_kb":
            shared.geometry.region_blocks * u64::from(shared.geometry.block_size) / 1024,
        "regions": regions,
        "dirty_regions": dirty,
        "unsynced_regions": unsynced,
        "progress_percent": (regions - most) * 100 / regions.max(1),
        "copied_blocks": shared.copied_blocks.load(Ordering::Relaxed),
        "rebuild_mb_per_sec": shared.rebuild_mb_per_sec.load(Ordering::Relaxed),
        "quiet_ms": shared.quiet_ms.load(Ordering::Relaxed),
        "max_read_errors": shared.max_read_errors.load(Ordering::Relaxed),
        "check": {
            "running": check.running,
            "done": check.done,
            "checked_blocks": check.blocks,
            "differing_blocks": check.differing,
        },
    })
}

/// Keeps what is saved as the mirror is now.
fn remember(bdev: &BdevHandle<Mirror>) -> Result<()> {
    let shared = &bdev.shared;
    let Some(listed) = listed(&shared.name) else { return Ok(()) };
    let record = shared.record().clone();
    let mut bases: Vec<String> =
        record.legs().iter().map(|slot| record.slots[slot].base.clone()).collect();
    // Those that it waits for keep the names that they were created with.
    for base in &listed.config.base_bdevs {
        let known = bases.contains(base);
        if !known && bases.len() < record.legs().len() {
            bases.push(base.clone());
        }
    }
    vbdev::update::<Mirror>(Create {
        base_bdevs: bases,
        uuid: Some(record.array),
        degraded: false,
        rebuild_mb_per_sec: shared.rebuild_mb_per_sec.load(Ordering::Relaxed),
        quiet_ms: shared.quiet_ms.load(Ordering::Relaxed),
        max_read_errors: shared.max_read_errors.load(Ordering::Relaxed),
        ..Create::clone(&listed.config)
    })
}

/// What a mirror was created with, and itself if it runs.
pub(crate) fn listed(name: &str) -> Option<Listed<Mirror>> {
    vbdev::list::<Mirror>().into_iter().find(|listed| listed.config.name == name)
}

/// A mirror may have been found by its superblocks before it is asked for, as in a configuration. Then it
/// gets its options; if it does not run, it is made as it is asked for. Tells whether it needs not be created.
async fn adopt(config: &Create) -> Result<bool> {
    loop {
        let Some(known) = listed(&config.name).filter(|known| known.config.found) else {
            return Ok(false);
        };
        if let Some(bdev) = known.bdev {
            let shared = &bdev.shared;
            let array = shared.record().array;
            if config.uuid.is_some_and(|uuid| uuid != array) {
                let why = format!("there is another mirror {:?}, {array}", config.name);
                return Err(Error::Exists(why));
            }
            shared.set_options(config);
            vbdev::update::<Mirror>(Create { found: false, ..config.clone() })?;
            remember(&bdev)?;
            return Ok(true);
        }
        if !known.building {
            // What it waits for, or why it cannot be, is told to the one who asks.
            vbdev::delete::<Mirror>(&config.name).await?;
            return Ok(false);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[rpc(name = "bdev_mirror_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let config = params.checked()?;
    let name = config.name.clone();
    if !adopt(&config).await? {
        vbdev::create::<Mirror>(config).await?;
    }
    Ok(name)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
    #[serde(default)]
    wipe: bool,
}

#[rpc(name = "bdev_mirror_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    if params.wipe {
        // Its superblocks are wiped when it ends.
        let bdev = BdevHandle::<Mirror>::find(&params.name)?;
        bdev.shared.wipe.store(true, Ordering::SeqCst);
    }
    vbdev::delete::<Mirror>(&params.name).await?;
    Ok(true)
}

#[derive(Default, Deserialize)]
struct Get {
    name: Option<String>,
}

#[rpc(name = "bdev_mirror_get_mirrors")]
async fn get(params: Get) -> Result<Vec<Value>, RpcError> {
    let mut mirrors = Vec::new();
    for listed in vbdev::list::<Mirror>() {
        if params.name.as_ref().is_none_or(|name| *name == listed.config.name) {
            mirrors.push(match &listed.bdev {
                Some(bdev) => info(&bdev.shared),
                None => json!({
                    "name": listed.config.name,
                    "uuid": listed.config.uuid,
                    "state": "waiting",
                    "base_bdevs": listed.config.base_bdevs,
                }),
            });
        }
    }
    if let Some(name) = params.name.filter(|_| mirrors.is_empty()) {
        return Err(Error::NotFound(format!("there is no mirror {name:?}")).into());
    }
    Ok(mirrors)
}

fn find(name: &str) -> Result<BdevHandle<Mirror>> {
    BdevHandle::<Mirror>::find(name)
}

/// The owner has ended.
fn gone(name: &str) -> Error {
    Error::NotFound(format!("mirror {name:?} has gone"))
}

#[derive(Deserialize)]
struct AddLeg {
    name: String,
    base_bdev: String,
    #[serde(default)]
    overwrite: bool,
}

#[rpc(name = "bdev_mirror_add_leg")]
async fn add_leg(params: AddLeg) -> Result<bool, RpcError> {
    let bdev = find(&params.name)?;
    let base = Base::open::<Mirror>(&params.base_bdev).await?;
    bdev.attach(&base).await?;
    let terms = if params.overwrite { Terms::Overwrite } else { Terms::New };
    let join = |reply| Command::Join { base, terms, reply };
    bdev.shared.ask(join).await.map_err(|_| gone(&params.name))??;
    remember(&bdev)?;
    Ok(true)
}

#[derive(Deserialize)]
struct RemoveLeg {
    name: String,
    base_bdev: String,
    #[serde(default)]
    forget: bool,
}

#[rpc(name = "bdev_mirror_remove_leg")]
async fn remove_leg(params: RemoveLeg) -> Result<bool, RpcError> {
    let bdev = find(&params.name)?;
    let (base, forget) = (params.base_bdev, params.forget);
    let remove = |reply| Command::Remove { base, forget, reply };
    bdev.shared.ask(remove).await.map_err(|_| gone(&params.name))??;
    remember(&bdev)?;
    Ok(true)
}

#[derive(Deserialize)]
struct SetOptions {
    name: String,
    rebuild_mb_per_sec: Option<u32>,
    quiet_ms: Option<u32>,
    max_read_errors: Option<u32>,
}

#[rpc(name = "bdev_mirror_set_options")]
async fn set_options(params: SetOptions) -> Result<bool, RpcError> {
    let bdev = find(&params.name)?;
    if let Some(quiet_ms) = params.quiet_ms {
        check_quiet(quiet_ms)?;
        bdev.shared.quiet_ms.store(quiet_ms, Ordering::Relaxed);
    }
    if let Some(limit) = params.rebuild_mb_per_sec {
        bdev.shared.rebuild_mb_per_sec.store(limit, Ordering::Relaxed);
    }
    if let Some(errors) = params.max_read_errors {
        bdev.shared.max_read_errors.store(errors, Ordering::Relaxed);
    }
    remember(&bdev)?;
    Ok(true)
}

#[derive(Deserialize)]
struct Check {
    name: String,
}

#[rpc(name = "bdev_mirror_check")]
async fn check(params: Check) -> Result<bool, RpcError> {
    let bdev = find(&params.name)?;
    let mut check = bdev.shared.check();
    if check.running {
        return Err(Error::Busy(format!("mirror {:?} is being checked", params.name)).into());
    }
    check.running = true;
    drop(check);
    bdev.shared.check_wanted.store(true, Ordering::SeqCst);
    Ok(true)
}
