//! SPDK's subsystems without its app framework (`spdk/init.h`).

use std::ffi::{CString, OsString, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::handle::CurrentThread;
use super::own::SpdkThread;
use super::{config, env, on_app_thread};
use crate::error::{Error, Result};

/// How long subsystems may take to stop when nobody waits for them.
const STOP: Duration = Duration::from_secs(10);

const NEVER: u8 = 0;
const STARTING: u8 = 1;
const UP: u8 = 2;
const STOPPING: u8 = 3;
const OVER: u8 = 4;

static STATE: AtomicU8 = AtomicU8::new(NEVER);
/// The number of the thread that they run on.
static THREAD: AtomicU64 = AtomicU64::new(0);

/// SPDK's subsystems (bdev and all the others that are linked in), for a program that owns its main loop:
/// what [`SpdkApp`](crate::SpdkApp) does by itself. They run on the app thread, the first
/// [`SpdkThread`](crate::SpdkThread) of the program, once a process.
///
/// ```no_run
/// use spdk_plugin::{SpdkEnv, SpdkThread, Subsystems};
///
/// # fn main() -> spdk_plugin::Result<()> {
/// let env = SpdkEnv::builder().no_pci(true).init()?;
/// let thread = SpdkThread::current("app")?;
/// thread.block_on(async {
///     let subsystems = Subsystems::builder().config_file("config.json").start().await?;
///     // Bdevs are there.
///     subsystems.stop().await
/// })?
/// # }
/// ```
///
/// Dropped without [`stop`](Self::stop), they begin to stop, and the app thread ends them when it goes.
#[derive(Debug)]
#[must_use = "subsystems stop with the guard"]
pub struct Subsystems {
    _not_send: PhantomData<*const ()>,
}

/// Describes how [`Subsystems`] are to start.
#[derive(Clone, Debug, Default)]
#[must_use = "a description starts nothing"]
pub struct SubsystemsBuilder {
    config_file: Option<OsString>,
    json_data: Option<String>,
    ignore_config_errors: bool,
    rpc_addr: Option<String>,
}

impl SubsystemsBuilder {
    /// A JSON configuration file, as `save_config` writes it.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Self {
        self.config_file = Some(path.as_ref().into());
        self
    }

    /// The text of a JSON configuration, in place of a file. It never lies on a disk.
    pub fn json_data(mut self, json: impl Into<String>) -> Self {
        self.json_data = Some(json.into());
        self
    }

    /// Goes on when a call of the configuration fails.
    pub fn ignore_config_errors(mut self, ignore: bool) -> Self {
        self.ignore_config_errors = ignore;
        self
    }

    /// Serves RPCs there when all is up: the path of a Unix socket. No RPC server by default.
    pub fn rpc_addr(mut self, address: impl Into<String>) -> Self {
        self.rpc_addr = Some(address.into());
        self
    }

    /// Starts all subsystems in the order of what they need, runs the configuration, and then the RPC
    /// server. Dropping the future does not stop it.
    ///
    /// # Errors
    /// [`Error::WrongThread`] on another than the app thread, or under an app, which has them already;
    /// [`Error::Exists`] when they were started before; [`Error::Errno`] when a subsystem, a call of the
    /// configuration or the RPC server fails: SPDK's log says which. What has started is stopped then.
    pub async fn start(self) -> Result<Subsystems> {
        if !env::is_ours() {
            let why = "subsystems are started by the app framework here: they run already";
            return Err(Error::WrongThread(why.into()));
        }
        let rpc = self.rpc_addr.map(|addr| text("rpc_addr", addr.into_bytes())).transpose()?;
        let config = match (self.config_file, self.json_data) {
            (Some(_), Some(_)) => {
                let why = "config_file and json_data exclude each other: give one";
                return Err(Error::Invalid(why.into()));
            }
            (Some(path), None) => Some(config::read(&path)?),
            (None, json) => json.map(String::into_bytes),
        };
        let file = config::file_if_needed(config.as_deref())?;
        let path = file.as_ref().map(|file| text("path", config::path(file).into_vec()));
        let path = path.transpose()?;
        if !on_app_thread() {
            let why = "subsystems are started on the app thread, the first of the program's";
            return Err(Error::WrongThread(why.into()));
        }
        let current = CurrentThread::need("starting subsystems")?;
        if STATE.compare_exchange(NEVER, STARTING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let why = "subsystems start once a process, and they have been started";
            return Err(Error::Exists(why.into()));
        }
        THREAD.store(current.id(), Ordering::Release);
        let (sender, result) = oneshot::channel::<i32>();
        let raw = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        // SAFETY: on the app thread. C copies the configuration and reads the file, which the future or
        // `Started` keeps open, before it calls `on_started`, once.
        unsafe {
            let ctx = Box::new(Started { sender, _file: file, _path: path.clone() });
            sys::spdkp_subsystems_start(
                config.as_ref().map_or(ptr::null(), |json| json.as_ptr().cast()),
                config.as_ref().map_or(0, Vec::len),
                raw(&ctx._path),
                raw(&rpc),
                !self.ignore_config_errors,
                Some(on_started),
                Box::into_raw(ctx).cast(),
            );
        }
        let mut rc = result.await.unwrap_or(-libc::ECANCELED);
        let subsystems = Subsystems { _not_send: PhantomData };
        if let (0, Some(rpc)) = (rc, &rpc) {
            // SAFETY: SPDK copies the address.
            rc = unsafe { sys::spdkp_rpc_start(rpc.as_ptr()) };
        }
        if rc == 0 {
            return Ok(subsystems);
        }
        subsystems.stop().await?;
        Err(Error::from_rc("starting SPDK's subsystems", rc))
    }
}

impl Subsystems {
    /// Describes how they are to start.
    pub fn builder() -> SubsystemsBuilder {
        SubsystemsBuilder::default()
    }

    /// Stops the RPC server and then all subsystems, in reverse order. A bdev waits until the last
    /// descriptor on it is closed.
    ///
    /// # Errors
    /// [`Error::WrongThread`] when it is not awaited on the app thread.
    pub async fn stop(self) -> Result<()> {
        std::mem::forget(self);
        if !on_app_thread() {
            return Err(Error::WrongThread("subsystems are stopped on the app thread".into()));
        }
        if let Some(over) = begin_stop() {
            let _ = over.await;
        }
        Ok(())
    }
}

impl Drop for Subsystems {
    fn drop(&mut self) {
        if on_app_thread() {
            drop(begin_stop());
        }
    }
}

struct Started {
    sender: oneshot::Sender<i32>,
    _file: Option<std::fs::File>,
    _path: Option<CString>,
}

unsafe extern "C" fn on_started(rc: i32, ctx: *mut c_void) {
    // SAFETY: `start` boxed it, and this is the one call.
    let started = unsafe { Box::from_raw(ctx.cast::<Started>()) };
    // Also when some have not started: those that have must stop.
    STATE.store(UP, Ordering::Release);
    // If nobody waits, the app thread stops them when it goes.
    let _ = started.sender.send(rc);
}

/// On the app thread. `None`: they are not up.
fn begin_stop() -> Option<oneshot::Receiver<()>> {
    STATE.compare_exchange(UP, STOPPING, Ordering::AcqRel, Ordering::Acquire).ok()?;
    let (sender, over) = oneshot::channel::<()>();
    // SAFETY: on the app thread, on which they were started; `on_stopped` takes the box, once.
    unsafe {
        sys::spdkp_rpc_stop();
        sys::spdkp_subsystems_stop(Some(on_stopped), Box::into_raw(Box::new(sender)).cast());
    }
    Some(over)
}

unsafe extern "C" fn on_stopped(ctx: *mut c_void) {
    // SAFETY: `begin_stop` boxed it, and this is the one call.
    let sender = unsafe { Box::from_raw(ctx.cast::<oneshot::Sender<()>>()) };
    STATE.store(OVER, Ordering::Release);
    // If nobody waits, nobody wants to know.
    let _ = sender.send(());
}

/// Whether the program has subsystems, but no app to stop when one of them fails.
pub(crate) fn without_app() -> bool {
    STATE.load(Ordering::Acquire) != NEVER
}

/// The thread is about to exit: ends what runs on it. False when that takes too long.
pub(super) fn end_on(thread: &SpdkThread) -> bool {
    if THREAD.load(Ordering::Acquire) != thread.id() {
        return true;
    }
    let deadline = Instant::now() + STOP;
    loop {
        match STATE.load(Ordering::Acquire) {
            NEVER | OVER => return true,
            UP => drop(thread.with_current(begin_stop)),
            _ if Instant::now() >= deadline => return false,
            _ => thread.turn(),
        }
    }
}

fn text(what: &str, bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::Invalid(format!("{what} has a NUL byte: remove it")))
}
