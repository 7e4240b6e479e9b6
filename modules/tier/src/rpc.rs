//! The RPC methods.

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin::module::{BdevHandle, vbdev};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, Result, rpc};

use crate::Tier;
use crate::background::drained;
use crate::config::{Create, Set, WriteMode};
use crate::shared::Shared;

#[rpc(name = "bdev_tier_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    params.check()?;
    let name = params.name.clone();
    vbdev::create::<Tier>(params).await?;
    Ok(name)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
    #[serde(default)]
    flush: bool,
    #[serde(default)]
    discard_dirty: bool,
}

/// Dissolves the pair. What is dirty is written back or given up, but never without a word.
#[rpc(name = "bdev_tier_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    let Ok(bdev) = BdevHandle::<Tier>::find(&params.name) else {
        // It waits for its bases, and nothing was ever done to them.
        vbdev::delete::<Tier>(&params.name).await?;
        return Ok(true);
    };
    let shared = &bdev.shared;
    // What gets dirty after this is written back when the bdev is gone.
    let _draining = params.flush.then(|| shared.drain());
    if params.flush {
        drained(shared).await?;
    }
    let dirty = shared.cache.dirty();
    if dirty > 0 && !params.discard_dirty {
        return Err(Error::Busy(format!(
            "tier {} has {dirty} lines that are only in its cache; delete it with \"flush\": true to write \
             them back, or with \"discard_dirty\": true to lose them",
            params.name
        ))
        .into());
    }
    shared.set_dissolve(params.discard_dirty);
    vbdev::delete::<Tier>(&params.name).await?;
    Ok(true)
}

#[derive(Deserialize)]
struct List {
    name: Option<String>,
}

#[rpc(name = "bdev_tier_get_bdevs")]
async fn list(params: List) -> Result<Vec<Value>, RpcError> {
    let mut all = Vec::new();
    for tier in vbdev::list::<Tier>() {
        let name = &tier.config.name;
        if params.name.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let mut described = match &tier.bdev {
            Some(bdev) => {
                let mut described = bdev.shared.describe();
                described["cached_lines"] = json!(bdev.shared.cached().await);
                described
            }
            None => json!({
                "fast": tier.config.fast, "slow": tier.config.slow, "state": "waiting",
            }),
        };
        described["name"] = json!(name);
        all.push(described);
    }
    if all.is_empty()
        && let Some(name) = params.name
    {
        return Err(Error::NotFound(format!("there is no tier {name:?}")).into());
    }
    Ok(all)
}

/// Changes a running tier. It answers when the mode is in force: nothing is dirty but in write-back.
#[rpc(name = "bdev_tier_set")]
async fn set(params: Set) -> Result<bool, RpcError> {
    let bdev = BdevHandle::<Tier>::find(&params.name)?;
    let shared = &bdev.shared;
    let before = shared.settings();
    let after = before.with(&params);
    after.check()?;
    let config = vbdev::list::<Tier>().into_iter().find(|tier| tier.config.name == params.name);
    if let Some(tier) = config {
        vbdev::update::<Tier>((*tier.config).clone().with(after))?;
    }
    shared.set_settings(after);
    if after.mode == WriteMode::WriteBack {
        // The slow base says first that it will not have everything.
        note_complete(shared, false).await?;
        shared.cache.set_mode(after.mode.into());
        return Ok(true);
    }
    shared.cache.set_mode(after.mode.into());
    drained(shared).await?;
    note_complete(shared, true).await?;
    Ok(true)
}

/// Writes down whether the slow base has everything.
async fn note_complete(shared: &Shared, complete: bool) -> Result<()> {
    let Some(mut supers) = shared.take_supers() else {
        return Err(Error::Busy(format!("tier {} is being changed already", shared.name)));
    };
    let mut result = Ok(());
    if supers.slow.complete != complete && !shared.cache.is_fast_gone() {
        supers.slow.complete = complete;
        result = match shared.slow.channel() {
            Ok(slow) => supers.store_slow(&slow).await,
            Err(error) => Err(error),
        };
    }
    shared.put_supers(supers);
    result
}

#[derive(Deserialize)]
struct Flush {
    name: String,
}

/// Writes everything back. Meanwhile writes go to the slow base as well.
#[rpc(name = "bdev_tier_flush")]
async fn flush(params: Flush) -> Result<Value, RpcError> {
    let bdev = BdevHandle::<Tier>::find(&params.name)?;
    let shared = &bdev.shared;
    let before = shared.stats().write_backs;
    let _draining = shared.drain();
    drained(shared).await?;
    Ok(json!({ "written_lines": shared.stats().write_backs - before }))
}
