//! A bdev in memory, and the module to copy when you start one of your own: every kind of I/O, state
//! for each thread, and RPCs to create, delete and resize.
//!
//! The store is one region of DMA memory, and one more for each time that the bdev has grown. A channel
//! keeps its own list of them, so that I/O takes no lock; growing hands every channel a new list.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use spdk_plugin::dma::DmaRegion;
use spdk_plugin::module::{Bdev, BdevBuilder, BdevHandle, BdevIo, IoError, IoResult, RpcCall};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, Result, bdev_module, rpc};
use uuid::Uuid;

/// The store: regions one after another.
#[derive(Clone, Default)]
struct Store(Arc<[DmaRegion]>);

impl Store {
    fn len(&self) -> u64 {
        self.0.iter().map(|region| region.len() as u64).sum()
    }

    /// This store and `more` bytes behind it.
    fn grown_by(&self, more: u64) -> Result<Self> {
        let more = DmaRegion::zeroed(more)?;
        Ok(Self(self.0.iter().cloned().chain([more]).collect()))
    }

    /// The parts of regions that make up `range`: where in the range each begins, its region, and where
    /// it lies there.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (usize, &DmaRegion, Range<usize>)> {
        let mut end = 0;
        self.0.iter().filter_map(move |region| {
            let base = end;
            end += region.len() as u64;
            let (first, last) = (range.start.max(base), range.end.min(end));
            let piece = || ((first - base) as usize)..((last - base) as usize);
            (first < last).then(|| ((first - range.start) as usize, region, piece()))
        })
    }

    fn read(&self, at: u64, into: &mut [u8]) {
        for (done, region, piece) in self.pieces(at..at + into.len() as u64) {
            region.read(piece.start, &mut into[done..done + piece.len()]);
        }
    }

    fn write(&self, at: u64, from: &[u8]) {
        for (done, region, piece) in self.pieces(at..at + from.len() as u64) {
            region.write(piece.start, &from[done..done + piece.len()]);
        }
    }

    fn equals(&self, at: u64, with: &[u8]) -> bool {
        self.pieces(at..at + with.len() as u64).all(|(done, region, piece)| {
            region.equals(piece.start, &with[done..done + piece.len()])
        })
    }

    fn zero(&self, range: Range<u64>) {
        self.pieces(range).for_each(|(_, region, piece)| region.zero(piece.start, piece.len()));
    }
}

struct Ram {
    params: Create,
    store: Mutex<Store>,
}

impl Ram {
    fn store(&self) -> Store {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_store(&self, store: Store) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }
}

#[bdev_module(name = "ram")]
impl Bdev for Ram {
    type Channel = RefCell<Store>;

    fn channel(&self) -> Result<Self::Channel> {
        Ok(RefCell::new(self.store()))
    }

    async fn read(&self, store: &Self::Channel, mut io: BdevIo<'_>) -> IoResult {
        io.chunks_mut().for_each(|(at, buf)| store.borrow().read(at, buf));
        Ok(())
    }

    async fn write(&self, store: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        io.chunks().for_each(|(at, buf)| store.borrow().write(at, buf));
        Ok(())
    }

    /// Nothing is on its way to anywhere.
    async fn flush(&self, _: &Self::Channel, _: BdevIo<'_>) -> IoResult {
        Ok(())
    }

    async fn unmap(&self, store: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        store.borrow().zero(io.bytes());
        Ok(())
    }

    async fn write_zeroes(&self, store: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        store.borrow().zero(io.bytes());
        Ok(())
    }

    async fn compare(&self, store: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        let equal = io.chunks().all(|(at, buf)| store.borrow().equals(at, buf));
        if equal { Ok(()) } else { Err(IoError::Miscompare) }
    }

    async fn copy(&self, store: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        let (source, target) = (io.copy_source_blocks() * u64::from(io.block_size()), io.bytes());
        let store = store.borrow();
        let len = (target.end - target.start) as usize;
        let mut step = |at: usize| {
            let mut chunk = [0; 4096];
            let chunk = &mut chunk[..4096.min(len - at)];
            store.read(source + at as u64, chunk);
            store.write(target.start + at as u64, chunk);
        };
        // Ranges may overlap: start at the end that is not overwritten before it is read.
        if source < target.start {
            (0..len).step_by(4096).rev().for_each(&mut step);
        } else {
            (0..len).step_by(4096).for_each(&mut step);
        }
        Ok(())
    }

    /// Lends the store's own memory where the range lies in one region, and a copy elsewhere.
    async fn zcopy_start(&self, store: &Self::Channel, mut io: BdevIo<'_>) -> IoResult {
        let (store, bytes) = (store.borrow(), io.bytes());
        let len = bytes.end - bytes.start;
        if let Some((_, region, piece)) = store.pieces(bytes.clone()).next()
            && piece.len() as u64 == len
        {
            return io.lend(region, piece);
        }
        let copy = DmaRegion::zeroed(len)?;
        for (at, region, piece) in store.pieces(bytes) {
            region.copy(piece.start, &copy, at, piece.len());
        }
        io.lend(&copy, 0..copy.len())
    }

    async fn zcopy_end(&self, store: &Self::Channel, io: BdevIo<'_>) -> IoResult {
        let store = store.borrow();
        if io.zcopy_commits()
            && let Some(copy) = io.lent().filter(|lent| !store.0.contains(lent))
        {
            for (at, region, piece) in store.pieces(io.bytes()) {
                copy.copy(at, region, piece.start, piece.len());
            }
        }
        Ok(())
    }

    fn config(&self, bdev: &BdevHandle<Self>) -> Option<RpcCall> {
        let (uuid, num_blocks) = (Some(bdev.uuid()), bdev.num_blocks());
        let params = Create { uuid, num_blocks, ..self.params.clone() };
        Some(RpcCall::new("bdev_ram_create", params))
    }
}

/// The parameters of `bdev_ram_create`.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Create {
    name: String,
    num_blocks: u64,
    /// In bytes.
    block_size: u32,
    uuid: Option<Uuid>,
    /// In blocks.
    write_unit_size: Option<u32>,
    /// In blocks.
    optimal_io_boundary: Option<u32>,
}

#[rpc(name = "bdev_ram_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let bdev = BdevBuilder::new(&*params.name, params.block_size, params.num_blocks)
        .product_name("RAM disk in Rust")
        .uuid(params.uuid)
        .write_unit_size(params.write_unit_size.unwrap_or(1))
        .optimal_io_boundary(params.optimal_io_boundary.unwrap_or(0));
    let store = Mutex::new(Store::default().grown_by(bdev.num_bytes()?)?);
    let bdev = bdev.register(Ram { params, store }).await?;
    Ok(bdev.name().to_owned())
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_ram_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    BdevHandle::<Ram>::find(&params.name)?.unregister().await?;
    Ok(true)
}

#[derive(Deserialize)]
struct Resize {
    name: String,
    num_blocks: u64,
}

/// Grows the store before the bdev. When the bdev shrinks, the store stays for the next time.
#[rpc(name = "bdev_ram_resize")]
async fn resize(params: Resize) -> Result<bool, RpcError> {
    let bdev = BdevHandle::<Ram>::find(&params.name)?;
    let too_large = || Error::Invalid(format!("{} blocks are too many", params.num_blocks));
    let bytes = params.num_blocks.checked_mul(bdev.block_size().into()).ok_or_else(too_large)?;
    let store = bdev.store();
    if bytes > store.len() {
        bdev.set_store(store.grown_by(bytes - store.len())?);
        let ram = bdev.clone();
        bdev.for_each_channel(move |channel| *channel.borrow_mut() = ram.store()).await?;
    }
    bdev.resize(params.num_blocks).await?;
    if bytes < store.len() {
        store.zero(bytes..store.len());
    }
    Ok(true)
}
