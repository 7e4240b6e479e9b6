//! Bdevs that are open on another thread than the app's.

use std::pin::pin;
use std::time::{Duration, Instant};

use spdk_plugin::bdev::{Bdev, BdevDesc, ClaimKind, Event, QosLimits, ResetStats};
use spdk_plugin::runtime::{cores, sleep, spawn_on};
use spdk_plugin::{Error, Result, SpdkAppBuilder};

use crate::disk::disk;
use crate::support::{app, cpus, poll_once, supported, until};

crate::cases![lookup, claims, sampling, events, qos, quiesce];

/// Runs `case` on another core's thread and `beside` on the app's, at once, with a disk of 100 blocks.
fn run<F: Future<Output = Result<()>> + 'static>(
    case: impl FnOnce() -> F + Send + 'static,
    beside: impl AsyncFnOnce() -> Result<()>,
) {
    let on_app = async {
        let device = disk("disk", 100).await;
        let mut worker = pin!(spawn_on(last_core(), case)?);
        let early = poll_once(worker.as_mut());
        beside().await?;
        match early {
            Some(result) => result??,
            None => worker.await??,
        }
        device.unregister().await
    };
    two_cores().block_on(on_app).unwrap();
}

fn two_cores() -> SpdkAppBuilder {
    app().reactor_mask(format!("[0-{}]", cpus().min(2) - 1))
}

fn last_core() -> u32 {
    cores().iter().last().unwrap()
}

fn lookup() {
    run(
        async || {
            let bdev = Bdev::find("disk").await?;
            assert_eq!((bdev.num_blocks(), Bdev::all().await?.len()), (100, 1));
            assert_eq!(Bdev::leaves().await?[0].name(), "disk");
            let desc = bdev.open(true)?;
            assert_eq!(desc.bdev().await?.uuid(), bdev.uuid());
            desc.io_stats(ResetStats::Keep).await?;
            assert!(matches!(Bdev::find("none").await, Err(Error::NotFound(_))));
            // Whose answer nobody waits for, and whose descriptor goes before it.
            let mut unfinished = Box::pin(async move { desc.bdev().await });
            assert!(poll_once(unfinished.as_mut()).is_none());
            drop(unfinished);
            Ok(())
        },
        async || Ok(()),
    );
}

fn claims() {
    run(
        async || {
            let desc = BdevDesc::open("disk", false)?;
            let claim = desc.claim(ClaimKind::Exclusive).await?;
            assert!(matches!(BdevDesc::open("disk", true), Err(Error::Busy(_))));
            claim.release().await?;
            drop(BdevDesc::open("disk", true)?);
            // Not awaited to its end, it is released once it is held.
            let mut unfinished = Box::pin(desc.claim(ClaimKind::Exclusive));
            assert!(poll_once(unfinished.as_mut()).is_none());
            drop(unfinished);
            let claim = loop {
                match desc.claim(ClaimKind::Exclusive).await {
                    Err(Error::Busy(_)) => sleep(Duration::from_millis(1)).await,
                    claim => break claim?,
                }
            };
            drop((desc, claim));
            until("the end of the claim", || BdevDesc::open("disk", true).is_ok()).await;
            Ok(())
        },
        async || Ok(()),
    );
}

/// Before 22.09 the close would stop the sampling on the wrong thread.
fn sampling() {
    run(
        async || {
            for _ in 0..3 {
                let desc = BdevDesc::open("disk", true)?;
                // Before 22.09 the close of the last round, which goes by the app thread, may come only now,
                // and SPDK ends the sampling with it.
                let start = Instant::now();
                while desc.queue_depth() != Some(0) {
                    assert!(start.elapsed() < Duration::from_secs(20), "no sample after 20 s");
                    desc.sample_queue_depth(Some(Duration::from_micros(200))).await?;
                    sleep(Duration::from_millis(5)).await;
                }
                drop(desc);
                sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        },
        async || Ok(()),
    );
}

fn events() {
    let on_app = async {
        let device = disk("disk", 100).await;
        let (opened, is_open) = std::sync::mpsc::channel();
        let case = move || async move {
            let desc = BdevDesc::open("disk", true).unwrap();
            let mut events = desc.events();
            opened.send(()).unwrap();
            assert_eq!(events.next().await, Some(Event::Resize { num_blocks: 200 }));
            opened.send(()).unwrap();
            assert_eq!(events.next().await, Some(Event::Remove));
        };
        let mut worker = pin!(spawn_on(last_core(), case)?);
        assert!(poll_once(worker.as_mut()).is_none());
        until("the opening", || is_open.try_recv().is_ok()).await;
        device.resize(200).await?;
        until("the resize", || is_open.try_recv().is_ok()).await;
        device.unregister().await?;
        worker.await
    };
    two_cores().block_on(on_app).unwrap();
}

/// Limits are changed on the thread that keeps them, which is another's.
fn qos() {
    run(
        async || {
            for iops in 1..20 {
                let desc = BdevDesc::open("disk", true)?;
                let _channel = desc.get_io_channel()?;
                let limits = QosLimits::none().rw_iops(iops * 1_000);
                match desc.set_qos(limits).await {
                    Err(Error::Busy(_)) => (),
                    result => result?,
                }
                let mut unfinished = Box::pin(async move { desc.set_qos(QosLimits::none()).await });
                let _ = poll_once(unfinished.as_mut());
            }
            Ok(())
        },
        async || {
            for _ in 0..20 {
                let desc = BdevDesc::open("disk", true)?;
                let _channel = desc.get_io_channel()?;
                match desc.set_qos(QosLimits::none().read_mib(10)).await {
                    Err(Error::Busy(_)) => (),
                    result => result?,
                }
                sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        },
    );
}

fn quiesce() {
    run(
        async || {
            for _ in 0..20 {
                let desc = BdevDesc::open("disk", true)?;
                let _channel = desc.get_io_channel()?;
                let Some(held) = supported(desc.quiesce_range(0..10).await) else { break };
                drop(desc);
                drop(held);
            }
            Ok(())
        },
        async || {
            for _ in 0..20 {
                let desc = BdevDesc::open("disk", true)?;
                let _channel = desc.get_io_channel()?;
                let Some(held) = supported(desc.quiesce_range(5..15).await) else { break };
                sleep(Duration::from_micros(100)).await;
                held.release().await?;
            }
            Ok(())
        },
    );
}
