//! A bdev that keeps the same data on several others (RAID 1): reads go to one, writes to all.
//!
//! `docs/modules/mirror.md` has the manual and the invariants, and `spdk-plugin-mirror-core` what is decided
//! without SPDK. Here are the I/O path (`io`), the task that alone changes superblocks, bitmap and the set of
//! legs (`owner`), and the one that copies (`copier`).

#![forbid(unsafe_code)]

mod channel;
mod config;
mod copier;
mod disk;
mod io;
mod legs;
mod owner;
mod rpc;
mod shared;
mod start;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use spdk_plugin::bdev::{BdevDesc, IoChannel};
use spdk_plugin::module::{
    Base, Bases, Bdev, BdevBuilder, BdevHandle, BdevIo, IoError, IoResult, Vbdev,
};
use spdk_plugin::runtime::timeout;
use spdk_plugin::{Result, bdev_module};
use spdk_plugin_mirror_core::assembly::Verdict;

use crate::channel::Channel;
use crate::config::Create;
use crate::owner::{Command, Terms};
use crate::shared::Shared;

/// How long a mirror that goes waits for its legs.
const PARTING: Duration = Duration::from_secs(5);

/// The device.
pub(crate) struct Mirror {
    shared: Arc<Shared>,
}

impl Mirror {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Where it never was registered, nothing else does.
        self.shared.send(Command::Stop { reply: None });
    }
}

#[bdev_module(name = "mirror")]
impl Bdev for Mirror {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        Channel::new(&self.shared)
    }

    async fn read(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.shared.read(channel, io).await
    }

    async fn write(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.shared.change(channel, io).await
    }

    async fn unmap(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.shared.change(channel, io).await
    }

    async fn write_zeroes(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.shared.change(channel, io).await
    }

    async fn flush(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.shared.flush(channel, io).await
    }

    /// A write that was cut short would have to be copied from one leg to the others; it ends soon.
    async fn reset(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        self.shared.drain().await
    }

    /// As for a reset: the request is not aborted.
    async fn abort(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        Err(IoError::Failed)
    }

    async fn destruct(&self) {
        let stop = self.shared.ask(|reply| Command::Stop { reply: Some(reply) });
        if timeout(PARTING, stop).await.is_err() {
            log::warn!("mirror {}: its legs do not answer", self.shared.name);
        }
    }

    fn dump_info(&self) -> Option<Value> {
        Some(rpc::info(&self.shared))
    }
}

impl Vbdev for Mirror {
    type Config = Create;

    const CREATE: &'static str = "bdev_mirror_create";
    const PROBES: bool = true;

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        config.base_bdevs.clone()
    }

    async fn can_start(config: &Create, bases: &Bases) -> bool {
        if bases.is_complete() {
            return true;
        }
        match start::survey(config, bases).await.map(|survey| survey.verdict) {
            Ok(Verdict::Wait(why)) => {
                log::warn!("mirror {}: {why}", config.name);
                false
            }
            // What is wrong is said by `build`.
            Ok(_) | Err(_) => true,
        }
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        start::build(config, bases).await
    }

    async fn base_removed(bdev: &BdevHandle<Self>, base: &Base) {
        let base = base.clone();
        let leave = |reply| Command::Leave { base, reply };
        if bdev.shared.ask(leave).await != Ok(true) {
            // It was the last one.
            let _ = bdev.unregister().await;
        }
    }

    async fn base_added(bdev: &BdevHandle<Self>, base: Base) {
        let name = base.name().to_owned();
        let join = |reply| Command::Join { base, terms: Terms::Returning, reply };
        if let Ok(Err(error)) = bdev.shared.ask(join).await {
            log::error!("mirror {}: {name} has come, but {error}", bdev.name());
        }
    }

    async fn probe(bdev: &BdevDesc, channel: &IoChannel) -> Result<Option<Create>> {
        Ok(start::found_on(bdev.name(), disk::look(bdev, channel).await?))
    }
}
