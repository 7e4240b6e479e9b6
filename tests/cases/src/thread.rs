//! SPDK threads that the program polls itself, and reaching others.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::Duration;

use spdk_plugin::runtime::{PollStatus, Poller, poller_task, sleep, spawn_local};
use spdk_plugin::{CurrentThread, Error, SpdkThread};
use std::task::{Context, Waker};

use crate::support::env;

crate::cases![
    current,
    attached,
    polls,
    few_messages,
    tasks_go,
    pollers_stay,
    spawn,
    panics,
    send,
    call,
    call_panics,
    ended,
    nested,
    in_own_poll,
    count,
    in_tls,
    stale,
];

fn current() {
    let _env = env().init().unwrap();
    assert!(CurrentThread::get().is_none());
    let thread = SpdkThread::new("main").unwrap();
    assert!(CurrentThread::get().is_none());
    let seen = thread.block_on(async { CurrentThread::get().unwrap() }).unwrap();
    assert_eq!((seen.id(), seen.name()), (thread.id(), String::new()));
    assert!(!seen.is_app_thread() && seen.affinity().is_empty());
    let name = thread.block_on(async { SpdkThread::get_current().unwrap().name() });
    assert_eq!(name.unwrap(), "main");
    assert_eq!(SpdkThread::app_thread().unwrap(), thread.handle());
}

fn attached() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    assert!(CurrentThread::get().unwrap().is_app_thread());
    assert!(matches!(SpdkThread::current("second"), Err(Error::Exists(_))));
    let second = SpdkThread::new("second").unwrap();
    let name = second.block_on(async { CurrentThread::get().unwrap().name() });
    assert_eq!(name.unwrap(), "second");
    assert_eq!(CurrentThread::get().unwrap().id(), thread.id());
    drop(second);
    drop(thread);
    assert!(CurrentThread::get().is_none());
    assert!(SpdkThread::app_thread().is_none());
    // The library can come up again.
    let again = SpdkThread::current("again").unwrap();
    assert_eq!(again.block_on(async { 1 }).unwrap(), 1);
}

fn polls() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    assert!(thread.is_running() && thread.is_idle() && !thread.has_pollers());
    let turns = Rc::new(Cell::new(0));
    let counted = Rc::clone(&turns);
    let poller = Poller::register(move || {
        counted.set(counted.get() + 1);
        PollStatus::Busy
    });
    assert!(thread.has_active_pollers() && thread.has_pollers() && !thread.is_idle());
    assert_eq!(thread.poll(), PollStatus::Busy);
    assert_eq!(turns.get(), 1);
    drop(poller);
    thread.poll();
    assert!(!thread.has_pollers());
    assert!(thread.stats().busy > Duration::ZERO);
}

fn few_messages() {
    let _env = env().init().unwrap();
    match SpdkThread::new_with_mempool_size("main", 4095) {
        Ok(thread) => assert_eq!(thread.block_on(async { 1 }).unwrap(), 1),
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { needs: "22.05", .. }), "{error}")
        }
    }
}

fn tasks_go() {
    struct Tell(Rc<Cell<u64>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.set(CurrentThread::get().unwrap().id());
        }
    }
    let _env = env().init().unwrap();
    let thread = SpdkThread::new("main").unwrap();
    let dropped = Rc::new(Cell::new(0));
    let tell = Tell(Rc::clone(&dropped));
    thread
        .block_on(async {
            spawn_local(async move {
                let _tell = tell;
                std::future::pending::<()>().await;
            });
            sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
    let id = thread.id();
    drop(thread);
    assert_eq!(dropped.get(), id);
}

fn pollers_stay() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let poller = Poller::register(|| PollStatus::Idle).unwrap();
    // It waits, and then leaves the thread as it is, since the poller is still there.
    drop(thread);
    drop(poller);
    assert!(CurrentThread::get().is_none());
}

fn spawn() {
    let _env = env().init().unwrap();
    let main = SpdkThread::current("main").unwrap();
    let worker = SpdkThread::spawn("worker", |thread| {
        thread.block_on(async { CurrentThread::get().unwrap().name() }).unwrap()
    });
    assert_eq!(worker.unwrap().join().unwrap(), "worker");
    let worker = SpdkThread::spawn("second", |_| 7).unwrap();
    assert_eq!(main.block_on(worker).unwrap().unwrap(), 7);
}

fn panics() {
    let _env = env().init().unwrap();
    let _main = SpdkThread::current("main").unwrap();
    let worker = SpdkThread::spawn("worker", |_| -> u32 { panic!("of the worker") }).unwrap();
    assert!(matches!(worker.join(), Err(Error::Panicked(_))));
}

/// A thread that runs until it is told to end, and its end.
fn server() -> (spdk_plugin::runtime::SpawnedThread<()>, std::sync::mpsc::Sender<()>) {
    let (stop, stopped) = channel::<()>();
    let worker = SpdkThread::spawn("server", move |thread| {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            thread.poll();
        }
    });
    (worker.unwrap(), stop)
}

fn send() {
    let _env = env().init().unwrap();
    let _main = SpdkThread::current("main").unwrap();
    let (worker, stop) = server();
    let (tell, told) = channel();
    let id = worker.handle().id();
    for n in 0..1000 {
        let tell = tell.clone();
        let send = move || tell.send((n, CurrentThread::get().unwrap().id())).unwrap();
        worker.handle().send(send).unwrap();
    }
    assert!((0..1000).all(|n| told.recv().unwrap() == (n, id)));
    worker.handle().send(|| panic!("of a message")).unwrap();
    drop(stop);
    worker.join().unwrap();
}

fn call() {
    let _env = env().init().unwrap();
    let main = SpdkThread::current("main").unwrap();
    let (worker, stop) = server();
    let handle = worker.handle().clone();
    let name = main.block_on(handle.call(|| async {
        // What is not `Send` may live there.
        let local = Rc::new(40);
        sleep(Duration::from_millis(1)).await;
        (*local + 2, CurrentThread::get().unwrap().name())
    }));
    assert_eq!(name.unwrap().unwrap(), (42, "server".to_owned()));
    // From a thread that is not SPDK's.
    let handle = worker.handle().clone();
    let sent = std::thread::spawn(move || handle.send(|| ()));
    sent.join().unwrap().unwrap();
    drop(stop);
    worker.join().unwrap();
}

fn call_panics() {
    let _env = env().init().unwrap();
    let main = SpdkThread::current("main").unwrap();
    let (worker, stop) = server();
    let early = worker.handle().call(|| -> std::future::Ready<()> { panic!("at once") });
    assert!(matches!(main.block_on(early).unwrap(), Err(Error::Panicked(_))));
    let late = worker.handle().call(|| async {
        sleep(Duration::from_millis(1)).await;
        panic!("later")
    });
    assert!(matches!(
        main.block_on::<spdk_plugin::Result<()>>(late).unwrap(),
        Err(Error::Panicked(_))
    ));
    drop(stop);
    worker.join().unwrap();
}

fn ended() {
    let _env = env().init().unwrap();
    let main = SpdkThread::current("main").unwrap();
    let (worker, stop) = server();
    let handle = worker.handle().clone();
    let pending = handle.call(std::future::pending::<()>);
    drop(stop);
    worker.join().unwrap();
    assert!(matches!(main.block_on(pending).unwrap(), Err(Error::Stopped(_))));
    assert!(!handle.is_alive());
    assert!(matches!(handle.send(|| ()), Err(Error::Stopped(_))));
    let call = handle.call(|| async { 1 });
    assert!(matches!(main.block_on(call).unwrap(), Err(Error::Stopped(_))));
}

fn nested() {
    let _env = env().init().unwrap();
    let thread = Rc::new(SpdkThread::current("main").unwrap());
    let inner = Rc::clone(&thread);
    let nested = thread.block_on(async move {
        // The first is inside a future, the second inside a callback.
        let first = inner.block_on(async {});
        let second = spawn_local(async move {
            assert_eq!(inner.poll(), PollStatus::Idle);
            inner.block_on(async {})
        });
        (first, second.await.unwrap())
    });
    let (first, second) = nested.unwrap();
    assert!(matches!(first, Err(Error::WrongThread(_))), "{first:?}");
    assert!(matches!(second, Err(Error::WrongThread(_))), "{second:?}");
}

fn in_own_poll() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let mut driver = std::pin::pin!(poller_task(&thread));
    let (tell, told) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (left, gone) = (Rc::clone(&tell), Rc::clone(&told));
    spawn_local(async move {
        sleep(Duration::from_millis(1)).await;
        drop(thread);
        left.set(true);
        std::future::pending::<()>().await;
        gone.set(true);
    });
    let mut cx = Context::from_waker(Waker::noop());
    while driver.as_mut().poll(&mut cx).is_pending() {}
    assert!(tell.get() && !told.get());
    // The task, and with it its share in this, is gone.
    assert_eq!(Rc::strong_count(&tell), 1);
    assert!(CurrentThread::get().is_none());
    assert_eq!(SpdkThread::count(), 0);
}

fn count() {
    let _env = env().init().unwrap();
    let threads: Vec<_> = (0..10).map(|n| SpdkThread::new(&format!("t{n}")).unwrap()).collect();
    assert_eq!(SpdkThread::count(), 10);
    // The app thread last.
    threads.into_iter().rev().for_each(drop);
}

fn in_tls() {
    thread_local! {
        static KEPT: Cell<Option<SpdkThread>> = const { Cell::new(None) };
    }
    let _env = env().init().unwrap();
    let main = SpdkThread::current("main").unwrap();
    // The thread goes when its OS thread does, in the destructor of a thread-local.
    std::thread::spawn(|| {
        let thread = SpdkThread::current("kept").unwrap();
        spawn_local(std::future::pending::<()>());
        KEPT.set(Some(thread));
    })
    .join()
    .unwrap();
    assert_eq!(main.block_on(async { 1 }).unwrap(), 1);
}

fn stale() {
    let _env = env().init().unwrap();
    let main = SpdkThread::current("main").unwrap();
    let seen = CurrentThread::get().unwrap();
    drop(main);
    assert!(seen.name().is_empty() && seen.affinity().is_empty());
    assert_eq!(seen.stats().busy, Duration::ZERO);
    assert!(seen.handle().send(|| ()).is_err());
}
