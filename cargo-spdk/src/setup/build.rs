//! Unpacks SPDK's source and compiles it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use spdk_plugin_build::SETUP_VERSION;

use crate::error::{Error, Result};
use crate::progress::{Measure, Progress};
use crate::run::{Event, Runner};

/// Lines that say a step of the build is done, counted on a finished build.
const STEPS: u64 = 600;

/// The applications beyond the libraries, by their directory in the source.
const APPLICATIONS: &[&str] = &[
    "app/spdk_tgt",
    "app/nvmf_tgt",
    "test/bdev/bdevperf",
    "test/bdev/bdevio",
    "examples/blob/cli",
    "examples/nvme/perf",
    "examples/nvme/identify",
];

/// Variables with which a user's shell would change the build.
const CLEARED: &[&str] = &[
    "CC",
    "CXX",
    "LD",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "DESTDIR",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKECMDGOALS",
    "MAKE_PID",
    "V",
    "Q",
    "S",
    "prefix",
    "bindir",
    "libdir",
    "includedir",
    "TARGET_ARCHITECTURE",
    "EXTRA_DPDK_CFLAGS",
    "DPDK_CFLAGS",
    "DPDK_OPTS",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PKG_CONFIG_PATH",
    "PKG_CONFIG_LIBDIR",
    "PYTHONPATH",
    "PYTHONHOME",
    "GREP_OPTIONS",
    "CDPATH",
    "BASH_ENV",
    "ENV",
    "SPDK_DIR",
];

/// SPDK's source tree.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: PathBuf,
    temporary: PathBuf,
}

impl Tree {
    /// Unpacks `src/spdk` of Debian's archive into the empty directory `dir`.
    pub(crate) fn unpack(
        archive: &Path,
        dir: &Path,
        temporary: &Path,
        runner: &mut Runner,
        progress: &mut Progress,
    ) -> Result<Self> {
        progress.phase("Unpacking SPDK's source", Measure::Unknown);
        let mut tar = Command::new("tar");
        tar.args(["--no-same-owner", "--no-same-permissions", "--strip-components=3", "-C"])
            .arg(dir);
        tar.args(["--wildcards", "-xJf"]).arg(archive).arg("*/src/spdk");
        runner.run("unpacking SPDK's source", &mut tar)?;
        let header = dir.join("include/spdk/version.h");
        let text =
            fs::read_to_string(&header).map_err(|error| Error::io("read", &header, &error))?;
        let version = version(&text);
        if version != SETUP_VERSION {
            return Err(Error::new(format!(
                "Debian's source carries SPDK {version} and this version of cargo-spdk builds {SETUP_VERSION}: update \
                 cargo-spdk, or install SPDK by its own guide and set SPDK_DIR"
            )));
        }
        Ok(Tree { dir: dir.to_owned(), temporary: temporary.to_owned() })
    }

    /// Compiles DPDK, SPDK's libraries and the applications, to lie in `prefix` one day.
    pub(crate) fn compile(
        &self,
        prefix: &Path,
        runner: &mut Runner,
        progress: &mut Progress,
    ) -> Result<()> {
        let bar = progress
            .phase(&format!("Compiling SPDK {SETUP_VERSION} and its DPDK"), Measure::Steps(STEPS));
        let mut observer = |event: Event<'_>| {
            if let Event::Line(line) = event
                && is_step(line)
                && bar.position() < STEPS
            {
                bar.inc(1);
            }
        };
        let mut steps = vec![
            ("configuring SPDK", self.configure(prefix)),
            ("compiling SPDK", self.libraries()),
        ];
        steps.extend(
            APPLICATIONS.iter().map(|dir| ("compiling SPDK's programs", self.application(dir))),
        );
        for (what, mut command) in steps {
            let done = runner.watch(what, &mut command, &mut observer);
            done.map_err(|stopped| runner.error(stopped))?;
        }
        Ok(())
    }

    /// A file of the tree.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A command in the tree that the user's shell does not bend.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for name in CLEARED {
            command.env_remove(name);
        }
        command.current_dir(&self.dir).env("LC_ALL", "C").env("TMPDIR", &self.temporary);
        // Found by DPDK's own build: its libraries look for each other beside themselves.
        command.env("DPDK_LDFLAGS", r"-Wl,-rpath,\$$ORIGIN");
        command
    }

    fn configure(&self, prefix: &Path) -> Command {
        let mut configure = self.command("./configure");
        // Given to make instead, they would replace the tree's own flags.
        configure.env("CFLAGS", "-DHAVE_ARC4RANDOM").env("LDFLAGS", "-Wl,-rpath,'$$ORIGIN/../lib'");
        configure.arg(format!("--prefix={}", prefix.display()));
        configure.args(["--with-shared", "--without-isal", "--without-vhost", "--without-virtio"]);
        configure.args(["--disable-tests", "--disable-unit-tests", "--disable-examples"]);
        if cfg!(target_arch = "x86_64") {
            // The default is the CPU of this machine, and a cache may move to another.
            configure.arg("--target-arch=x86-64-v2");
        }
        configure
    }

    fn make(&self) -> Command {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = self.command("make");
        make.arg(format!("-j{jobs}"));
        make
    }

    fn libraries(&self) -> Command {
        let mut make = self.make();
        // The tree passes the goal on to its sub-directories, which know `all` only.
        make.args(["shared_lib", "MAKECMDGOALS=all"]);
        make
    }

    fn application(&self, dir: &str) -> Command {
        let mut make = self.make();
        make.args(["-C", dir]);
        make
    }
}

/// Copies a file with the permissions of a program or of data, whatever the user's umask is.
pub(crate) fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut source = File::open(from).map_err(|error| Error::io("read", from, &error))?;
    let mut options = File::options();
    let copied = (options.write(true).create_new(true).mode(mode).open(to)).and_then(|mut file| {
        io::copy(&mut source, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    });
    copied.map_err(|error| Error::io("write", to, &error))
}

/// Whether a line of make's or ninja's output says that a step is done.
fn is_step(line: &str) -> bool {
    let make = ["  CC ", "  LIB ", "  SO ", "  SYMLINK ", "  LINK "];
    make.iter().any(|start| line.starts_with(start))
        || line.strip_prefix('[').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The version in `spdk/version.h`, as SPDK writes it.
fn version(header: &str) -> String {
    let number = |name: &str| {
        let line =
            header.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    match (number("SPDK_VERSION_MAJOR\t"), number("SPDK_VERSION_MINOR\t")) {
        (Some(major), Some(minor)) => format!("{major}.{minor:02}"),
        _ => "of an unknown version".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_both_build_systems() {
        for line in
            ["  CC lib/bdev/bdev.o", "  SO libspdk_bdev.so.3.0", "[12/231] Compiling C object x.o"]
        {
            assert!(is_step(line), "{line}");
        }
        for line in ["make: Entering directory", "bdev.c:12: warning: x", "[x", "   CC"] {
            assert!(!is_step(line), "{line}");
        }
    }

    #[test]
    fn reads_the_version() {
        let header = "#define SPDK_VERSION_MAJOR\t20\n#define SPDK_VERSION_MINOR\t7\n";
        assert_eq!(version(header), "20.07");
        assert_eq!(version(""), "of an unknown version");
    }

    #[test]
    fn a_users_flags_do_not_reach_the_build() {
        let source = Tree { dir: "/x".into(), temporary: "/t".into() };
        let make = source.libraries();
        for name in ["CFLAGS", "LD_PRELOAD", "MAKEFLAGS"] {
            assert!(make.get_envs().any(|(n, value)| n == name && value.is_none()), "{name}");
        }
    }
}
