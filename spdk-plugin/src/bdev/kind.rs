//! What operations on a bdev there are, as types, so that what is asked of a kind is answered when an
//! operation is compiled.

use spdk_plugin_sys as sys;

use super::zcopy::Zcopy;
use super::zone::ZoneInfo;

pub(super) mod sealed {
    use spdk_plugin_sys as sys;

    use crate::bdev::op::Answer;

    /// What an operation does.
    pub trait Kind {
        const CODE: sys::spdkp_op_kind;
        const NAME: &'static str;
        /// Whether it is about a range of blocks, which may not be empty.
        const TAKES_RANGE: bool;
        const FLAGS: u8;
        /// What it gives when it has ended well.
        type Answer: Answer;
    }
}

/// What an operation does.
pub trait Kind: sealed::Kind {}
impl<K: sealed::Kind> Kind for K {}

macro_rules! kinds {
    ($($kind:ident = $code:ident, $name:literal, $range:literal, $flags:expr, $answer:ty;)*) => {
        $(
            #[doc = concat!("A ", $name, ".")]
            #[derive(Debug)]
            pub enum $kind {}

            impl sealed::Kind for $kind {
                const CODE: sys::spdkp_op_kind = sys::$code;
                const NAME: &'static str = $name;
                const TAKES_RANGE: bool = $range;
                const FLAGS: u8 = $flags as u8;
                type Answer = $answer;
            }
        )*
    };
}

const ANSWERS: sys::spdkp_op_flags = sys::SPDKP_OP_ANSWERS;

kinds! {
    Read = SPDKP_OP_READ, "read", true, 0, ();
    Write = SPDKP_OP_WRITE, "write", true, 0, ();
    Compare = SPDKP_OP_COMPARE, "compare", true, 0, ();
    CompareAndWrite = SPDKP_OP_COMPARE_AND_WRITE, "compare and write", true, 0, ();
    Flush = SPDKP_OP_FLUSH, "flush", true, 0, ();
    Unmap = SPDKP_OP_UNMAP, "unmap", true, 0, ();
    WriteZeroes = SPDKP_OP_WRITE_ZEROES, "write of zeroes", true, 0, ();
    Copy = SPDKP_OP_COPY, "copy", true, 0, ();
    Reset = SPDKP_OP_RESET, "reset", false, 0, ();
    Abort = SPDKP_OP_ABORT, "abort", false, 0, ();
    SeekData = SPDKP_OP_SEEK_DATA, "search for data", true, ANSWERS, Option<u64>;
    SeekHole = SPDKP_OP_SEEK_HOLE, "search for a hole", true, ANSWERS, Option<u64>;
    ZcopyStart = SPDKP_OP_ZCOPY_START, "zcopy", true, ANSWERS, Zcopy;
    NvmeAdmin = SPDKP_OP_NVME_ADMIN, "NVMe admin command", false, ANSWERS, u32;
    NvmeIo = SPDKP_OP_NVME_IO, "NVMe I/O command", false, ANSWERS, u32;
    ZoneReport = SPDKP_OP_ZONE_INFO, "zone report", false, 0, Vec<ZoneInfo>;
    ZoneManagement = SPDKP_OP_ZONE_MANAGEMENT, "zone management", true, 0, ();
    ZoneAppend = SPDKP_OP_ZONE_APPEND, "zone append", true, ANSWERS, u64;
}
