//! Zones (`spdk/bdev_zone.h`): what is known of them, and the operations on them.

use std::mem;

use spdk_plugin_sys as sys;

use super::channel::IoChannel;
use super::desc::BdevDesc;
use super::kind::{ZoneAppend, ZoneManagement, ZoneReport};
use super::op::sealed::{self, Landed, Place};
use super::op::{Op, Range};
use crate::dma::{DmaBuf, IoVec};
use crate::error::{Error, Result};

/// A zone (`struct spdk_bdev_zone_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneInfo {
    /// Its first block, which names it.
    pub zone_id: u64,
    /// The block that is to be written next.
    pub write_pointer: u64,
    /// The blocks that can be written.
    pub capacity: u64,
    /// Its state.
    pub state: ZoneState,
    /// How it may be written. Before SPDK 22.09 that is not said, and given as
    /// [`SequentialRequired`](ZoneType::SequentialRequired).
    pub zone_type: ZoneType,
}

/// The state of a zone (`enum spdk_bdev_zone_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZoneState {
    /// Nothing is written.
    Empty,
    /// Opened by a write.
    ImplicitlyOpen,
    /// No more can be written.
    Full,
    /// Closed, and partly written.
    Closed,
    /// It can be read only.
    ReadOnly,
    /// It can neither be read nor written.
    Offline,
    /// Opened by [`ZoneAction::Open`].
    ExplicitlyOpen,
    /// It has no write pointer.
    NotWritePointer,
    /// Another one.
    Other(u32),
}

/// How a zone may be written (`enum spdk_bdev_zone_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZoneType {
    /// Anywhere.
    Conventional,
    /// At the write pointer only.
    SequentialRequired,
    /// At the write pointer at best.
    SequentialPreferred,
    /// Another one.
    Other(u32),
}

/// What to do with a zone (`enum spdk_bdev_zone_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZoneAction {
    /// Close it.
    Close,
    /// Make it full.
    Finish,
    /// Open it.
    Open,
    /// Drop what is in it and make it empty.
    Reset,
    /// Take it out of use. SPDK 21.04 or later.
    Offline,
}

impl From<sys::spdkp_zone> for ZoneInfo {
    fn from(zone: sys::spdkp_zone) -> Self {
        let state = match zone.state {
            0 => ZoneState::Empty,
            1 => ZoneState::ImplicitlyOpen,
            2 => ZoneState::Full,
            3 => ZoneState::Closed,
            4 => ZoneState::ReadOnly,
            5 => ZoneState::Offline,
            6 => ZoneState::ExplicitlyOpen,
            7 => ZoneState::NotWritePointer,
            other => ZoneState::Other(other),
        };
        let zone_type = match zone.type_ {
            1 => ZoneType::Conventional,
            2 => ZoneType::SequentialRequired,
            3 => ZoneType::SequentialPreferred,
            other => ZoneType::Other(other),
        };
        let sys::spdkp_zone { id: zone_id, write_pointer, capacity, .. } = zone;
        Self { zone_id, write_pointer, capacity, state, zone_type }
    }
}

/// Zones to tell about.
#[derive(Debug)]
pub struct Report {
    first: u64,
    count: u64,
}

/// What to do with a zone.
#[derive(Debug)]
pub struct Management {
    zone: u64,
    action: ZoneAction,
}

/// Data to append to a zone.
#[derive(Debug)]
pub struct Append<L> {
    data: L,
    zone: u64,
    blocks: u64,
}

/// Checks what the bdev layer does not: that `count` zones from block `first` on are there.
fn check(place: &Place<'_>, first: u64, count: u64) -> Result<u64> {
    let desc = &place.channel.port().desc;
    // SAFETY: the bdev is there while the descriptor is open.
    let (zoned, size) = unsafe {
        (sys::spdk_bdev_is_zoned(desc.bdev()), sys::spdk_bdev_get_zone_size(desc.bdev()))
    };
    let errno = |what: String| Error::Errno { what, errno: libc::ENOTSUP };
    if !zoned || size == 0 {
        return Err(errno(format!("a zone operation on bdev {}, which has no zones", desc.name())));
    }
    let end = size.checked_mul(count).and_then(|len| first.checked_add(len));
    if !first.is_multiple_of(size) || count == 0 || end.is_none_or(|end| end > desc.num_blocks()) {
        return Err(Error::Invalid(format!(
            "bdev {} has no {count} zones from block {first} on: it has zones of {size} blocks, and {} \
             blocks",
            desc.name(),
            desc.num_blocks()
        )));
    }
    Ok(size)
}

fn check_writable(place: &Place<'_>) -> Result<()> {
    let desc = &place.channel.port().desc;
    if desc.is_writable() {
        return Ok(());
    }
    let what = format!("a change of a zone of bdev {}, opened for reading only", desc.name());
    Err(Error::Errno { what, errno: libc::EBADF })
}

impl sealed::Load for Report {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        check(&place, self.first, self.count)?;
        // SAFETY: asks for a size.
        let size = unsafe { sys::spdkp_zone_info_size() };
        let cargo = place.cargo;
        // The count was just found not to exceed the zones that there are.
        cargo.zones = vec![0; (size * self.count as usize).div_ceil(mem::size_of::<u64>())];
        cargo.op.offset = self.first;
        cargo.op.num = self.count;
        cargo.op.aux = cargo.zones.as_mut_ptr().cast();
        Ok(true)
    }

    fn back(&mut self, place: Place<'_>, _: usize) {
        if u32::from(place.cargo.op.status) != sys::SPDKP_OP_OK {
            place.cargo.zones = Vec::new();
        }
    }
}

impl sealed::Answer for Vec<ZoneInfo> {
    fn read(mut slot: Landed<'_>) -> Self {
        let count = slot.cargo().op.num as usize;
        let zones = mem::take(&mut slot.cargo().zones);
        let zone = |index| {
            let mut zone = sys::spdkp_zone::default();
            // SAFETY: there is room for `count` zones, which the device has filled in.
            unsafe { sys::spdkp_zone_info_get(zones.as_ptr().cast(), index, &raw mut zone) };
            ZoneInfo::from(zone)
        };
        (0..count).map(zone).collect()
    }
}

impl sealed::Load for Management {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        check(&place, self.zone, 1)?;
        check_writable(&place)?;
        place.cargo.op.aux_num = match self.action {
            ZoneAction::Close => 0,
            ZoneAction::Finish => 1,
            ZoneAction::Open => 2,
            ZoneAction::Reset => 3,
            ZoneAction::Offline => 4,
        };
        Ok(true)
    }

    fn back(&mut self, _: Place<'_>, _: usize) {}
}

impl<L: sealed::Data> sealed::Data for Append<L> {}

impl<L: sealed::Load> sealed::Load for Append<L> {
    fn lacks(&self, len: u64, md: u64) -> Option<(u64, u64, &'static str)> {
        self.data.lacks(len, md)
    }

    fn put(&mut self, place: Place<'_>, len: usize) -> Result<bool> {
        let size = check(&place, self.zone, 1)?;
        check_writable(&place)?;
        let desc = &place.channel.port().desc;
        // SAFETY: the bdev is there while the descriptor is open.
        let whole = unsafe { sys::spdk_bdev_get_block_size(desc.bdev()) };
        if whole != desc.block_size() {
            return Err(Error::Invalid(format!(
                "an append to bdev {} through a descriptor that hides its metadata",
                desc.name()
            )));
        }
        if self.blocks > size {
            return Err(Error::Invalid(format!(
                "{} blocks do not go into a zone of {size} of bdev {}",
                self.blocks,
                desc.name()
            )));
        }
        self.data.put(place, len)
    }

    fn back(&mut self, place: Place<'_>, len: usize) {
        self.data.back(place, len);
    }
}

/// A block's number.
impl sealed::Answer for u64 {
    fn read(mut slot: Landed<'_>) -> Self {
        slot.cargo().op.value
    }
}

impl BdevDesc {
    /// Tells of `count` zones from the one that begins at block `zone_id` on (`spdk_bdev_get_zone_info`). It
    /// fails as [all operations](crate::bdev#errors) may.
    ///
    /// ```no_run
    /// use spdk_plugin::bdev::{BdevDesc, IoChannel, ZoneState};
    ///
    /// # async fn empty(desc: &BdevDesc, channel: &IoChannel) -> spdk_plugin::Result<()> {
    /// let zones = desc.get_zone_info(channel, 0, 1).await?;
    /// println!("{}", zones[0].state == ZoneState::Empty);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_zone_info<'a>(
        &self,
        channel: &'a IoChannel,
        zone_id: u64,
        count: u64,
    ) -> Op<'a, Report, ZoneReport> {
        let load = Report { first: zone_id, count };
        Op::new(self, channel, Range::NONE, load)
    }

    /// Opens, closes, finishes, resets or takes out of use the zone that begins at block `zone_id`
    /// (`spdk_bdev_zone_management`). It fails as [all operations](crate::bdev#errors) may.
    pub fn zone_management<'a>(
        &self,
        channel: &'a IoChannel,
        zone_id: u64,
        action: ZoneAction,
    ) -> Op<'a, Management, ZoneManagement> {
        let load = Management { zone: zone_id, action };
        Op::new(self, channel, Range::Blocks(zone_id, 1), load)
    }

    /// Writes `num_blocks` at the write pointer of the zone that begins at block `zone_id`, and gives the
    /// first block written (`spdk_bdev_zone_append`). It fails as [all operations](crate::bdev#errors) may.
    pub fn zone_append<'a>(
        &self,
        channel: &'a IoChannel,
        buf: &'a mut DmaBuf,
        zone_id: u64,
        num_blocks: u64,
    ) -> Op<'a, Append<&'a mut DmaBuf>, ZoneAppend> {
        self.append(channel, Append { data: buf, zone: zone_id, blocks: num_blocks })
    }

    /// As [`zone_append`](Self::zone_append), from several buffers (`spdk_bdev_zone_appendv`).
    pub fn zone_appendv<'a>(
        &self,
        channel: &'a IoChannel,
        bufs: &'a mut IoVec,
        zone_id: u64,
        num_blocks: u64,
    ) -> Op<'a, Append<&'a mut IoVec>, ZoneAppend> {
        self.append(channel, Append { data: bufs, zone: zone_id, blocks: num_blocks })
    }

    fn append<'a, L>(
        &self,
        channel: &'a IoChannel,
        load: Append<L>,
    ) -> Op<'a, Append<L>, ZoneAppend>
    where
        Append<L>: sealed::Load,
    {
        let range = Range::Blocks(load.zone, load.blocks);
        Op::new(self, channel, range, load)
    }
}
