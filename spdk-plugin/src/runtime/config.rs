//! Configurations on their way to SPDK.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};

fn failed(what: String, error: &io::Error) -> Error {
    Error::Errno { what, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// The configuration in a file, for releases that do not take it from memory, before 24.05.
pub(super) fn file_if_needed(json: Option<&[u8]>) -> Result<Option<File>> {
    // SAFETY: asks what release this is.
    let in_memory = unsafe { sys::spdkp_app_json_in_memory() };
    json.filter(|_| !in_memory).map(private_file).transpose()
}

/// A file of this process's own, which has no name on a disk and goes when it is closed.
fn private_file(bytes: &[u8]) -> Result<File> {
    let failed = |error| failed("a file for the configuration".into(), &error);
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"spdk_plugin_config".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and ours.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).map_err(failed)?;
    Ok(file)
}

/// Where this process finds such a file.
pub(super) fn path(file: &File) -> OsString {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

pub(super) fn read(path: &OsStr) -> Result<Vec<u8>> {
    let name = path.to_string_lossy();
    std::fs::read(path).map_err(|error| failed(format!("reading the configuration {name}"), &error))
}
