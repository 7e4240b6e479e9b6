//! Writes the `.pc` files that SPDK installs from 20.10 on, for a release that has none.
//!
//! They follow those later ones: `spdk_<library>.pc` requires what the library is built on, `spdk_bdev`, `spdk_sock` and
//! `spdk_accel` require their modules as well, `spdk_env_dpdk` requires `spdk_dpdklibs`, and nothing requires
//! `spdk_syslibs`, so that it can stand outside of a whole-archive region.

use std::fs;
use std::path::Path;

use super::build::Tree;
use crate::error::{Error, Result};
use crate::run::Runner;

/// DPDK's libraries behind `spdk_env_dpdk`, in the order in which SPDK links them.
const DPDK: &[&str] = &[
    "rte_eal",
    "rte_mempool",
    "rte_ring",
    "rte_mbuf",
    "rte_mempool_ring",
    "rte_pci",
    "rte_bus_pci",
    "rte_telemetry",
    "rte_kvargs",
];

/// Relative to the file itself, so that the prefix can be moved.
const HEAD: &str =
    "prefix=${pcfiledir}/../..\nlibdir=${prefix}/lib\nincludedir=${prefix}/include\n\n";

/// Prints what SPDK's own makefiles say that each library is built on. The libraries themselves do not say it all:
/// linkers leave out of them what no symbol leads to, such as the subsystems a subsystem starts after.
const MAKEFILE: &str = "\
include $(SPDK_ROOT_DIR)/mk/spdk.common.mk
include $(SPDK_ROOT_DIR)/mk/spdk.lib_deps.mk
$(foreach list,$(filter DEPDIRS-%,$(.VARIABLES)),$(info $(list) $($(list))))
all: ;
";

/// A library and what it is built on, by names without `libspdk_`.
#[derive(Debug, PartialEq, Eq)]
struct Library {
    name: String,
    version: String,
    needed: Vec<String>,
}

/// Writes `lib/pkgconfig` of an installed SPDK and returns the names of its modules.
pub(crate) fn write(tree: &Tree, prefix: &Path, runner: &mut Runner) -> Result<Vec<String>> {
    let lib = prefix.join("lib");
    let makefile = tree.path("depdirs.mk");
    fs::write(&makefile, MAKEFILE).map_err(|error| Error::io("write", &makefile, &error))?;
    let mut make = tree.command("make");
    make.arg("-sf").arg(&makefile).arg(format!("SPDK_ROOT_DIR={}", tree.path("").display()));
    let lists = runner.run("reading what SPDK's libraries need", &mut make)?;
    let libraries = libraries(&files_in(&lib)?, &lists);

    let config = prefix.join("include/dpdk/rte_build_config.h");
    let numa = fs::read_to_string(&config)
        .map_err(|error| Error::io("read", &config, &error))?
        .contains("#define RTE_EAL_NUMA_AWARE_HUGEPAGES 1");
    let there = |name: &&str| lib.join(format!("lib{name}.so")).exists();
    let dpdk: Vec<&str> = DPDK.iter().copied().filter(there).collect();
    let dir = lib.join("pkgconfig");
    fs::create_dir_all(&dir).map_err(|error| Error::io("create", &dir, &error))?;
    let files = files(&libraries, &dpdk, numa);
    for (name, text) in &files {
        let path = dir.join(format!("{name}.pc"));
        fs::write(&path, text).map_err(|error| Error::io("write", &path, &error))?;
    }
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

fn files_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(|error| Error::io("read", dir, &error))?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Joins the libraries named like `libspdk_bdev.so.3.0` with lists like `DEPDIRS-bdev log util`.
fn libraries(files: &[String], lists: &[String]) -> Vec<Library> {
    let split = |file: &String| {
        let (name, version) = file.strip_prefix("libspdk_")?.split_once(".so.")?;
        Some((name.to_owned(), version.to_owned()))
    };
    let named: Vec<(String, String)> = files.iter().filter_map(split).collect();
    let library = |(name, version): &(String, String)| {
        let list = lists.iter().find_map(|list| {
            let (of, needed) = list.strip_prefix("DEPDIRS-")?.split_once(' ')?;
            (of == name).then_some(needed)
        });
        let needed = list.unwrap_or("").split_whitespace().map(str::to_owned);
        let needed = needed.filter(|needed| named.iter().any(|(name, _)| name == needed)).collect();
        Library { name: name.clone(), version: version.clone(), needed }
    };
    named.iter().map(library).collect()
}

impl Library {
    /// What a program that links this one wants beside what the library itself needs.
    ///
    /// The calls of `*_rpc` are part of the libraries proper in later releases.
    fn companions(&self) -> &'static [&'static str] {
        match self.name.as_str() {
            "accel" => &["accel_modules"],
            "bdev" => &["bdev_modules", "bdev_rpc"],
            "env_dpdk" => &["dpdklibs"],
            "event" => &["app_rpc", "log_rpc", "env_dpdk_rpc"],
            "sock" => &["sock_modules"],
            _ => &[],
        }
    }
}

/// The files by module name, and their text.
fn files(libraries: &[Library], dpdk: &[&str], numa: bool) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for library in libraries {
        let needed = library.needed.iter().map(String::as_str);
        let requires = requires(needed.chain(library.companions().iter().copied()));
        let Library { name, version, .. } = library;
        let text = format!(
            "{HEAD}Name: spdk_{name}\nDescription: SPDK {name} library\nVersion: {version}\n{requires}\
             Libs: -L${{libdir}} -lspdk_{name}\nCflags: -I${{includedir}}\n"
        );
        files.push((format!("spdk_{name}"), text));
    }
    for kind in ["accel", "bdev", "sock"] {
        let start = format!("{kind}_");
        let names = libraries.iter().map(|library| library.name.as_str());
        let modules = names.filter(|name| name.starts_with(&start) && !name.ends_with("_rpc"));
        let text = format!(
            "Name: spdk_{kind}_modules\nDescription: SPDK {kind} modules\nVersion: 1.0\n{}",
            requires(modules)
        );
        files.push((format!("spdk_{kind}_modules"), text));
    }
    let dpdk: String = dpdk.iter().map(|name| format!(" -l{name}")).collect();
    let dpdk_libs = format!("Libs: -L${{libdir}}{dpdk}");
    let numa = if numa { " -lnuma" } else { "" };
    let text = format!(
        "{HEAD}Name: spdk_dpdklibs\nDescription: DPDK libraries used by SPDK\nVersion: 1.0\n{dpdk_libs}\n"
    );
    files.push(("spdk_dpdklibs".to_owned(), text));
    let text = format!(
        "Name: spdk_syslibs\nDescription: System libraries used by SPDK\nVersion: 1.0\n\
         Libs: -laio -lrt -luuid -lcrypto{numa} -lm -ldl -pthread\n"
    );
    files.push(("spdk_syslibs".to_owned(), text));
    let text = format!(
        "{HEAD}Name: DPDK\nDescription: The Data Plane Development Kit\nVersion: 20.05.0\n{dpdk_libs}\n\
         Libs.private:{numa} -lm -ldl -pthread\nCflags: -I${{includedir}}/dpdk -include rte_config.h{}\n",
        if cfg!(target_arch = "x86_64") { " -march=x86-64-v2" } else { "" }
    );
    files.push(("libdpdk".to_owned(), text));
    files
}

fn requires<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("spdk_{name}")).collect();
    if names.is_empty() { String::new() } else { format!("Requires: {}\n", names.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, needed: &[&str]) -> Library {
        let needed = needed.iter().map(|name| name.to_string()).collect();
        Library { name: name.into(), version: "2.0".into(), needed }
    }

    fn text(libraries: &[Library], numa: bool, name: &str) -> String {
        let files = files(libraries, &["rte_eal", "rte_ring"], numa);
        files.into_iter().find(|(file, _)| file == name).unwrap().1
    }

    #[test]
    fn libraries_and_what_they_need() {
        let files = [
            "libspdk_bdev.a",
            "libspdk_bdev.so",
            "libspdk_bdev.so.3.0",
            "libspdk_log.so.3.1",
            "pkgconfig",
        ];
        let lists = ["DEPDIRS-bdev_null log", "DEPDIRS-bdev log rte_vhost", "DEPDIRS-log "];
        let read = libraries(&files.map(str::to_owned), &lists.map(str::to_owned));
        let bdev = Library { version: "3.0".into(), ..library("bdev", &["log"]) };
        let log = Library { version: "3.1".into(), ..library("log", &[]) };
        assert_eq!(read, [bdev, log]);
    }

    #[test]
    fn a_library_requires_what_it_needs() {
        let libraries =
            [library("bdev", &["log"]), library("bdev_rpc", &["bdev"]), library("log", &[])];
        let bdev = text(&libraries, false, "spdk_bdev");
        assert!(bdev.contains("\nRequires: spdk_log spdk_bdev_modules spdk_bdev_rpc\n"), "{bdev}");
        assert!(bdev.contains("\nLibs: -L${libdir} -lspdk_bdev\n"), "{bdev}");
        assert!(!text(&libraries, false, "spdk_log").contains("Requires"));
    }

    #[test]
    fn modules_are_grouped() {
        let names =
            ["accel", "bdev", "bdev_aio", "bdev_null", "bdev_rpc", "blob_bdev", "sock_posix"];
        let libraries = names.map(|name| library(name, &[]));
        let modules = text(&libraries, false, "spdk_bdev_modules");
        assert!(modules.ends_with("\nRequires: spdk_bdev_aio spdk_bdev_null\n"), "{modules}");
        assert!(
            text(&libraries, false, "spdk_sock_modules").ends_with("Requires: spdk_sock_posix\n")
        );
    }

    #[test]
    fn system_libraries_follow_the_build() {
        assert!(text(&[], true, "spdk_syslibs").contains(" -lnuma "));
        assert!(!text(&[], false, "spdk_syslibs").contains("numa"));
        let dpdk = text(&[], false, "spdk_dpdklibs");
        assert!(dpdk.ends_with("\nLibs: -L${libdir} -lrte_eal -lrte_ring\n"), "{dpdk}");
    }
}
