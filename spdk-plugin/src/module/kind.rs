//! The kinds of I/O (`enum spdk_bdev_io_type` in `spdk/bdev.h`).

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $upper:ident;)*) => {
        /// A kind of I/O request. The numbers are SPDK's, which only ever adds to their end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum IoKind {
            $($(#[$doc])* $name = $value,)*
        }

        impl IoKind {
            /// The kind that SPDK calls by this number.
            #[inline]
            pub(crate) fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl IoKinds {
            $($(#[$doc])* pub const $upper: Self = Self(1 << $value);)*
        }
    };
}

/// A set of [`IoKind`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoKinds(u32);

kinds! {
    /// Read blocks.
    Read = 1, READ;
    /// Write blocks.
    Write = 2, WRITE;
    /// Tell the device that the blocks' contents are not needed any more.
    Unmap = 3, UNMAP;
    /// Make what was written durable.
    Flush = 4, FLUSH;
    /// Stop all I/O in flight and start afresh.
    Reset = 5, RESET;
    /// An NVMe admin command.
    NvmeAdmin = 6, NVME_ADMIN;
    /// An NVMe I/O command.
    NvmeIo = 7, NVME_IO;
    /// An NVMe I/O command with separate metadata.
    NvmeIoMd = 8, NVME_IO_MD;
    /// Make the blocks read as zeroes.
    WriteZeroes = 9, WRITE_ZEROES;
    /// Lend the device's own memory to the submitter, or take it back.
    Zcopy = 10, ZCOPY;
    /// Report zones.
    GetZoneInfo = 11, GET_ZONE_INFO;
    /// Open, close, finish or reset a zone.
    ZoneManagement = 12, ZONE_MANAGEMENT;
    /// Write at a zone's write pointer.
    ZoneAppend = 13, ZONE_APPEND;
    /// Compare blocks with the submitter's data.
    Compare = 14, COMPARE;
    /// Compare, and write if equal.
    CompareAndWrite = 15, COMPARE_AND_WRITE;
    /// Abort another request.
    Abort = 16, ABORT;
    /// Find the next hole. SPDK 22.05 or later.
    SeekHole = 17, SEEK_HOLE;
    /// Find the next data. SPDK 22.05 or later.
    SeekData = 18, SEEK_DATA;
    /// Copy blocks within the device. SPDK 23.01 or later.
    Copy = 19, COPY;
    /// An NVMe I/O command with vectors and metadata. SPDK 24.01 or later.
    NvmeIovMd = 20, NVME_IOV_MD;
}

impl IoKind {
    /// Every kind.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..u32::BITS).filter_map(Self::from_raw)
    }
}

impl From<IoKind> for IoKinds {
    fn from(kind: IoKind) -> Self {
        Self(1 << kind as u8)
    }
}

impl IoKinds {
    /// No kind.
    pub const NONE: Self = Self(0);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the kind of this number is in the set.
    #[inline]
    pub(crate) const fn contains_raw(self, kind: u32) -> bool {
        kind < u32::BITS && self.0 & (1 << kind) != 0
    }

    /// Whether the kind is in the set.
    pub const fn contains(self, kind: IoKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}
