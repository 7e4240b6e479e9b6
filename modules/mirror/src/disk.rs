//! A leg's own blocks: superblock, bitmap pages, and data as the copier sees them.

use std::cell::RefCell;
use std::time::Duration;

use spdk_plugin::bdev::{BdevDesc, IoChannel};
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::module::{Base, BaseChannel, IoKind, Superblock};
use spdk_plugin::runtime::timeout;
use spdk_plugin::{Error, Result};
use spdk_plugin_mirror_core::assembly::Found;
use spdk_plugin_mirror_core::{Geometry, Record, bitmap};
use uuid::Uuid;

/// What a leg's own data may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A leg as the app thread sees it.
pub(crate) struct Disk {
    pub(crate) base: Base,
    pub(crate) channel: BaseChannel,
    superblock: RefCell<Superblock>,
}

/// Where superblocks lie. The record in it has a version of its own.
fn superblock() -> Superblock {
    Superblock::new(*b"SPDKMIRR", 1, 0, Geometry::SUPERBLOCK_ROOM)
}

fn found(loaded: Result<Option<Vec<u8>>>) -> Result<Found> {
    Ok(match loaded {
        Ok(None) => Found::Blank,
        Ok(Some(payload)) => match Record::decode(&payload) {
            Ok((record, leg)) => Found::Leg(record, leg),
            Err(why) => Found::Unreadable(why),
        },
        Err(Error::Invalid(why)) => Found::Unreadable(why),
        Err(error) => return Err(error),
    })
}

/// What a bdev that nobody has claimed has for a superblock.
pub(crate) async fn look(bdev: &BdevDesc, channel: &IoChannel) -> Result<Found> {
    let size = bdev.block_size();
    if !fits(size, bdev.num_blocks()) {
        return Ok(Found::Blank);
    }
    found(superblock().load_from(bdev, channel).await)
}

fn fits(block_size: u32, num_blocks: u64) -> bool {
    (512..=65536).contains(&block_size)
        && block_size.is_power_of_two()
        && num_blocks >= Geometry::superblock_blocks(block_size)
}

impl Disk {
    pub(crate) fn new(base: &Base) -> Result<Self> {
        let channel = base.channel()?;
        Ok(Self { base: base.clone(), channel, superblock: RefCell::new(superblock()) })
    }

    fn buf(&self, bytes: usize) -> Result<DmaBuf> {
        DmaBuf::alloc_zeroed(bytes, self.base.alignment().max(4096))
    }

    /// Reads its superblock.
    pub(crate) async fn superblock(&self) -> Result<Found> {
        let size = self.base.block_size();
        if !fits(size, self.base.num_blocks()) {
            return Ok(Found::Unreadable(format!(
                "base {} has {} blocks of {size} bytes",
                self.base.name(),
                self.base.num_blocks()
            )));
        }
        let mut superblock = superblock();
        let loaded = timeout(PATIENCE, superblock.load(&self.channel)).await?;
        self.superblock.replace(superblock);
        found(loaded)
    }

    /// Stores its superblock in both copies, one after the other: where one is lost later, an older event
    /// must not come to light.
    pub(crate) async fn store(&self, record: &Record, leg: Uuid) -> Result<()> {
        let payload = record.encode(leg);
        let mut superblock = self.superblock.borrow().clone();
        for _ in 0..2 {
            in_time(superblock.store(&self.channel, &payload)).await?;
        }
        self.superblock.replace(superblock);
        Ok(())
    }

    /// Makes it no leg any more.
    pub(crate) async fn wipe(&self) -> Result<()> {
        let blocks = Geometry::superblock_blocks(self.base.block_size());
        let mut buf = self.buf((blocks * u64::from(self.base.block_size())) as usize)?;
        in_time(self.channel.write_blocks(&mut buf, 0, blocks)).await?;
        self.flush().await
    }

    /// Makes all of it durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        if !self.base.supports(IoKind::Flush) {
            return Ok(());
        }
        in_time(self.channel.flush_blocks(0, self.base.num_blocks())).await
    }

    /// Writes a page of the bitmap with the bits that `set` says.
    pub(crate) async fn write_page(
        &self,
        geometry: &Geometry,
        array: Uuid,
        page: usize,
        set: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let mut buf = self.buf(geometry.page_bytes())?;
        let regions = geometry.page_regions(page);
        let first = regions.start;
        bitmap::encode(&mut buf, array, page as u32, regions.len(), |bit| set(first + bit));
        let at = geometry.bitmap_block(page);
        in_time(self.channel.write_blocks(&mut buf, at, geometry.page_blocks())).await
    }

    /// Makes pages durable that were written.
    pub(crate) async fn flush_pages(&self) -> Result<()> {
        if self.base.has_write_cache() { self.flush().await } else { Ok(()) }
    }

    /// Tells `set` of the regions whose bits are set in a page, which are all if it cannot be read.
    pub(crate) async fn read_page(
        &self,
        geometry: &Geometry,
        array: Uuid,
        page: usize,
        mut set: impl FnMut(usize),
    ) -> Result<()> {
        let mut buf = self.buf(geometry.page_bytes())?;
        let at = geometry.bitmap_block(page);
        let read = in_time(self.channel.read_blocks(&mut buf, at, geometry.page_blocks())).await;
        let bits = bitmap::decode(&buf, array, page as u32).filter(|_| read.is_ok());
        if bits.is_none() {
            let name = self.base.name();
            log::warn!("page {page} of the bitmap on {name} is damaged, and counts as all set");
        }
        for (bit, region) in geometry.page_regions(page).enumerate() {
            if bits.is_none_or(|bits| bits.is_set(bit)) {
                set(region);
            }
        }
        Ok(())
    }
}

/// What hangs has failed: the whole mirror waits for it.
async fn in_time<T>(io: impl Future<Output = Result<T>>) -> Result<()> {
    timeout(PATIENCE, io).await?.map(drop)
}
