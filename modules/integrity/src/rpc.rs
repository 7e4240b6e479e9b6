//! What the devices tell: their state, what was found wrong, and scrubs.

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin::module::{BdevHandle, vbdev};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, rpc};
use spdk_plugin_integrity_core::{Bad, Cause, Counts};

use crate::Integrity;
use crate::disk::BaseDisk;
use crate::scrub::{End, Running};

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct MaybeName {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Start {
    name: String,
    /// No limit by default.
    mb_per_sec: Option<u32>,
}

/// All devices, or one: also those that wait for their bases.
#[rpc(name = "bdev_integrity_get_bdevs")]
async fn list(params: MaybeName) -> Result<Vec<Value>, RpcError> {
    let wanted = |name: &str| params.name.as_deref().is_none_or(|wanted| wanted == name);
    let listed: Vec<_> = vbdev::list::<Integrity>()
        .into_iter()
        .filter(|vbdev| wanted(&vbdev.config.name))
        .map(|vbdev| {
            let mut shown = json!({
                "name": vbdev.config.name,
                "base_bdev_name": vbdev.config.base_bdev_name,
                "ready": vbdev.bdev.is_some(),
            });
            if let Some(bdev) = vbdev.bdev {
                let layout = bdev.device.layout();
                shown["num_blocks"] = layout.blocks.into();
                shown["data_offset_blocks"] = layout.data.into();
                shown["counts"] = counts(bdev.device.counts());
            }
            shown
        })
        .collect();
    match params.name {
        Some(name) if listed.is_empty() => {
            Err(Error::NotFound(format!("there is no integrity bdev {name:?}")).into())
        }
        _ => Ok(listed),
    }
}

fn counts(counts: Counts) -> Value {
    let Counts {
        mismatches,
        no_checksum,
        repeated,
        lost_pages,
        repaired,
        log_holes,
        recovered,
        checkpoints,
        commits,
    } = counts;
    json!({
        "mismatches": mismatches, "no_checksum": no_checksum, "repeated": repeated,
        "lost_pages": lost_pages, "repaired": repaired, "log_holes": log_holes,
        "recovered": recovered, "checkpoints": checkpoints, "commits": commits,
    })
}

fn bad(bad: Vec<Bad>) -> Vec<Value> {
    let cause = |cause| match cause {
        Cause::Mismatch => "mismatch",
        Cause::NoChecksum => "no_checksum",
    };
    bad.into_iter().map(|bad| json!({ "lba": bad.lba, "cause": cause(bad.cause) })).collect()
}

/// What was found wrong since the device is there.
#[rpc(name = "bdev_integrity_get_errors")]
async fn errors(params: Name) -> Result<Value, RpcError> {
    let bdev = BdevHandle::<Integrity>::find(&params.name)?;
    let (counts, last) = (counts(bdev.device.counts()), bad(bdev.device.last_bad()));
    Ok(json!({ "counts": counts, "last": last }))
}

#[rpc(name = "bdev_integrity_start_scrub")]
async fn start_scrub(params: Start) -> Result<bool, RpcError> {
    let bdev = BdevHandle::<Integrity>::find(&params.name)?;
    let mut scrub = bdev.scrub();
    if scrub.as_ref().is_some_and(|scrub| scrub.outcome().is_none()) {
        return Err(Error::Busy(format!("a scrub of {} is running", params.name)).into());
    }
    let disk = BaseDisk::new(&bdev.base)?;
    let rate = u64::from(params.mb_per_sec.unwrap_or(0)) << 20;
    *scrub = Some(Running::start(&bdev.device, disk, rate));
    Ok(true)
}

/// Ends a scrub soon. What it has found stays to be read.
#[rpc(name = "bdev_integrity_stop_scrub")]
async fn stop_scrub(params: Name) -> Result<bool, RpcError> {
    let bdev = BdevHandle::<Integrity>::find(&params.name)?;
    let scrub = bdev.scrub();
    let running = scrub.as_ref().filter(|scrub| scrub.outcome().is_none());
    running.inspect(|scrub| scrub.stop());
    Ok(running.is_some())
}

/// The scrub that runs, or the last one.
#[rpc(name = "bdev_integrity_get_scrub")]
async fn get_scrub(params: Name) -> Result<Value, RpcError> {
    let bdev = BdevHandle::<Integrity>::find(&params.name)?;
    let scrub = bdev.scrub();
    let Some(scrub) = &*scrub else { return Ok(json!({ "state": "none" })) };
    let (progress, end) = (scrub.progress(), scrub.outcome());
    let (state, error) = match end {
        None => ("running", None),
        Some(End::Done) => ("done", None),
        Some(End::Stopped) => ("stopped", None),
        Some(End::Failed(error)) => ("failed", Some(error)),
    };
    let mut shown = json!({
        "state": state,
        "seconds": scrub.took().as_secs_f64(),
        "num_blocks": bdev.num_blocks(),
        "passed_blocks": progress.passed,
        "checked_blocks": progress.checked,
        "bad_blocks": progress.bad,
        "repaired_pages": progress.repaired,
        "first_bad": bad(progress.first_bad),
    });
    if let Some(error) = error {
        shown["error"] = error.into();
    }
    Ok(shown)
}
