//! How an app is described.

use std::cell::Cell;
use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use super::life;
use crate::error::{Error, Result};
use crate::runtime::config;
use crate::runtime::home::HomeRef;
use crate::runtime::options::{Options, env_setters};
use crate::runtime::task::spawn;

/// Describes an [`SpdkApp`](super::SpdkApp).
///
/// What is not said is SPDK's own default: one core, the RPC socket `/var/tmp/spdk.sock`, hugepages.
///
/// ```no_run
/// use spdk_plugin::SpdkApp;
///
/// # fn main() -> spdk_plugin::Result<()> {
/// let sum = SpdkApp::builder()
///     .name("sum")
///     .reactor_mask("0x3")
///     .json_data(r#"{ "subsystems": [] }"#)
///     .block_on(async { Ok(1 + 1) })?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a description starts nothing"]
pub struct SpdkAppBuilder {
    options: Options,
}

impl SpdkAppBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The app's name, which its log and its shared memory are named after. `spdk_plugin` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// A JSON configuration file, as `save_config` writes it. The app ends if one of its calls fails.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Self {
        self.options.config_file = Some(path.as_ref().into());
        self
    }

    /// The text of a JSON configuration, in place of a file. It never lies on a disk.
    pub fn json_data(mut self, json: impl Into<String>) -> Self {
        self.options.json_data = Some(json.into());
        self
    }

    /// Goes on when a call of the configuration fails.
    pub fn ignore_config_errors(mut self, ignore: bool) -> Self {
        self.options.ignore_config_errors = ignore;
        self
    }

    /// The cores of the app, as a mask (`0x3`) or a list (`[0,1]`). Core 0 alone by default.
    pub fn reactor_mask(mut self, mask: impl Into<String>) -> Self {
        self.options.reactor_mask = Some(mask.into());
        self
    }

    env_setters!();

    /// Runs in ordinary memory: slower to start, and no DMA of real devices. Say how much with
    /// [`mem_size_mb`](Self::mem_size_mb). Needs SPDK 21.10.
    pub fn no_huge(mut self, no_huge: bool) -> Self {
        self.options.no_huge = no_huge;
        self
    }

    /// Where the RPC server listens: the path of a Unix socket.
    pub fn rpc_addr(mut self, address: impl Into<String>) -> Self {
        self.options.rpc_addr = Some(address.into());
        self.options.no_rpc = false;
        self
    }

    /// Starts no RPC server.
    pub fn no_rpc(mut self) -> Self {
        self.options.rpc_addr = None;
        self.options.no_rpc = true;
        self
    }

    /// Entries of the trace buffer of each core, a power of two; 0 for none. (SPDK 20.07 takes 0 for
    /// one.)
    pub fn trace_entries(mut self, entries: u64) -> Self {
        self.options.trace_entries = Some(entries);
        self
    }

    /// Starts the subsystems when the RPC `framework_start_init` comes; until then the RPCs of the
    /// startup state alone can be called.
    pub fn wait_for_rpc(mut self, wait: bool) -> Self {
        self.options.wait_for_rpc = wait;
        self
    }

    /// The same as [`wait_for_rpc`](Self::wait_for_rpc), under SPDK's name for the option.
    pub fn delay_subsystem_init(self, delay: bool) -> Self {
        self.wait_for_rpc(delay)
    }

    /// Leaves the limit of core dumps as it is; SPDK raises it otherwise.
    pub fn limit_core_dumps(mut self, limit: bool) -> Self {
        self.options.no_core_dumps = limit;
        self
    }

    /// Leaves SIGINT and SIGTERM to the program. Needs SPDK 21.10.
    pub fn no_signal_handlers(mut self, none: bool) -> Self {
        self.options.no_signal_handlers = none;
        self
    }

    /// Lets other SPDK programs use the same cores: SPDK locks them from 23.01 on.
    pub fn no_core_locks(mut self, none: bool) -> Self {
        self.options.no_core_locks = none;
        self
    }

    /// Sleeps until there is something to do, in place of polling. Needs SPDK 24.01.
    pub fn interrupt_mode(mut self, interrupt: bool) -> Self {
        self.options.interrupt_mode = interrupt;
        self
    }

    /// Takes SPDK's usual options (`-m`, `-s`, `-r`, `-c`, `--json`, `--wait-for-rpc`...) from a command
    /// line, whose first element is the program's name. They go over what the builder was told.
    ///
    /// As with most parsers of command lines, `--help`, `--version` and an option that does not exist
    /// end the process.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.options.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Starts the app, calls `start` on the app thread, and returns when the app was told to
    /// [stop](super::SpdkApp::stop), by `start` or by whomever, or got SIGINT or SIGTERM.
    ///
    /// # Errors
    /// [`Error::WrongThread`] inside an SPDK program, [`Error::Exists`] when the process has had an SPDK
    /// environment, [`Error::Invalid`] and [`Error::Unsupported`] for options that cannot be,
    /// [`Error::Errno`] when SPDK does not start; its log says why.
    pub fn run(self, start: impl FnOnce()) -> Result<()> {
        match self.start(Box::new(start))? {
            0 => Ok(()),
            rc => Err(failed(rc)),
        }
    }

    /// Starts the app, runs `future` on the app thread, and stops the app when it is ready.
    ///
    /// # Errors
    /// What the future returns, or [`Error::Stopped`] when the app ended before it: it was told to
    /// [stop](super::SpdkApp::stop), or got SIGINT or SIGTERM. [`Error::Panicked`] when the future did.
    /// Otherwise as [`run`](Self::run).
    pub fn block_on<T>(self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let result = Rc::new(Cell::new(None));
        let (keep, panicked) = (Rc::clone(&result), Rc::new(Cell::new(false)));
        let fell = Rc::clone(&panicked);
        let task = async move {
            let _stop = StopOnDrop(fell);
            keep.set(Some(future.await));
        };
        let task: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(task);
        // SAFETY: the task is polled and dropped on SPDK's threads alone, which `start` waits for; if it
        // was left there, nobody ever looks at it again.
        let task: Pin<Box<dyn Future<Output = ()>>> = unsafe { std::mem::transmute(task) };
        let rc = self.start(Box::new(move || {
            if let Some(home) = HomeRef::current() {
                spawn(home, "the future of the app", task);
            }
        }))?;
        match result.take() {
            Some(result) => result,
            None if panicked.get() => Err(Error::Panicked("the future of the app".into())),
            None if rc != 0 => Err(failed(rc)),
            None => Err(Error::Stopped("the app was told to stop before its future ended".into())),
        }
    }

    fn start<'a>(self, start: Box<dyn FnOnce() + 'a>) -> Result<i32> {
        let json = self.options.json_data.as_ref().map(String::as_bytes);
        let file = config::file_if_needed(json)?;
        life::run(&self.options.raw(file.as_ref().map(config::path))?, start)
    }
}

/// Has the app stop when its future has ended, one way or another.
struct StopOnDrop(Rc<Cell<bool>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set(std::thread::panicking());
        life::end_here();
    }
}

fn failed(rc: i32) -> Error {
    let rc = if rc < 0 { rc } else { -libc::EIO };
    Error::from_rc("SPDK did not start or had to stop, and its log says why", rc)
}
