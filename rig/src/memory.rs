//! Where an SPDK process gets its memory: hugepages if there are enough, ordinary memory otherwise.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use spdk_plugin_build::Version;

use crate::error::{Context, Error, Result};
use crate::tools;

/// Kind of memory an SPDK process runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages.
    Huge,
    /// Ordinary memory: slower to start, and no DMA of real devices.
    NoHuge,
}

impl Memory {
    /// Hugepages if `megabytes` of them are free and this process may use them, ordinary memory otherwise.
    ///
    /// Without root, SPDK cannot find the physical addresses of hugepages, so that they help nobody but root.
    pub fn detect(megabytes: u32) -> Self {
        // SAFETY: the call has no preconditions.
        let root = unsafe { libc::geteuid() } == 0;
        let enough = free_hugepages_mb() >= u64::from(megabytes);
        if root && enough && hugetlbfs().iter().any(|dir| writable(dir)) {
            Self::Huge
        } else {
            Self::NoHuge
        }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Huge => "hugepages",
            Self::NoHuge => "no hugepages",
        })
    }
}

/// Free hugepages of the default size, in MiB.
pub fn free_hugepages_mb() -> u64 {
    free_in(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn free_in(meminfo: &str) -> u64 {
    let value = |key: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let pages = value("HugePages_Free").saturating_sub(value("HugePages_Rsvd"));
    pages * value("Hugepagesize") / 1024
}

/// Where hugetlbfs is mounted.
pub(crate) fn hugetlbfs() -> Vec<PathBuf> {
    hugetlbfs_in(&fs::read_to_string("/proc/mounts").unwrap_or_default())
}

fn hugetlbfs_in(mounts: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (dir, kind) = (fields.next()?, fields.next()?);
        (kind == "hugetlbfs").then(|| PathBuf::from(dir))
    };
    mounts.lines().filter_map(mount).collect()
}

fn writable(dir: &Path) -> bool {
    let Ok(dir) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    // SAFETY: `dir` is a C string that lives through the call.
    unsafe { libc::access(dir.as_ptr(), libc::W_OK) == 0 }
}

/// What a process needs to run with the memory and the lcores asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Eal {
    pub(crate) args: Vec<String>,
    /// Whether the EAL's arguments must be rewritten.
    pub(crate) interposed: bool,
    /// What to rewrite, for the interposer.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Eal {
    /// Switches of SPDK's own where `version` has them, the interposer's variables otherwise.
    pub(crate) fn new(
        version: &Version,
        memory: Memory,
        megabytes: u32,
        lcores: Option<&str>,
    ) -> Self {
        let mut eal = Self {
            args: vec!["-s".into(), megabytes.to_string()],
            interposed: !version.at_least(24, 1),
            env: vec![],
        };
        match memory {
            Memory::NoHuge if version.at_least(24, 1) => eal.args.push("--no-huge".into()),
            Memory::NoHuge => eal.env.push(("SPDK_RIG_NO_HUGE", "1".into())),
            // A killed process leaves no files behind then.
            Memory::Huge => eal.args.push("--huge-unlink".into()),
        }
        match lcores {
            // Not the later switch --lcores: bdevio refuses it, having set a mask of its own.
            Some(list) if version.at_least(21, 7) => {
                eal.args.extend(["-m".into(), format!("--lcores={list}")]);
            }
            Some(list) => eal.env.push(("SPDK_RIG_LCORES", list.into())),
            None => {}
        }
        eal
    }
}

/// The interposer for versions that lack a switch, compiled on first use.
pub(crate) fn interposer() -> Result<PathBuf> {
    const SOURCE: &str = include_str!("../c/no_huge.c");
    let dir = tools::cache_dir()?.join("rig");
    let library = dir.join(format!("no_huge-{:016x}.so", fnv1a(SOURCE.as_bytes())));
    if library.is_file() {
        return Ok(library);
    }
    fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
    let work =
        tempfile::tempdir_in(&dir).context(|| format!("cannot write in {}", dir.display()))?;
    let (source, built) = (work.path().join("no_huge.c"), work.path().join("no_huge.so"));
    fs::write(&source, SOURCE).context(|| format!("cannot write {}", source.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&built).arg(&source).arg("-ldl");
    tools::run(cc)?;
    // Several processes may get here; each puts a finished library in place.
    fs::rename(&built, &library).context(|| format!("cannot write {}", library.display()))?;
    Ok(library)
}

/// Names the compiled library after its source; a standard hash that does not change with the Rust release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Refuses a path that LD_PRELOAD would take for two.
pub(crate) fn preloadable(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if !text.contains([' ', ':', '\t', '\n']) => Ok(text),
        _ => Err(Error::Invalid(format!(
            "'{}' cannot be preloaded: LD_PRELOAD takes a space or a colon in a path for its end; move it elsewhere",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor, patch: 0, suffix: String::new() }
    }

    #[test]
    fn free_hugepages_do_not_count_reserved_ones() {
        let meminfo = "MemTotal: 1 kB\nHugePages_Total:    1024\nHugePages_Free:      600\n\
                       HugePages_Rsvd:      100\nHugepagesize:       2048 kB\n";
        assert_eq!(free_in(meminfo), 1000);
        assert_eq!(free_in(""), 0);
    }

    #[test]
    fn hugetlbfs_mounts_are_found() {
        let mounts =
            "proc /proc proc rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n";
        assert_eq!(hugetlbfs_in(mounts), [PathBuf::from("/dev/hugepages")]);
    }

    #[test]
    fn switches_are_used_where_they_exist() {
        let eal = |major, minor, lcores| {
            let eal = Eal::new(&version(major, minor), Memory::NoHuge, 64, lcores);
            (eal.args.join(" "), eal.env.len())
        };
        assert_eq!(eal(20, 7, Some("0@1")), ("-s 64".into(), 2));
        assert_eq!(eal(21, 7, Some("0@1")), ("-s 64 -m --lcores=0@1".into(), 1));
        assert_eq!(eal(24, 1, Some("0@1")), ("-s 64 --no-huge -m --lcores=0@1".into(), 0));
        assert_eq!(eal(26, 9, None), ("-s 64 --no-huge".into(), 0));
        let huge = Eal::new(&version(20, 7), Memory::Huge, 64, None);
        assert_eq!(huge.args, ["-s", "64", "--huge-unlink"]);
        assert!(huge.interposed && huge.env.is_empty());
    }

    #[test]
    fn a_path_with_a_space_is_refused() {
        assert!(preloadable(Path::new("/a/b.so")).is_ok());
        let error = preloadable(Path::new("/a b.so")).unwrap_err();
        assert!(error.to_string().contains("LD_PRELOAD"), "{error}");
    }
}
