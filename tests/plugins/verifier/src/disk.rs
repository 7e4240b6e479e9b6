//! An open bdev, with what is worth knowing about it.

use spdk_plugin::bdev::{BdevDesc, IoChannel};
use spdk_plugin::rpc::RpcError;
use spdk_plugin_test_model::{Geometry, Kind};

/// Blocks that a model has room for.
const MOST_BLOCKS: u64 = 1 << 22;
/// Bytes between the boundaries that are worth crossing where the bdev names none.
const BOUNDARY: u64 = 64 << 10;

/// The most bytes of a compare: where the device has none the bdev layer reads, into a buffer of its pool.
const COMPARED: u64 = 32 << 10;

/// A bdev, open on this thread.
pub(crate) struct Disk {
    pub(crate) channel: IoChannel,
    pub(crate) desc: BdevDesc,
    pub(crate) block_size: usize,
    /// Metadata of a block that have a buffer of their own.
    pub(crate) md_size: usize,
}

impl Disk {
    pub(crate) fn open(name: &str, write: bool) -> Result<Self, RpcError> {
        let desc = BdevDesc::open(name, write)?;
        let md_size = if desc.is_md_interleaved() { 0 } else { desc.md_size() as usize };
        let channel = desc.get_io_channel()?;
        let block_size = desc.block_size() as usize;
        Ok(Self { channel, desc, block_size, md_size })
    }

    /// The blocks from `first` on, `blocks` of them or all that there are.
    pub(crate) async fn geometry(
        &self,
        first: u64,
        blocks: Option<u64>,
        longest: u64,
    ) -> Result<Geometry, RpcError> {
        let bdev = self.desc.bdev().await?;
        if bdev.dif().is_some() {
            let why = "has protection information, which the verifier cannot make";
            return Err(RpcError::invalid_params(format!("bdev {} {why}", bdev.name())));
        }
        let size = self.block_size as u64;
        let unit = u64::from(bdev.write_unit_size()).max(1);
        let end = match blocks {
            Some(blocks) => first.saturating_add(blocks),
            None => bdev.num_blocks(),
        };
        if end > bdev.num_blocks()
            || first >= end
            || !first.is_multiple_of(unit)
            || end - first < unit
        {
            return Err(RpcError::invalid_params(format!(
                "blocks {first}..{end} of bdev {}, which has {} and is written in units of {unit}",
                bdev.name(),
                bdev.num_blocks()
            )));
        }
        let boundary = match u64::from(bdev.optimal_io_boundary()) {
            0 => BOUNDARY / size,
            boundary => boundary,
        };
        Ok(Geometry {
            blocks: first..first + (end - first) / unit * unit,
            boundary,
            write_unit: unit,
            compared: COMPARED / size,
            atomic: u64::from(bdev.atomic_compare_and_write_unit()),
            most: (longest / size).max(unit),
        })
    }

    /// The kinds of operations that can be verified, but for resets.
    pub(crate) fn kinds(&self, geometry: &Geometry) -> Vec<Kind> {
        let fits = |kind: &Kind| match kind {
            Kind::Reset => false,
            // What they do to metadata is for each module to say.
            Kind::Copy => self.md_size == 0,
            Kind::Compare => self.md_size == 0,
            Kind::CompareAndWrite => self.md_size == 0 && geometry.atomic >= geometry.write_unit,
            _ => true,
        };
        Kind::SHARES.iter().map(|(kind, _)| *kind).filter(fits).collect()
    }
}

/// No more than a model has room for.
pub(crate) fn limit(blocks: &mut std::ops::Range<u64>, unit: u64) {
    blocks.end = blocks.end.min(blocks.start + MOST_BLOCKS / unit * unit);
}
