//! Settings of a whole module, held by a subsystem: small RAM disks, for which the operator sets a
//! default block size and a limit on their memory before the target starts.
//!
//! | RPC | when | |
//! |---|---|---|
//! | `scratch_set_options` | before `framework_start_init` | changes the settings |
//! | `scratch_get_options` | at any time | reads them |
//! | `bdev_scratch_create`, `bdev_scratch_delete` | after it | make and remove a bdev |
//!
//! `save_config` writes the settings back as `scratch_set_options`, and each bdev as
//! `bdev_scratch_create`.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use spdk_plugin::dma::DmaRegion;
use spdk_plugin::module::{Bdev, BdevBuilder, BdevHandle, BdevIo, IoResult, RpcCall};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, Result, Subsystem, bdev_module, rpc, subsystem};
use uuid::Uuid;

spdk_plugin::spdk_plugin! { modules: [] }

/// The settings.
#[derive(Clone, Copy, Debug, Serialize)]
struct Options {
    /// Bytes of a block, for bdevs that are created without a block size.
    block_size: u32,
    /// Bytes that all bdevs together may have.
    max_bytes: u64,
}

static OPTIONS: Mutex<Options> = Mutex::new(Options { block_size: 4096, max_bytes: 64 << 20 });

impl Options {
    fn get() -> Self {
        *OPTIONS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(self) {
        *OPTIONS.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }
}

#[subsystem(name = "scratch", depends_on = ["bdev"])]
impl Subsystem for Options {
    /// Checks what no single call could: the settings may have come in several.
    async fn init() -> Result<()> {
        let Self { block_size, max_bytes } = Self::get();
        if max_bytes < u64::from(block_size) {
            return Err(Error::Invalid(format!(
                "max_bytes is {max_bytes}, which is less than one block of {block_size} bytes; \
                 raise it with scratch_set_options"
            )));
        }
        log::info!("scratch bdevs: blocks of {block_size} bytes, {max_bytes} bytes for all");
        Ok(())
    }

    fn config() -> Vec<RpcCall> {
        vec![RpcCall::new("scratch_set_options", Self::get())]
    }
}

/// The parameters of `scratch_set_options`. What is absent stays as it is.
#[derive(Deserialize)]
struct SetOptions {
    block_size: Option<u32>,
    max_bytes: Option<u64>,
}

#[rpc(name = "scratch_set_options", state = "startup")]
async fn set_options(params: SetOptions) -> Result<bool, RpcError> {
    let old = Options::get();
    let block_size = params.block_size.unwrap_or(old.block_size);
    if block_size == 0 || !block_size.is_multiple_of(512) {
        return Err(RpcError::invalid_params(format!(
            "params.block_size: expected a multiple of 512, got {block_size}"
        )));
    }
    Options { block_size, max_bytes: params.max_bytes.unwrap_or(old.max_bytes) }.set();
    Ok(true)
}

#[rpc(name = "scratch_get_options", state = "any")]
async fn get_options() -> Result<Options, RpcError> {
    Ok(Options::get())
}

/// What a bdev takes of `max_bytes`, until it is dropped.
struct Share(u64);

static USED: AtomicU64 = AtomicU64::new(0);

impl Share {
    fn take(bytes: u64) -> Result<Self> {
        let max = Options::get().max_bytes;
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        match USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Self(bytes)),
            Err(used) => Err(Error::NoMemory(format!(
                "{bytes} bytes: scratch bdevs have {used} of their {max}"
            ))),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        USED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

struct Scratch {
    params: Create,
    memory: DmaRegion,
    _share: Share,
}

#[bdev_module(name = "scratch")]
impl Bdev for Scratch {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn read(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        io.chunks_mut().for_each(|(at, buf)| self.memory.read(at as usize, buf));
        Ok(())
    }

    async fn write(&self, _: &(), io: BdevIo<'_>) -> IoResult {
        io.chunks().for_each(|(at, buf)| self.memory.write(at as usize, buf));
        Ok(())
    }

    fn config(&self, bdev: &BdevHandle<Self>) -> Option<RpcCall> {
        let (block_size, uuid) = (Some(bdev.block_size()), Some(bdev.uuid()));
        let params = Create { block_size, uuid, ..self.params.clone() };
        Some(RpcCall::new("bdev_scratch_create", params))
    }
}

/// The parameters of `bdev_scratch_create`.
#[derive(Clone, Deserialize, Serialize)]
struct Create {
    name: String,
    num_blocks: u64,
    /// In bytes; that of the settings by default.
    block_size: Option<u32>,
    uuid: Option<Uuid>,
}

#[rpc(name = "bdev_scratch_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let block_size = params.block_size.unwrap_or(Options::get().block_size);
    let bdev = BdevBuilder::new(&*params.name, block_size, params.num_blocks).uuid(params.uuid);
    let bytes = bdev.num_bytes()?;
    let share = Share::take(bytes)?;
    let memory = DmaRegion::zeroed(bytes)?;
    let bdev = bdev.register(Scratch { params, memory, _share: share }).await?;
    Ok(bdev.name().to_owned())
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_scratch_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    BdevHandle::<Scratch>::find(&params.name)?.unregister().await?;
    Ok(true)
}
