//! SPDK threads that the program polls itself (`spdk/thread.h`).

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use spdk_plugin_sys as sys;

use super::drive::Link;
use super::env::{self, Share};
use super::handle::{CurrentThread, ThreadHandle, ThreadStats};
use super::home::HomeRef;
use super::poller::PollStatus;
use super::{fostered, subsystems, task, thread, turn};
use crate::error::{Error, Result};
use crate::guard::catch;

/// How long a thread that goes may take to come to rest before it is told to exit.
const REST: Duration = Duration::from_secs(5);

/// SPDK threads of the program's own, of which the last to go ends the thread library.
static LIBRARY: Mutex<usize> = Mutex::new(0);

thread_local! {
    /// The SPDK thread that this OS thread is inside a poll of.
    static POLLING: Cell<*mut sys::spdk_thread> = const { Cell::new(ptr::null_mut()) };
    /// That thread, if it was dropped meanwhile.
    static DROPPED: RefCell<Option<SpdkThread>> = const { RefCell::new(None) };
}

/// While it lives, nothing else polls on this OS thread.
pub(super) struct Polling(());

impl Polling {
    pub(super) fn begin(thread: *mut sys::spdk_thread) -> Option<Self> {
        POLLING.get().is_null().then(|| {
            POLLING.set(thread);
            Self(())
        })
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        POLLING.set(ptr::null_mut());
        // Where thread-locals are gone, nothing was put there either.
        let dropped = DROPPED.try_with(|dropped| dropped.borrow_mut().take());
        drop(dropped);
    }
}

/// Polls a thread, and those that it fosters.
///
/// # Safety
/// The thread is alive, and of this OS thread; it is not being polled.
pub(super) unsafe fn poll(thread: *mut sys::spdk_thread, messages: u32) -> bool {
    turn::within(|| {
        // SAFETY: says the caller; the other reads a pointer of SPDK's.
        let (rc, app) =
            unsafe { (sys::spdk_thread_poll(thread, messages, 0), sys::spdkp_app_thread()) };
        let busy = app == thread && fostered::poll();
        rc > 0 || busy
    })
}

/// An SPDK thread that the program polls itself, in a main loop of its own, under an
/// [`SpdkEnv`](crate::SpdkEnv). It stays on the OS thread that made it.
///
/// Dropped, it drops the tasks that are left on it, is polled until it has exited, and is freed; the
/// last one ends SPDK's thread library. The first one is the app thread, on which bdevs come and go; let
/// it be the last to go.
///
/// ```no_run
/// use spdk_plugin::{SpdkEnv, SpdkThread};
///
/// # fn main() -> spdk_plugin::Result<()> {
/// let env = SpdkEnv::init()?;
/// let thread = SpdkThread::current("main")?;
/// let worker = SpdkThread::spawn("worker", |thread| thread.block_on(async { 40 + 2 }))?;
/// println!("{}", worker.join()??);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SpdkThread {
    raw: *mut sys::spdk_thread,
    handle: ThreadHandle,
    attached: bool,
    /// What its drivers hold.
    link: Rc<Link>,
    _env: Share,
    _not_send: PhantomData<*const ()>,
}

impl SpdkThread {
    /// Makes a thread that is current only while it is [polled](Self::poll) (`spdk_thread_create`).
    ///
    /// # Errors
    /// [`Error::NotFound`] without an [`SpdkEnv`](crate::SpdkEnv): under an app reactors poll the threads;
    /// [`Error::NoMemory`]; [`Error::Invalid`] for a name with a NUL.
    pub fn new(name: &str) -> Result<Self> {
        Self::create(name, 0)
    }

    /// As [`new`](Self::new). If it is the first thread, SPDK gets room for this many messages, at 24 to
    /// 32 bytes each, in place of its 262,143.
    ///
    /// # Errors
    /// As for [`new`](Self::new); [`Error::Unsupported`] before SPDK 22.05.
    pub fn new_with_mempool_size(name: &str, messages: usize) -> Result<Self> {
        Self::create(name, messages)
    }

    /// Makes a thread that is the current one of this OS thread until it is dropped, so that what needs
    /// an SPDK thread can be called between polls (`spdk_set_thread`).
    ///
    /// # Errors
    /// As for [`new`](Self::new); [`Error::Exists`] when this OS thread has a current SPDK thread.
    pub fn current(name: &str) -> Result<Self> {
        if let Some(current) = CurrentThread::get() {
            let current = current.name();
            let why = format!("this OS thread has a current SPDK thread, {current}");
            return Err(Error::Exists(why));
        }
        let mut thread = Self::create(name, 0)?;
        thread.attached = true;
        // SAFETY: the thread is alive until it is dropped, which undoes this.
        unsafe { sys::spdk_set_thread(thread.raw) };
        Ok(thread)
    }

    fn create(name: &str, messages: usize) -> Result<Self> {
        let Some(share) = Share::new().filter(|_| env::is_ours()) else {
            return Err(Error::NotFound(format!(
                "thread {name} needs an SpdkEnv that is up: under an app, `spawn_on` a core instead"
            )));
        };
        let c_name = CString::new(name)
            .map_err(|_| Error::Invalid(format!("a thread's name has a NUL byte: {name:?}")))?;
        let mut threads = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
        if *threads == 0 {
            // SAFETY: the environment is up, and the library is not.
            match unsafe { sys::spdkp_thread_lib_init(messages, Some(fostered::on_made)) } {
                0 => {}
                rc if rc == -libc::ENOTSUP => {
                    let what = "a number of messages".into();
                    return Err(Error::Unsupported { what, needs: "22.05" });
                }
                rc => return Err(Error::from_rc("SPDK's thread library", rc)),
            }
        }
        // SAFETY: the library is up; SPDK copies the name.
        let raw = fostered::except(|| unsafe {
            sys::spdk_thread_create(c_name.as_ptr(), ptr::null_mut())
        });
        if raw.is_null() {
            if *threads == 0 {
                // SAFETY: there are no threads.
                unsafe { sys::spdk_thread_lib_fini() };
            }
            return Err(Error::NoMemory(format!("thread {name}")));
        }
        *threads += 1;
        // SAFETY: the thread was just made.
        let handle = unsafe {
            if sys::spdkp_app_thread().is_null() {
                sys::spdkp_set_app_thread(raw);
            }
            ThreadHandle::of(raw)
        };
        // SAFETY: alive until its drop, which cuts the link; the handle stays on this OS thread.
        let link = unsafe { Link::new(raw) };
        Ok(Self { raw, handle, attached: false, link, _env: share, _not_send: PhantomData })
    }

    /// Makes a new OS thread with an SPDK thread that is current on it, and runs `function` there.
    /// The SPDK thread goes when `function` returns; while it runs, it is `function` that polls it.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and [`Error::Errno`] when there can be no more OS threads.
    pub fn spawn<T: Send + 'static>(
        name: &str,
        function: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<SpawnedThread<T>> {
        let (made, known) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        let owned = name.to_owned();
        let run = move || {
            // It starts bound to its maker's core, which DPDK chose.
            // SAFETY: of this OS thread alone.
            unsafe { sys::spdk_unaffinitize_thread() };
            let thread = match Self::current(&owned) {
                Ok(thread) => thread,
                Err(error) => return drop(made.send(Err(error))),
            };
            let _ = made.send(Ok(thread.handle()));
            let result = catch("a thread's function", || function(&thread));
            drop(thread);
            let result = result.map_err(|_| Error::Panicked(format!("thread {owned}")));
            // If nobody waits, nobody wants it.
            let _ = end.send(result);
        };
        let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
        let os = spawned.map_err(|error| Error::Errno {
            what: format!("an OS thread for {name}"),
            errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
        })?;
        let gone = || Error::Panicked(format!("thread {name}"));
        let handle = known.recv().map_err(|_| gone())??;
        Ok(SpawnedThread { handle, os: Some(os), ended })
    }

    /// The thread that code runs on.
    pub fn get_current() -> Option<CurrentThread> {
        CurrentThread::get()
    }

    /// SPDK's app thread, on which bdevs come and go.
    pub fn app_thread() -> Option<ThreadHandle> {
        thread::app_handle()
    }

    /// How many SPDK threads there are in the process.
    pub fn count() -> u32 {
        // SAFETY: reads a number of SPDK's.
        unsafe { sys::spdk_thread_get_count() }
    }

    /// The handle by which others reach the thread.
    pub fn handle(&self) -> ThreadHandle {
        self.handle.clone()
    }

    /// The thread's name.
    pub fn name(&self) -> &str {
        self.handle.name()
    }

    /// SPDK's number of the thread.
    pub fn id(&self) -> u64 {
        self.handle.id()
    }

    /// Runs the messages and the pollers that are due (`spdk_thread_poll`). Inside a callback of an
    /// SPDK thread or a future that [`block_on`](Self::block_on) runs it does nothing.
    pub fn poll(&self) -> PollStatus {
        self.poll_max(0)
    }

    /// As [`poll`](Self::poll), but with at the most this many messages; 0 is SPDK's own measure.
    pub fn poll_max(&self, messages: u32) -> PollStatus {
        let Some(_polling) = Polling::begin(self.raw) else { return PollStatus::Idle };
        // SAFETY: the thread is alive and of this OS thread alone, and not being polled.
        if unsafe { poll(self.raw, messages) } { PollStatus::Busy } else { PollStatus::Idle }
    }

    /// Polls the thread and `future` in turns until the future is ready.
    ///
    /// # Errors
    /// [`Error::WrongThread`] inside a callback of an SPDK thread, which it would block.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        if !POLLING.get().is_null() {
            let why = "block_on inside a callback would block the thread: await, or spawn a task";
            return Err(Error::WrongThread(why.into()));
        }
        // Keeps what tasks and timers of ours share on the thread, which an idle thread gives back.
        let _home = self.with_current(HomeRef::current);
        let mut future = pin!(future);
        let woken = Arc::new(Woken(true.into()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            if woken.0.swap(false, Ordering::AcqRel) {
                let polled = {
                    let _polling = Polling::begin(self.raw);
                    self.with_current(|| future.as_mut().poll(&mut cx))
                };
                if let Poll::Ready(output) = polled {
                    return Ok(output);
                }
            }
            self.poll();
        }
    }

    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// One poll, also inside a callback of another thread.
    pub(super) fn turn(&self) {
        // SAFETY: the thread is alive, of this OS thread, and not being polled: only threads that go are
        // polled like this, and one that is dropped inside its own poll goes after that.
        unsafe { poll(self.raw, 0) };
    }

    fn is_app(&self) -> bool {
        // SAFETY: reads a pointer of SPDK's.
        unsafe { sys::spdkp_app_thread() == self.raw }
    }

    /// Runs `body` with the thread current.
    pub(super) fn with_current<R>(&self, body: impl FnOnce() -> R) -> R {
        struct Restore(*mut sys::spdk_thread);
        impl Drop for Restore {
            fn drop(&mut self) {
                // SAFETY: it was current before, and is alive: threads are of one OS thread, which is
                // in `with_current`.
                unsafe { sys::spdk_set_thread(self.0) };
            }
        }
        // SAFETY: the thread is alive, and on its OS thread.
        let _restore = unsafe {
            let restore = Restore(sys::spdk_get_thread());
            sys::spdk_set_thread(self.raw);
            restore
        };
        turn::within(body)
    }

    /// Whether a poller would run at the next poll.
    pub fn has_active_pollers(&self) -> bool {
        // SAFETY: the thread is alive and of this OS thread.
        unsafe { sys::spdk_thread_has_active_pollers(self.raw) != 0 }
    }

    /// Whether it has any poller.
    pub fn has_pollers(&self) -> bool {
        // SAFETY: as in `has_active_pollers`.
        unsafe { sys::spdk_thread_has_pollers(self.raw) }
    }

    /// Whether it has neither messages nor pollers.
    pub fn is_idle(&self) -> bool {
        // SAFETY: as in `has_active_pollers`.
        unsafe { sys::spdk_thread_is_idle(self.raw) }
    }

    /// Whether it has not begun to exit. (Before SPDK 23.01: has not ended.)
    pub fn is_running(&self) -> bool {
        // SAFETY: as in `has_active_pollers`.
        unsafe { sys::spdkp_thread_is_running(self.raw) }
    }

    /// How busy it has been.
    pub fn stats(&self) -> ThreadStats {
        self.with_current(|| match CurrentThread::get() {
            Some(current) => current.stats(),
            None => ThreadStats { busy: Duration::ZERO, idle: Duration::ZERO },
        })
    }

    /// Drops the tasks, and polls until nothing of ours is left on the thread and it has come to rest.
    /// False when that takes too long.
    fn settle(&self) -> bool {
        let deadline = Instant::now() + REST;
        loop {
            self.turn();
            // Messages may have spawned some.
            let used = self.with_current(|| {
                task::drop_all();
                HomeRef::current().is_some_and(|home| home.is_shared())
            });
            // SAFETY: as in `has_active_pollers`.
            let resting = unsafe { sys::spdk_thread_is_idle(self.raw) };
            let used = used || self.is_app() && fostered::any();
            // What pollers are left are SPDK's, which waits for them.
            if !used && (resting || self.has_pollers()) {
                return true;
            }
            if Instant::now() >= deadline {
                return !used;
            }
        }
    }

    /// Makes the thread ready to exit.
    fn wind_up(&self) -> bool {
        self.with_current(task::drop_all);
        if !subsystems::end_on(self) || !self.settle() {
            return false;
        }
        // Whatever was sent until now still runs.
        thread::close(self.id());
        self.settle()
    }

    /// Has the thread go when the poll that we are inside of returns.
    fn put_off(&self) {
        let again = Self {
            raw: self.raw,
            handle: self.handle.clone(),
            attached: self.attached,
            link: Rc::clone(&self.link),
            _env: self._env.clone(),
            _not_send: PhantomData,
        };
        // Without thread-locals it stays as it is.
        let mut again = Some(again);
        let _ = DROPPED.try_with(|dropped| *dropped.borrow_mut() = again.take());
        std::mem::forget(again);
    }

    fn detach(&self) {
        // SAFETY: reads and sets a thread-local of SPDK's.
        unsafe {
            if sys::spdk_get_thread() == self.raw {
                sys::spdk_set_thread(ptr::null_mut());
            }
        }
        // Whatever we are inside of, another thread is current from here on.
        turn::begin();
    }
}

impl Drop for SpdkThread {
    fn drop(&mut self) {
        self.link.cut();
        if POLLING.get() == self.raw {
            return self.put_off();
        }
        if !self.wind_up() {
            // Its objects would touch freed memory.
            log::error!(
                "thread {} is left as it is: bdevs, channels or pollers of it are still in use",
                self.name()
            );
            std::mem::forget(self._env.clone());
            return self.detach();
        }
        // SAFETY: the thread is alive, of this OS thread, and nothing of ours is on it any more. SPDK ends
        // it after 5 s at the latest.
        unsafe {
            self.with_current(|| sys::spdk_thread_exit(self.raw));
            while !sys::spdk_thread_is_exited(self.raw) {
                turn::within(|| sys::spdk_thread_poll(self.raw, 0, 0));
            }
        }
        self.detach();
        let mut threads = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
        thread::free(self.id(), || {
            // SAFETY: it has exited; nobody sends it messages now, and later nobody finds it.
            unsafe {
                if self.is_app() {
                    sys::spdkp_set_app_thread(ptr::null_mut());
                }
                sys::spdk_thread_destroy(self.raw);
            }
            *threads -= 1;
            if *threads == 0 {
                // SAFETY: that was the last thread.
                unsafe { sys::spdk_thread_lib_fini() };
            }
        });
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// An OS thread with an SPDK thread, made by [`SpdkThread::spawn`]. Dropping it detaches the thread.
///
/// As a future, it gives what the function returned.
#[derive(Debug)]
pub struct SpawnedThread<T> {
    handle: ThreadHandle,
    os: Option<std::thread::JoinHandle<()>>,
    ended: oneshot::Receiver<Result<T>>,
}

impl<T> SpawnedThread<T> {
    /// The handle by which others reach the SPDK thread, as long as it is there.
    pub fn handle(&self) -> &ThreadHandle {
        &self.handle
    }

    /// Blocks until the function has returned and the thread is gone.
    ///
    /// # Errors
    /// [`Error::Panicked`] when the function did, [`Error::WrongThread`] inside a callback of an SPDK
    /// thread: await it there.
    pub fn join(mut self) -> Result<T> {
        if !POLLING.get().is_null() || !env::is_ours() && CurrentThread::get().is_some() {
            let why = "joining inside a callback would block the thread: await instead";
            return Err(Error::WrongThread(why.into()));
        }
        // Its panics were caught.
        let _ = self.os.take().map(std::thread::JoinHandle::join);
        match self.ended.try_recv() {
            Ok(Some(result)) => result,
            _ => Err(self.panicked()),
        }
    }

    fn panicked(&self) -> Error {
        Error::Panicked(format!("thread {}", self.handle.name()))
    }
}

impl<T> Future for SpawnedThread<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.ended)
            .poll(cx)
            .map(|ended| ended.unwrap_or_else(|_| Err(self.panicked())))
    }
}
