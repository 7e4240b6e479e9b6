//! A bdev that passes everything on to the one below it, like SPDK's own `bdev_passthru`, and the module to
//! copy when you start a virtual bdev of your own.
//!
//! The module is called `rpassthru`, as SPDK's has the name `passthru`. Its parameters are those of
//! `bdev_passthru_create` and `bdev_passthru_delete`.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spdk_plugin::module::{
    Base, BaseChannel, Bases, Bdev, BdevBuilder, BdevHandle, BdevIo, IoKind, IoResult, Vbdev, vbdev,
};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Result, bdev_module, rpc};
use uuid::Uuid;

struct Passthru {
    base: Base,
}

#[bdev_module(name = "rpassthru")]
impl Bdev for Passthru {
    type Channel = BaseChannel;

    fn channel(&self) -> Result<BaseChannel> {
        self.base.channel()
    }

    async fn read(&self, base: &BaseChannel, io: BdevIo<'_>) -> IoResult {
        io.forward(base).await
    }

    async fn write(&self, base: &BaseChannel, io: BdevIo<'_>) -> IoResult {
        io.forward(base).await
    }

    fn supports(&self, kind: IoKind) -> bool {
        self.base.supports(kind)
    }

    async fn submit(&self, base: &BaseChannel, io: BdevIo<'_>) -> IoResult {
        io.forward(base).await
    }

    fn memory_domains_of(&self) -> Option<&Base> {
        Some(&self.base)
    }

    fn dump_info(&self) -> Option<Value> {
        Some(json!({ "base_bdev_name": self.base.name() }))
    }
}

/// The parameters of `bdev_rpassthru_create`.
#[derive(Debug, Deserialize, Serialize)]
struct Create {
    name: String,
    base_bdev_name: String,
    /// By default one that the base's determines.
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<Uuid>,
}

impl Vbdev for Passthru {
    type Config = Create;

    const CREATE: &'static str = "bdev_rpassthru_create";

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
        let bdev = BdevBuilder::like(&*config.name, &base).product_name("Passthru in Rust");
        Ok((bdev.uuid(Some(uuid)), Self { base }))
    }

    async fn base_resized(bdev: &BdevHandle<Self>, base: &Base) {
        if let Err(error) = bdev.resize(base.num_blocks()).await {
            log::error!("{error}");
        }
    }
}

#[rpc(name = "bdev_rpassthru_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let name = params.name.clone();
    vbdev::create::<Passthru>(params).await?;
    Ok(name)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_rpassthru_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    vbdev::delete::<Passthru>(&params.name).await?;
    Ok(true)
}

/// What is there and what waits for its base.
#[rpc(name = "bdev_rpassthru_get_bdevs")]
async fn list() -> Result<Vec<Value>, RpcError> {
    let listed = vbdev::list::<Passthru>().into_iter().map(|vbdev| {
        let Create { name, base_bdev_name, .. } = &*vbdev.config;
        json!({ "name": name, "base_bdev_name": base_bdev_name, "ready": vbdev.bdev.is_some() })
    });
    Ok(listed.collect())
}
