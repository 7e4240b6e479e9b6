//! SPDK's log (`spdk/log.h`), reached through the macros of the [`log`](https://docs.rs/log) crate.
//!
//! `log::error!`, `warn!`, `info!` (SPDK calls it NOTICE), `debug!` and `trace!` of a plugin go where
//! the host's own messages go, under the level that the operator set.

use std::ffi::CString;

use spdk_plugin_sys as sys;

/// SPDK's log levels.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Error = 0,
    Warn = 1,
    Notice = 2,
    Info = 3,
    Debug = 4,
}

/// Writes one line. A NUL in the text ends it.
pub(crate) fn write(level: Level, file: &str, line: u32, message: &str) {
    let c = |text: &str| {
        let end = text.find('\0').unwrap_or(text.len());
        CString::new(&text[..end]).unwrap_or_default()
    };
    let file = c(file.rsplit('/').next().unwrap_or(file));
    let line = i32::try_from(line).unwrap_or(0);
    let message = c(message);
    // SAFETY: the strings end in NUL and live through the call.
    unsafe {
        sys::spdkp_log(level as i32, file.as_ptr(), line, c"rust".as_ptr(), message.as_ptr());
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Notice,
            log::Level::Debug => Level::Info,
            log::Level::Trace => Level::Debug,
        };
        let file = record.file().unwrap_or("?");
        write(level, file, record.line().unwrap_or(0), &record.args().to_string());
    }

    fn flush(&self) {}
}

/// Makes the `log` crate of this artefact write to SPDK, unless the app set a logger of its own.
pub(crate) fn install() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
