//! How an I/O request ends (`enum spdk_bdev_io_status` in `spdk/bdev_module.h`).

use crate::error::Error;

/// Why an I/O request failed, as the bdev layer tells its submitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// It failed, with nothing more to say (`SPDK_BDEV_IO_STATUS_FAILED`).
    #[error("I/O failed")]
    Failed,
    /// Resources are short: the bdev layer submits it again when other I/O of the channel has ended
    /// (`SPDK_BDEV_IO_STATUS_NOMEM`).
    #[error("out of resources, to be retried")]
    NoMemory,
    /// It was aborted (`SPDK_BDEV_IO_STATUS_ABORTED`).
    #[error("I/O aborted")]
    Aborted,
    /// A compare found a difference (`SPDK_BDEV_IO_STATUS_MISCOMPARE`).
    #[error("data differ")]
    Miscompare,
    /// An NVMe status (`spdk_bdev_io_complete_nvme_status`).
    #[error("NVMe status {sct:#x}/{sc:#x}")]
    Nvme {
        /// Completion queue entry, dword 0.
        cdw0: u32,
        /// Status code type.
        sct: u8,
        /// Status code.
        sc: u8,
    },
    /// A SCSI status (`spdk_bdev_io_complete_scsi_status`).
    #[error("SCSI status {sc:#x}, sense {sk:#x}/{asc:#x}/{ascq:#x}")]
    Scsi {
        /// Status code.
        sc: u8,
        /// Sense key.
        sk: u8,
        /// Additional sense code.
        asc: u8,
        /// Additional sense code qualifier.
        ascq: u8,
    },
    /// A positive errno value. SPDK 20.07 has no place for it and reports a plain failure; later
    /// releases carry it (`spdk_bdev_io_complete_aio_status`).
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Errno(i32),
}

impl IoError {
    /// The medium error "unrecovered read error" of NVMe.
    pub const UNRECOVERED_READ: Self = Self::Nvme { cdw0: 0, sct: 2, sc: 0x81 };
    /// NVMe's "invalid field in command".
    pub const INVALID_FIELD: Self = Self::Nvme { cdw0: 0, sct: 0, sc: 0x02 };

    /// The positive errno value that comes nearest.
    pub fn errno(self) -> i32 {
        match self {
            Self::NoMemory => libc::ENOMEM,
            Self::Aborted => libc::ECANCELED,
            Self::Miscompare => libc::EILSEQ,
            Self::Errno(errno) if errno > 0 => errno,
            _ => libc::EIO,
        }
    }

    /// This error, or a plain failure where it spells success.
    pub(crate) fn or_failed(self) -> Self {
        match self {
            Self::Nvme { sct: 0, sc: 0, .. } | Self::Scsi { sc: 0, .. } => Self::Failed,
            Self::Errno(errno) if errno <= 0 => Self::Failed,
            error => error,
        }
    }
}

impl From<Error> for IoError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoMemory(_) => Self::NoMemory,
            Error::Io { cause, .. } => cause,
            error => Self::Errno(error.errno()),
        }
    }
}

/// The outcome of an I/O request.
pub type IoResult<T = ()> = Result<T, IoError>;
