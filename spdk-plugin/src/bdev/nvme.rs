//! NVMe commands that are passed through a bdev.

use std::fmt;

use super::channel::IoChannel;
use super::desc::BdevDesc;
use super::kind::{Kind, NvmeAdmin, NvmeIo};
use super::op::sealed::{self, Landed, Place};
use super::op::{Op, Range};
use crate::dma::DmaBuf;
use crate::error::Result;

/// An NVMe command (`struct spdk_nvme_cmd`), without the parts that the driver fills in: the command's
/// identifier and where its data lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvmeCmd {
    /// The opcode.
    pub opcode: u8,
    /// The namespace. For an I/O command the driver sets that of the bdev.
    pub nsid: u32,
    /// Dwords 2 and 3.
    pub cdw2_3: [u32; 2],
    /// Dwords 10 to 15.
    pub cdw10_15: [u32; 6],
}

impl NvmeCmd {
    /// A command of this opcode, all else zero.
    pub const fn new(opcode: u8) -> Self {
        Self { opcode, nsid: 0, cdw2_3: [0; 2], cdw10_15: [0; 6] }
    }

    /// Its 64 bytes, as words.
    fn words(&self) -> [u64; 8] {
        let mut dwords = [0_u32; 16];
        dwords[0] = self.opcode.into();
        dwords[1] = self.nsid;
        dwords[2..4].copy_from_slice(&self.cdw2_3);
        dwords[10..16].copy_from_slice(&self.cdw10_15);
        std::array::from_fn(|i| {
            let (low, high) = (dwords[2 * i].to_ne_bytes(), dwords[2 * i + 1].to_ne_bytes());
            let [a, b, c, d] = low;
            let [e, f, g, h] = high;
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        })
    }
}

/// A command, its data, and its metadata if any.
pub struct Command<'a> {
    cmd: NvmeCmd,
    data: &'a mut DmaBuf,
    metadata: Option<&'a mut DmaBuf>,
}

impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({:#x})", self.cmd.opcode)
    }
}

impl sealed::Load for Command<'_> {
    fn lacks(&self, _: u64, _: u64) -> Option<(u64, u64, &'static str)> {
        None
    }

    fn put(&mut self, place: Place<'_>, _: usize) -> Result<bool> {
        let cargo = place.cargo;
        cargo.op.cmd = self.cmd.words();
        cargo.op.value = self.data.len() as u64;
        // A command without data must not be given an address: the driver would take it for data.
        cargo.op.buf = std::ptr::null_mut();
        if !self.data.is_empty() {
            cargo.op.buf = self.data.addr().cast();
        }
        cargo.buf = std::mem::take(self.data);
        if let Some(metadata) = &mut self.metadata
            && !metadata.is_empty()
        {
            cargo.op.md = metadata.addr().cast();
            cargo.op.md_len = metadata.len() as u64;
            cargo.md = std::mem::take(*metadata);
        }
        Ok(true)
    }

    fn back(&mut self, place: Place<'_>, _: usize) {
        *self.data = std::mem::take(&mut place.cargo.buf);
        if let Some(metadata) = &mut self.metadata
            && !place.cargo.op.md.is_null()
        {
            **metadata = std::mem::take(&mut place.cargo.md);
        }
    }
}

/// Dword 0 of the completion.
impl sealed::Answer for u32 {
    fn read(mut slot: Landed<'_>) -> Self {
        slot.cargo().op.cdw0
    }
}

impl BdevDesc {
    /// Has the controller below the bdev execute an admin command, with all of `data`, and gives dword 0
    /// of its completion (`spdk_bdev_nvme_admin_passthru`). It fails as
    /// [all operations](crate::bdev#errors) may.
    ///
    /// # Safety
    /// The command has the device transfer `data.len()` bytes at most. It has it access no other memory of
    /// the host, now or later, as those do that make queues or lend a host memory buffer.
    ///
    /// ```no_run
    /// use spdk_plugin::bdev::{BdevDesc, IoChannel, NvmeCmd};
    /// use spdk_plugin::dma::DmaBuf;
    ///
    /// # async fn identify(desc: &BdevDesc, channel: &IoChannel) -> spdk_plugin::Result<()> {
    /// const IDENTIFY: u8 = 0x06;
    /// let mut data = DmaBuf::alloc_zeroed(4096, 4096)?;
    /// let mut cmd = NvmeCmd::new(IDENTIFY);
    /// cmd.cdw10_15[0] = 1;
    /// // SAFETY: Identify transfers 4096 bytes.
    /// unsafe { desc.nvme_admin_passthru(channel, cmd, &mut data) }.await?;
    /// println!("serial number {}", String::from_utf8_lossy(&data[4..24]));
    /// # Ok(())
    /// # }
    /// ```
    pub unsafe fn nvme_admin_passthru<'a>(
        &self,
        channel: &'a IoChannel,
        cmd: NvmeCmd,
        data: &'a mut DmaBuf,
    ) -> Op<'a, Command<'a>, NvmeAdmin> {
        self.command(channel, Command { cmd, data, metadata: None })
    }

    /// Has the namespace below the bdev execute an I/O command, with all of `data`, and gives dword 0 of
    /// its completion (`spdk_bdev_nvme_io_passthru`). It fails as [all operations](crate::bdev#errors) may.
    ///
    /// # Safety
    /// The command has the device transfer `data.len()` bytes at most.
    pub unsafe fn nvme_io_passthru<'a>(
        &self,
        channel: &'a IoChannel,
        cmd: NvmeCmd,
        data: &'a mut DmaBuf,
    ) -> Op<'a, Command<'a>, NvmeIo> {
        self.command(channel, Command { cmd, data, metadata: None })
    }

    /// As [`nvme_io_passthru`](Self::nvme_io_passthru), with separate metadata
    /// (`spdk_bdev_nvme_io_passthru_md`).
    ///
    /// # Safety
    /// As there, and of metadata `metadata.len()` bytes at most.
    pub unsafe fn nvme_io_passthru_md<'a>(
        &self,
        channel: &'a IoChannel,
        cmd: NvmeCmd,
        data: &'a mut DmaBuf,
        metadata: &'a mut DmaBuf,
    ) -> Op<'a, Command<'a>, NvmeIo> {
        self.command(channel, Command { cmd, data, metadata: Some(metadata) })
    }

    fn command<'a, K: Kind>(
        &self,
        channel: &'a IoChannel,
        command: Command<'a>,
    ) -> Op<'a, Command<'a>, K> {
        Op::new(self, channel, Range::NONE, command)
    }
}

#[cfg(test)]
mod tests {
    use super::NvmeCmd;

    #[test]
    fn a_command_is_laid_out_as_nvme_says() {
        let cmd =
            NvmeCmd { opcode: 2, nsid: 1, cdw2_3: [3, 4], cdw10_15: [10, 11, 12, 13, 14, 15] };
        let bytes: Vec<u8> = cmd.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let dword = |i: usize| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
        assert_eq!(dword(0), 2);
        assert_eq!((dword(1), dword(2), dword(3)), (1, 3, 4));
        assert_eq!((4..10).map(dword).sum::<u32>(), 0);
        assert!((10..16).all(|i| dword(i) == i as u32));
    }
}
