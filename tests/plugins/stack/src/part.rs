//! A range of a base.

use serde::{Deserialize, Serialize};
use spdk_plugin::module::{
    Bases, Bdev, BdevBuilder, BdevIo, IoKind, IoResult, Part, PartChannel, Vbdev, vbdev,
};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Result, bdev_module, rpc};

struct Partition(Part);

#[bdev_module(name = "stack_part")]
impl Bdev for Partition {
    type Channel = PartChannel;

    fn channel(&self) -> Result<PartChannel> {
        self.0.channel()
    }

    fn supports(&self, kind: IoKind) -> bool {
        self.0.supports(kind)
    }

    async fn submit(&self, part: &PartChannel, io: BdevIo<'_>) -> IoResult {
        part.forward(&io).await
    }
}

#[derive(Deserialize, Serialize)]
struct Create {
    name: String,
    base: String,
    first_block: u64,
    num_blocks: u64,
}

impl Vbdev for Partition {
    type Config = Create;

    const CREATE: &'static str = "stack_part_create";
    const SHARES_BASES: bool = true;

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        vec![config.base.clone()]
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let end = config.first_block.saturating_add(config.num_blocks);
        let part = Part::new(&bases[0], config.first_block..end)?;
        Ok((part.builder(&*config.name), Self(part)))
    }
}

#[rpc(name = "stack_part_create")]
async fn create(params: Create) -> Result<bool, RpcError> {
    vbdev::create::<Partition>(params).await?;
    Ok(true)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "stack_part_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    vbdev::delete::<Partition>(&params.name).await?;
    Ok(true)
}
