//! Scrubs in the background, on the app thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use spdk_plugin::runtime::spawn_local;
use spdk_plugin_integrity_core::{Device, Progress, Scrub};

use crate::disk::BaseDisk;

/// How a scrub has ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Done,
    Stopped,
    Failed(String),
}

/// A scrub, also one that has ended.
pub(crate) struct Running {
    scrub: Arc<Scrub>,
    started: Instant,
    end: Arc<Mutex<Option<(End, Duration)>>>,
    ended: oneshot::Receiver<()>,
}

impl Running {
    pub(crate) fn start(device: &Arc<Device>, disk: BaseDisk, rate: u64) -> Self {
        let (scrub, device) = (Arc::new(Scrub::new(rate)), Arc::clone(device));
        let (ends, ended) = oneshot::channel::<()>();
        let (end, started) = (Arc::new(Mutex::new(None)), Instant::now());
        let (running, tells) = (Arc::clone(&scrub), Arc::clone(&end));
        spawn_local(async move {
            let _ends = ends;
            let end = match device.scrub(&disk, &running).await {
                Err(error) => End::Failed(error.to_string()),
                Ok(()) if running.is_stopped() => End::Stopped,
                Ok(()) => End::Done,
            };
            let end = Some((end, started.elapsed()));
            *tells.lock().unwrap_or_else(PoisonError::into_inner) = end;
        });
        Self { scrub, started, end, ended }
    }

    /// `None` while it runs.
    pub(crate) fn outcome(&self) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.as_ref().map(|(end, _)| end.clone())
    }

    pub(crate) fn took(&self) -> Duration {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.as_ref().map_or_else(|| self.started.elapsed(), |(_, took)| *took)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.scrub.progress()
    }

    pub(crate) fn stop(&self) {
        self.scrub.stop();
    }

    /// Stops it and waits until it has gone.
    pub(crate) async fn end(self) {
        self.scrub.stop();
        // Its sender is dropped at the end of the task, whatever ends it.
        let _ = self.ended.await;
    }
}
