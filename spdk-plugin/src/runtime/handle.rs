//! Reaching SPDK threads (`spdk/thread.h`): the current one, and others by a handle.

use std::ffi::{CStr, c_void};
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::cpuset::CpuSet;
use super::home::HomeRef;
use super::task::spawn;
use super::{env, thread};
use crate::error::{Error, Result};
use crate::guard::catch;

/// The SPDK thread that the code runs on. It stays on it.
///
/// ```no_run
/// use spdk_plugin::CurrentThread;
///
/// if let Some(thread) = CurrentThread::get() {
///     println!("{} has the number {}", thread.name(), thread.id());
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CurrentThread {
    raw: *mut sys::spdk_thread,
    id: u64,
    _not_send: PhantomData<*const ()>,
}

impl CurrentThread {
    /// The current thread; `None` on an OS thread that runs none of SPDK's now (`spdk_get_thread`).
    pub fn get() -> Option<Self> {
        // SAFETY: reads a thread-local of SPDK's; the current thread is alive.
        unsafe {
            let raw = sys::spdk_get_thread();
            let id = (!raw.is_null()).then(|| sys::spdk_thread_get_id(raw))?;
            Some(Self { raw, id, _not_send: PhantomData })
        }
    }

    /// As [`get`](Self::get), with an error that says what was to be done.
    pub(crate) fn need(what: &str) -> Result<Self> {
        Self::get().ok_or_else(|| {
            Error::WrongThread(format!("{what} is for SPDK threads, and this OS thread runs none"))
        })
    }

    /// The thread as SPDK has it, while it is the current one.
    fn live(&self) -> Result<*mut sys::spdk_thread> {
        match Self::get() {
            Some(now) if now.id == self.id => Ok(self.raw),
            _ => Err(Error::WrongThread(format!("thread {} is not the current one now", self.id))),
        }
    }

    /// The handle by which others reach the thread.
    pub fn handle(&self) -> ThreadHandle {
        ThreadHandle { id: self.id, name: self.name() }
    }

    /// SPDK's number of the thread, which no later thread has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The thread's name; empty when it is the current one no more.
    pub fn name(&self) -> String {
        // SAFETY: a thread that is current is alive, and keeps its name.
        self.live().map_or(String::new(), |raw| unsafe { name_of(raw) })
    }

    /// Whether it is the app thread, on which bdevs come and go.
    pub fn is_app_thread(&self) -> bool {
        self.live().is_ok() && thread::on_app_thread()
    }

    /// How busy the current thread has been (`spdk_thread_get_stats`).
    pub fn stats(&self) -> ThreadStats {
        let mut raw = sys::spdk_thread_stats::default();
        // SAFETY: the place for the answer lives through the call; SPDK refuses where no thread of its
        // is current.
        let (rc, hz) =
            unsafe { (sys::spdk_thread_get_stats(&raw mut raw), sys::spdk_get_ticks_hz()) };
        let time = |ticks: u64| match rc {
            0 => Duration::from_secs_f64(ticks as f64 / hz.max(1) as f64),
            _ => Duration::ZERO,
        };
        ThreadStats { busy: time(raw.busy_tsc), idle: time(raw.idle_tsc) }
    }

    /// The cores that the thread may run on (`spdk_thread_get_cpumask`).
    pub fn affinity(&self) -> CpuSet {
        // SAFETY: a thread that is current is alive; the set is its own.
        self.live().map_or(CpuSet::new(), |raw| unsafe {
            CpuSet::from_raw(sys::spdk_thread_get_cpumask(raw))
        })
    }

    /// Has the thread run on these cores from its next turn on (`spdk_thread_set_cpumask`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when none of them is a [core](super::cores) of the program, or when the
    /// program polls its threads itself.
    ///
    /// # Safety
    /// What is on the thread, tasks and pollers and what they own, shares nothing that is not `Send` with
    /// other SPDK threads, as a `thread_local!` of the OS thread may: from now on it may run beside them.
    pub unsafe fn set_affinity(&self, cores: &CpuSet) -> Result<()> {
        self.live()?;
        if env::is_ours() {
            let why = "no reactors move it: poll it on the OS thread that you want";
            return Err(Error::Invalid(format!("thread {} stays where it is: {why}", self.name())));
        }
        if !super::cores().iter().any(|core| cores.contains(core)) {
            return Err(Error::Invalid(format!("{cores} has none of the program's cores")));
        }
        // SAFETY: on the thread itself; SPDK copies the set.
        match cores.with_raw(|raw| unsafe { sys::spdk_thread_set_cpumask(raw) }) {
            0 => Ok(()),
            rc => Err(Error::from_rc(format!("moving thread {} to {cores}", self.name()), rc)),
        }
    }
}

/// # Safety
/// The thread is alive.
unsafe fn name_of(raw: *mut sys::spdk_thread) -> String {
    // SAFETY: says the caller; a thread keeps its name.
    unsafe { CStr::from_ptr(sys::spdk_thread_get_name(raw)) }.to_string_lossy().into_owned()
}

/// How a thread has spent its time since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadStats {
    /// In pollers and messages that had something to do.
    pub busy: Duration,
    /// In those that had not.
    pub idle: Duration,
}

/// Reaches an SPDK thread from any other thread, be it SPDK's or not. It does not keep the thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThreadHandle {
    id: u64,
    name: String,
}

impl ThreadHandle {
    /// # Safety
    /// The thread is alive.
    pub(crate) unsafe fn of(raw: *mut sys::spdk_thread) -> Self {
        // SAFETY: says the caller.
        unsafe { Self { id: sys::spdk_thread_get_id(raw), name: name_of(raw) } }
    }

    /// SPDK's number of the thread.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The thread's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the thread has not ended.
    pub fn is_alive(&self) -> bool {
        thread::is_alive(self.id)
    }

    /// Runs `function` on the thread, later (`spdk_thread_send_msg`). A panic goes to the log. If the
    /// thread ends before it comes to it, `function` may be left undropped.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the thread has ended, [`Error::NoMemory`] when SPDK is short of messages.
    pub fn send(&self, function: impl FnOnce() + Send + 'static) -> Result<()> {
        let ctx: *mut Message = Box::into_raw(Box::new(Box::new(function)));
        // SAFETY: `run` takes the box, once.
        let rc = unsafe { thread::send_to(self.id, run, ctx.cast()) };
        if rc == 0 {
            return Ok(());
        }
        // SAFETY: the message was not sent, so the box is still ours.
        drop(unsafe { Box::from_raw(ctx) });
        Err(match -rc {
            libc::ESRCH | libc::ESHUTDOWN => self.gone(),
            _ => Error::from_rc(format!("a message to thread {}", self.name), rc),
        })
    }

    /// Has the thread make a future of `function` and run it, and gives what the future returns.
    /// Dropping what this returns does not stop it.
    ///
    /// ```no_run
    /// # async fn example(worker: spdk_plugin::ThreadHandle) -> spdk_plugin::Result<()> {
    /// let sum = worker.call(|| async { 40 + 2 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`send`](Self::send); [`Error::Stopped`] when the thread ends before the future,
    /// [`Error::Panicked`] when the future does.
    pub fn call<F, T, G>(
        &self,
        function: G,
    ) -> impl Future<Output = Result<T>> + Send + 'static + use<F, T, G>
    where
        G: FnOnce() -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        let sent = self.send(move || {
            let Some(home) = HomeRef::current() else { return };
            spawn(home, "a call from another thread", async move {
                let reply = Reply(Some(reply));
                let value = function().await;
                reply.give(Ok(value));
            });
        });
        let gone = self.gone();
        async move {
            sent?;
            result.await.unwrap_or(Err(gone))
        }
    }

    fn gone(&self) -> Error {
        Error::Stopped(format!("thread {} has ended", self.name))
    }
}

/// Says that the future has panicked, if it unwinds.
struct Reply<T>(Option<oneshot::Sender<Result<T>>>);

impl<T> Reply<T> {
    fn give(mut self, result: Result<T>) {
        if let Some(sender) = self.0.take() {
            // If nobody waits, nobody wants it.
            let _ = sender.send(result);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take().filter(|_| std::thread::panicking()) {
            let _ = sender.send(Err(Error::Panicked("a call on another thread".into())));
        }
    }
}

type Message = Box<dyn FnOnce() + Send>;

unsafe extern "C" fn run(ctx: *mut c_void) {
    // SAFETY: `send` boxed it, and this is the one call.
    let function = unsafe { Box::from_raw(ctx.cast::<Message>()) };
    let Some(home) = HomeRef::current() else { return };
    // A panic is logged, and dropping what the function held tells whoever waits.
    home.get().enter(|| drop(catch("a message", function)));
}
