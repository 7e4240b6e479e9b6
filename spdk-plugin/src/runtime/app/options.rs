//! What SPDK's app framework is told, as C wants it.

use std::ffi::{CString, OsString, c_char};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};

/// Values that the builder collects. `None` and `false` leave SPDK its default.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) name: Option<String>,
    pub(super) config_file: Option<OsString>,
    pub(super) json_data: Option<String>,
    pub(super) ignore_config_errors: bool,
    pub(super) rpc_addr: Option<String>,
    pub(super) no_rpc: bool,
    pub(super) reactor_mask: Option<String>,
    pub(super) main_core: Option<u32>,
    pub(super) mem_size_mb: Option<u32>,
    pub(super) mem_channels: Option<u32>,
    pub(super) shm_id: Option<u32>,
    pub(super) no_pci: bool,
    pub(super) no_huge: bool,
    pub(super) hugepage_single_segments: bool,
    pub(super) unlink_hugepages: bool,
    pub(super) huge_dir: Option<OsString>,
    pub(super) iova_mode: Option<String>,
    pub(super) base_virtaddr: Option<u64>,
    pub(super) eal_args: Vec<String>,
    pub(super) pci: Vec<String>,
    pub(super) pci_blocked: bool,
    pub(super) log_level: Option<i32>,
    pub(super) trace_entries: Option<u64>,
    pub(super) wait_for_rpc: bool,
    pub(super) no_core_dumps: bool,
    pub(super) no_signal_handlers: bool,
    pub(super) no_core_locks: bool,
    pub(super) interrupt_mode: bool,
    pub(super) args: Vec<OsString>,
}

/// The options in C's form. SPDK keeps pointers to some of the strings until the process ends, so they
/// are never freed.
pub(super) struct Raw {
    pub(super) opts: sys::spdkp_app_opts,
    pub(super) argc: i32,
    pub(super) argv: *mut *mut c_char,
}

impl Options {
    pub(super) fn raw(&self, json_file: Option<OsString>) -> Result<Raw> {
        let name = self.name.as_deref().unwrap_or("spdk_plugin");
        if name.is_empty() || name.contains('/') {
            let why = "it must not be empty or contain '/', as files are named after it";
            return Err(Error::Invalid(format!("'{name}' is no name of an app: {why}")));
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
        let opts = sys::spdkp_app_opts {
            name: text("name", Some(name))?,
            json_file: path("config_file", file)?,
            json: json.map_or(ptr::null(), |json| json.as_ptr().cast()),
            json_len: json.map_or(0, str::len),
            rpc_addr: text("rpc_addr", self.rpc_addr.as_deref())?,
            reactor_mask: text("reactor_mask", self.reactor_mask.as_deref())?,
            huge_dir: path("huge_dir", self.huge_dir.as_ref())?,
            iova_mode: text("iova_mode", self.iova_mode.as_deref())?,
            env_context: text("eal_args", join(&self.eal_args).as_deref())?,
            pci_addrs: ptr::null_mut(),
            num_pci_addrs: 0,
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
            unlink_hugepages: self.unlink_hugepages,
            wait_for_rpc: self.wait_for_rpc,
            no_coredump: self.no_core_dumps,
            no_signal_handlers: self.no_signal_handlers,
            no_core_locks: self.no_core_locks,
            interrupt_mode: self.interrupt_mode,
        };
        Ok(Raw { opts, argc, argv: argv.leak().as_mut_ptr() })
    }
}

/// DPDK takes one string of all raw arguments.
fn join(args: &[String]) -> Option<String> {
    (!args.is_empty()).then(|| args.join(" "))
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
