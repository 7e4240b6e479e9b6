//! Where the parts of an SPDK lie: an install prefix, or a tree it was built in.

use std::path::{Path, PathBuf};

/// The places of one SPDK, all of them existing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) include: PathBuf,
    pub(crate) lib_dirs: Vec<PathBuf>,
    pub(crate) pkg_config_dirs: Vec<PathBuf>,
}

/// What a directory lacks to be an SPDK.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lacks {
    Headers(PathBuf),
    Libraries,
}

impl Layout {
    /// Finds the parts below `dir`, an install prefix or a built tree.
    pub(crate) fn of(dir: &Path) -> Result<Layout, Lacks> {
        let header = |d: &PathBuf| d.join("spdk/version.h").is_file();
        let include = [dir.join("include"), dir.join("build/include")].into_iter().find(header);
        let include = include.ok_or_else(|| Lacks::Headers(dir.join("include/spdk/version.h")))?;
        let lib = ["lib", "lib64", "build/lib"].map(|d| dir.join(d));
        let lib = lib.into_iter().find(|d| has_library(d, "spdk_bdev")).ok_or(Lacks::Libraries)?;
        Ok(Layout::assemble(dir, include, lib))
    }

    /// The same for an SPDK whose header and library directories are known already.
    pub(crate) fn assemble(dir: &Path, include: PathBuf, lib: PathBuf) -> Layout {
        let mut lib_dirs = vec![lib];
        if let Some(dpdk) = dpdk_lib_dir(dir, &include, &lib_dirs[0])
            && !lib_dirs.contains(&dpdk)
        {
            lib_dirs.push(dpdk);
        }
        let pkg_config = lib_dirs.iter().map(|d| d.join("pkgconfig"));
        let pkg_config_dirs = pkg_config.filter(|d| d.is_dir()).collect();
        Layout { include, lib_dirs, pkg_config_dirs }
    }
}

/// The root of the tree that `dir` is the output directory of, else `dir` itself.
pub(crate) fn tree_root(mut dir: PathBuf) -> PathBuf {
    if dir.ends_with("build") && dir.with_file_name("mk/spdk.common.mk").is_file() {
        dir.pop();
    }
    dir
}

/// Whether `dir` holds `lib<name>` as an archive or as a shared library.
pub(crate) fn has_library(dir: &Path, name: &str) -> bool {
    has_archive(dir, name) || has_shared(dir, name)
}

/// Whether `dir` holds `lib<name>.a`.
pub(crate) fn has_archive(dir: &Path, name: &str) -> bool {
    dir.join(format!("lib{name}.a")).is_file()
}

/// Whether `dir` holds `lib<name>.so`.
pub(crate) fn has_shared(dir: &Path, name: &str) -> bool {
    dir.join(format!("lib{name}.so")).is_file()
}

/// The names of what lies in `dir`; none where it cannot be read.
pub(crate) fn file_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// DPDK's libraries: beside SPDK's, in the tree, or where SPDK's own configuration says.
fn dpdk_lib_dir(dir: &Path, include: &Path, spdk_lib: &Path) -> Option<PathBuf> {
    let mut candidates =
        vec![spdk_lib.to_path_buf(), dir.join("dpdk/build/lib"), dir.join("lib/dpdk")];
    let config = std::fs::read_to_string(include.join("spdk/config.h")).unwrap_or_default();
    for line in config.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (name, Some(value)) = (words.next(), words.next()) else { continue };
        let value = Path::new(value.trim_matches('"'));
        match name {
            Some("SPDK_CONFIG_DPDK_LIB_DIR") => candidates.push(value.to_path_buf()),
            Some("SPDK_CONFIG_DPDK_DIR") => {
                candidates.extend(["lib", "lib64", "lib/x86_64-linux-gnu"].map(|d| value.join(d)));
            }
            _ => {}
        }
    }
    let found = candidates.into_iter().find(|d| d.is_absolute() && has_library(d, "rte_eal"))?;
    Some(found.canonicalize().unwrap_or(found))
}
