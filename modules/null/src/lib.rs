//! A bdev that stores nothing, like SPDK's own `bdev_null`: writes are dropped, and reads leave the
//! buffer as it is. For measuring everything else.
//!
//! The module is called `rnull`, as SPDK's has the name `null`. Its parameters are those of
//! `bdev_null_create`, `bdev_null_delete` and `bdev_null_resize`.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use spdk_plugin::module::{
    Bdev, BdevBuilder, BdevHandle, BdevIo, Dif, IoResult, Metadata, RpcCall,
};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Result, bdev_module, rpc};
use uuid::Uuid;

/// The parameters of `bdev_rnull_create`. Sizes are in bytes, hints in blocks.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Create {
    name: String,
    block_size: u32,
    num_blocks: u64,
    uuid: Option<Uuid>,
    #[serde(default)]
    physical_block_size: u32,
    #[serde(default)]
    md_size: u32,
    #[serde(default)]
    dif_type: u8,
    #[serde(default)]
    dif_is_head_of_md: bool,
    #[serde(default)]
    dif_pi_format: u8,
    #[serde(default)]
    preferred_write_alignment: u32,
    #[serde(default)]
    preferred_write_granularity: u32,
    #[serde(default)]
    optimal_write_size: u32,
    #[serde(default)]
    preferred_unmap_alignment: u32,
    #[serde(default)]
    preferred_unmap_granularity: u32,
}

struct Null {
    params: Create,
}

#[bdev_module(name = "rnull")]
impl Bdev for Null {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn read(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        if self.params.dif_type != 0 { io.generate_dif() } else { Ok(()) }
    }

    async fn write(&self, _: &(), io: BdevIo<'_>) -> IoResult {
        if self.params.dif_type != 0 { io.verify_dif() } else { Ok(()) }
    }

    async fn write_zeroes(&self, _: &(), _: BdevIo<'_>) -> IoResult {
        Ok(())
    }

    fn config(&self, bdev: &BdevHandle<Self>) -> Option<RpcCall> {
        let (uuid, num_blocks) = (Some(bdev.uuid()), bdev.num_blocks());
        let params = Create { uuid, num_blocks, ..self.params.clone() };
        Some(RpcCall::new("bdev_rnull_create", params))
    }
}

#[rpc(name = "bdev_rnull_create")]
async fn create(p: Create) -> Result<String, RpcError> {
    let mut bdev = BdevBuilder::new(&*p.name, p.block_size, p.num_blocks)
        .product_name("Null disk in Rust")
        .uuid(p.uuid)
        .physical_block_size(p.physical_block_size)
        .preferred_write_alignment(p.preferred_write_alignment)
        .preferred_write_granularity(p.preferred_write_granularity)
        .optimal_write_size(p.optimal_write_size)
        .preferred_unmap_alignment(p.preferred_unmap_alignment)
        .preferred_unmap_granularity(p.preferred_unmap_granularity);
    if p.md_size > 0 {
        bdev = bdev.metadata(Metadata { size: p.md_size, interleaved: true });
    }
    if p.dif_type > 0 {
        bdev = bdev.dif(Dif {
            kind: p.dif_type,
            at_head: p.dif_is_head_of_md,
            check_guard: true,
            check_app_tag: false,
            check_ref_tag: p.dif_type != 3,
            pi_format: p.dif_pi_format,
        });
    }
    let bdev = bdev.register(Null { params: p }).await?;
    Ok(bdev.name().to_owned())
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_rnull_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    BdevHandle::<Null>::find(&params.name)?.unregister().await?;
    Ok(true)
}

#[derive(Deserialize)]
struct Resize {
    name: String,
    /// In MiB.
    new_size: NonZeroU64,
}

#[rpc(name = "bdev_rnull_resize")]
async fn resize(params: Resize) -> Result<bool, RpcError> {
    let bdev = BdevHandle::<Null>::find(&params.name)?;
    let bytes = params.new_size.get().saturating_mul(1 << 20);
    bdev.resize(bytes / u64::from(bdev.block_size())).await?;
    Ok(true)
}
