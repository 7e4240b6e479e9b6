//! Sleeps, beats and timeouts.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use spdk_plugin::Error;
use spdk_plugin::runtime::{interval, sleep, spawn_local, timeout, yield_now};

use crate::Case;

pub(crate) const CASES: &[(&str, Case)] = &[
    ("sleep", || Box::pin(sleeps())),
    ("many_sleeps", || Box::pin(many_sleeps())),
    ("interval", || Box::pin(intervals())),
    ("timeout", || Box::pin(timeouts())),
    ("unused_timeouts", || Box::pin(unused_timeouts())),
];

const MS: Duration = Duration::from_millis(1);

async fn sleeps() {
    for duration in
        [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(300), 5 * MS, 250 * MS]
    {
        let begun = Instant::now();
        sleep(duration).await;
        let took = begun.elapsed();
        assert!(took >= duration && took < duration + 2000 * MS, "{duration:?} took {took:?}");
    }
    // The time begins with the first poll, and a sleep that is over stays over.
    let mut late = pin!(sleep(20 * MS));
    sleep(30 * MS).await;
    poll_fn(|cx| {
        assert!(late.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    late.as_mut().await;
    late.await;
}

/// In all orders, some dropped; each ends after those that are due before it.
async fn many_sleeps() {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..5000_u32)
        .map(|i| {
            let duration = Duration::from_micros(u64::from(i * 7919 % 5000) * 40);
            spawn_local(async move {
                if i % 3 == 0 {
                    // Dropped with what it waits for.
                    assert!(timeout(duration, pending::<()>()).await.is_err());
                } else {
                    sleep(duration).await;
                }
                assert!(begun.elapsed() >= duration);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(begun.elapsed() < 5000 * MS, "{:?}", begun.elapsed());
}

async fn intervals() {
    let begun = Instant::now();
    let mut beat = interval(10 * MS);
    beat.tick().await;
    assert!(begun.elapsed() < 1000 * MS);
    for _ in 0..3 {
        // A tick that is not awaited to its end is not lost.
        let _ = timeout(Duration::from_micros(10), beat.tick()).await;
        beat.tick().await;
    }
    assert!(begun.elapsed() >= 30 * MS, "{:?}", begun.elapsed());
    // Those that are missed are left out, and the beat stays.
    std::thread::sleep(35 * MS);
    beat.tick().await;
    let late = begun.elapsed();
    beat.tick().await;
    beat.tick().await;
    let took = begun.elapsed() - late;
    assert!(took >= 10 * MS, "{took:?}");
}

async fn timeouts() {
    assert_eq!(timeout(1000 * MS, async { 3 }).await.unwrap(), 3);
    let begun = Instant::now();
    let Err(Error::TimedOut(said)) = timeout(10 * MS, pending::<()>()).await else {
        panic!("not in time")
    };
    assert!(said.contains("10ms") && begun.elapsed() >= 10 * MS, "{said}");
    let nested = timeout(500 * MS, timeout(5 * MS, pending::<()>())).await;
    assert!(matches!(nested, Ok(Err(Error::TimedOut(_)))));
}

/// A timeout that is not needed costs little, and leaves nothing that keeps a thread from its exit.
async fn unused_timeouts() {
    let begun = Instant::now();
    for _ in 0..100_000 {
        timeout(Duration::from_secs(3600), yield_now()).await.unwrap();
    }
    assert!(begun.elapsed() < 20_000 * MS, "{:?}", begun.elapsed());
}
