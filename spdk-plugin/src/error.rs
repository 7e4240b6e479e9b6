//! What goes wrong outside of an I/O request. An I/O's own outcome is an
//! [`IoError`](crate::module::IoError).

use std::ffi::{CStr, c_char};
use std::io;

use crate::module::IoError;
use crate::rpc::RpcError;

/// A failed call, with what it was about and the errno that SPDK gave or would give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that cannot be: the message names it, says why, and says what would do.
    #[error("{0}")]
    Invalid(String),
    /// There is already something of this name.
    #[error("{0}")]
    Exists(String),
    /// There is nothing of this name.
    #[error("{0}")]
    NotFound(String),
    /// Memory is short. For DMA memory: give the SPDK program more with `-s`, in MiB.
    #[error("no memory for {0}")]
    NoMemory(String),
    /// It is in use.
    #[error("{0}")]
    Busy(String),
    /// The running SPDK is older than the feature.
    #[error("{what} needs SPDK {needs} or later")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The first release that has it.
        needs: &'static str,
    },
    /// Called on a thread that may not do this.
    #[error("{0}")]
    WrongThread(String),
    /// The program ends, and with it what was to be done.
    #[error("{0}")]
    Stopped(String),
    /// Any other errno of SPDK's, with the call that returned it.
    #[error("{what}: {}", io::Error::from_raw_os_error(positive(*.errno)))]
    Errno {
        /// The operation that failed and what it was on.
        what: String,
        /// A positive errno value. Any other counts as `EIO`, so that no failure reads as success.
        errno: i32,
    },
    /// A JSON-RPC method that was called answered with an error.
    #[error("{method}: {error}")]
    Rpc {
        /// The method.
        method: String,
        /// Its answer.
        error: RpcError,
    },
    /// An operation on a bdev failed.
    #[error("{}: {cause}", operation(.op, *.offset, *.len, .bdev))]
    Io {
        /// The bdev's name.
        bdev: String,
        /// What it was, such as "read".
        op: &'static str,
        /// Where it began, in bytes.
        offset: u64,
        /// Its length in bytes; 0 for one that has no range.
        len: u64,
        /// How it ended.
        #[source]
        cause: IoError,
    },
    /// A user's code panicked: where, and what the panic said if that is known. The log has the place.
    #[error("panic in {0}")]
    Panicked(String),
    /// It was aborted, or its thread ended first.
    #[error("{0} was cancelled")]
    Cancelled(String),
    /// It took longer than it was allowed to.
    #[error("{0}")]
    TimedOut(String),
}

impl Error {
    /// The error of a C call that returned the negative errno `rc`. Any other `rc` becomes `EIO`.
    pub fn from_rc(what: impl Into<String>, rc: i32) -> Self {
        let what = what.into();
        match rc.saturating_neg() {
            libc::ENOMEM => Self::NoMemory(what),
            errno => Self::Errno { what, errno: positive(errno) },
        }
    }

    /// What the shim says a release lacks.
    ///
    /// # Safety
    /// Both are C strings of static storage.
    pub(crate) unsafe fn lacking(what: *const c_char, needs: *const c_char) -> Self {
        // SAFETY: says the caller.
        let [what, needs] = unsafe { [CStr::from_ptr(what), CStr::from_ptr(needs)] };
        let needs = needs.to_str().unwrap_or("?");
        Self::Unsupported { what: what.to_string_lossy().into_owned(), needs }
    }

    /// The positive errno value that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Invalid(_) => libc::EINVAL,
            Self::Exists(_) => libc::EEXIST,
            Self::NotFound(_) => libc::ENODEV,
            Self::NoMemory(_) => libc::ENOMEM,
            Self::Busy(_) => libc::EBUSY,
            Self::Unsupported { .. } => libc::ENOTSUP,
            Self::WrongThread(_) => libc::EPERM,
            Self::Stopped(_) => libc::ECANCELED,
            Self::Errno { errno, .. } => positive(*errno),
            Self::Rpc { error, .. } => error.errno(),
            Self::Io { cause, .. } => cause.errno(),
            Self::Panicked(_) => libc::EIO,
            Self::Cancelled(_) => libc::ECANCELED,
            Self::TimedOut(_) => libc::ETIMEDOUT,
        }
    }
}

/// How errors name an operation of the bdev client.
pub(crate) fn operation(op: &str, offset: u64, len: u64, bdev: &str) -> String {
    match len {
        0 => format!("{op} of bdev {bdev}"),
        len => format!("{op} of {len} bytes at byte {offset} of bdev {bdev}"),
    }
}

fn positive(errno: i32) -> i32 {
    if errno > 0 { errno } else { libc::EIO }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn no_failure_reads_as_success() {
        for errno in [0, -1, -libc::ENOMEM, i32::MIN] {
            let error = Error::Errno { what: "opening".into(), errno };
            assert_eq!(error.errno(), libc::EIO);
            assert!(error.to_string().contains("os error 5"), "{error}");
        }
        for rc in [0, 1, i32::MAX] {
            assert_eq!(Error::from_rc("opening", rc).errno(), libc::EIO);
        }
        assert_eq!(Error::from_rc("opening", i32::MIN).errno(), i32::MAX);
        assert_eq!(Error::from_rc("opening", -libc::ENOENT).errno(), libc::ENOENT);
        assert!(matches!(Error::from_rc("opening", -libc::ENOMEM), Error::NoMemory(_)));
    }
}
