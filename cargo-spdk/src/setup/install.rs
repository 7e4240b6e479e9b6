//! Lays out a built SPDK as a prefix: `bin/ lib/ lib/pkgconfig/ include/ scripts/`, stripped and relocatable.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::build::{Tree, copy};
use super::pc;
use crate::error::{Error, Result};
use crate::progress::{Measure, Progress};
use crate::run::Runner;

/// Programs: where the build leaves them, and the name that SPDK's own installation gives them.
const PROGRAMS: &[(&str, &str)] = &[
    ("build/bin/spdk_tgt", "spdk_tgt"),
    ("build/bin/nvmf_tgt", "nvmf_tgt"),
    ("test/bdev/bdevperf/bdevperf", "bdevperf"),
    ("test/bdev/bdevio/bdevio", "bdevio"),
    ("build/examples/blobcli", "blobcli"),
    ("build/examples/perf", "spdk_nvme_perf"),
    ("build/examples/identify", "spdk_nvme_identify"),
];

/// Installs `source` into the empty directory `prefix`, and makes sure that what is there works.
pub(crate) fn install(
    source: &Tree,
    prefix: &Path,
    runner: &mut Runner,
    progress: &mut Progress,
) -> Result<()> {
    progress.phase("Installing and checking", Measure::Unknown);
    let bin = sub(prefix, "bin")?;
    let lib = sub(prefix, "lib")?;
    for (from, name) in PROGRAMS {
        copy(&source.path(from), &bin.join(name), 0o755)?;
    }
    copy_tree(&source.path("build/lib"), &lib, &|name| {
        name.starts_with("libspdk_") && !name.starts_with("libspdk_ut_")
    })?;
    copy_tree(&source.path("dpdk/build/lib"), &lib, &|name| name != "pkgconfig")?;
    copy_tree(&source.path("include/spdk"), &sub(prefix, "include/spdk")?, &|_| true)?;
    copy_tree(&source.path("dpdk/build/include"), &sub(prefix, "include/dpdk")?, &|_| true)?;
    copy(&source.path("scripts/rpc.py"), &sub(prefix, "scripts")?.join("rpc.py"), 0o755)?;
    copy_tree(&source.path("scripts/rpc"), &sub(prefix, "scripts/rpc")?, &|name| {
        name != "__pycache__"
    })?;
    strip(prefix, runner)?;
    let modules = pc::write(source, prefix, runner)?;
    check(prefix, &modules, runner)
}

fn sub(prefix: &Path, name: &str) -> Result<PathBuf> {
    let dir = prefix.join(name);
    fs::create_dir_all(&dir).map_err(|error| Error::io("create", &dir, &error))?;
    Ok(dir)
}

/// Copies what `wanted` names out of `from`, and all that lies below; links stay links.
fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    for path in entries(from)? {
        let Some(name) = path.file_name().filter(|name| name.to_str().is_some_and(wanted)) else {
            continue;
        };
        let target = to.join(name);
        if path.is_symlink() {
            let link = fs::read_link(&path).map_err(|error| Error::io("read", &path, &error))?;
            symlink(link, &target).map_err(|error| Error::io("write", &target, &error))?;
        } else if path.is_dir() {
            fs::create_dir_all(&target).map_err(|error| Error::io("create", &target, &error))?;
            copy_tree(&path, &target, &|_| true)?;
        } else {
            let mode =
                if name.to_str().is_some_and(|name| name.contains(".so")) { 0o755 } else { 0o644 };
            copy(&path, &target, mode)?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io("read", dir, &error);
    let entries = fs::read_dir(dir).map_err(failed)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Debug information is nine tenths of the size.
fn strip(prefix: &Path, runner: &mut Runner) -> Result<()> {
    let files = |dir: &str, part: &str| -> Result<Vec<PathBuf>> {
        let mut paths = entries(&prefix.join(dir))?;
        let named =
            |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().contains(part));
        paths.retain(|path| path.is_file() && !path.is_symlink() && named(path));
        Ok(paths)
    };
    let mut objects = files("bin", "")?;
    objects.extend(files("lib", ".so")?);
    for plugins in entries(&prefix.join("lib/dpdk"))? {
        let paths = entries(&plugins)?;
        objects.extend(paths.into_iter().filter(|path| path.is_file() && !path.is_symlink()));
    }
    let mut command = Command::new("strip");
    runner.run("stripping SPDK's programs", command.arg("--strip-unneeded").args(objects))?;
    let mut command = Command::new("strip");
    runner
        .run("stripping SPDK's archives", command.arg("--strip-debug").args(files("lib", ".a")?))?;
    Ok(())
}

/// Starts every program far enough to load its libraries, and reads every `.pc` file.
fn check(prefix: &Path, modules: &[String], runner: &mut Runner) -> Result<()> {
    for (_, name) in PROGRAMS {
        let program = prefix.join("bin").join(name);
        // `ldd` starts the loader alone: some of the programs have no option that only prints.
        let loaded = runner.run("loading SPDK's programs", Command::new("ldd").arg(&program))?;
        if let Some(line) = loaded.iter().find(|line| line.contains("not found")) {
            return Err(Error::new(format!(
                "the {name} just built does not load ({}): type `cargo spdk setup` again, and report it if it stays so",
                line.trim()
            )));
        }
    }
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    pkg_config.args(["--print-errors", "--libs", "--cflags"]).args(modules);
    runner.run("reading the .pc files", &mut pkg_config)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn trees_keep_their_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/lib.so.1"), "so").unwrap();
        fs::write(from.join("unwanted"), "").unwrap();
        symlink("sub/lib.so.1", from.join("lib.so")).unwrap();
        copy_tree(&from, &to, &|name| name != "unwanted").unwrap();
        assert_eq!(fs::read_link(to.join("lib.so")).unwrap(), Path::new("sub/lib.so.1"));
        assert_eq!(fs::metadata(to.join("lib.so")).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!to.join("unwanted").exists());
    }
}
