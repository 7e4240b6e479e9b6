//! Packages of PyPI in virtual environments of the rig: SPDK's official RPC client, the package `spdk`, and
//! others that tests compare with.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Result};
use crate::tools;

/// The release of the package that is installed.
const VERSION: &str = "26.9";

/// An installed client.
#[derive(Clone, Debug)]
pub struct PythonClient {
    venv: PathBuf,
}

impl PythonClient {
    /// Installs the client on first use, and finds it from then on. Needs `python3` with `venv`, and PyPI once.
    pub fn install() -> Result<Self> {
        Ok(Self { venv: venv("spdk", VERSION)? })
    }

    /// Path of `spdk-rpc`.
    pub fn path(&self) -> PathBuf {
        self.venv.join("bin/spdk-rpc")
    }

    /// Runs `spdk-rpc` on `socket` with `args`, for example `["bdev_get_bdevs", "-b", "Malloc0"]`, and returns what it
    /// prints; a failed call is an error with the client's message.
    pub fn call<'a>(
        &self,
        socket: &Path,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<String> {
        let mut command = Command::new(self.path());
        command.arg("-s").arg(socket).args(args);
        // Modules of the project's tests, or a user's own, are not for this interpreter.
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        tools::run(command)
    }
}

/// The Python of a virtual environment that has this release of a package of PyPI. It is made on first use and found
/// from then on. Needs `python3` with `venv`, and PyPI once.
pub fn python_with(package: &str, version: &str) -> Result<PathBuf> {
    Ok(venv(package, version)?.join("bin/python"))
}

fn venv(package: &str, version: &str) -> Result<PathBuf> {
    let dir = tools::cache_dir()?.join("rig");
    fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
    let venv = dir.join(format!("python-{package}-{version}"));
    // A virtual environment cannot be moved, so a mark in it says that it is finished.
    let finished = venv.join("finished");
    if !finished.is_file() {
        let _lock = tools::lock("python.lock")?;
        if !finished.is_file() {
            let mut python = Command::new("python3");
            python.args(["-m", "venv", "--clear"]).arg(&venv);
            tools::run(python)?;
            let mut pip = Command::new(venv.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            pip.arg(format!("{package}=={version}"));
            tools::run(pip)?;
            File::create(&finished).context(|| format!("cannot write {}", finished.display()))?;
        }
    }
    Ok(venv)
}
