//! The SPDK that is built against.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::cache::setup_copy;
use crate::error::FindError;
use crate::layout::{Lacks, Layout, file_names, has_archive, has_library, has_shared, tree_root};
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
    /// A source that names an SPDK decides: if what it names is unusable, that is an error, and no
    /// other is tried.
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
        let prefix = tree_root(dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf()));
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

    /// The name a program asks the loader for: `soname("spdk_bdev")` is for example
    /// `libspdk_bdev.so.3.0`.
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

    /// One of SPDK's programs by its usual name, such as `spdk_tgt`, `bdevperf`, `bdevio`,
    /// `spdk_nvme_perf`, `rpc.py`.
    ///
    /// Programs have other names in other versions (`spdk_nvme_perf` was `perf`): all of them are
    /// tried.
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
        ];
        let others = ALIASES.iter().find(|names| names.contains(&name)).copied().unwrap_or(&[]);
        let names = std::iter::once(name).chain(others.iter().copied().filter(|n| *n != name));
        let paths = names.flat_map(|n| DIRS.iter().map(move |dir| self.prefix.join(dir).join(n)));
        paths.into_iter().find(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// Makes the files of an SPDK, each path below a fresh directory.
    fn fake(version: (u32, u32), files: &[&str]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = match file.ends_with("version.h") {
                true => format!(
                    "#define SPDK_VERSION_MAJOR {}\n#define SPDK_VERSION_MINOR {}\n\
                     #define SPDK_VERSION_PATCH 0\n#define SPDK_VERSION_SUFFIX \"\"\n",
                    version.0, version.1
                ),
                false => String::new(),
            };
            fs::write(path, text).unwrap();
        }
        dir
    }

    const PREFIX: &[&str] = &[
        "include/spdk/version.h",
        "lib/libspdk_bdev.so",
        "lib/libspdk_bdev.so.3.0",
        "lib/librte_eal.so",
        "lib/pkgconfig/spdk_bdev.pc",
        "bin/spdk_tgt",
        "bin/perf",
    ];
    const TREE: &[&str] = &[
        "mk/spdk.common.mk",
        "include/spdk/version.h",
        "lib/bdev/bdev.c",
        "build/lib/libspdk_bdev.a",
        "dpdk/build/lib/librte_eal.a",
        "build/bin/spdk_tgt",
        "test/bdev/bdevio/bdevio",
        "scripts/rpc.py",
    ];

    fn find(spdk_dir: Option<&Path>, setup: Option<&Path>) -> Result<Spdk, FindError> {
        Spdk::find_from(spdk_dir.map(Into::into), || None, setup.map(Into::into))
    }

    #[test]
    fn reads_an_install_prefix() {
        let dir = fake((20, 7), PREFIX);
        let spdk = Spdk::at(dir.path()).unwrap();
        assert_eq!(spdk.version().to_string(), "20.07");
        assert_eq!(spdk.source(), Source::Given);
        assert!(spdk.has_shared() && !spdk.has_static());
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(spdk.prefix(), root);
        assert_eq!(spdk.include_dirs(), [root.join("include")]);
        assert_eq!(spdk.lib_dirs(), [root.join("lib")]);
        assert_eq!(spdk.pkg_config_dirs(), [root.join("lib/pkgconfig")]);
        assert_eq!(spdk.sonames(), ["libspdk_bdev.so.3.0"]);
        assert_eq!(spdk.soname("spdk_blob"), None);
        assert_eq!(spdk.program("spdk_tgt"), Some(root.join("bin/spdk_tgt")));
        assert_eq!(spdk.program("spdk_nvme_perf"), Some(root.join("bin/perf")));
        assert_eq!(spdk.program("bdevio"), None);
    }

    #[test]
    fn reads_a_built_tree() {
        let dir = fake((26, 9), TREE);
        let spdk = Spdk::at(dir.path().join("build")).unwrap();
        assert!(spdk.has_static() && !spdk.has_shared());
        assert_eq!(spdk.sonames(), [""; 0]);
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(spdk.lib_dirs(), ["build/lib", "dpdk/build/lib"].map(|d| root.join(d)));
        for (name, at) in [
            ("spdk_tgt", "build/bin/spdk_tgt"),
            ("bdevio", "test/bdev/bdevio/bdevio"),
            ("rpc.py", "scripts/rpc.py"),
        ] {
            assert_eq!(spdk.program(name), Some(root.join(at)));
        }
    }

    #[test]
    fn finds_dpdk_where_the_configuration_says() {
        let dpdk = fake((0, 0), &["lib/librte_eal.so"]);
        let dir = fake((22, 1), &["include/spdk/version.h", "lib/libspdk_bdev.so"]);
        let config = format!("#define SPDK_CONFIG_DPDK_DIR {}\n", dpdk.path().display());
        fs::write(dir.path().join("include/spdk/config.h"), config).unwrap();
        let spdk = Spdk::at(dir.path()).unwrap();
        assert_eq!(spdk.lib_dirs()[1], dpdk.path().canonicalize().unwrap().join("lib"));
        assert!(spdk.has_shared());
    }

    #[test]
    fn the_first_source_that_names_one_decides() {
        let (a, b) = (fake((20, 7), PREFIX), fake((26, 9), TREE));
        let (a, b) = (a.path(), b.path());
        assert_eq!(find(Some(b), Some(a)).unwrap().source(), Source::SpdkDir);
        assert_eq!(find(Some(Path::new("")), Some(a)).unwrap().source(), Source::SetupCopy);
        assert_eq!(find(None, Some(&a.join("gone"))).unwrap_err(), FindError::Nowhere);
        assert_eq!(find(None, None).unwrap_err(), FindError::Nowhere);

        let located = pkg_config::Located {
            prefix: b.to_path_buf(),
            include: b.join("include"),
            lib: b.join("build/lib"),
        };
        let known = || Some(located.clone());
        let found = Spdk::find_from(None, known, Some(a.into())).unwrap();
        assert_eq!((found.source(), found.version().major), (Source::PkgConfig, 26));
        let found = Spdk::find_from(Some(a.into()), known, None).unwrap();
        assert_eq!(found.version().major, 20);
    }

    #[test]
    fn a_wrong_directory_is_an_error_that_names_it() {
        let good = fake((20, 7), PREFIX);
        let empty = fake((0, 0), &[]);
        let source = fake((20, 7), &["include/spdk/version.h", "lib/bdev/bdev.c"]);
        let old = fake((19, 10), PREFIX);
        for (dir, what) in [
            (empty.path(), "version.h"),
            (Path::new("/nonexistent"), "version.h"),
            (source.path(), "./configure --with-shared && make"),
            (old.path(), "19.10, older than 20.07"),
        ] {
            let text = find(Some(dir), Some(good.path())).unwrap_err().to_string();
            assert!(text.starts_with(&format!("SPDK_DIR={}", dir.display())), "{text}");
            assert!(text.contains(what) && text.contains("cargo spdk setup"), "{text}");
            assert!(!text.contains('\n') && !text.contains("  "), "{text}");
        }
    }
}
