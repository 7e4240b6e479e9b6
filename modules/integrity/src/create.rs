//! Making a device of a base.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use spdk_plugin::module::{Base, Bases, BdevBuilder, BdevHandle, RpcCall, Vbdev, vbdev};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, Result, rpc};
use spdk_plugin_integrity_core::{Device, Geometry, Layout, Options, Root};
use uuid::Uuid;

use crate::Integrity;
use crate::disk::{BaseDisk, Found, first_block};

/// The parameters of `bdev_integrity_create`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Create {
    pub(crate) name: String,
    pub(crate) base_bdev_name: String,
    /// By default one that the base keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<Uuid>,
    /// Make it anew, whatever the base holds. Done once, and not saved.
    #[serde(default, skip_serializing)]
    format: Cell<bool>,
    /// Answer writes before the flush that makes them durable. By default if the base does so.
    #[serde(skip_serializing_if = "Option::is_none")]
    write_cache: Option<bool>,
    /// Keep order by flushes. By default if the base may lose what was not flushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    barriers: Option<bool>,
    /// MiB of checksums to keep in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_mb: Option<u32>,
}

/// MiB of checksums that are kept in memory by default: those of 64 GiB in 4 KiB blocks.
const CACHE_MB: u32 = 64;

fn failed(base: &Base) -> impl Fn(spdk_plugin_integrity_core::Error) -> Error + '_ {
    move |error| {
        let text = format!("base {}: {error}", base.name());
        match error {
            spdk_plugin_integrity_core::Error::Io(_) => Error::Errno { what: text, errno: 5 },
            _ => Error::Invalid(text),
        }
    }
}

/// Refuses bases whose blocks cannot be had one by one, or have more in them than data.
fn suits(base: &Base) -> Result<()> {
    let name = base.name();
    if base.metadata().is_some() {
        return Err(Error::Invalid(format!(
            "base {name} has metadata, whose checksums are not kept"
        )));
    }
    if base.write_unit_size() > 1 {
        let unit = base.write_unit_size();
        return Err(Error::Invalid(format!(
            "base {name} writes {unit} blocks at once; checksums need one that writes single blocks"
        )));
    }
    Ok(())
}

async fn root(config: &Create, base: &Base, disk: &BaseDisk) -> Result<Root> {
    if !config.format.get() {
        match disk.load().await.map_err(failed(base))? {
            Found::Ours(root) => return Ok(root),
            Found::Nothing => (),
            Found::Something => {
                return Err(Error::Invalid(format!(
                    "base {} holds something else; pass \"format\": true to overwrite it",
                    base.name()
                )));
            }
        }
    }
    let layout = Layout::new(Geometry {
        block_size: base.block_size(),
        blocks: base.num_blocks(),
        first: first_block(base),
        align: u64::from(base.optimal_io_boundary()).max(first_block(base)),
    });
    let layout = layout.map_err(failed(base))?;
    let id = fastrand::u64(1..);
    disk.formats.set(true);
    Device::format(disk, layout, id).await.map_err(failed(base))
}

impl Vbdev for Integrity {
    type Config = Create;

    const CREATE: &'static str = "bdev_integrity_create";

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        vec![config.base_bdev_name.clone()]
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let base = bases[0].clone();
        suits(&base)?;
        let disk = BaseDisk::new(&base)?;
        let root = root(config, &base, &disk).await?;
        config.format.set(false);
        if root.layout.block_size != base.block_size() {
            let (was, is) = (root.layout.block_size, base.block_size());
            return Err(Error::Invalid(format!(
                "base {} was formatted with blocks of {was} bytes and has {is} now",
                base.name()
            )));
        }
        let cache = u64::from(config.cache_mb.unwrap_or(CACHE_MB).max(1)) << 20;
        let options = Options {
            barriers: config.barriers.unwrap_or(base.has_write_cache()),
            write_cache: config.write_cache.unwrap_or(base.has_write_cache()),
            cached_pages: (cache / 4096) as usize,
        };
        let id = root.id;
        let device = Device::open(&disk, root, options).await.map_err(failed(&base))?;
        let counts = device.counts();
        let name = &config.name;
        if counts.recovered > 0 {
            log::info!("{name}: {} blocks were being written at the last end", counts.recovered);
        }
        if counts.log_holes > 0 {
            log::error!(
                "{name}: {} parts of the log are missing; blocks may be older than they should be",
                counts.log_holes
            );
        }
        let uuid =
            config.uuid.unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_OID, &id.to_le_bytes()));
        let bdev = BdevBuilder::new(&**name, base.block_size(), device.layout().blocks)
            .product_name("Checksums in Rust")
            .uuid(Some(uuid))
            // Before 23.01 there are no buffers for more; the bdev layer sees to it when it comes to the base.
            .buffer_alignment(base.alignment().min(512))
            .write_cache(options.write_cache)
            .optimal_io_boundary(base.optimal_io_boundary())
            .physical_block_size(base.physical_block_size().unwrap_or(0))
            .max_rw_size(device.most_blocks() as u32);
        let this = Self::start(name, base, device)?;
        Ok((bdev, this))
    }

    fn saved(config: &Create, bdev: Option<&BdevHandle<Self>>) -> RpcCall {
        let _ = bdev;
        RpcCall::new(Self::CREATE, config)
    }
}

#[rpc(name = "bdev_integrity_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let name = params.name.clone();
    vbdev::create::<Integrity>(params).await?;
    Ok(name)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_integrity_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    vbdev::delete::<Integrity>(&params.name).await?;
    Ok(true)
}
