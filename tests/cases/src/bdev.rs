//! Bdev handles: lookup and getters.

use std::time::Duration;

use serde_json::json;
use spdk_plugin::Error;
use spdk_plugin::bdev::{Bdev, BdevDesc, OpenOptions};
use spdk_plugin::module::{BdevBuilder, IoKind, Metadata};
use uuid::Uuid;

use crate::disk::{Disk, disk};
use crate::support::{delay, malloc, supported, with_bdevs};

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
];

fn find() {
    with_bdevs(&[], async || {
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
    with_bdevs(&[], async || {
        for name in ["none", "", "nul\0nul", &Uuid::from_u128(7).to_string()] {
            let error = Bdev::find(name).await.unwrap_err();
            assert!(matches!(error, Error::NotFound(_)), "{name}: {error}");
        }
        Ok(())
    });
}

fn open_missing() {
    with_bdevs(&[], async || {
        let error = BdevDesc::open("none", true).unwrap_err();
        assert_eq!(error.to_string(), "there is no bdev \"none\"");
        Ok(())
    });
    let error = BdevDesc::open("none", true).unwrap_err();
    assert!(matches!(error, Error::WrongThread(_)), "{error}");
}

fn list() {
    let null = json!({ "name": "n0", "num_blocks": 64, "block_size": 512 });
    let config = [malloc("m0"), ("bdev_null_create", null), delay("d0", "m0", Duration::ZERO)];
    with_bdevs(&config, async || {
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
    with_bdevs(&[], async || {
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
        assert_eq!(bdev.write_unit_size(), 2);
        // 20.07 puts a boundary of its own.
        assert!([8, 15].contains(&bdev.optimal_io_boundary()));
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
    let aio = json!({ "name": "a0", "filename": file, "block_size": 512 });
    let config = [
        malloc("m0"),
        ("bdev_aio_create", aio),
        ("bdev_error_create", json!({ "base_name": "m0" })),
    ];
    with_bdevs(&config, async || {
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
    with_bdevs(&[("bdev_null_create", null), ("bdev_zone_block_create", zoned)], async || {
        let zones = Bdev::find("z0").await?.zones().expect("zones");
        assert_eq!((zones.size, zones.count, zones.optimal_open), (1024, 4, 2));
        assert_eq!((zones.zone_of(0), zones.zone_of(1023), zones.zone_of(1024)), (0, 0, 1024));
        assert_eq!(Bdev::find("n0").await?.zones(), None);
        Ok(())
    });
}

fn snapshots() {
    with_bdevs(&[], async || {
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
    with_bdevs(&[], async || {
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
    with_bdevs(&[], async || {
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
    with_bdevs(&[], async || {
        let metadata = Metadata { size: 8, interleaved: true };
        let device = BdevBuilder::new("disk", 512, 8).metadata(metadata).register(Disk).await?;
        let options = OpenOptions::new().write(true).hide_metadata(true);
        if let Some(desc) = supported(BdevDesc::open_with("disk", options)) {
            assert_eq!((desc.block_size(), desc.md_size()), (512, 0));
        }
        device.unregister().await
    });
}
