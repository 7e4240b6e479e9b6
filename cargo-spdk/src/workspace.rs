//! The project's own modules, which the demo, the tests and the benchmarks build.

use std::path::PathBuf;

use spdk_plugin_build::{Source, Spdk};
use spdk_plugin_rig::Build;

use crate::error::{Error, Result};
use crate::setup;

/// The plugin with every module of the project.
pub(crate) const MODULES: &str = "spdk-plugin-modules";

/// The SPDK to run with, set up first where there is none.
pub(crate) fn spdk() -> Result<Spdk> {
    Ok(setup::ensure(false)?.spdk)
}

/// Builds the project's modules against `spdk`, optimized.
pub(crate) fn modules(spdk: &Spdk) -> Result<PathBuf> {
    if !spdk.has_shared() {
        return Err(Error::new(format!(
            "SPDK {} in {} has no shared libraries, so its programs load no plugin: build it with --with-shared",
            spdk.version(),
            spdk.prefix().display()
        )));
    }
    eprintln!("Building the modules against SPDK {}", spdk.version());
    Build::package(MODULES).release().cdylib(spdk).map_err(|error| {
        Error::new(format!("{error}\nThe modules are built in a clone of the repository: go there"))
    })
}

/// A cargo command that builds with `spdk`, in the target directory of its version.
pub(crate) fn cargo(spdk: &Spdk) -> std::process::Command {
    let mut cargo =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_")
            || name.to_string_lossy().starts_with("CARGO_MANIFEST_")
        {
            cargo.env_remove(name);
        }
    }
    if spdk.source() != Source::PkgConfig {
        cargo.env("SPDK_DIR", spdk.prefix());
    }
    cargo
}

/// An error of the rig's as one of ours.
pub(crate) fn rig(error: impl std::fmt::Display) -> Error {
    Error::new(error.to_string())
}

/// The target directory of the workspace around the current directory.
pub(crate) fn target_dir() -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let mut cargo =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--quiet", "--no-deps", "--format-version=1"]);
    let output = cargo.output().map_err(|error| Error::new(format!("cargo metadata: {error}")))?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|_| {
        Error::new("there is no workspace here: type this in a clone of the repository")
    })?;
    Ok(metadata.target_directory)
}
