//! What can go wrong, each in one sentence that says what to type.

use std::fmt;
use std::path::PathBuf;

use crate::version::Version;

/// Why no usable SPDK was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindError {
    /// Nowhere a sign of SPDK.
    Nowhere,
    /// The named directory is not an SPDK install prefix or built tree.
    NoHeaders {
        /// What named the directory, with the directory: `SPDK_DIR=/x`.
        named_by: String,
        /// The header that is missing.
        missing: PathBuf,
    },
    /// The directory holds SPDK's headers, but its libraries were not built.
    NoLibraries {
        /// What named the directory, with the directory.
        named_by: String,
    },
    /// `spdk/version.h` could not be read or understood.
    BadVersion {
        /// The header.
        header: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The SPDK there is older than this project supports.
    TooOld {
        /// What named the directory, with the directory.
        named_by: String,
        /// Its version.
        version: Version,
    },
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindError::Nowhere => f.write_str(
                "no SPDK was found: type `cargo spdk setup` to build one, or set SPDK_DIR=DIR to an SPDK \
                 install prefix or built tree",
            ),
            FindError::NoHeaders { named_by, missing } => write!(
                f,
                "{named_by} is no SPDK, it has no {}: set SPDK_DIR=DIR to an SPDK install prefix or built \
                 tree, or unset it and type `cargo spdk setup`",
                missing.display()
            ),
            FindError::NoLibraries { named_by } => write!(
                f,
                "{named_by} has SPDK's headers but no libspdk_bdev.so or libspdk_bdev.a: type `./configure \
                 --with-shared && make` in that tree, or unset SPDK_DIR and type `cargo spdk setup`"
            ),
            FindError::BadVersion { header, why } => write!(
                f,
                "{} gives no SPDK version ({why}): set SPDK_DIR=DIR to an SPDK install prefix or built tree",
                header.display()
            ),
            FindError::TooOld { named_by, version } => write!(
                f,
                "{named_by} is SPDK {version}, older than 20.07, the oldest supported: set SPDK_DIR=DIR to a \
                 newer one, or unset it and type `cargo spdk setup`"
            ),
        }
    }
}

impl std::error::Error for FindError {}

/// Why an app cannot be linked with the SPDK that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// `SPDK_PLUGIN_LINK` holds something else than `static`, `shared` or `auto`.
    BadLinkage(String),
    /// The libraries of the wanted kind are not there.
    NoSuchKind {
        /// `static` or `shared`.
        kind: &'static str,
        /// Where they were looked for.
        prefix: PathBuf,
        /// The version found there.
        version: Version,
    },
    /// SPDK has no library of that name.
    UnknownLibrary {
        /// The name as it was asked for.
        name: String,
        /// Where it was looked for.
        prefix: PathBuf,
        /// The version found there.
        version: Version,
    },
    /// `pkg-config` could not be run, or refused.
    PkgConfig(String),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::BadLinkage(value) => {
                write!(f, "SPDK_PLUGIN_LINK={value} is not known: set it to static, shared or auto")
            }
            LinkError::NoSuchKind { kind, prefix, version } => write!(
                f,
                "SPDK {version} in {} has no {kind} libraries (of SPDK, or of its DPDK): set \
                 SPDK_PLUGIN_LINK={}, or build SPDK with them",
                prefix.display(),
                if *kind == "static" { "shared" } else { "static" }
            ),
            LinkError::UnknownLibrary { name, prefix, version } => write!(
                f,
                "SPDK {version} in {} has no library `{name}`: look for the name in its lib directory \
                 (`libspdk_NAME`)",
                prefix.display()
            ),
            LinkError::PkgConfig(why) => {
                write!(f, "pkg-config does not know SPDK's libraries: {why}")
            }
        }
    }
}

impl std::error::Error for LinkError {}
