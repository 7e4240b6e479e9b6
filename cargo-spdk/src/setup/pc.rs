//! Writes the `.pc` files that SPDK installs from 20.10 on, for a release that has none.
//!
//! They follow those later ones: `spdk_<library>.pc` requires what the library is built on, `spdk_bdev`, `spdk_sock` and
//! `spdk_accel` require their modules as well, `spdk_env_dpdk` requires `spdk_dpdklibs`, and nothing requires
//! `spdk_syslibs`, so that it can stand outside of a whole-archive region.

use std::fs;
use std::path::Path;
use std::process::Command;

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

/// A library as its shared object describes it.
#[derive(Debug, PartialEq, Eq)]
struct Library {
    /// Without `libspdk_`.
    name: String,
    version: String,
    needed: Vec<String>,
}

/// Writes `lib/pkgconfig` of an installed SPDK and returns the names of its modules.
pub(crate) fn write(prefix: &Path, runner: &mut Runner) -> Result<Vec<String>> {
    let lib = prefix.join("lib");
    let libraries = libraries(&lib, runner)?;
    let config = prefix.join("include/dpdk/rte_build_config.h");
    let numa = fs::read_to_string(&config)
        .map_err(|error| Error::io("read", &config, &error))?
        .contains("#define RTE_EAL_NUMA_AWARE_HUGEPAGES 1");
    let dpdk: Vec<&str> =
        DPDK.iter().copied().filter(|name| lib.join(format!("lib{name}.so")).exists()).collect();
    let dir = lib.join("pkgconfig");
    fs::create_dir_all(&dir).map_err(|error| Error::io("create", &dir, &error))?;
    let files = files(&libraries, &dpdk, numa);
    for (name, text) in &files {
        let path = dir.join(format!("{name}.pc"));
        fs::write(&path, text).map_err(|error| Error::io("write", &path, &error))?;
    }
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

/// Asks every shared library in `lib` what it is built on.
fn libraries(lib: &Path, runner: &mut Runner) -> Result<Vec<Library>> {
    let entries = fs::read_dir(lib).map_err(|error| Error::io("read", lib, &error))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter_map(|file| Some(file.strip_prefix("libspdk_")?.strip_suffix(".so")?.to_owned()))
        .collect();
    names.sort();
    let mut libraries = Vec::new();
    for name in names {
        let mut readelf = Command::new("readelf");
        readelf.env("LC_ALL", "C").arg("-dW").arg(lib.join(format!("libspdk_{name}.so")));
        let output = runner.run("reading SPDK's libraries", &mut readelf)?;
        libraries.push(Library::from_dynamic_section(name, &output));
    }
    Ok(libraries)
}

impl Library {
    /// Reads the output of `readelf -d`.
    fn from_dynamic_section(name: String, lines: &[String]) -> Self {
        let value = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
        let tagged = |tag: &'static str| {
            let lines = lines.iter().filter(move |line| line.contains(tag));
            lines.filter_map(move |line| value(line))
        };
        let soname = tagged("(SONAME)").next().unwrap_or_default();
        let version = soname.split_once(".so.").map_or("0", |(_, version)| version);
        let needed = tagged("(NEEDED)").filter_map(|file| {
            Some(file.strip_prefix("libspdk_")?.split_once(".so")?.0.to_owned())
        });
        Library { name, version: version.to_owned(), needed: needed.collect() }
    }

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
    fn reads_a_dynamic_section() {
        let lines = [
            " 0x0000000000000001 (NEEDED)             Shared library: [libspdk_log.so.3.0]",
            " 0x0000000000000001 (NEEDED)             Shared library: [libspdk_util.so.2.0]",
            " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]",
            " 0x000000000000000e (SONAME)             Library soname: [libspdk_conf.so.2.1]",
        ];
        let read = Library::from_dynamic_section("conf".into(), &lines.map(str::to_owned));
        let expected = Library { version: "2.1".into(), ..library("conf", &["log", "util"]) };
        assert_eq!(read, expected);
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
