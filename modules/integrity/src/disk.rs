//! The base as the checksums see it, and its superblock.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use spdk_plugin::dma::DmaBuf;
use spdk_plugin::module::{Base, BaseChannel, IoKind, Superblock};
use spdk_plugin::runtime::{sleep, yield_now};
use spdk_plugin_integrity_core::{Disk, Error, Result, Root};

const MAGIC: [u8; 8] = *b"SPDKintg";
const VERSION: u32 = 1;
/// How far from its beginning a base must be empty, so as not to hold anything.
const BLANK: u64 = 64 << 10;

/// One thread's way to the base.
pub(crate) struct BaseDisk {
    pub(crate) channel: BaseChannel,
    superblock: RefCell<Superblock>,
    /// The next root goes over whatever there is.
    pub(crate) formats: Cell<bool>,
    flushes: bool,
}

/// What lies where the superblock is to be.
pub(crate) enum Found {
    Ours(Root),
    Nothing,
    Something,
}

fn superblock() -> Superblock {
    Superblock::new(MAGIC, VERSION, 0, Root::LEN)
}

/// The first block that is not the superblock's.
pub(crate) fn first_block(base: &Base) -> u64 {
    let size = base.block_size();
    superblock().num_blocks(size).max(u64::from(4096_u32.div_ceil(size)))
}

fn failed(error: spdk_plugin::Error) -> Error {
    match error {
        spdk_plugin::Error::Invalid(text) => Error::Damaged(text),
        error => Error::Io(error.to_string()),
    }
}

impl BaseDisk {
    pub(crate) fn new(base: &Base) -> spdk_plugin::Result<Self> {
        let flushes = base.supports(IoKind::Flush);
        let (channel, superblock) = (base.channel()?, RefCell::new(superblock()));
        Ok(Self { channel, superblock, formats: Cell::new(false), flushes })
    }

    fn base(&self) -> &Base {
        self.channel.base()
    }

    /// The root, or whether what is there else may be overwritten.
    pub(crate) async fn load(&self) -> Result<Found> {
        let base = self.base();
        if let Some(root) = superblock().load(&self.channel).await.map_err(failed)? {
            return Root::decode(&root, first_block(base), base.num_blocks()).map(Found::Ours);
        }
        let size = u64::from(base.block_size());
        let blocks = BLANK.div_ceil(size).min(base.num_blocks());
        let mut buf = self.buf((blocks * size) as usize)?;
        self.read(0, blocks, &mut buf).await?;
        Ok(if buf.iter().all(|&byte| byte == 0) { Found::Nothing } else { Found::Something })
    }
}

impl Disk for BaseDisk {
    type Buf = DmaBuf;

    fn buf(&self, len: usize) -> Result<DmaBuf> {
        DmaBuf::alloc_zeroed(len, self.base().alignment().max(4096)).map_err(failed)
    }

    async fn read(&self, lba: u64, blocks: u64, buf: &mut DmaBuf) -> Result<()> {
        self.channel.read_blocks(buf, lba, blocks).await.map_err(failed)
    }

    async fn write(&self, lba: u64, blocks: u64, buf: &mut DmaBuf) -> Result<()> {
        self.channel.write_blocks(buf, lba, blocks).await.map_err(failed)
    }

    async fn flush(&self) -> Result<()> {
        if self.flushes {
            self.channel.flush_blocks(0, self.base().num_blocks()).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Into both copies, one after the other, so that no lost write brings the old one back.
    async fn store_root(&self, root: &[u8]) -> Result<()> {
        let mut superblock = self.superblock.borrow().clone();
        if self.formats.take() {
            superblock.format(&self.channel, root).await.map_err(failed)?;
        } else {
            superblock.store(&self.channel, root).await.map_err(failed)?;
            superblock.store(&self.channel, root).await.map_err(failed)?;
        }
        self.superblock.replace(superblock);
        Ok(())
    }

    async fn pause(&self, time: Duration) {
        if time.is_zero() { yield_now().await } else { sleep(time).await }
    }
}
