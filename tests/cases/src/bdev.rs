//! Bdev handles: lookup and getters; what is done to an open bdev besides I/O.

use std::time::Duration;

use serde_json::json;
use spdk_plugin::bdev::{Bdev, BdevDesc, HistogramOptions, OpenOptions, QosLimits, ResetStats};
use spdk_plugin::module::{BdevBuilder, IoKind, Metadata};
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, Result};
use uuid::Uuid;

use crate::disk::{Disk, disk};
use crate::support::{app, bdevs, poll_once, rpc, supported, until};

crate::cases![
    find,
    missing,
    list,
    properties,
    stock,
    zoned,
    snapshots,
    replaced,
    foreign_thread,
    open_missing,
    hide_metadata,
    stats,
    queue_depth,
    qos,
    qos_dropped,
    histogram,
    quiesce,
    quiesce_orders,
    quiesce_and_remove,
];

fn run(config: &[(&str, serde_json::Value)], case: impl AsyncFnOnce() -> Result<()>) {
    app().json_data(bdevs(config)).block_on(case()).unwrap();
}

fn find() {
    run(&[], async || {
        let uuid = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);
        let builder = BdevBuilder::new("disk", 512, 8).alias("other").uuid(Some(uuid));
        let device = builder.register(Disk).await?;
        for name in ["disk", "other", &uuid.to_string()] {
            let bdev = Bdev::find(name).await?;
            assert_eq!((bdev.name(), bdev.uuid()), ("disk", uuid));
            assert!(bdev.aliases().contains(&"other".to_owned()));
            assert_eq!(bdev.open(true)?.name(), "disk");
        }
        assert_eq!(BdevDesc::open("other", false)?.name(), "disk");
        device.unregister().await
    });
}

fn missing() {
    run(&[], async || {
        for name in ["none", "", "nul\0nul", &Uuid::from_u128(7).to_string()] {
            let error = Bdev::find(name).await.unwrap_err();
            assert!(matches!(error, Error::NotFound(_)), "{name}: {error}");
        }
        Ok(())
    });
}

fn open_missing() {
    run(&[], async || {
        let error = BdevDesc::open("none", true).unwrap_err();
        assert_eq!(error.to_string(), "there is no bdev \"none\"");
        Ok(())
    });
    let error = BdevDesc::open("none", true).unwrap_err();
    assert!(matches!(error, Error::WrongThread(_)), "{error}");
}

const MALLOC: &str = "bdev_malloc_create";

fn list() {
    let malloc = json!({ "name": "m0", "num_blocks": 64, "block_size": 512 });
    let null = json!({ "name": "n0", "num_blocks": 64, "block_size": 512 });
    let delay = json!({ "name": "d0", "base_bdev_name": "m0", "avg_read_latency": 0,
        "p99_read_latency": 0, "avg_write_latency": 0, "p99_write_latency": 0 });
    let config = [(MALLOC, malloc), ("bdev_null_create", null), ("bdev_delay_create", delay)];
    run(&config, async || {
        let names = |list: Vec<Bdev>| {
            let mut names: Vec<_> = list.iter().map(|bdev| bdev.name().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(Bdev::all().await?), ["d0", "m0", "n0"]);
        assert_eq!(names(Bdev::leaves().await?), ["d0", "n0"]);
        let base = Bdev::find("m0").await?;
        assert!(base.is_claimed());
        assert_eq!(base.claimed_by(), Some("delay"));
        let error = base.open(true).unwrap_err();
        assert!(matches!(error, Error::Busy(_)), "{error}");
        base.open(false).map(drop)
    });
}

fn properties() {
    run(&[], async || {
        let device = BdevBuilder::new("disk", 4096, 100)
            .product_name("A Disk")
            .write_cache(true)
            .buffer_alignment(512)
            .metadata(Metadata { size: 8, interleaved: true })
            .write_unit_size(2)
            .optimal_io_boundary(8)
            .register(Disk)
            .await?;
        let bdev = Bdev::find("disk").await?;
        assert_eq!((bdev.product_name(), bdev.module_name()), ("A Disk", "case_disk"));
        assert_eq!((bdev.block_size(), bdev.data_block_size()), (4104, 4096));
        assert_eq!((bdev.num_blocks(), bdev.size()), (100, 410_400));
        assert_eq!(bdev.metadata(), Some(Metadata { size: 8, interleaved: true }));
        assert_eq!((bdev.write_unit_size(), bdev.optimal_io_boundary()), (2, 8));
        assert_eq!((bdev.alignment(), bdev.has_write_cache()), (512, true));
        assert_eq!((bdev.dif(), bdev.zones(), bdev.has_media_events()), (None, None, false));
        assert_eq!((bdev.is_claimed(), bdev.claimed_by()), (false, None));
        assert_eq!(bdev.uuid(), device.uuid());
        assert!(bdev.supports(IoKind::Unmap) && !bdev.supports(IoKind::Copy));
        let desc = bdev.open(true)?;
        assert_eq!((desc.block_size(), desc.md_size(), desc.alignment()), (4104, 8, 512));
        assert_eq!((desc.num_blocks(), desc.is_md_interleaved()), (100, true));
        assert_eq!(desc.bdev().await?.metadata(), bdev.metadata());
        drop(desc);
        device.unregister().await
    });
}

fn stock() {
    let file = std::env::temp_dir().join(format!("spdk-case-{}.img", std::process::id()));
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    let malloc = json!({ "name": "m0", "num_blocks": 64, "block_size": 512 });
    let aio = json!({ "name": "a0", "filename": file, "block_size": 512 });
    let config = [
        (MALLOC, malloc),
        ("bdev_aio_create", aio),
        ("bdev_error_create", json!({ "base_name": "m0" })),
    ];
    run(&config, async || {
        let file = Bdev::find("a0").await?;
        assert_eq!((file.size(), file.module_name()), (1 << 20, "aio"));
        let error = Bdev::find("EE_m0").await?;
        assert_eq!((error.num_blocks(), error.module_name()), (64, "error"));
        let malloc = Bdev::find("m0").await?;
        assert!(malloc.supports(IoKind::Read) && malloc.supports(IoKind::WriteZeroes));
        assert_eq!(malloc.product_name(), "Malloc disk");
        Ok(())
    });
    std::fs::remove_file(file).unwrap();
}

fn zoned() {
    let null = json!({ "name": "n0", "num_blocks": 4096, "block_size": 4096 });
    let zoned = json!({ "name": "z0", "base_bdev": "n0", "zone_capacity": 1000,
        "optimal_open_zones": 2 });
    run(&[("bdev_null_create", null), ("bdev_zone_block_create", zoned)], async || {
        let zones = Bdev::find("z0").await?.zones().expect("zones");
        assert_eq!((zones.size, zones.count, zones.optimal_open), (1024, 4, 2));
        assert_eq!((zones.zone_of(0), zones.zone_of(1023), zones.zone_of(1024)), (0, 0, 1024));
        assert_eq!(Bdev::find("n0").await?.zones(), None);
        Ok(())
    });
}

fn snapshots() {
    run(&[], async || {
        let device = disk("disk", 8).await;
        let bdev = Bdev::find("disk").await?;
        let desc = bdev.open(false)?;
        device.resize(16).await?;
        assert_eq!((bdev.num_blocks(), desc.num_blocks()), (8, 16));
        assert_eq!(bdev.refresh().await?.num_blocks(), 16);
        drop(desc);
        device.unregister().await?;
        assert_eq!(bdev.name(), "disk");
        assert!(matches!(bdev.open(false), Err(Error::NotFound(_))));
        assert!(matches!(bdev.refresh().await, Err(Error::NotFound(_))));
        Ok(())
    });
}

fn replaced() {
    run(&[], async || {
        disk("disk", 8).await.unregister().await?;
        let first = disk("disk", 8).await;
        let bdev = Bdev::find("disk").await?;
        first.unregister().await?;
        let second = BdevBuilder::new("disk", 512, 8).uuid(Some(Uuid::from_u128(1)));
        let second = second.register(Disk).await?;
        let error = bdev.open(true).unwrap_err();
        assert!(error.to_string().contains("another has its name now"), "{error}");
        assert!(matches!(bdev.refresh().await, Err(Error::NotFound(_))));
        second.unregister().await
    });
}

fn foreign_thread() {
    run(&[], async || {
        let device = disk("disk", 8).await;
        let bdev = Bdev::find("disk").await?;
        let name = std::thread::spawn(move || {
            let error = bdev.open(true).unwrap_err();
            assert!(matches!(error, Error::WrongThread(_)), "{error}");
            bdev.name().to_owned()
        });
        assert_eq!(name.join().unwrap(), "disk");
        device.unregister().await
    });
}

fn hide_metadata() {
    run(&[], async || {
        let metadata = Metadata { size: 8, interleaved: true };
        let device = BdevBuilder::new("disk", 512, 8).metadata(metadata).register(Disk).await?;
        let options = OpenOptions::new().write(true).hide_metadata(true);
        if let Some(desc) = supported(BdevDesc::open_with("disk", options)) {
            assert_eq!((desc.block_size(), desc.md_size()), (512, 0));
        }
        device.unregister().await
    });
}

fn stats() {
    run(&[], async || {
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

fn queue_depth() {
    run(&[], async || {
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

fn qos() {
    run(&[], async || {
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
    run(&[], async || {
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

fn histogram() {
    run(&[], async || {
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

fn quiesce() {
    run(&[], async || {
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
    run(&[], async || {
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

/// SPDK begins to remove the bdev when its ranges are let go.
fn quiesce_and_remove() {
    let malloc = json!({ "name": "m0", "num_blocks": 64, "block_size": 512 });
    run(&[(MALLOC, malloc)], async || {
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
