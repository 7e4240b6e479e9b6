//! A bdev that passes everything on to the one below it, and has reads and writes take longer, like SPDK's own
//! `bdev_delay`.
//!
//! The module is called `rdelay`, as SPDK's has the name `delay`. The latencies are those that whoever uses the
//! bdev sees, what the base takes included: their mean and their 99th percentile, for each direction. A request
//! whose base is slower takes as long as that.
//!
//! A request takes a place in a queue of its channel when it begins, and is completed when the base has ended it
//! and it is due. There are four queues, of fast and of slow reads and writes; in each, who comes first is due
//! first, so the channel's poller looks at four requests, and it rests when nobody waits.

#![forbid(unsafe_code)]

mod channel;
mod latency;
mod queue;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spdk_plugin::module::{
    Base, Bases, Bdev, BdevBuilder, BdevHandle, BdevIo, IoKind, IoResult, Vbdev, vbdev,
};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, Result, bdev_module, rpc};
use uuid::Uuid;

use channel::{Channel, Direction, Latencies};
use latency::Latency;

struct Delay {
    base: Base,
    /// What new channels begin with.
    latencies: Mutex<Latencies>,
    channels: AtomicU64,
}

impl Delay {
    fn latencies(&self) -> Latencies {
        *self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_latencies(&self, latencies: Latencies) {
        *self.latencies.lock().unwrap_or_else(PoisonError::into_inner) = latencies;
    }
}

#[bdev_module(name = "rdelay")]
impl Bdev for Delay {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        let number = self.channels.fetch_add(1, Ordering::Relaxed);
        Channel::new(self.base.channel()?, self.latencies(), number)
    }

    async fn read(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        channel.delay(Direction::Read, io.forward(&channel.base)).await
    }

    async fn write(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        channel.delay(Direction::Write, io.forward(&channel.base)).await
    }

    /// A reset is the crate's: it ends what waits here, and asks the base to abort what waits there.
    fn supports(&self, kind: IoKind) -> bool {
        kind != IoKind::Reset && self.base.supports(kind)
    }

    /// The start of a zcopy that reads and the end of one that writes are a read and a write.
    async fn submit(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let forward = io.forward(&channel.base);
        match io.kind() {
            Some(IoKind::Zcopy) if io.zcopy_commits() => {
                channel.delay(Direction::Write, forward).await
            }
            Some(IoKind::Zcopy) if io.zcopy_start().populate => {
                channel.delay(Direction::Read, forward).await
            }
            _ => forward.await,
        }
    }

    fn memory_domains_of(&self) -> Option<&Base> {
        Some(&self.base)
    }

    fn dump_info(&self) -> Option<Value> {
        Some(json!({ "base_bdev_name": self.base.name() }))
    }
}

/// The parameters of `bdev_rdelay_create`. Latencies are in microseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Create {
    name: String,
    base_bdev_name: String,
    avg_read_latency: u64,
    p99_read_latency: u64,
    avg_write_latency: u64,
    p99_write_latency: u64,
    /// By default one that the base's determines.
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<Uuid>,
}

impl Create {
    fn latencies(&self) -> Result<Latencies> {
        let latency = |what, mean, p99| Latency::new(what, mean, p99).map_err(Error::Invalid);
        Ok([
            latency("read", self.avg_read_latency, self.p99_read_latency)?,
            latency("write", self.avg_write_latency, self.p99_write_latency)?,
        ])
    }
}

impl Vbdev for Delay {
    type Config = Create;

    const CREATE: &'static str = "bdev_rdelay_create";

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        vec![config.base_bdev_name.clone()]
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let base = bases[0].clone();
        let uuid =
            config.uuid.unwrap_or_else(|| Uuid::new_v5(&base.uuid(), Self::CREATE.as_bytes()));
        let bdev = BdevBuilder::like(&*config.name, &base).product_name("Delay in Rust");
        let latencies = Mutex::new(config.latencies()?);
        let delay = Self { base, latencies, channels: AtomicU64::new(0) };
        Ok((bdev.uuid(Some(uuid)), delay))
    }

    async fn base_resized(bdev: &BdevHandle<Self>, base: &Base) {
        if let Err(error) = bdev.resize(base.num_blocks()).await {
            log::error!("{error}");
        }
    }
}

#[rpc(name = "bdev_rdelay_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    // Also where the base is missing as yet.
    params.latencies()?;
    let name = params.name.clone();
    vbdev::create::<Delay>(params).await?;
    Ok(name)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_rdelay_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    vbdev::delete::<Delay>(&params.name).await?;
    Ok(true)
}

#[rpc(name = "bdev_rdelay_get_bdevs")]
async fn list() -> Result<Vec<Value>, RpcError> {
    let listed = vbdev::list::<Delay>().into_iter().map(|vbdev| {
        let mut value = json!(&*vbdev.config);
        value["ready"] = vbdev.bdev.is_some().into();
        value
    });
    Ok(listed.collect())
}

/// The parameters of `bdev_rdelay_update_latency`: those that change.
#[derive(Deserialize)]
struct Update {
    name: String,
    avg_read_latency: Option<u64>,
    p99_read_latency: Option<u64>,
    avg_write_latency: Option<u64>,
    p99_write_latency: Option<u64>,
}

/// Requests that wait keep the latency that they have.
#[rpc(name = "bdev_rdelay_update_latency")]
async fn update(params: Update) -> Result<bool, RpcError> {
    let found = vbdev::list::<Delay>().into_iter().find(|vbdev| vbdev.config.name == params.name);
    let Some(found) = found else {
        // That it is another module's is said there.
        BdevHandle::<Delay>::find(&params.name)?;
        return Err(Error::NotFound(format!("there is no bdev {:?}", params.name)).into());
    };
    let mut config = Create::clone(&found.config);
    let set = |to: &mut u64, from: Option<u64>| *to = from.unwrap_or(*to);
    set(&mut config.avg_read_latency, params.avg_read_latency);
    set(&mut config.p99_read_latency, params.p99_read_latency);
    set(&mut config.avg_write_latency, params.avg_write_latency);
    set(&mut config.p99_write_latency, params.p99_write_latency);
    let latencies = config.latencies()?;
    vbdev::update::<Delay>(config)?;
    if let Some(bdev) = found.bdev {
        bdev.set_latencies(latencies);
        bdev.for_each_channel(move |channel| channel.set_latencies(latencies)).await?;
    }
    Ok(true)
}
