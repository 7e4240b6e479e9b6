//! Keys that SPDK keeps (`spdk/keyring.h`). SPDK 24.05 or later.

use std::ffi::CString;
use std::ptr;

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};

/// Copies the key called `name` into `buf` and gives its length. In `keyring0:key0` the part before the colon
/// names the keyring; without it the key is looked for in the global one.
///
/// The key is fetched anew by every call, from a file or wherever the keyring's module has it. What to do
/// with the copy, and that nobody finds it afterwards, is the caller's business.
///
/// # Errors
/// [`Error::Unsupported`] before SPDK 24.05, [`Error::NotFound`] when there is no such key or the program has
/// no keyring, [`Error::Errno`] when the key cannot be fetched or is longer than `buf`; SPDK's log says why.
pub fn read(name: &str, buf: &mut [u8]) -> Result<usize> {
    let what = || format!("key {name:?} of the keyring");
    let c_name = CString::new(name)
        .map_err(|_| Error::Invalid(format!("{} cannot be: it has a NUL in it", what())))?;
    let len = i32::try_from(buf.len()).unwrap_or(i32::MAX);
    let mut needs = ptr::null();
    // SAFETY: the buffer has `len` bytes; the name is a C string.
    let rc = unsafe {
        sys::spdkp_keyring_read(c_name.as_ptr(), buf.as_mut_ptr().cast(), len, &raw mut needs)
    };
    if !needs.is_null() {
        // SAFETY: both are literals.
        return Err(unsafe { Error::lacking(c"a key of the keyring".as_ptr(), needs) });
    }
    match usize::try_from(rc) {
        Ok(len) => Ok(len),
        Err(_) if rc == -libc::ENOSYS => Err(Error::NotFound(format!(
            "there is no {}: this program is linked without SPDK's keyring",
            what()
        ))),
        Err(_) if rc == -libc::ENOKEY => Err(Error::NotFound(format!("there is no {}", what()))),
        Err(_) => Err(Error::from_rc(what(), rc)),
    }
}
