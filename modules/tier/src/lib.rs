//! A cache: a bdev that keeps the lines of a slow base that are in use on a fast one, and by default
//! acknowledges writes when they are there. What lies where, and why nothing is lost, is told in
//! `docs/modules/tier.md`; the cache itself is the crate `spdk-plugin-tier-core`.

#![forbid(unsafe_code)]

mod background;
mod config;
mod disks;
mod pair;
mod rpc;
mod shared;

use std::sync::Arc;

use serde_json::Value;
use spdk_plugin::module::{
    Base, Bases, Bdev, BdevBuilder, BdevHandle, BdevIo, IoError, IoResult, Vbdev,
};
use spdk_plugin::{Result, bdev_module};
use spdk_plugin_tier_core::Discard;
use uuid::Uuid;

use crate::config::Create;
use crate::disks::Io;
use crate::pair::{FAST, SLOW};
use crate::shared::{Channel, Shared};

/// A tier.
pub(crate) struct Tier {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Tier {
    /// A read's or a write's line, and the request as the cache takes it. SPDK has split it at lines.
    #[inline]
    fn request<'io>(&self, io: BdevIo<'io>, streams: bool) -> IoResult<(u64, Io<'io>)> {
        let line_blocks = u64::from(self.shared.cache.geometry().line_blocks);
        let offset = io.offset_blocks();
        // A power of two, which the compiler is not told of.
        let (line, first) = (offset >> line_blocks.ilog2(), offset & (line_blocks - 1));
        if first + io.num_blocks() > line_blocks {
            return Err(IoError::Failed);
        }
        Ok((line, Io { io, first: first as u32, streams }))
    }

    async fn discard(&self, channel: &Channel, how: Discard, io: BdevIo<'_>) -> IoResult {
        self.shared.cache.discard(&channel.ports, how, io.blocks(), &channel.counters).await
    }
}

#[bdev_module(name = "tier")]
impl Bdev for Tier {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        self.shared.channel()
    }

    async fn read(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let streams = channel.streams(&io);
        let (line, mut io) = self.request(io, streams)?;
        self.shared.cache.read(&channel.ports, &mut io, line, &channel.counters).await
    }

    async fn write(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let (line, mut io) = self.request(io, false)?;
        self.shared.cache.write(&channel.ports, &mut io, line, &channel.counters).await
    }

    async fn flush(&self, channel: &Channel, _: BdevIo<'_>) -> IoResult {
        self.shared.cache.flush(&channel.ports).await
    }

    async fn unmap(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.discard(channel, Discard::Unmap, io).await
    }

    async fn write_zeroes(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        self.discard(channel, Discard::Zero, io).await
    }

    /// SPDK does not split it at lines, and its own way to compare asks for one buffer for all.
    async fn compare(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let mut buf = channel.ports.line(self.shared.cache.geometry().line_size())?;
        let (line_size, bytes) = (buf.len() as u64, io.bytes());
        for line in bytes.start / line_size..bytes.end.div_ceil(line_size) {
            let Channel { ports, counters, .. } = channel;
            self.shared.cache.read_line(ports, &mut buf, line, counters).await?;
            let start = line * line_size;
            let equal = io.chunks().all(|(at, chunk)| {
                let (from, to) = (at.max(start), (at + chunk.len() as u64).min(start + line_size));
                let ours = |at: u64| (at - start) as usize;
                let theirs = |byte: u64| (byte - at) as usize;
                from >= to || buf[ours(from)..ours(to)] == chunk[theirs(from)..theirs(to)]
            });
            if !equal {
                return Err(IoError::Miscompare);
            }
        }
        Ok(())
    }

    /// The bases end what they have, and with that the requests here end by themselves: none may be left
    /// half-way.
    async fn reset(&self, channel: &Channel, _: BdevIo<'_>) -> IoResult {
        channel.ports.reset().await
    }

    /// As for a reset: what is under way goes on.
    async fn abort(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        Err(IoError::Failed)
    }

    async fn destruct(&self) {
        self.shared.end().await;
    }

    fn dump_info(&self) -> Option<Value> {
        Some(self.shared.describe())
    }
}

impl Vbdev for Tier {
    type Config = Create;

    const CREATE: &'static str = "bdev_tier_create";

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        vec![config.fast.clone(), config.slow.clone()]
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let shared = Shared::open(config, bases).await?;
        background::start(&shared)?;
        let (fast, slow) = (&bases[FAST], &bases[SLOW]);
        let geometry = shared.cache.geometry();
        let uuid = config.uuid.unwrap_or(Uuid::from_bytes(shared.id));
        let bdev = BdevBuilder::new(&*config.name, geometry.block_size, geometry.slow_blocks())
            .product_name("Tier")
            .uuid(Some(uuid))
            .write_cache(fast.has_write_cache() || slow.has_write_cache())
            .buffer_alignment(fast.alignment().max(slow.alignment()))
            .optimal_io_boundary(geometry.line_blocks)
            .split_on_optimal_io_boundary(true);
        Ok((bdev, Self { shared }))
    }

    async fn base_removed(bdev: &BdevHandle<Self>, base: &Base) {
        if base.name() == bdev.shared.fast.name() {
            background::lose_fast(bdev).await;
        } else if let Err(error) = bdev.unregister().await {
            log::warn!("base {} goes: {error}", base.name());
        }
    }
}

impl Channel {
    /// Whether a read is one of many in a row.
    #[inline]
    fn streams(&self, io: &BdevIo<'_>) -> bool {
        let cutoff = self.cutoff_blocks();
        let row = self.rows.row(io.offset_blocks(), io.num_blocks());
        cutoff > 0 && row > cutoff
    }
}
