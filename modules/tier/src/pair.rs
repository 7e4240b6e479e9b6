//! The two bases as a pair: their superblocks, and how a cache is made or found on them.

use spdk_plugin::dma::DmaBuf;
use spdk_plugin::module::{Base, BaseChannel, Bases, IoError, IoKind, Superblock};
use spdk_plugin::{Error, Result};
use spdk_plugin_tier_core::{
    Binding, Cache, FastSuper, Geometry, GeometryError, Mode, Sizes, SlowSuper, bind,
};
use uuid::Uuid;

use crate::config::{Create, WriteMode};
use crate::disks::Ports;

const FAST_MAGIC: [u8; 8] = *b"SPTIERF1";
const SLOW_MAGIC: [u8; 8] = *b"SPTIERS1";
const VERSION: u32 = 1;
/// Blocks that are zeroed at once.
const ZEROES: u64 = 128;
/// What a superblock takes of either base, in bytes.
pub(crate) const RESERVED: u64 = 64 << 10;

/// The bases' places in [`Bases`].
pub(crate) const FAST: usize = 0;
pub(crate) const SLOW: usize = 1;

/// What the bases say of each other.
pub(crate) struct Supers {
    pub(crate) fast: FastSuper,
    pub(crate) slow: SlowSuper,
    fast_store: Superblock,
    slow_store: Superblock,
}

/// A pair that is ready.
pub(crate) struct Pair {
    pub(crate) cache: Cache,
    pub(crate) supers: Supers,
}

fn reserved_blocks(base: &Base) -> u64 {
    RESERVED.div_ceil(base.block_size().into())
}

/// Refuses bases that no cache can be made of.
fn check(config: &Create, fast: &Base, slow: &Base) -> Result<()> {
    for base in [fast, slow] {
        if let Some(metadata) = base.metadata() {
            let (name, base, size) = (&config.name, base.name(), metadata.size);
            return Err(Error::Invalid(format!(
                "tier {name}: base {base} has {size} bytes of metadata with each block; use one without"
            )));
        }
        for kind in [IoKind::Read, IoKind::Write] {
            if !base.supports(kind) {
                let (name, base) = (&config.name, base.name());
                return Err(Error::Invalid(format!(
                    "tier {name}: base {base} cannot be read and written"
                )));
            }
        }
    }
    if fast.block_size() != slow.block_size() {
        return Err(Error::Invalid(format!(
            "tier {}: blocks of {} are {} bytes and those of {} are {}; they must be the same",
            config.name,
            fast.name(),
            fast.block_size(),
            slow.name(),
            slow.block_size()
        )));
    }
    if slow.num_blocks() <= reserved_blocks(slow) {
        return Err(Error::Invalid(format!(
            "tier {}: {} has {} blocks, which are too few",
            config.name,
            slow.name(),
            slow.num_blocks()
        )));
    }
    Ok(())
}

fn geometry(config: &Create, fast: &Base, slow: &Base) -> Result<Geometry> {
    let sizes = Sizes {
        block_size: fast.block_size(),
        line_size: config.line_size,
        fast_blocks: fast.num_blocks(),
        fast_reserved: reserved_blocks(fast),
        slow_blocks: slow.num_blocks() - reserved_blocks(slow),
    };
    Geometry::new(&sizes).map_err(|error| {
        let (line, block) = (config.line_size, sizes.block_size);
        let what = match error {
            GeometryError::BlockSize => format!("blocks of {block} bytes cannot be cached"),
            GeometryError::LineSize => {
                format!("line_size {line} is no power-of-two multiple of blocks of {block} bytes")
            }
            GeometryError::FastTooSmall => format!(
                "{} has {} blocks, too few for a cache; take a larger one or a smaller line_size",
                fast.name(),
                fast.num_blocks()
            ),
            GeometryError::SlowTooSmall => format!("{} has no room for a line", slow.name()),
            GeometryError::TooLarge => "the bases are too large".into(),
        };
        Error::Invalid(format!("tier {}: {what}", config.name))
    })
}

/// Whether a geometry that was read from a disk is one that these bases could have been given.
fn fits(geometry: &Geometry, fast: &Base, slow: &Base) -> bool {
    let Some(line_size) = geometry.block_size.checked_mul(geometry.line_blocks) else {
        return false;
    };
    // What slow blocks there were is known to within a line, and fast ones to within a set.
    let lines = |blocks: u64| blocks / u64::from(geometry.line_blocks.max(1));
    let slow_blocks = slow.num_blocks().saturating_sub(reserved_blocks(slow));
    let sizes = Sizes {
        block_size: fast.block_size(),
        line_size,
        fast_blocks: fast.num_blocks(),
        fast_reserved: reserved_blocks(fast),
        slow_blocks,
    };
    geometry.slow_lines == lines(slow_blocks) && Geometry::new(&sizes) == Ok(*geometry)
}

fn fast_superblock() -> Superblock {
    Superblock::new(FAST_MAGIC, VERSION, 0, FastSuper::SIZE)
}

fn slow_superblock(slow: &Base) -> Superblock {
    let at = slow.num_blocks() - reserved_blocks(slow);
    Superblock::new(SLOW_MAGIC, VERSION, at, FastSuper::SIZE)
}

/// Refuses bases of which one is part of a tier, the other way round.
async fn check_roles(fast: &BaseChannel, slow: &BaseChannel) -> Result<()> {
    let base = fast.base();
    if base.num_blocks() > reserved_blocks(base)
        && slow_superblock(base).load(fast).await?.is_some()
    {
        return Err(Error::Invalid(format!(
            "{} is to be the fast disk, but is the slow one of a tier; choose another, or give \
             \"force\": true to overwrite it",
            base.name()
        )));
    }
    if fast_superblock().load(slow).await?.is_some() {
        return Err(Error::Invalid(format!(
            "{} is to be the slow disk, but is the cache of a tier; choose another, or give \
             \"force\": true to overwrite it",
            slow.base().name()
        )));
    }
    Ok(())
}

impl Supers {
    async fn load(fast: &BaseChannel, slow: &BaseChannel) -> Result<(Self, bool, bool)> {
        let (mut fast_store, mut slow_store) = (fast_superblock(), slow_superblock(slow.base()));
        let fast_bytes = fast_store.load(fast).await?;
        let slow_bytes = slow_store.load(slow).await?;
        let fast = fast_bytes.and_then(|bytes| FastSuper::decode(&bytes));
        let slow = slow_bytes.and_then(|bytes| SlowSuper::decode(&bytes));
        let known = (fast.is_some(), slow.is_some());
        let blank = Geometry {
            block_size: 0,
            line_blocks: 0,
            sets: 0,
            slow_lines: 0,
            records_at: 0,
            lines_at: 0,
        };
        let (id, generation) = ([0; 16], 0);
        let fast =
            fast.unwrap_or(FastSuper { id, generation, stamp: 0, geometry: blank, clean: false });
        let slow = slow.unwrap_or(SlowSuper { id, generation, complete: false, degraded: false });
        Ok((Self { fast, slow, fast_store, slow_store }, known.0, known.1))
    }

    pub(crate) async fn store_fast(&mut self, fast: &BaseChannel) -> Result<()> {
        self.fast_store.store(fast, &self.fast.encode()).await
    }

    pub(crate) async fn store_slow(&mut self, slow: &BaseChannel) -> Result<()> {
        self.slow_store.store(slow, &self.slow.encode()).await
    }

    /// Makes strangers of the bases. What is dirty is lost.
    pub(crate) async fn dissolve(
        &mut self,
        fast: Option<&BaseChannel>,
        slow: &BaseChannel,
    ) -> Result<()> {
        // In this order: a cache without its slow disk is refused, the other way round it is not.
        self.slow.complete = true;
        self.store_slow(slow).await?;
        if let Some(fast) = fast {
            erase(fast, 0).await?;
        }
        erase(slow, slow.base().num_blocks() - reserved_blocks(slow.base())).await
    }
}

/// An operation on a base has failed.
pub(crate) fn failed(base: &Base, op: &'static str, cause: IoError) -> Error {
    Error::Io { bdev: base.name().to_owned(), op, offset: 0, len: 0, cause }
}

/// By plain writes, which every base can.
async fn zero(base: &BaseChannel, at: u64, blocks: u64) -> Result<()> {
    let block_size = base.base().block_size() as usize;
    let mut zeroes = DmaBuf::alloc_zeroed(block_size * ZEROES as usize, 4096)?;
    for first in (0..blocks).step_by(ZEROES as usize) {
        base.write_blocks(&mut zeroes, at + first, ZEROES.min(blocks - first)).await?;
    }
    Ok(())
}

async fn erase(base: &BaseChannel, at: u64) -> Result<()> {
    zero(base, at, reserved_blocks(base.base())).await?;
    if base.base().supports(IoKind::Flush) {
        base.flush_blocks(0, base.base().num_blocks()).await?;
    }
    Ok(())
}

/// Finds or makes the cache on two bases.
pub(crate) async fn open(config: &Create, bases: &Bases, ports: &Ports) -> Result<Pair> {
    let (fast, slow) = (&bases[FAST], &bases[SLOW]);
    let (fast_channel, slow_channel) = (fast.channel()?, slow.channel()?);
    check(config, fast, slow)?;
    if !config.force {
        check_roles(&fast_channel, &slow_channel).await?;
    }
    let (mut supers, has_fast, has_slow) = Supers::load(&fast_channel, &slow_channel).await?;
    let fits = has_fast && fits(&supers.fast.geometry, fast, slow);
    let known = (has_fast.then_some(&supers.fast), has_slow.then_some(&supers.slow));
    let bound = bind(known.0, known.1, fits, config.format, config.force);
    let binding = bound.map_err(|error| {
        let (name, fast, slow) = (&config.name, fast.name(), slow.name());
        Error::Invalid(format!("tier {name} of {fast} and {slow}: {error}"))
    })?;
    let mode = Mode::from(config.settings().mode);
    let (cache, dirty) = match binding {
        Binding::Load { generation, stale } => {
            let cache = Cache::new(supers.fast.geometry, supers.fast.stamp, mode);
            let loaded = cache.load(ports, stale).await;
            let loaded = loaded.map_err(|cause| failed(fast, "reading a tier's records", cause))?;
            if let Some(damage) = loaded.damage
                && !config.force
            {
                return Err(Error::Invalid(format!(
                    "tier {}: {} of the records on {} are damaged ({damage}); there may have been data in \
                     the cache that are nowhere else; give \"force\": true to go on without them",
                    config.name,
                    loaded.damaged,
                    fast.name()
                )));
            }
            let repaired = cache.repair(ports, &loaded).await;
            repaired.map_err(|cause| failed(fast, "writing a tier's records", cause))?;
            log::info!(
                "tier {}: {} lines in the cache are clean, {} dirty, {} out of date",
                config.name,
                loaded.clean,
                loaded.dirty,
                loaded.dropped
            );
            supers.fast.generation = generation;
            (cache, loaded.dirty)
        }
        Binding::Format => {
            let geometry = geometry(config, fast, slow)?;
            // A cache whose records are being erased is nobody's.
            erase(&fast_channel, 0).await?;
            zero(&fast_channel, geometry.records_at, geometry.record_blocks()).await?;
            let id = Uuid::new_v4();
            let (high, low) = id.as_u64_pair();
            let stamp = high ^ low;
            supers.fast =
                FastSuper { id: id.into_bytes(), generation: 1, stamp, geometry, clean: false };
            (Cache::new(geometry, stamp, mode), 0)
        }
    };
    supers.fast.clean = false;
    supers.slow = SlowSuper {
        id: supers.fast.id,
        generation: supers.fast.generation,
        complete: dirty == 0 && config.settings().mode != WriteMode::WriteBack,
        degraded: false,
    };
    supers.store_fast(&fast_channel).await?;
    supers.store_slow(&slow_channel).await?;
    Ok(Pair { cache, supers })
}
