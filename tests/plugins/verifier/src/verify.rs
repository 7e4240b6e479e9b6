//! `verify_bdev`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::{cores, spawn_on};
use spdk_plugin_test_model::{Geometry, Journal, Kind, Model};

use crate::disk::{Disk, limit};
use crate::settings::{Report, Verify};
use crate::worker::{Run, Worker, lock};

/// What the last call has found out, by the names of bdevs.
static KNOWN: Mutex<Option<HashMap<String, Model>>> = Mutex::new(None);

fn bad(why: impl Into<String>) -> RpcError {
    RpcError::invalid_params(why)
}

/// The model that the run begins with.
fn model(settings: &Verify, geometry: &Geometry) -> Result<Model, RpcError> {
    let known = lock(&KNOWN).get_or_insert_default().remove(&settings.name);
    let model = match &settings.journal {
        Some(path) => from_journal(settings, geometry, path)?,
        None => match known.filter(|_| settings.resume) {
            Some(model) => model,
            None if settings.resume => return Err(bad("there was no run to go on with")),
            None => Model::new(settings.seed, geometry.blocks.clone()),
        },
    };
    if model.blocks() != geometry.blocks {
        return Err(bad(format!(
            "the run to go on with used blocks {:?}, and this one is to use {:?}",
            model.blocks(),
            geometry.blocks
        )));
    }
    Ok(model)
}

fn from_journal(settings: &Verify, geometry: &Geometry, path: &Path) -> Result<Model, RpcError> {
    let cannot = |error| RpcError::internal(format!("journal {}: {error}", path.display()));
    if path.exists() {
        return Journal::resume(path).map_err(cannot);
    }
    let mut model = Model::new(settings.seed, geometry.blocks.clone());
    let journal = Journal::create(path, settings.seed, geometry.blocks.clone()).map_err(cannot)?;
    model.set_journal(journal);
    Ok(model)
}

#[rpc(name = "verify_bdev")]
async fn verify(settings: Verify) -> Result<Report, RpcError> {
    if settings.operations.is_none() && settings.seconds.is_none() {
        return Err(bad("a run needs an end: give 'operations' or 'seconds'"));
    }
    let cores: Vec<u32> = cores().iter().take(settings.cores).collect();
    if cores.len() < settings.cores || cores.is_empty() || settings.depth == 0 {
        return Err(bad("the program has fewer cores than 'cores', or 'cores' or 'depth' is 0"));
    }
    let disk = Disk::open(&settings.name, true)?;
    let mut geometry = disk.geometry(settings.first, settings.blocks, settings.longest).await?;
    limit(&mut geometry.blocks, geometry.write_unit);
    let kinds = settings.kinds.clone().unwrap_or_else(|| disk.kinds(&geometry));
    let kinds = if geometry.atomic < geometry.write_unit {
        kinds.into_iter().filter(|kind| *kind != Kind::CompareAndWrite).collect()
    } else {
        kinds
    };
    drop(disk);

    let mut model = model(&settings, &geometry)?;
    model.set_races(settings.races);
    let begun = Instant::now();
    let seconds = settings.seconds.map(|seconds| seconds.clamp(0.0, 86400.0));
    let run = Arc::new(Run {
        deadline: seconds.map(|seconds| begun + Duration::from_secs_f64(seconds)),
        left: AtomicU64::new(settings.operations.unwrap_or(u64::MAX)),
        stopped: AtomicBool::new(false),
        report: Mutex::new(Report { seed: settings.seed, ..Report::default() }),
        model: Mutex::new(model),
        settings,
        geometry,
        kinds,
    });
    on_cores(&run, &cores, false).await?;
    if run.settings.sweep && !run.stopped.load(Ordering::Relaxed) {
        on_cores(&run, &cores, true).await?;
    }

    let mut report = lock(&run.report).clone();
    report.seconds = begun.elapsed().as_secs_f64();
    let name = run.settings.name.clone();
    if let Some(run) = Arc::into_inner(run) {
        let model = run.model.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        lock(&KNOWN).get_or_insert_default().insert(name, model);
    }
    Ok(report)
}

async fn on_cores(run: &Arc<Run>, cores: &[u32], sweeps: bool) -> Result<(), RpcError> {
    let next = Arc::new(AtomicU64::new(run.geometry.blocks.start));
    let mut running = Vec::new();
    for (number, core) in (0..).zip(cores) {
        let (run, next) = (Arc::clone(run), Arc::clone(&next));
        running.push(spawn_on(*core, move || async move {
            on_core(&run, &next, number, sweeps).await
        })?);
    }
    for ended in join_all(running).await {
        ended??;
    }
    Ok(())
}

async fn on_core(run: &Run, next: &AtomicU64, number: u64, sweeps: bool) -> Result<(), RpcError> {
    let disk = Disk::open(&run.settings.name, true)?;
    let depth = run.settings.depth as u64;
    let workers = (0..depth).map(|i| Worker::new(run, &disk, number * depth + i));
    let workers = workers.collect::<Result<Vec<_>, _>>()?;
    if sweeps {
        join_all(workers.into_iter().map(|worker| worker.sweep(next))).await;
    } else {
        join_all(workers.into_iter().map(Worker::work)).await;
    }
    Ok(())
}
