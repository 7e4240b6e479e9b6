//! What can go wrong while a rig runs a program.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::rpc::RpcError;

/// Result of a rig's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a rig could not do what it was asked to. Its `Debug` is its `Display`, so that the `unwrap` of a test shows a log
/// as it was written.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and to what.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The SPDK in use does not have the program.
    #[error(
        "SPDK {version} in {dir} has no program '{program}': build and install it, or point SPDK_DIR at one that has it"
    )]
    NoProgram {
        /// Program asked for.
        program: String,
        /// Version of the SPDK that was searched.
        version: String,
        /// Where it lies.
        dir: PathBuf,
    },
    /// An option makes no sense, or not for this version of SPDK.
    #[error("{0}")]
    Invalid(String),
    /// The program ended before it was ready, or with a failure.
    #[error("{program} ended with {status}\n{log}")]
    Exited {
        /// Name of the program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The first and last lines of its log.
        log: String,
    },
    /// The program was not ready, or not at its end, in time. It was killed.
    #[error("{program} {what} within {waited:?} and was killed\n{log}")]
    Hung {
        /// Name of the program.
        program: String,
        /// What it did not do, as in "did not answer".
        what: &'static str,
        /// How long it was given.
        waited: Duration,
        /// The first and last lines of its log.
        log: String,
    },
    /// The program's output is not what the rig expects of it, or says that its test failed.
    #[error("{program}: {what}\n{log}")]
    Output {
        /// Name of the program.
        program: String,
        /// What is wrong.
        what: String,
        /// The first and last lines of its log.
        log: String,
    },
    /// A tool of the build (cargo, cc, python3) failed.
    #[error("{command} failed ({status})\n{output}")]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// A call of the program's JSON-RPC server failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names what was being done in an `io::Error`.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}
