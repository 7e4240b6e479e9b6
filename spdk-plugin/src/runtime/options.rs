//! What SPDK's environment and app framework are told, as C wants it.

use std::ffi::{CString, OsString, c_char};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};

/// Values that the builder collects. `None` and `false` leave SPDK its default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
    pub(crate) config_file: Option<OsString>,
    pub(crate) json_data: Option<String>,
    pub(crate) ignore_config_errors: bool,
    pub(crate) rpc_addr: Option<String>,
    pub(crate) no_rpc: bool,
    pub(crate) reactor_mask: Option<String>,
    pub(crate) main_core: Option<u32>,
    pub(crate) mem_size_mb: Option<u32>,
    pub(crate) mem_channels: Option<u32>,
    pub(crate) shm_id: Option<u32>,
    pub(crate) no_pci: bool,
    pub(crate) no_huge: bool,
    pub(crate) hugepage_single_segments: bool,
    pub(crate) unlink_hugepages: Option<bool>,
    pub(crate) huge_dir: Option<OsString>,
    pub(crate) iova_mode: Option<String>,
    pub(crate) base_virtaddr: Option<u64>,
    pub(crate) eal_args: Vec<String>,
    pub(crate) pci: Vec<String>,
    pub(crate) pci_blocked: bool,
    pub(crate) log_level: Option<i32>,
    pub(crate) trace_entries: Option<u64>,
    pub(crate) wait_for_rpc: bool,
    pub(crate) no_core_dumps: bool,
    pub(crate) no_signal_handlers: bool,
    pub(crate) no_core_locks: bool,
    pub(crate) interrupt_mode: bool,
    pub(crate) args: Vec<OsString>,
}

/// The options in C's form. SPDK keeps pointers to some of the strings until the process ends, so they
/// are never freed.
pub(crate) struct Raw {
    pub(crate) opts: sys::spdkp_opts,
    pub(crate) argc: i32,
    pub(crate) argv: *mut *mut c_char,
}

impl Options {
    pub(crate) fn pci(&mut self, addresses: Vec<String>, blocked: bool) {
        (self.pci, self.pci_blocked) = (addresses, blocked);
    }

    pub(crate) fn raw(&self, json_file: Option<OsString>) -> Result<Raw> {
        let name = self.name.as_deref().unwrap_or("spdk_plugin");
        if name.is_empty() || name.contains('/') {
            let why = "it must not be empty or contain '/', as files are named after it";
            return Err(Error::Invalid(format!("'{name}' is no name of a program: {why}")));
        }
        if self.config_file.is_some() && self.json_data.is_some() {
            let why = "config_file and json_data exclude each other: give one";
            return Err(Error::Invalid(why.into()));
        }
        let args = self.args.iter().cloned().map(|arg| forever("an argument", arg.into_vec()));
        let mut argv = args.collect::<Result<Vec<_>>>()?;
        let argc = i32::try_from(argv.len())
            .map_err(|_| Error::Invalid("the command line is too long".into()))?;
        argv.push(ptr::null_mut());
        let file = json_file.as_ref().or(self.config_file.as_ref());
        let json = if json_file.is_some() { None } else { self.json_data.as_deref() };
        let pci_addrs = pci_addrs(&self.pci)?;
        let opts = sys::spdkp_opts {
            name: text("name", Some(name))?,
            json_file: path("config_file", file)?,
            json: json.map_or(ptr::null(), |json| json.as_ptr().cast()),
            json_len: json.map_or(0, str::len),
            rpc_addr: text("rpc_addr", self.rpc_addr.as_deref())?,
            reactor_mask: text("reactor_mask", self.reactor_mask.as_deref())?,
            huge_dir: path("huge_dir", self.huge_dir.as_ref())?,
            iova_mode: text("iova_mode", self.iova_mode.as_deref())?,
            env_context: text("eal_args", join(&self.eal_args).as_deref())?,
            pci_addrs,
            num_pci_addrs: self.pci.len(),
            base_virtaddr: self.base_virtaddr.unwrap_or(0),
            trace_entries: self.trace_entries.unwrap_or(0),
            shm_id: number("shm_id", self.shm_id)?,
            mem_size_mb: number("mem_size_mb", self.mem_size_mb)?,
            mem_channels: number("mem_channels", self.mem_channels)?,
            main_core: number("main_core", self.main_core)?,
            log_level: self.log_level.unwrap_or(0),
            has_log_level: self.log_level.is_some(),
            has_trace_entries: self.trace_entries.is_some(),
            pci_blocked: self.pci_blocked,
            ignore_json_errors: self.ignore_config_errors,
            no_rpc: self.no_rpc,
            no_pci: self.no_pci,
            no_huge: self.no_huge,
            single_segments: self.hugepage_single_segments,
            unlink_hugepages: self.unlink_hugepages.map_or(-1, i32::from),
            wait_for_rpc: self.wait_for_rpc,
            no_coredump: self.no_core_dumps,
            no_signal_handlers: self.no_signal_handlers,
            no_core_locks: self.no_core_locks,
            interrupt_mode: self.interrupt_mode,
        };
        Ok(Raw { opts, argc, argv: argv.leak().as_mut_ptr() })
    }
}

/// Setters of what the environment is told, for the builders that have `options`.
macro_rules! env_setters {
    () => {
        /// The process's DMA memory in MiB. With hugepages all there are by default.
        pub fn mem_size_mb(mut self, megabytes: u32) -> Self {
            self.options.mem_size_mb = Some(megabytes);
            self
        }

        /// The core that the process starts on, of those of the mask; the first by default.
        pub fn main_core(mut self, core: u32) -> Self {
            self.options.main_core = Some(core);
            self
        }

        /// Channels of the machine's memory, for DPDK to spread objects over.
        pub fn mem_channels(mut self, channels: u32) -> Self {
            self.options.mem_channels = Some(channels);
            self
        }

        /// Leaves the machine's PCI devices alone.
        pub fn no_pci(mut self, no_pci: bool) -> Self {
            self.options.no_pci = no_pci;
            self
        }

        /// Uses no PCI device but these (`0000:01:00.0`).
        pub fn pci_allowed<A: Into<String>>(mut self, list: impl IntoIterator<Item = A>) -> Self {
            self.options.pci(list.into_iter().map(Into::into).collect(), false);
            self
        }

        /// Uses any PCI device but these. The later of this and `pci_allowed` counts.
        pub fn pci_blocked<A: Into<String>>(mut self, list: impl IntoIterator<Item = A>) -> Self {
            self.options.pci(list.into_iter().map(Into::into).collect(), true);
            self
        }

        /// Makes one file of all hugepages, for vhost-user.
        pub fn hugepage_single_segments(mut self, single: bool) -> Self {
            self.options.hugepage_single_segments = single;
            self
        }

        /// Removes the hugepages' files once they are mapped, so that none are left however the
        /// process ends. The default, unless the memory is to be shared by its number.
        pub fn unlink_hugepages(mut self, unlink: bool) -> Self {
            self.options.unlink_hugepages = Some(unlink);
            self
        }

        /// The mount of hugetlbfs to take hugepages from.
        pub fn huge_dir(mut self, dir: impl AsRef<std::path::Path>) -> Self {
            self.options.huge_dir = Some(dir.as_ref().into());
            self
        }

        /// `pa` or `va`: which addresses devices are told.
        pub fn iova_mode(mut self, mode: impl Into<String>) -> Self {
            self.options.iova_mode = Some(mode.into());
            self
        }

        /// Where in the address space DPDK maps its memory.
        pub fn base_virtaddr(mut self, address: u64) -> Self {
            self.options.base_virtaddr = Some(address);
            self
        }

        /// Appends an argument for DPDK's EAL. SPDK before 21.10 takes one in all; later releases split
        /// it at blanks.
        pub fn eal_arg(mut self, arg: impl Into<String>) -> Self {
            self.options.eal_args.push(arg.into());
            self
        }

        /// The number of memory that several processes share. Without one each process has its own.
        pub fn shm_id(mut self, id: u32) -> Self {
            self.options.shm_id = Some(id);
            self
        }

        /// The lowest level that the log on standard error shows. `Info` is SPDK's NOTICE; SPDK's own
        /// INFO and DEBUG are `Debug` and `Trace`.
        pub fn log_level(mut self, level: log::LevelFilter) -> Self {
            self.options.log_level = Some(match level {
                log::LevelFilter::Off => -1,
                log::LevelFilter::Error => 0,
                log::LevelFilter::Warn => 1,
                log::LevelFilter::Info => 2,
                log::LevelFilter::Debug => 3,
                log::LevelFilter::Trace => 4,
            });
            self
        }
    };
}
pub(crate) use env_setters;

/// DPDK takes one string of all raw arguments.
fn join(args: &[String]) -> Option<String> {
    (!args.is_empty()).then(|| args.join(" "))
}

/// The addresses in memory that C frees.
fn pci_addrs(texts: &[String]) -> Result<*mut sys::spdk_pci_addr> {
    if texts.is_empty() {
        return Ok(ptr::null_mut());
    }
    let mut parsed = Vec::with_capacity(texts.len());
    for text in texts {
        let mut addr = sys::spdk_pci_addr::default();
        let c = CString::new(text.as_str()).unwrap_or_default();
        // SAFETY: the text ends in NUL, and both live through the call.
        if unsafe { sys::spdk_pci_addr_parse(&raw mut addr, c.as_ptr()) } != 0 {
            let form = "write it as 0000:01:00.0";
            return Err(Error::Invalid(format!("'{text}' is no PCI address: {form}")));
        }
        parsed.push(addr);
    }
    // SAFETY: asks for memory, and fills it with as many values as it has room for.
    unsafe {
        let list = libc::malloc(size_of_val(&parsed[..])).cast::<sys::spdk_pci_addr>();
        if list.is_null() {
            return Err(Error::NoMemory("the list of PCI addresses".into()));
        }
        ptr::copy_nonoverlapping(parsed.as_ptr(), list, parsed.len());
        Ok(list)
    }
}

fn forever(what: &str, bytes: Vec<u8>) -> Result<*mut c_char> {
    let text = CString::new(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).into_owned();
        Error::Invalid(format!("{what} {text:?} contains a NUL byte: remove it"))
    })?;
    Ok(text.into_raw())
}

fn text(what: &str, text: Option<&str>) -> Result<*const c_char> {
    let Some(text) = text else { return Ok(ptr::null()) };
    Ok(forever(what, text.as_bytes().to_vec())?.cast_const())
}

fn path(what: &str, path: Option<&OsString>) -> Result<*const c_char> {
    let Some(path) = path else { return Ok(ptr::null()) };
    Ok(forever(what, path.clone().into_vec())?.cast_const())
}

fn number(what: &str, value: Option<u32>) -> Result<i32> {
    let Some(value) = value else { return Ok(-1) };
    i32::try_from(value)
        .map_err(|_| Error::Invalid(format!("{what} is {value}: it must be below {}", i32::MAX)))
}
