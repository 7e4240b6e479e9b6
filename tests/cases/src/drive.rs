//! SPDK threads driven by other executors.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::thread;
use std::time::{Duration, Instant};

use spdk_plugin::runtime::{
    Backoff, PollStatus, Poller, poller_task, sleep, spawn_local, timeout, yield_now,
};
use spdk_plugin::{Error, SpdkThread};

use crate::support;

crate::cases![
    under_tokio,
    under_smol,
    under_async_executor,
    backs_off,
    wakes_end_a_nap,
    ends_with_its_thread,
    never_sleeps_when_told,
    an_executor_goes_first,
    a_thread_goes_first,
];

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// What each executor is given: a driver, and something that needs SPDK's thread to move.
fn work(thread: &SpdkThread) -> (Boxed, Boxed) {
    let remote = thread.handle();
    let work = async move {
        let begun = Instant::now();
        sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() >= Duration::from_millis(20));
        // SPDK's own executor runs beside.
        let sum = spawn_local(async {
            yield_now().await;
            40 + 2
        });
        assert_eq!(sum.await.unwrap(), 42);
        assert!(matches!(
            timeout(Duration::from_millis(5), pending::<()>()).await,
            Err(Error::TimedOut(_))
        ));
        // A poller of SPDK's counts turns.
        let count = Rc::new(Cell::new(0));
        let turns = Rc::clone(&count);
        let poller = Poller::register(move || {
            turns.set(turns.get() + 1);
            PollStatus::Idle
        });
        while count.get() < 100 {
            sleep(Duration::from_micros(10)).await;
        }
        drop(poller);
        // Other threads reach it.
        let caller = thread::spawn(move || {
            let told = remote.call(|| async { thread::current().id() });
            (futures_executor::block_on(told).unwrap(), thread::current().id())
        });
        while !caller.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        let (there, elsewhere) = caller.join().unwrap();
        assert!(there == thread::current().id() && there != elsewhere);
    };
    (Box::pin(poller_task(thread)), Box::pin(work))
}

fn under_tokio() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    let (driver, work) = work(&thread);
    let driver = tasks.spawn_local(driver);
    tasks.block_on(&runtime, async {
        // The executor's own timers and tasks get their turns.
        let beat = tokio::task::spawn_local(async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        work.await;
        beat.await.unwrap();
        drop(thread);
        driver.await.unwrap();
    });
}

fn under_smol() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let executor = smol::LocalExecutor::new();
    let (driver, work) = work(&thread);
    let driver = executor.spawn(driver);
    smol::block_on(executor.run(async {
        let beat = executor.spawn(async {
            for _ in 0..5 {
                smol::Timer::after(Duration::from_millis(2)).await;
            }
        });
        work.await;
        beat.await;
        drop(thread);
        driver.await;
    }));
}

fn under_async_executor() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let executor = async_executor::LocalExecutor::new();
    let (driver, work) = work(&thread);
    let driver = executor.spawn(driver);
    futures_executor::block_on(executor.run(async {
        work.await;
        drop(thread);
        driver.await;
    }));
}

/// The processor time that this OS thread has used.
fn used() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place for the answer lives through the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) }, 0);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs the futures in turns until the second is ready.
fn beside(driver: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    let (mut driver, mut work) = (Box::pin(driver), Box::pin(work));
    futures_executor::block_on(std::future::poll_fn(|cx: &mut Context<'_>| {
        let _ = driver.as_mut().poll(cx);
        work.as_mut().poll(cx)
    }));
}

/// An idle thread costs little, and timed work is done in time all the same.
fn backs_off() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let naps = Backoff { idle_turns: 100, longest_sleep: Duration::from_secs(1) };
    let (before, begun) = (used(), Instant::now());
    beside(poller_task(&thread).backoff(naps), async {
        for _ in 0..5 {
            let begun = Instant::now();
            sleep(Duration::from_millis(100)).await;
            let took = begun.elapsed();
            assert!(took < Duration::from_millis(600), "{took:?}");
        }
    });
    let (used, took) = (used() - before, begun.elapsed());
    println!("used {used:?} of {took:?}");
    assert!(took >= Duration::from_millis(500) && used < took / 5, "{used:?} of {took:?}");
}

/// A message or a wake from elsewhere does not wait for the end of a long nap.
fn wakes_end_a_nap() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let naps = Backoff { idle_turns: 0, longest_sleep: Duration::from_secs(30) };
    let remote = thread.handle();
    let begun = Instant::now();
    let elsewhere = thread::spawn(move || {
        for n in 0..20 {
            thread::sleep(Duration::from_millis(20));
            let told = futures_executor::block_on(remote.call(move || async move { n }));
            assert_eq!(told.unwrap(), n);
        }
    });
    let (wake, woken) = futures_channel::oneshot::channel();
    let waker = thread::spawn(move || {
        elsewhere.join().unwrap();
        thread::sleep(Duration::from_millis(100));
        wake.send(()).unwrap();
    });
    beside(poller_task(&thread).backoff(naps), async {
        // Our own executor's task is what is woken.
        spawn_local(woken).await.unwrap().unwrap();
        thread::sleep(Duration::from_millis(1));
        // And what is spawned here, outside of SPDK's callbacks, is run.
        spawn_local(async {}).await.unwrap();
    });
    waker.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

fn ends_with_its_thread() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let second = SpdkThread::new("second").unwrap();
    let driver = poller_task(&second);
    let idle = poller_task(&thread)
        .backoff(Backoff { idle_turns: 0, longest_sleep: Duration::from_secs(60) });
    drop(second);
    futures_executor::block_on(driver);
    // One that naps is told.
    let executor = async_executor::LocalExecutor::new();
    let idle = executor.spawn(idle);
    futures_executor::block_on(executor.run(async {
        for _ in 0..10 {
            yield_now().await;
        }
        drop(thread);
        idle.await;
    }));
}

fn never_sleeps_when_told() {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let turns = Rc::new(RefCell::new(0_u64));
    let count = Rc::clone(&turns);
    let poller = Poller::register(move || {
        *count.borrow_mut() += 1;
        PollStatus::Idle
    });
    let begun = Instant::now();
    beside(poller_task(&thread).backoff(Backoff::NONE), async {
        sleep(Duration::from_millis(50)).await;
    });
    drop(poller);
    assert!(*turns.borrow() > 1000, "{} turns in {:?}", turns.borrow(), begun.elapsed());
}

/// Futures of an executor that goes, with what they wait for on SPDK's thread.
fn one_goes_first(executor_first: bool) {
    let _env = support::env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let executor = async_executor::LocalExecutor::new();
    let driver = executor.spawn(poller_task(&thread));
    for _ in 0..10 {
        executor.spawn(sleep(Duration::from_secs(3600))).detach();
        executor.spawn(async { drop(spawn_local(pending::<()>()).await) }).detach();
    }
    futures_executor::block_on(executor.run(sleep(Duration::from_millis(20))));
    let begun = Instant::now();
    drop(driver);
    if executor_first {
        drop(executor);
        drop(thread);
    } else {
        drop(thread);
        drop(executor);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

fn an_executor_goes_first() {
    one_goes_first(true);
}

fn a_thread_goes_first() {
    one_goes_first(false);
}
