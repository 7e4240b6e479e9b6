//! What a tier does by itself, in one task on the app thread: it writes back, has the records say what is
//! clean, and ends in order.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use spdk_plugin::dma::DmaPool;
use spdk_plugin::module::{BdevHandle, vbdev};
use spdk_plugin::runtime::{sleep, spawn_local, yield_now};
use spdk_plugin::{Error, Result};
use spdk_plugin_tier_core::Counters;

use crate::Tier;
use crate::config::WriteMode;
use crate::disks::Ports;
use crate::pair::failed;
use crate::shared::Shared;

/// Lines written back in one go.
const BATCH: usize = 64;
/// Lines that are in memory for it at once.
const BUFFERS: u32 = 32;
const TICK: Duration = Duration::from_millis(20);
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How long a fast base that has failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How long a round of writing back that has failed is not repeated.
const PAUSE: Duration = Duration::from_millis(200);

struct Background {
    ports: Ports,
    counters: Arc<Counters>,
    cursor: u64,
    /// The high watermark was reached, and the low one not yet.
    cleaning: bool,
    saved: Instant,
    failing_since: Option<Instant>,
    permits_forgotten: bool,
}

/// Starts the task of a tier. It does not keep the tier.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<()> {
    let line_size = shared.cache.geometry().line_size();
    let ports = shared.ports(DmaPool::new(BUFFERS, line_size, 4096)?)?;
    let mut background = Background {
        ports,
        counters: shared.new_counters(),
        cursor: 0,
        cleaning: false,
        saved: Instant::now(),
        failing_since: None,
        permits_forgotten: false,
    };
    let (ended, wait) = oneshot::channel();
    shared.set_background(wait);
    let weak = Arc::downgrade(shared);
    spawn_local(async move {
        background.run(&weak).await;
        drop(background);
        // Nobody waits if the tier was not registered.
        let _ = ended.send(());
    })
    .detach();
    Ok(())
}

impl Background {
    async fn run(&mut self, weak: &Weak<Shared>) {
        loop {
            let Some(shared) = weak.upgrade() else { return };
            if shared.is_stopped() {
                return self.finish(&shared).await;
            }
            if shared.cache.is_fast_gone() {
                self.ports.drop_fast();
            }
            let pause = self.round(&shared).await;
            drop(shared);
            match pause {
                Duration::ZERO => yield_now().await,
                pause => sleep(pause).await,
            }
        }
    }

    /// What was allowed for once is not allowed when the bdev comes again.
    fn forget_permits(&mut self, shared: &Shared) {
        let mut tiers = vbdev::list::<Tier>().into_iter();
        let ours = |bdev: &BdevHandle<Tier>| std::ptr::eq(&*bdev.shared, shared);
        let found = tiers.find(|tier| tier.bdev.as_ref().is_some_and(ours));
        let Some(tier) = found else { return };
        self.permits_forgotten = true;
        if let Err(error) = vbdev::update::<Tier>((*tier.config).clone().without_permits()) {
            log::warn!("tier {}: {error}", shared.name);
        }
    }

    /// Does what is due, and tells when to look again.
    async fn round(&mut self, shared: &Shared) -> Duration {
        let cache = &shared.cache;
        if !self.permits_forgotten {
            self.forget_permits(shared);
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            if let Err(error) = cache.save(&self.ports, &self.counters).await {
                log::debug!("tier {}: {error}", shared.name);
            }
            self.saved = Instant::now();
        }
        self.retry(shared);
        let settings = shared.settings();
        let lines = cache.geometry().fast_lines();
        let share = |per_cent: u32| {
            lines / 100 * u64::from(per_cent) + lines % 100 * u64::from(per_cent) / 100
        };
        let dirty = cache.dirty();
        let is_pressed = cache.take_pressed();
        let drains = shared.is_draining() || settings.mode != WriteMode::WriteBack;
        if dirty > share(settings.high_watermark) {
            self.cleaning = true;
        } else if dirty <= share(settings.low_watermark) {
            self.cleaning = false;
        }
        if dirty == 0 || cache.is_fast_gone() || !(self.cleaning || drains || is_pressed) {
            return TICK;
        }
        let started = Instant::now();
        let cleaned = cache.clean(&self.ports, &mut self.cursor, BATCH, &self.counters).await;
        if cleaned.failed > 0 {
            shared.count_failed_round();
            log::warn!(
                "tier {}: {} lines cannot be written back now, and stay dirty",
                shared.name,
                cleaned.failed
            );
            return PAUSE;
        }
        if cleaned.tried == 0 {
            return Duration::from_millis(1);
        }
        let limit = u64::from(settings.write_back_mb_per_sec) << 20;
        if limit == 0 || drains {
            return Duration::ZERO;
        }
        let bytes = cleaned.tried * cache.geometry().line_size() as u64;
        Duration::from_micros(bytes.saturating_mul(1_000_000) / limit)
            .saturating_sub(started.elapsed())
    }

    /// Tries a fast base again that has failed some time ago.
    fn retry(&mut self, shared: &Shared) {
        if !shared.cache.is_failing() {
            self.failing_since = None;
            return;
        }
        let since = self.failing_since.get_or_insert_with(|| {
            log::warn!("tier {}: base {} fails writes", shared.name, shared.fast.name());
            Instant::now()
        });
        if since.elapsed() >= RETRY_AFTER {
            self.failing_since = None;
            shared.cache.retry();
        }
    }

    /// The bdev is gone: leaves both bases in order.
    async fn finish(&mut self, shared: &Arc<Shared>) {
        if let Err(error) = self.try_finish(shared).await {
            log::warn!("tier {} did not end in order, and nothing is lost: {error}", shared.name);
        }
    }

    async fn try_finish(&mut self, shared: &Arc<Shared>) -> Result<()> {
        let cache = &shared.cache;
        let last = |cause| failed(&shared.slow, "the last flush", cause);
        let Some(mut supers) = shared.take_supers() else { return Ok(()) };
        let slow = shared.slow.channel()?;
        let keeps = shared.is_to_dissolve() && !shared.discards_dirty();
        if cache.is_fast_gone() {
            if shared.is_to_dissolve() && !(keeps && cache.dirty() > 0) {
                supers.dissolve(None, &slow).await?;
            }
            return Ok(());
        }
        let fast = shared.fast.channel()?;
        if keeps || shared.settings().flush_on_exit {
            while cache.dirty() > 0 {
                let cleaned =
                    cache.clean(&self.ports, &mut self.cursor, BATCH, &self.counters).await;
                if cleaned.lines == 0 {
                    log::warn!("tier {}: {} lines stay dirty", shared.name, cache.dirty());
                    break;
                }
            }
        }
        if shared.is_to_dissolve() && !(keeps && cache.dirty() > 0) {
            cache.flush(&self.ports).await.map_err(last)?;
            return supers.dissolve(Some(&fast), &slow).await;
        }
        let saved = cache.save(&self.ports, &self.counters).await;
        let flushed = match saved {
            Ok(()) => cache.flush(&self.ports).await,
            error => error,
        };
        flushed.map_err(last)?;
        supers.fast.clean = true;
        supers.store_fast(&fast).await?;
        supers.slow.complete = cache.dirty() == 0;
        supers.store_slow(&slow).await
    }
}

/// Goes on without the fast base, which is being removed.
pub(crate) async fn lose_fast(bdev: &BdevHandle<Tier>) {
    let shared = &bdev.shared;
    shared.cache.fast_is_going();
    log::error!(
        "tier {}: its fast base {} goes, with {} lines that are only there",
        shared.name,
        shared.fast.name(),
        shared.cache.dirty()
    );
    // First of all, so that the base can go.
    let dropped = bdev.for_each_channel(|channel| channel.ports.drop_fast()).await;
    shared.fast.close();
    if let Err(error) = dropped {
        log::error!("tier {}: {error}", shared.name);
    }
    let outcome = match shared.take_supers() {
        Some(mut supers) => {
            supers.slow.degraded = true;
            supers.slow.complete = shared.cache.dirty() == 0;
            let stored = match shared.slow.channel() {
                Ok(slow) => supers.store_slow(&slow).await,
                Err(error) => Err(error),
            };
            shared.put_supers(supers);
            stored
        }
        // It is ending anyway.
        None => return,
    };
    match outcome {
        Ok(()) => shared.cache.fast_is_gone(),
        Err(error) => log::error!(
            "tier {}: it cannot be noted on {} that its cache is gone, so it can only be read: {error}",
            shared.name,
            shared.slow.name()
        ),
    }
}

/// Waits until nothing is dirty, which somebody who drains sees to.
///
/// # Errors
/// Tells what stays dirty when a base fails.
pub(crate) async fn drained(shared: &Shared) -> Result<()> {
    let failed = shared.failed_rounds();
    shared.cached().await;
    while shared.cache.dirty() > 0 {
        if shared.cache.is_fast_gone() || shared.failed_rounds() > failed || shared.is_stopped() {
            return Err(Error::Busy(format!(
                "tier {}: {} lines cannot be written back; see the log",
                shared.name,
                shared.cache.dirty()
            )));
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
