//! The SPDK that is built against.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::cache::setup_copy;
use crate::error::FindError;
use crate::layout::{Lacks, Layout, file_names, has_archive, has_library, has_shared};
use crate::pkg_config;
use crate::version::Version;

/// How an SPDK was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The environment variable `SPDK_DIR`.
    SpdkDir,
    /// `pkg-config`.
    PkgConfig,
    /// The copy that `cargo spdk setup` made.
    SetupCopy,
    /// A directory the caller named.
    Given,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::SpdkDir => "SPDK_DIR",
            Source::PkgConfig => "pkg-config",
            Source::SetupCopy => "cargo spdk setup",
            Source::Given => "given directory",
        })
    }
}

/// An SPDK on this machine: an install prefix, or a tree it was built in.
#[derive(Clone, Debug)]
pub struct Spdk {
    version: Version,
    source: Source,
    prefix: PathBuf,
    layout: Layout,
}

impl Spdk {
    /// Finds SPDK: in `SPDK_DIR`, by `pkg-config`, or where `cargo spdk setup` put it.
    ///
    /// A source that names an SPDK decides: if what it names is unusable, that is an error, and no other is tried.
    pub fn find() -> Result<Spdk, FindError> {
        Spdk::find_from(std::env::var_os("SPDK_DIR"), pkg_config::locate, setup_copy())
    }

    /// The SPDK in `dir`, an install prefix or a built tree.
    pub fn at(dir: impl AsRef<Path>) -> Result<Spdk, FindError> {
        let dir = dir.as_ref();
        Spdk::open(dir, Source::Given, dir.display().to_string())
    }

    fn find_from(
        spdk_dir: Option<OsString>,
        pkg_config: impl FnOnce() -> Option<pkg_config::Located>,
        setup_copy: Option<PathBuf>,
    ) -> Result<Spdk, FindError> {
        if let Some(dir) = spdk_dir.filter(|d| !d.is_empty()) {
            let dir = PathBuf::from(dir);
            let named_by = format!("SPDK_DIR={}", dir.display());
            return Spdk::open(&dir, Source::SpdkDir, named_by);
        }
        if let Some(found) = pkg_config() {
            let named_by = format!("{} (from pkg-config)", found.prefix.display());
            if !has_library(&found.lib, "spdk_bdev") {
                return Err(FindError::NoLibraries { named_by });
            }
            let layout = Layout::assemble(&found.prefix, found.include, found.lib);
            return Spdk::new(found.prefix, layout, Source::PkgConfig, named_by);
        }
        match setup_copy.filter(|d| d.is_dir()) {
            Some(dir) => Spdk::open(&dir, Source::SetupCopy, dir.display().to_string()),
            None => Err(FindError::Nowhere),
        }
    }

    fn open(dir: &Path, source: Source, named_by: String) -> Result<Spdk, FindError> {
        // A relative SPDK_DIR would mean another place in every crate of the workspace.
        let prefix = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        match Layout::of(&prefix) {
            Ok(layout) => Spdk::new(prefix, layout, source, named_by),
            Err(Lacks::Headers(missing)) => Err(FindError::NoHeaders { named_by, missing }),
            Err(Lacks::Libraries) => Err(FindError::NoLibraries { named_by }),
        }
    }

    fn new(
        prefix: PathBuf,
        layout: Layout,
        source: Source,
        named_by: String,
    ) -> Result<Spdk, FindError> {
        let header = layout.include.join("spdk/version.h");
        let version = match std::fs::read_to_string(&header) {
            Ok(text) => Version::from_header(&text).ok_or("no SPDK_VERSION_MAJOR in it".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let version = version.map_err(|why| FindError::BadVersion { header, why })?;
        if !version.at_least(20, 7) {
            return Err(FindError::TooOld { named_by, version });
        }
        Ok(Spdk { version, source, prefix, layout })
    }

    /// Its version, from `spdk/version.h`.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// How it was found.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The install prefix, or the root of the built tree.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Directories for the C compiler's `-I`.
    pub fn include_dirs(&self) -> &[PathBuf] {
        std::slice::from_ref(&self.layout.include)
    }

    /// The directory of SPDK's libraries, and that of DPDK's where it is another.
    pub fn lib_dirs(&self) -> &[PathBuf] {
        &self.layout.lib_dirs
    }

    /// Directories with `.pc` files; none in an SPDK that was built before 20.10 by hand.
    pub fn pkg_config_dirs(&self) -> &[PathBuf] {
        &self.layout.pkg_config_dirs
    }

    /// Whether SPDK and DPDK are there as shared libraries.
    pub fn has_shared(&self) -> bool {
        self.has(has_shared)
    }

    /// Whether SPDK and DPDK are there as archives.
    pub fn has_static(&self) -> bool {
        self.has(has_archive)
    }

    fn has(&self, kind: fn(&Path, &str) -> bool) -> bool {
        ["spdk_bdev", "rte_eal"].iter().all(|lib| self.lib_dirs().iter().any(|dir| kind(dir, lib)))
    }

    /// The name a program asks the loader for: `soname("spdk_bdev")` is for example `libspdk_bdev.so.3.0`.
    pub fn soname(&self, lib: &str) -> Option<String> {
        let link = format!("lib{lib}.so");
        let dir = self.lib_dirs().iter().find(|dir| dir.join(&link).is_file())?;
        let real = dir.join(&link).canonicalize().ok()?.file_name()?.to_str()?.to_owned();
        if real != link {
            return Some(real);
        }
        // A copy that followed the links: the versioned name lies beside it.
        let mut names = file_names(dir);
        names.retain(|name| name.strip_prefix(&link).is_some_and(|rest| rest.starts_with('.')));
        names.into_iter().max_by_key(String::len).or(Some(real))
    }

    /// The sonames of all of SPDK's shared libraries, sorted; empty where it has none.
    pub fn sonames(&self) -> Vec<String> {
        let mut names: Vec<String> = file_names(&self.lib_dirs()[0])
            .iter()
            .filter_map(|name| name.strip_prefix("lib")?.strip_suffix(".so"))
            .filter(|lib| lib.starts_with("spdk_"))
            .filter_map(|lib| self.soname(lib))
            .collect();
        names.sort();
        names
    }

    /// One of SPDK's programs by its usual name, such as `spdk_tgt`, `bdevperf`, `bdevio`, `spdk_nvme_perf`, `rpc.py`.
    ///
    /// Programs have other names in other versions (`spdk_nvme_perf` was `perf`): all of them are tried.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        const ALIASES: &[&[&str]] = &[
            &["spdk_nvme_perf", "perf"],
            &["spdk_nvme_identify", "identify"],
            &["spdk_blob_cli", "blobcli"],
            &["spdk_bdevperf", "spdk_bdev_bdevperf", "bdevperf"],
        ];
        const DIRS: &[&str] = &[
            "bin",
            "build/bin",
            "build/examples",
            "examples",
            "scripts",
            "test/bdev/bdevio",
            "test/bdev/bdevperf",
            "../scripts",
            "../test/bdev/bdevio",
            "../test/bdev/bdevperf",
        ];
        let others = ALIASES.iter().find(|names| names.contains(&name)).copied().unwrap_or(&[]);
        let names = std::iter::once(name).chain(others.iter().copied().filter(|n| *n != name));
        let paths = names.flat_map(|n| DIRS.iter().map(move |dir| self.prefix.join(dir).join(n)));
        paths.into_iter().find(|path| path.is_file())
    }
}
