//! Runs cargo to build what a host loads or runs, and finds what it built.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Deserialize;
use spdk_plugin_build::{Source, Spdk};

use crate::error::{Context, Error, Result};

/// A package, by default of the workspace around the current directory, to be built against one SPDK.
///
/// Each version of SPDK has a target directory of its own, so that builds for two versions do not undo each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a description builds nothing"]
pub struct Build {
    package: String,
    dir: Option<PathBuf>,
    release: bool,
    args: Vec<String>,
    env: Vec<(OsString, OsString)>,
}

/// Builds the plugin (cdylib) of `package`, optimized, against the SPDK that [`Spdk::find`] finds.
///
/// # Panics
///
/// If there is no SPDK, or the build fails.
pub fn plugin(package: &str) -> PathBuf {
    let built = Build::package(package).release().cdylib(spdk());
    built.unwrap_or_else(|error| panic!("cannot build the plugin of {package}: {error}"))
}

/// The SPDK that [`Spdk::find`] finds.
///
/// # Panics
///
/// If there is none.
pub fn spdk() -> &'static Spdk {
    static SPDK: OnceLock<Spdk> = OnceLock::new();
    SPDK.get_or_init(|| Spdk::find().unwrap_or_else(|error| panic!("{error}")))
}

impl Build {
    /// Builds `package` with the profile `dev`.
    pub fn package(package: &str) -> Self {
        Self { package: package.into(), dir: None, release: false, args: vec![], env: vec![] }
    }

    /// Looks for the package in the workspace around `dir`.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Builds with the profile `release`.
    pub fn release(mut self) -> Self {
        self.release = true;
        self
    }

    /// Appends arguments of `cargo build`.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable of the build.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Builds the package's library and returns the path of its shared object.
    pub fn cdylib(&self, spdk: &Spdk) -> Result<PathBuf> {
        self.build(spdk, &["--lib"], Artifact::shared_object)
    }

    /// Builds the package's example `name`, a cdylib, and returns the path of its shared object.
    pub fn example_cdylib(&self, spdk: &Spdk, name: &str) -> Result<PathBuf> {
        self.build(spdk, &["--example", name], Artifact::shared_object)
    }

    /// Builds the package's binary `name` and returns its path.
    pub fn bin(&self, spdk: &Spdk, name: &str) -> Result<PathBuf> {
        self.build(spdk, &["--bin", name], |artifact| artifact.executable)
    }

    /// Runs cargo once per process and artefact.
    fn build(
        &self,
        spdk: &Spdk,
        target: &[&str],
        pick: impl Fn(Artifact) -> Option<PathBuf>,
    ) -> Result<PathBuf> {
        type Key = (Build, PathBuf, Vec<String>);
        static BUILT: Mutex<Option<HashMap<Key, PathBuf>>> = Mutex::new(None);
        let target: Vec<_> = target.iter().map(|arg| (*arg).to_owned()).collect();
        let key = (self.clone(), spdk.prefix().to_path_buf(), target);

        // Held through the build: cargo would make the others wait anyway. A panic leaves a usable map.
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        let built = built.get_or_insert_default();
        if let Some(path) = built.get(&key) {
            return Ok(path.clone());
        }
        let workspace = Metadata::read(cargo(self.dir.as_deref()))?;
        let id = workspace.package_id(&self.package)?;
        let output = run(self.cargo(spdk, &workspace, &key.2)).map_err(without_messages)?;
        let artifacts = output.lines().filter_map(|line| serde_json::from_str(line).ok());
        let path = artifacts.filter(|artifact: &Artifact| artifact.package_id == id).find_map(pick);
        let path = path.ok_or_else(|| {
            let what = key.2.join(" ");
            let package = &self.package;
            Error::Invalid(format!("package {package} has no artefact to load or run ({what})"))
        })?;
        built.insert(key, path.clone());
        Ok(path)
    }

    fn cargo(&self, spdk: &Spdk, workspace: &Metadata, target: &[String]) -> Command {
        let mut cargo = cargo(self.dir.as_deref());
        cargo.args(BUILD);
        cargo.args(["--package", &self.package]).args(target).args(&self.args);
        if self.release {
            cargo.arg("--release");
        }
        let dir = workspace.target_directory.join(format!("spdk-{}", spdk.version()));
        cargo.arg("--target-dir").arg(dir);
        if spdk.source() != Source::PkgConfig {
            cargo.env("SPDK_DIR", spdk.prefix());
        }
        cargo.envs(self.env.iter().map(|(name, value)| (name, value)));
        cargo
    }
}

/// The artefacts come as JSON, the compiler's words as text.
const BUILD: [&str; 3] = ["build", "--quiet", "--message-format=json-render-diagnostics"];

/// What failed, without cargo's messages to us about what did not.
fn without_messages(mut error: Error) -> Error {
    if let Error::Tool { output, .. } = &mut error {
        *output =
            output.lines().filter(|line| !line.starts_with('{')).flat_map(|l| [l, "\n"]).collect();
    }
    error
}

#[derive(Deserialize)]
struct Artifact {
    package_id: String,
    target: Target,
    filenames: Vec<PathBuf>,
    executable: Option<PathBuf>,
}

impl Artifact {
    fn shared_object(self) -> Option<PathBuf> {
        let is_cdylib = self.target.crate_types.iter().any(|kind| kind == "cdylib");
        let shared = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "so");
        self.filenames.into_iter().find(shared).filter(|_| is_cdylib)
    }
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

impl Metadata {
    fn read(mut cargo: Command) -> Result<Self> {
        cargo.args(["metadata", "--quiet", "--no-deps", "--format-version=1"]);
        let output = run(cargo)?;
        serde_json::from_str(&output)
            .map_err(|error| Error::Invalid(format!("cargo metadata is unreadable: {error}")))
    }

    fn package_id(&self, name: &str) -> Result<String> {
        let package = self.packages.iter().find(|package| package.name == name);
        let package = package.ok_or_else(|| {
            Error::Invalid(format!("the workspace has no package '{name}': check its Cargo.toml"))
        })?;
        Ok(package.id.clone())
    }
}

fn cargo(dir: Option<&Path>) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir.unwrap_or(Path::new(".")));
    // What cargo told the running test or command about its own package would reach build scripts as theirs.
    for (name, _) in env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if ours {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a tool and returns its standard output.
pub(crate) fn run(mut command: Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.context(|| format!("cannot run '{name}': is it installed?"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    Err(Error::Tool {
        command: std::iter::once(name.into()).chain(args).collect::<Vec<_>>().join(" "),
        status: output.status,
        output: text(&output.stderr) + &text(&output.stdout),
    })
}

/// The project's cache directory, made if need be.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let dir = spdk_plugin_build::cache_dir().ok_or_else(|| {
        Error::Invalid("there is no cache directory: set HOME or XDG_CACHE_HOME".into())
    })?;
    fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Takes a lock that other processes of this user see too; it is held as long as the file.
pub(crate) fn lock(name: &str) -> Result<File> {
    let path = cache_dir()?.join(name);
    let file = File::create(&path).context(|| format!("cannot write {}", path.display()))?;
    file.lock().context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_shows_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = run(command).unwrap_err().to_string();
        assert!(error.contains("err\nout") && error.contains("status: 3"), "{error}");
        let error = run(Command::new("no-such-tool")).unwrap_err().to_string();
        assert!(error.contains("'no-such-tool'"), "{error}");
    }

    #[test]
    fn a_failing_build_shows_the_compilers_words_alone() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        write("Cargo.toml", "[package]\nname = 'broken'\nedition = '2024'\n[workspace]\n");
        write("src/lib.rs", "");
        write("src/main.rs", "fn main() { let _: u32 = \"text\"; }");
        let mut build = cargo(Some(dir.path()));
        build.args(BUILD).arg("--target-dir").arg(dir.path());
        let error = without_messages(run(build).unwrap_err()).to_string();
        assert!(error.contains("mismatched types") && error.contains("main.rs:1:26"), "{error}");
        assert!(!error.contains("\"reason\""), "{error}");
    }

    #[test]
    fn an_unknown_package_is_named() {
        let error = Metadata::read(cargo(None)).unwrap().package_id("no-such-package").unwrap_err();
        assert!(error.to_string().contains("'no-such-package'"), "{error}");
    }
}
