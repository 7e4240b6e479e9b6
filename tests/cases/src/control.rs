//! What is done to an open bdev besides I/O, and what I/O shows of it.

use std::time::{Duration, Instant};

use serde_json::json;
use spdk_plugin::Error;
use spdk_plugin::bdev::{BdevDesc, Event, HistogramOptions, QosLimits, ResetStats};
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::module::IoKind;
use spdk_plugin::runtime::sleep;

use crate::disk::disk;
use crate::support::{delay, malloc, poll_once, rpc, supported, until, with_bdevs};

crate::cases![
    stats,
    counted,
    queue_depth,
    depth_of_io,
    qos,
    qos_dropped,
    qos_holds,
    histogram,
    latencies,
    quiesce,
    quiesce_orders,
    quiesce_waits,
    quiesce_and_remove,
    removed_under_load,
];

fn stats() {
    with_bdevs(&[], async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        let stats = desc.io_stats(ResetStats::Keep).await?;
        assert_eq!((stats.write.bytes, stats.unmap.mean_latency()), (0, None));
        supported(desc.io_stats(ResetStats::All).await);
        supported(desc.io_stats(ResetStats::Extremes).await);
        // Nobody waits for the answer, and the descriptor goes before it.
        let mut unfinished = Box::pin(desc.io_stats(ResetStats::Keep));
        assert!(poll_once(unfinished.as_mut()).is_none());
        drop(unfinished);
        drop(desc);
        let desc = BdevDesc::open("disk", true)?;
        let mut forgotten = Box::pin(async move { desc.io_stats(ResetStats::Keep).await });
        assert!(poll_once(forgotten.as_mut()).is_none());
        drop(forgotten);
        device.unregister().await
    });
}

fn counted() {
    with_bdevs(&[malloc("m0")], async || {
        let desc = BdevDesc::open("m0", true)?;
        let channel = desc.get_io_channel()?;
        let before = desc.io_stats(ResetStats::Keep).await?;
        let mut buf = DmaBuf::alloc_zeroed(4096, 4096)?;
        for _ in 0..3 {
            desc.write(&channel, &mut buf, 0, 4096).await?;
        }
        desc.read(&channel, &mut buf, 512, 512).await?;
        let (own, all) =
            (channel.io_stats(ResetStats::Keep)?, desc.io_stats(ResetStats::Keep).await?);
        assert_eq!((own.write.ops, own.write.bytes), (3, 3 * 4096));
        assert_eq!((own.read.ops, own.read.bytes), (1, 512));
        assert_eq!(all.write.ops - before.write.ops, 3);
        assert_eq!(all.read.bytes - before.read.bytes, 512);
        let mean = all.write.mean_latency().unwrap();
        assert!(mean > Duration::ZERO && mean < Duration::from_secs(1), "{mean:?}");
        if let Some(longest) = all.write.max_latency {
            assert!(longest >= mean && all.write.min_latency.unwrap() <= mean, "{all:?}");
        }
        // What a channel has counted stays when it goes.
        drop(channel);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(desc.io_stats(ResetStats::Keep).await?.write, all.write);
        if supported(desc.io_stats(ResetStats::All).await).is_some() {
            assert_eq!(desc.io_stats(ResetStats::Keep).await?.write.ops, 0);
        }
        Ok(())
    });
}

fn queue_depth() {
    with_bdevs(&[], async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        if let Some(depth) = supported(desc.current_queue_depth().await) {
            assert_eq!(depth, 0);
        }
        assert_eq!((desc.queue_depth_sampling(), desc.queue_depth()), (None, None));
        let period = Duration::from_micros(500);
        desc.sample_queue_depth(Some(period)).await?;
        assert_eq!(desc.queue_depth_sampling(), Some(period));
        until("a sample", || desc.queue_depth() == Some(0)).await;
        assert_eq!((desc.io_time(), desc.weighted_io_time()), (Duration::ZERO, Duration::ZERO));
        let error = desc.sample_queue_depth(Some(Duration::from_nanos(1))).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        desc.sample_queue_depth(None).await?;
        until("the end of sampling", || desc.queue_depth_sampling().is_none()).await;
        desc.sample_queue_depth(Some(period)).await?;
        drop(desc);
        device.unregister().await
    });
}

fn depth_of_io() {
    let latency = Duration::from_millis(20);
    with_bdevs(&[malloc("m0"), delay("d0", "m0", latency)], async || {
        let desc = BdevDesc::open("d0", true)?;
        let channel = desc.get_io_channel()?;
        // Modules that look at a new bdev close it, with which older releases end the sampling.
        sleep(10 * latency).await;
        desc.sample_queue_depth(Some(Duration::from_millis(1))).await?;
        let (mut one, mut two) = (DmaBuf::alloc(512, 512)?, DmaBuf::alloc(512, 512)?);
        let mut first = Box::pin(desc.read(&channel, &mut one, 0, 512));
        let mut second = Box::pin(desc.read(&channel, &mut two, 0, 512));
        assert!(poll_once(first.as_mut()).is_none() && poll_once(second.as_mut()).is_none());
        if let Some(depth) = supported(desc.current_queue_depth().await) {
            assert_eq!(depth, 2);
        }
        until("a sample of 2", || desc.queue_depth() == Some(2)).await;
        first.await?;
        second.await?;
        assert!(desc.io_time() >= Duration::from_millis(1));
        assert!(desc.weighted_io_time() >= 2 * Duration::from_millis(1));
        desc.sample_queue_depth(None).await
    });
}

fn qos() {
    with_bdevs(&[], async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        assert_eq!(desc.qos(), QosLimits::none());
        let limits = QosLimits::none().rw_iops(20_000).read_mib(10);
        desc.set_qos(limits).await?;
        assert_eq!(desc.qos(), limits);
        desc.set_qos(QosLimits::none().rw_iops(20_500)).await?;
        assert_eq!(desc.qos(), QosLimits::none().rw_iops(21_000));
        let error = desc.set_qos(QosLimits::none().rw_mib(0)).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        desc.set_qos(QosLimits::none()).await?;
        assert_eq!(desc.qos(), QosLimits::none());
        drop(desc);
        device.unregister().await
    });
}

/// The descriptor is closed, and the bdev removed, while the limits are being set.
fn qos_dropped() {
    with_bdevs(&[], async || {
        for limit in [1_000, 0, 2_000, 0] {
            let device = disk("disk", 8).await;
            let limits =
                if limit == 0 { QosLimits::none() } else { QosLimits::none().rw_iops(limit) };
            let other = BdevDesc::open("disk", true)?;
            other.set_qos(QosLimits::none().rw_iops(5_000)).await?;
            let mut unfinished = Box::pin(async move { other.set_qos(limits).await });
            assert!(poll_once(unfinished.as_mut()).is_none());
            let second = BdevDesc::open("disk", true)?;
            let error = second.set_qos(limits).await.unwrap_err();
            assert!(matches!(error, Error::Busy(_)), "{error}");
            drop((unfinished, second));
            device.unregister().await?;
        }
        Ok(())
    });
}

fn qos_holds() {
    with_bdevs(&[malloc("m0")], async || {
        let desc = BdevDesc::open("m0", true)?;
        let channel = desc.get_io_channel()?;
        desc.set_qos(QosLimits::none().rw_iops(1_000)).await?;
        let mut buf = DmaBuf::alloc(512, 512)?;
        let start = Instant::now();
        for _ in 0..100 {
            desc.read(&channel, &mut buf, 0, 512).await?;
        }
        let took = start.elapsed();
        assert!(took > Duration::from_millis(80), "{took:?}");
        // I/O is held back while the limit goes, and the descriptor with it.
        let mut bufs: Vec<_> = (0..20).map(|_| DmaBuf::alloc(512, 512).unwrap()).collect();
        let mut reads = Vec::new();
        for buf in &mut bufs {
            let mut read = Box::pin(desc.read(&channel, buf, 0, 512));
            let _ = poll_once(read.as_mut());
            reads.push(read);
        }
        desc.set_qos(QosLimits::none()).await?;
        drop(reads);
        Ok(())
    });
}

fn histogram() {
    with_bdevs(&[], async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        let error = desc.histogram().await.unwrap_err();
        assert!(error.to_string().contains("keeps no histogram"), "{error}");
        desc.enable_histogram(HistogramOptions::new()).await?;
        let histogram = desc.histogram().await?;
        assert_eq!((histogram.count(), histogram.percentile(99.0)), (0, None));
        let options = HistogramOptions::new().kind(IoKind::Read);
        supported(desc.enable_histogram(options).await);
        let options =
            options.granularity(3).range(Duration::from_nanos(100), Duration::from_secs(1));
        if supported(desc.enable_histogram(options).await).is_some() {
            assert_eq!(desc.histogram().await?.count(), 0);
        }
        desc.disable_histogram().await?;
        assert!(matches!(desc.histogram().await, Err(Error::Invalid(_))));
        let mut unfinished = Box::pin(async move { desc.histogram().await });
        assert!(poll_once(unfinished.as_mut()).is_none());
        drop(unfinished);
        device.unregister().await
    });
}

fn latencies() {
    let latency = Duration::from_millis(5);
    with_bdevs(&[malloc("m0"), delay("d0", "m0", latency)], async || {
        let desc = BdevDesc::open("d0", true)?;
        let channel = desc.get_io_channel()?;
        // Modules look at a new bdev first.
        sleep(20 * latency).await;
        desc.enable_histogram(HistogramOptions::new()).await?;
        let mut buf = DmaBuf::alloc(512, 512)?;
        for _ in 0..10 {
            desc.read(&channel, &mut buf, 0, 512).await?;
        }
        let histogram = desc.histogram().await?;
        assert_eq!(histogram.count(), 10);
        let (median, mean) = (histogram.percentile(50.0).unwrap(), histogram.mean().unwrap());
        // The mean takes the middle of a bucket, which is 1 in 128 wide.
        assert!(median >= latency && mean >= latency * 99 / 100, "{histogram:?}");
        assert!(histogram.percentile(0.0) <= histogram.percentile(100.0));
        let sum: u64 = histogram.into_iter().map(|bucket| bucket.count).sum();
        assert_eq!(sum, 10);
        // Writes only, and in a range that they all lie above.
        let options = HistogramOptions::new().kind(IoKind::Write);
        let options = options.granularity(4).range(Duration::from_nanos(1), latency / 5);
        if supported(desc.enable_histogram(options).await).is_some() {
            desc.read(&channel, &mut buf, 0, 512).await?;
            desc.write(&channel, &mut buf, 0, 512).await?;
            let histogram = desc.histogram().await?;
            assert_eq!(histogram.count(), 1);
            assert!(histogram.percentile(100.0).unwrap() < latency, "{histogram:?}");
        }
        desc.disable_histogram().await
    });
}

fn quiesce() {
    with_bdevs(&[], async || {
        let device = disk("disk", 100).await;
        let desc = BdevDesc::open("disk", true)?;
        #[expect(clippy::reversed_empty_ranges, reason = "it is refused")]
        for range in [0..0, 5..4, 90..101, 101..102, 0..u64::MAX] {
            let error = desc.quiesce_range(range).await.unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error}");
        }
        let Some(all) = supported(desc.quiesce().await) else {
            drop(desc);
            return device.unregister().await;
        };
        assert_eq!(all.blocks(), 0..100);
        // It waits its turn.
        let mut part = Box::pin(desc.quiesce_range(10..20));
        for _ in 0..5 {
            assert!(poll_once(part.as_mut()).is_none());
            sleep(Duration::from_millis(1)).await;
        }
        all.release().await?;
        let part = part.await?;
        let apart = desc.quiesce_range(20..30).await?;
        // Grown meanwhile, the bdev still finds the range again.
        device.resize(200).await?;
        drop(part);
        apart.release().await?;
        let all = desc.quiesce().await?;
        assert_eq!(all.blocks(), 0..200);
        drop(desc);
        drop(all);
        device.unregister().await
    });
}

fn quiesce_orders() {
    with_bdevs(&[], async || {
        for order in 0..4 {
            let device = disk("disk", 100).await;
            let desc = BdevDesc::open("disk", true)?;
            let Some(held) = supported(desc.quiesce_range(0..10).await) else {
                drop(desc);
                device.unregister().await?;
                continue;
            };
            let other = BdevDesc::open("disk", true)?;
            let mut waiting = Box::pin(async move { other.quiesce_range(5..15).await });
            assert!(poll_once(waiting.as_mut()).is_none());
            match order {
                0 => drop((waiting, held, desc)),
                1 => drop((held, waiting, desc)),
                2 => {
                    drop((desc, held));
                    drop(waiting.await?);
                }
                _ => {
                    // Held once, and nobody is there any more.
                    drop((held, desc));
                    sleep(Duration::from_millis(5)).await;
                    drop(waiting);
                }
            }
            device.unregister().await?;
        }
        Ok(())
    });
}

fn quiesce_waits() {
    let latency = Duration::from_millis(20);
    with_bdevs(&[malloc("m0"), delay("d0", "m0", latency)], async || {
        let desc = BdevDesc::open("d0", true)?;
        let channel = desc.get_io_channel()?;
        let mut buf = DmaBuf::alloc(512, 512)?;
        let mut read = Box::pin(desc.read(&channel, &mut buf, 0, 512));
        assert!(poll_once(read.as_mut()).is_none());
        let start = Instant::now();
        let Some(held) = supported(desc.quiesce_range(0..8).await) else {
            return read.await;
        };
        assert!(start.elapsed() > latency / 2, "it did not wait for the read");
        read.await?;
        // Outside of the range I/O goes on, inside it waits.
        desc.read_blocks(&channel, &mut buf, 8, 1).await?;
        let mut read = Box::pin(desc.read(&channel, &mut buf, 0, 512));
        assert!(poll_once(read.as_mut()).is_none());
        sleep(2 * latency).await;
        assert!(poll_once(read.as_mut()).is_none());
        held.release().await?;
        read.await?;
        // Held up, orphaned, and let go with everything else.
        let held = desc.quiesce().await?;
        let mut read = Box::pin(desc.read(&channel, &mut buf, 0, 512));
        assert!(poll_once(read.as_mut()).is_none());
        drop(read);
        drop((channel, desc));
        sleep(Duration::from_millis(5)).await;
        drop(held);
        Ok(())
    });
}

/// SPDK begins to remove the bdev when its ranges are let go.
fn quiesce_and_remove() {
    with_bdevs(&[malloc("m0")], async || {
        let desc = BdevDesc::open("m0", true)?;
        let Some(held) = supported(desc.quiesce().await) else { return Ok(()) };
        let mut delete = Box::pin(rpc("bdev_malloc_delete", json!({ "name": "m0" })));
        for _ in 0..20 {
            assert!(poll_once(delete.as_mut()).is_none());
            sleep(Duration::from_millis(1)).await;
        }
        drop(held);
        until("the removal", || desc.is_removed()).await;
        assert!(poll_once(delete.as_mut()).is_none());
        drop(desc);
        assert_eq!(delete.await["result"], true);
        Ok(())
    });
}

/// The device goes while I/O is in flight and a stream waits: all of it ends.
fn removed_under_load() {
    let latency = Duration::from_millis(10);
    with_bdevs(&[malloc("m0"), delay("d0", "m0", latency)], async || {
        let desc = BdevDesc::open("d0", true)?;
        let mut events = desc.events();
        let channel = desc.get_io_channel()?;
        let mut bufs: Vec<_> = (0..32).map(|_| DmaBuf::alloc(512, 512).unwrap()).collect();
        let mut reads = Vec::new();
        for buf in &mut bufs {
            let mut read = Box::pin(desc.read(&channel, buf, 0, 512));
            assert!(poll_once(read.as_mut()).is_none());
            reads.push(read);
        }
        let mut delete = Box::pin(rpc("bdev_delay_delete", json!({ "name": "d0" })));
        assert!(poll_once(delete.as_mut()).is_none());
        assert_eq!(events.next().await, Some(Event::Remove));
        // Half of them are waited for, the others orphaned.
        let rest = reads.split_off(16);
        drop(rest);
        for read in reads {
            // It was served, or it failed: it ends.
            let _ = read.await;
        }
        drop(channel);
        drop(desc);
        assert_eq!(delete.await["result"], true);
        Ok(())
    });
}
