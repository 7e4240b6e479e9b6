//! The one kind of error: a sentence for the person at the terminal.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Result of a subcommand or a part of one.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong and what to do about it.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    code: u8,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Error { message: message.into(), code: 1 }
    }

    /// The user, or the system on the user's behalf, asked to stop. Shells expect 128 + SIGINT.
    pub(crate) fn interrupted() -> Self {
        let message =
            "interrupted: nothing half-made is left behind, type `cargo spdk setup` to go on";
        Error { message: message.into(), code: 130 }
    }

    /// A file operation failed; `doing` names it, as in "create".
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let shown = path.display();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::disk_full(path),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::new(format!(
                    "cannot {doing} {shown} ({error}): make it writable for you, or set XDG_CACHE_HOME to a \
                     directory that is"
                ))
            }
            _ => Error::new(format!(
                "cannot {doing} {shown} ({error}): look at that path, or set XDG_CACHE_HOME to another directory"
            )),
        }
    }

    /// The disk filled up while setting up below `path`.
    pub(crate) fn disk_full(path: &Path) -> Self {
        Error::new(format!(
            "the disk with {} is full: free some space or set XDG_CACHE_HOME to a directory on a larger disk, \
             then type `cargo spdk setup` again",
            path.display()
        ))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
