//! An application with SPDK linked in (`spdk/event.h`).

use std::ffi::{CString, c_char};
use std::process::ExitCode;

use spdk_plugin_sys as sys;

/// Runs SPDK's app framework until it is told to stop, and returns the code to exit with.
///
/// It takes SPDK's usual command line (`-m`, `-s`, `-r`, `-c`/`--json`, `--wait-for-rpc`...), so that a
/// `main` of one line is an `spdk_tgt` of one's own, with the modules that
/// [`spdk_plugin!`](crate::spdk_plugin) names.
pub fn run(name: &str) -> ExitCode {
    let c = |text: Vec<u8>| CString::new(text).unwrap_or_default();
    let name = c(name.into());
    let args: Vec<CString> =
        std::env::args_os().map(|arg| c(std::os::unix::ffi::OsStringExt::into_vec(arg))).collect();
    // SPDK keeps pointers into both until the process ends.
    let mut argv: Vec<*mut c_char> = args.leak().iter().map(|a| a.as_ptr().cast_mut()).collect();
    let argc = i32::try_from(argv.len()).unwrap_or(i32::MAX);
    argv.push(std::ptr::null_mut());
    // SAFETY: `argv` has `argc` strings and ends in NULL, as `main`'s does.
    let rc = unsafe { sys::spdkp_app_main(argc, argv.leak().as_mut_ptr(), name.into_raw()) };
    if rc == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
