//! A bdev that is found again by the superblock on its base, where it counts how often it was built; and a
//! module whose start and end take time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spdk_plugin::bdev::{BdevDesc, IoChannel};
use spdk_plugin::module::{
    Base, BaseChannel, Bases, Bdev, BdevBuilder, BdevIo, IoKind, IoResult, Superblock, Vbdev, vbdev,
};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Result, bdev_module, rpc};

struct Found {
    base: Base,
    built: u64,
    first: u64,
}

fn superblock() -> Superblock {
    Superblock::new(*b"STACK  1", 1, 0, 1000)
}

#[bdev_module(name = "stack_found")]
impl Bdev for Found {
    type Channel = BaseChannel;

    async fn init() -> Result<()> {
        sleep(Duration::from_millis(20)).await;
        log::info!("stack_found has started");
        Ok(())
    }

    async fn fini_start() {
        sleep(Duration::from_millis(20)).await;
        log::info!("stack_found is about to stop");
    }

    async fn fini() {
        sleep(Duration::from_millis(20)).await;
        log::info!("stack_found has stopped");
    }

    fn channel(&self) -> Result<BaseChannel> {
        self.base.channel()
    }

    fn supports(&self, kind: IoKind) -> bool {
        matches!(kind, IoKind::Read | IoKind::Write | IoKind::Flush)
    }

    async fn submit(&self, base: &BaseChannel, io: BdevIo<'_>) -> IoResult {
        io.forward_at(base, self.first + io.offset_blocks()).await
    }

    async fn destruct(&self) {
        sleep(Duration::from_millis(20)).await;
        log::info!("stack_found lets go of {}", self.base.name());
    }

    fn dump_info(&self) -> Option<Value> {
        Some(json!({ "built": self.built }))
    }
}

#[derive(Deserialize, Serialize)]
struct Create {
    name: String,
    base: String,
    #[serde(default)]
    format: bool,
}

#[derive(Deserialize, Serialize)]
struct State {
    name: String,
    built: u64,
}

fn read(payload: &[u8]) -> Option<State> {
    serde_json::from_slice(payload).ok()
}

impl Vbdev for Found {
    type Config = Create;

    const CREATE: &'static str = "stack_found_create";
    const PROBES: bool = true;

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        vec![config.base.clone()]
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let base = bases[0].clone();
        let (channel, mut superblock) = (base.channel()?, superblock());
        let state = superblock.load(&channel).await?.and_then(|payload| read(&payload));
        let built = state.map_or(0, |state| state.built) + 1;
        let state = State { name: config.name.clone(), built };
        let payload = serde_json::to_vec(&state).unwrap_or_default();
        if config.format {
            superblock.format(&channel, &payload).await?;
        } else {
            superblock.store(&channel, &payload).await?;
        }
        let first = superblock.num_blocks(base.block_size());
        let blocks = base.num_blocks() - first;
        let bdev = BdevBuilder::new(&*config.name, base.block_size(), blocks);
        Ok((bdev, Self { base, built, first }))
    }

    async fn probe(bdev: &BdevDesc, channel: &IoChannel) -> Result<Option<Create>> {
        let payload = superblock().load_from(bdev, channel).await?;
        let config =
            |state: State| Create { name: state.name, base: bdev.name().to_owned(), format: false };
        Ok(payload.and_then(|payload| read(&payload)).map(config))
    }
}

#[rpc(name = "stack_found_create")]
async fn create(params: Create) -> Result<bool, RpcError> {
    vbdev::create::<Found>(params).await?;
    Ok(true)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "stack_found_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    vbdev::delete::<Found>(&params.name).await?;
    Ok(true)
}
