//! The memory SPDK programs will run on: hugepages, or none.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What `spdk_tgt` takes.
const TARGET_MIB: u32 = 1536;

/// One size of hugepages the kernel offers.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pool {
    pub(crate) size_kib: u64,
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// What the machine has.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// Whether SPDK programs run on hugepages here.
    pub(crate) hugepages: bool,
    pub(crate) pools: Vec<Pool>,
    pub(crate) available_kib: Option<u64>,
}

impl Memory {
    pub(crate) fn look() -> Memory {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Memory {
            hugepages: spdk_plugin_rig::Memory::detect(TARGET_MIB) == spdk_plugin_rig::Memory::Huge,
            pools: pools(Path::new("/sys/kernel/mm/hugepages")),
            available_kib: field(&meminfo, "MemAvailable"),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let free: Vec<String> = (self.pools.iter().filter(|pool| pool.free > 0))
            .map(|pool| format!("{} x {}", pool.free, size(pool.size_kib)))
            .collect();
        let free = free.join(", ");
        let mut line = match (self.hugepages, free.is_empty()) {
            (true, _) => format!("hugepages, {free} free"),
            (false, true) => "no hugepages free: no-hugepage mode".to_owned(),
            (false, false) => format!(
                "no-hugepage mode: {free} hugepages are free, and they serve root alone, from {TARGET_MIB} MiB on, where \
                 hugetlbfs is mounted"
            ),
        };
        if let Some(kib) = self.available_kib {
            line += &format!(" ({} of memory available)", size(kib));
        }
        line
    }
}

/// Reads `hugepages-<size>kB/{free,nr}_hugepages` below `dir`, smallest size first.
fn pools(dir: &Path) -> Vec<Pool> {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse().ok();
    let mut pools: Vec<Pool> = (fs::read_dir(dir).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(Pool {
                size_kib: name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?,
                free: number(&entry.path().join("free_hugepages"))?,
                total: number(&entry.path().join("nr_hugepages"))?,
            })
        })
        .collect();
    pools.sort_by_key(|pool| pool.size_kib);
    pools
}

/// A line of `/proc/meminfo`, in KiB.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn size(kib: u64) -> String {
    match kib {
        0..1024 => format!("{kib} KiB"),
        1024..1_048_576 => format!("{} MiB", kib / 1024),
        _ if kib.is_multiple_of(1_048_576) => format!("{} GiB", kib / 1_048_576),
        _ => format!("{:.1} GiB", kib as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_pools() {
        let dir = tempfile::tempdir().unwrap();
        for (name, free, total) in
            [("hugepages-1048576kB", "0\n", "0\n"), ("hugepages-2048kB", "3\n", "512\n")]
        {
            let pool = dir.path().join(name);
            fs::create_dir(&pool).unwrap();
            fs::write(pool.join("free_hugepages"), free).unwrap();
            fs::write(pool.join("nr_hugepages"), total).unwrap();
        }
        let mut memory = Memory { hugepages: true, pools: pools(dir.path()), available_kib: None };
        assert_eq!(memory.pools[0], Pool { size_kib: 2048, free: 3, total: 512 });
        assert_eq!(memory.line(), "hugepages, 3 x 2 MiB free");
        memory.hugepages = false;
        assert!(memory.line().starts_with("no-hugepage mode: 3 x 2 MiB hugepages are free"));
    }

    #[test]
    fn no_hugepages() {
        let meminfo = "MemTotal:        8123456 kB\nMemAvailable:    4404020 kB\n";
        let memory = Memory {
            hugepages: false,
            pools: pools(Path::new("/nonexistent")),
            available_kib: field(meminfo, "MemAvailable"),
        };
        let line = "no hugepages free: no-hugepage mode (4.2 GiB of memory available)";
        assert_eq!(memory.line(), line);
    }
}
