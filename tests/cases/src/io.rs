//! Every operation on open bdevs of the stock modules.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin::bdev::NvmeCmd;
use spdk_plugin::bdev::{BdevDesc, IoChannel, IoOptions, ZoneAction, ZoneState};
use spdk_plugin::dma::{DmaBuf, IoVec};
use spdk_plugin::module::{Bdev, BdevBuilder, BdevIo, IoError, IoResult, Metadata};
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, Result, bdev_module};

use crate::disk::Disk;
use crate::support::{app, bdevs, rpc, supported};

crate::cases![
    read_and_write,
    vectors,
    arguments,
    read_only,
    compare,
    ranges,
    copy,
    seek,
    zcopy,
    zones,
    aio,
    injected,
    aborted,
    out_of_requests,
    none_waits_any_more,
    odd_blocks,
    passthrough,
    separate_metadata,
];

fn malloc(name: &str, blocks: u64, size: u32) -> (&'static str, Value) {
    let params = json!({ "name": name, "num_blocks": blocks, "block_size": size });
    ("bdev_malloc_create", params)
}

fn run(config: &[(&str, Value)], case: impl AsyncFnOnce() -> Result<()>) {
    app().json_data(bdevs(config)).block_on(case()).unwrap();
}

/// An open bdev with a channel to it.
fn open(name: &str) -> (BdevDesc, IoChannel) {
    let desc = BdevDesc::open(name, true).unwrap();
    let channel = desc.get_io_channel().unwrap();
    (desc, channel)
}

fn buf(len: usize, fill: u8) -> DmaBuf {
    let mut buf = DmaBuf::alloc(len, 4096).unwrap();
    buf.fill(fill);
    buf
}

#[track_caller]
fn cause<T: std::fmt::Debug>(result: Result<T>) -> IoError {
    match result {
        Err(Error::Io { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

fn read_and_write() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        let mut data = buf(4096, 0);
        data.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7) as u8);
        let address = data.as_ptr();
        desc.write(&channel, &mut data, 1024, 4096).await?;
        assert_eq!((data.as_ptr(), data.len()), (address, 4096));
        let mut back = buf(8192, 0xff);
        desc.read_blocks(&channel, &mut back, 2, 8).await?;
        assert_eq!(back[..4096], data[..]);
        assert!(back[4096..].iter().all(|byte| *byte == 0xff));
        desc.write_blocks(&channel, &mut back, 63, 1).await?;
        desc.read(&channel, &mut back, 63 * 512, 512).await?;
        assert_eq!(back[..512], data[..512]);
        assert_eq!(channel.in_flight(), 0);
        Ok(())
    });
}

fn vectors() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        let mut list: IoVec = buf(4096, 0).into_chunks(1000).into();
        let data: Vec<u8> = (0..4096).map(|i| (i / 16) as u8).collect();
        list.fill_from(&data);
        desc.writev(&channel, &mut list, 512, 4096).await?;
        let mut back: IoVec = buf(4096, 0).into_chunks(300).into();
        desc.readv_blocks(&channel, &mut back, 1, 8).await?;
        assert_eq!(back.to_vec(), data);
        // Fewer bytes than there is room for.
        let mut part: IoVec = buf(4096, 9).into_chunks(700).into();
        desc.readv(&channel, &mut part, 512, 1024).await?;
        let part = part.to_vec();
        assert_eq!((&part[..1024], part[1024]), (&data[..1024], 9));
        let mut part: IoVec = part_of(&data);
        desc.writev_blocks(&channel, &mut part, 20, 1).await?;
        assert_eq!(part.bufs().iter().map(|buf| buf.len()).sum::<usize>(), 1024);
        let mut back = buf(1024, 9);
        desc.read_blocks(&channel, &mut back, 20, 2).await?;
        assert_eq!((&back[..512], back[512]), (&data[..512], 0));
        Ok(())
    });
}

fn part_of(data: &[u8]) -> IoVec {
    let mut list: IoVec = buf(1024, 0).into_chunks(200).into();
    list.fill_from(data);
    list
}

fn arguments() {
    run(&[malloc("m0", 64, 4096), malloc("m1", 64, 4096)], async || {
        let (desc, channel) = open("m0");
        let mut data = buf(8192, 1);
        let text = |result: Result<()>| match result.unwrap_err() {
            Error::Invalid(text) => text,
            error => panic!("{error:?}"),
        };
        let said = text(desc.read(&channel, &mut data, 512, 4096).await);
        assert_eq!(
            said,
            "read of 4096 bytes at byte 512 of bdev m0: both must be multiples of its block size, 4096"
        );
        let said = text(desc.read(&channel, &mut data, 0, 12288).await);
        assert_eq!(
            said,
            "read of 12288 bytes at byte 0 of bdev m0 needs 12288 bytes of buffer, and there are 8192"
        );
        let said = text(desc.write_blocks(&channel, &mut data, 63, 2).await);
        assert_eq!(
            said,
            "write of 8192 bytes at byte 258048 of bdev m0 goes beyond its end at byte 262144"
        );
        for (offset, num) in [(64, 1), (u64::MAX, 1), (u64::MAX, 2), (1 << 60, 1)] {
            let said = text(desc.read_blocks(&channel, &mut data, offset, num).await);
            assert!(said.contains("beyond its end"), "{said}");
        }
        for num in [3, 1 << 52, u64::MAX] {
            let said = text(desc.read_blocks(&channel, &mut data, 0, num).await);
            assert!(said.contains("bytes of buffer"), "{said}");
            let said = text(desc.unmap_blocks(&channel, 1, num.max(64)).await);
            assert!(said.contains("beyond its end"), "{said}");
        }
        assert_eq!(
            text(desc.read(&channel, &mut data, 0, 0).await),
            "read of no blocks of bdev m0"
        );
        let mut empty = DmaBuf::empty();
        assert!(text(desc.write(&channel, &mut empty, 0, 4096).await).contains("there are 0"));
        assert!(text(desc.readv(&channel, &mut IoVec::new(), 0, 4096).await).contains("are 0"));
        assert_eq!((data.len(), data[8191], channel.in_flight()), (8192, 1, 0));
        let other = BdevDesc::open("m1", true)?;
        let said = text(other.write(&channel, &mut data, 0, 4096).await);
        assert!(said.ends_with("by a channel of another descriptor"), "{said}");
        let same = BdevDesc::open("m0", true)?;
        assert!(same.write(&channel, &mut data, 0, 4096).await.is_err());
        let mut read = desc.read(&channel, &mut data, 0, 4096);
        read.start();
        read.await
    });
}

fn read_only() {
    run(&[malloc("m0", 64, 512)], async || {
        let desc = BdevDesc::open("m0", false)?;
        let channel = desc.get_io_channel()?;
        let mut data = buf(512, 1);
        desc.read(&channel, &mut data, 0, 512).await?;
        for result in [
            desc.write(&channel, &mut data, 0, 512).await,
            desc.unmap(&channel, 0, 512).await,
            desc.write_zeroes(&channel, 0, 512).await,
            desc.zcopy_start(&channel, 0, 1, true).await.map(drop),
        ] {
            assert_eq!(result.unwrap_err().errno(), 9);
        }
        assert_eq!(data.len(), 512);
        Ok(())
    });
}

fn compare() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        let mut data = buf(512, 5);
        desc.write_blocks(&channel, &mut data, 3, 1).await?;
        desc.compare_blocks(&channel, &mut data, 3, 1).await?;
        let result = desc.compare(&channel, &mut data, 0, 512).await;
        let text = result.as_ref().unwrap_err().to_string();
        assert_eq!(text, "compare of 512 bytes at byte 0 of bdev m0: data differ");
        assert_eq!(cause(result), IoError::Miscompare);
        let mut list: IoVec = buf(512, 5).into_chunks(100).into();
        desc.comparev(&channel, &mut list, 3 * 512, 512).await?;
        assert_eq!(
            cause(desc.comparev_blocks(&channel, &mut list, 4, 1).await),
            IoError::Miscompare
        );

        let (mut expected, mut new) = (buf(512, 5), buf(512, 6));
        desc.compare_and_write_blocks(&channel, &mut expected, &mut new, 3, 1).await?;
        desc.compare_blocks(&channel, &mut new, 3, 1).await?;
        let result = desc.compare_and_write(&channel, &mut expected, &mut new, 3 * 512, 512).await;
        assert_eq!(cause(result), IoError::Miscompare);
        let mut expected: IoVec = new.into_chunks(512).into();
        desc.comparev_and_writev_blocks(&channel, &mut expected, &mut list, 3, 1).await?;
        desc.compare_blocks(&channel, &mut data, 3, 1).await
    });
}

fn ranges() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        let mut data = buf(64 * 512, 5);
        desc.write(&channel, &mut data, 0, 64 * 512).await?;
        desc.write_zeroes(&channel, 512, 1024).await?;
        desc.write_zeroes_blocks(&channel, 4, 1).await?;
        desc.unmap(&channel, 5 * 512, 512).await?;
        desc.unmap_blocks(&channel, 6, 2).await?;
        desc.flush(&channel, 0, 64 * 512).await?;
        desc.flush_blocks(&channel, 63, 1).await?;
        desc.read_blocks(&channel, &mut data, 0, 64).await?;
        let sums: Vec<bool> = data.chunks(512).map(|block| block[0] == 0).take(9).collect();
        assert_eq!(sums, [false, true, true, false, true, true, true, true, false]);
        desc.reset(&channel).await
    });
}

fn copy() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        let mut data = buf(1024, 5);
        desc.write(&channel, &mut data, 512, 1024).await?;
        if supported(desc.copy_blocks(&channel, 10, 1, 2).await).is_some() {
            desc.copy(&channel, 20 * 512, 512, 1024).await?;
            for block in [10, 20] {
                desc.compare_blocks(&channel, &mut data, block, 2).await?;
            }
            let odd = desc.copy(&channel, 0, 100, 512).await;
            assert!(matches!(odd, Err(Error::Invalid(_))), "{odd:?}");
        }
        Ok(())
    });
}

fn seek() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        if let Some(block) = supported(desc.seek_data(&channel, 7).await) {
            assert_eq!(block, Some(7));
            assert_eq!(desc.seek_hole(&channel, 7).await?, None);
            assert!(matches!(desc.seek_hole(&channel, 64).await, Err(Error::Invalid(_))));
        }
        Ok(())
    });
}

fn zcopy() {
    run(&[malloc("m0", 64, 512)], async || {
        let (desc, channel) = open("m0");
        let mut data = buf(1024, 5);
        desc.write_blocks(&channel, &mut data, 2, 2).await?;
        let blocks = desc.zcopy_start(&channel, 2, 2, true).await?;
        let mut seen = [0; 1024];
        blocks.read(0, &mut seen);
        assert_eq!((blocks.len(), seen), (1024, [5; 1024]));
        assert_eq!(channel.in_flight(), 1);
        blocks.write(510, &[1, 2, 3, 4]);
        blocks.commit().await?;
        assert_eq!(channel.in_flight(), 0);
        desc.read_blocks(&channel, &mut data, 2, 2).await?;
        assert_eq!(data[509..515], [5, 1, 2, 3, 4, 5]);
        desc.zcopy_start(&channel, 2, 2, true).await?.abandon().await?;
        drop(desc.zcopy_start(&channel, 0, 64, true).await?);
        drop(desc.zcopy_start(&channel, 2, 1, false).await?.commit());
        let last = desc.zcopy_start(&channel, 63, 1, true).await?;
        drop(channel);
        drop(desc);
        last.write(0, b"the channel stays");
        last.commit().await?;
        let (desc, channel) = open("m0");
        desc.read_blocks(&channel, &mut data, 63, 1).await?;
        assert_eq!(data[..17], *b"the channel stays");
        Ok(())
    });
}

fn zones() {
    let zoned =
        json!({ "name": "z0", "base_bdev": "n0", "zone_capacity": 8, "optimal_open_zones": 1 });
    run(&[malloc("n0", 64, 512), ("bdev_zone_block_create", zoned)], async || {
        let (desc, channel) = open("z0");
        let zones = desc.get_zone_info(&channel, 0, 8).await?;
        assert_eq!(zones.len(), 8);
        assert_eq!((zones[3].zone_id, zones[3].capacity), (24, 8));
        desc.zone_management(&channel, 24, ZoneAction::Reset).await?;
        desc.zone_management(&channel, 24, ZoneAction::Open).await?;
        let mut data = buf(1024, 1);
        let at = desc.zone_append(&channel, &mut data, 24, 2).await?;
        let mut list: IoVec = data.into_chunks(500).into();
        let next = desc.zone_appendv(&channel, &mut list, 24, 1).await?;
        assert_eq!((at, next), (24, 26));
        let zone = desc.get_zone_info(&channel, 24, 1).await?[0];
        assert_eq!(zone.write_pointer, 27);
        assert!(matches!(zone.state, ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen));
        desc.zone_management(&channel, 24, ZoneAction::Finish).await?;
        assert_eq!(desc.get_zone_info(&channel, 24, 1).await?[0].state, ZoneState::Full);
        let mut data = buf(1024, 1);
        assert!(matches!(
            desc.zone_append(&channel, &mut data, 24, 2).await,
            Err(Error::Io { .. })
        ));
        for (zone, count) in [(1, 1), (64, 1), (0, 9), (u64::MAX, 1), (0, u64::MAX), (0, 0)] {
            let error = desc.get_zone_info(&channel, zone, count).await.unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error}");
        }
        let mut data = buf(9 * 512, 1);
        assert!(matches!(
            desc.zone_append(&channel, &mut data, 0, 9).await,
            Err(Error::Invalid(_))
        ));
        let plain = BdevDesc::open("n0", false)?;
        let to_plain = plain.get_io_channel()?;
        let error = plain.get_zone_info(&to_plain, 0, 1).await.unwrap_err();
        assert_eq!(error.errno(), 95);
        Ok(())
    });
}

fn aio() {
    let file = std::env::temp_dir().join(format!("spdk-case-{}.img", std::process::id()));
    std::fs::write(&file, vec![3; 1 << 20]).unwrap();
    let aio = json!({ "name": "a0", "filename": file, "block_size": 512 });
    run(&[("bdev_aio_create", aio)], async || {
        let (desc, channel) = open("a0");
        let mut data = buf(8192, 0);
        desc.read(&channel, &mut data, 512, 8192).await?;
        assert!(data.iter().all(|byte| *byte == 3));
        data.fill(4);
        desc.write(&channel, &mut data, 4096, 8192).await?;
        let mut list: IoVec = buf(4096, 6).into_chunks(512).into();
        desc.writev(&channel, &mut list, 512 * 1024, 4096).await?;
        desc.flush(&channel, 0, 1 << 20).await
    });
    let contents = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let count = |byte: u8| contents.iter().filter(|b| **b == byte).count();
    assert_eq!((count(4), count(6), contents[4096], contents[512 * 1024]), (8192, 4096, 4, 6));
}

fn injected() {
    let config = [malloc("m0", 64, 512), ("bdev_error_create", json!({ "base_name": "m0" }))];
    run(&config, async || {
        let (desc, channel) = open("EE_m0");
        let inject = async |io: &str, error: &str, num: u32| {
            let params = json!({ "name": "EE_m0", "io_type": io, "error_type": error, "num": num });
            let reply = rpc("bdev_error_inject_error", params).await;
            reply.get("error").is_none()
        };
        let mut data = buf(512, 1);
        assert!(inject("write", "failure", 2).await);
        for _ in 0..2 {
            let result = desc.write(&channel, &mut data, 512, 512).await;
            let text = result.as_ref().unwrap_err().to_string();
            assert_eq!(text, "write of 512 bytes at byte 512 of bdev EE_m0: I/O failed");
            assert_eq!((cause(result), data.len()), (IoError::Failed, 512));
        }
        desc.write(&channel, &mut data, 512, 512).await?;
        assert!(inject("flush", "failure", 1).await);
        assert_eq!(cause(desc.flush(&channel, 0, 512).await), IoError::Failed);
        if inject("read", "nomem", 3).await {
            // The bdev layer tries those again when others have ended.
            let mut bufs: Vec<DmaBuf> = (0..8).map(|_| buf(512, 0)).collect();
            let mut reads: Vec<_> =
                bufs.iter_mut().map(|buf| desc.read(&channel, buf, 512, 512)).collect();
            for read in &mut reads {
                read.start();
            }
            for read in reads {
                read.await?;
            }
            assert!(bufs.iter().all(|buf| buf[511] == 1));
        }
        // Held back until a reset lets go of it.
        assert!(inject("read", "pending", 1).await);
        let mut held = desc.read(&channel, &mut data, 512, 512);
        held.start();
        desc.reset(&channel).await?;
        assert!(held.await.is_err());
        assert_eq!(data.len(), 512);
        Ok(())
    });
}

fn delay(name: &str, base: &str, us: u64) -> (&'static str, Value) {
    let params = json!({ "name": name, "base_bdev_name": base, "avg_read_latency": us,
        "p99_read_latency": us, "avg_write_latency": us, "p99_write_latency": us });
    ("bdev_delay_create", params)
}

fn aborted() {
    run(&[malloc("m0", 64, 512), delay("d0", "m0", 200_000)], async || {
        let (desc, channel) = open("d0");
        let (mut first, mut second) = (buf(512, 1), buf(512, 2));
        let mut write = desc.write(&channel, &mut first, 0, 512);
        let id = write.start();
        assert_eq!(id, write.start());
        sleep(Duration::from_millis(20)).await;
        desc.abort(&channel, id).await?;
        assert_eq!(cause(write.await), IoError::Aborted);
        assert_eq!(first.len(), 512);
        let gone = desc.abort(&channel, id).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound(_)), "{gone}");
        // One whose future is gone, too.
        let mut read = desc.read(&channel, &mut second, 0, 512);
        let id = read.start();
        drop(read);
        sleep(Duration::from_millis(20)).await;
        desc.abort(&channel, id).await?;
        crate::support::until("the abort", || channel.in_flight() == 0).await;
        let other = desc.get_io_channel()?;
        let mut read = desc.read(&channel, &mut first, 0, 512);
        let id = read.start();
        let stray = desc.abort(&other, id).await.unwrap_err();
        assert!(matches!(stray, Error::NotFound(_)), "{stray}");
        read.await
    });
}

/// More operations than SPDK has requests: they wait, in order.
fn out_of_requests() {
    let options = json!({ "bdev_io_pool_size": 256 + 64, "bdev_io_cache_size": 64 });
    let config = [("bdev_set_options", options), malloc("m0", 1024, 512), delay("d0", "m0", 2000)];
    run(&config, async || {
        let (desc, channel) = open("d0");
        let mut bufs: Vec<DmaBuf> = (0..1000).map(|i| buf(512, i as u8)).collect();
        let mut writes: Vec<_> = bufs
            .iter_mut()
            .enumerate()
            .map(|(i, buf)| desc.write_blocks(&channel, buf, i as u64 % 4, 1))
            .collect();
        let ids: Vec<_> = writes.iter_mut().map(|write| write.start()).collect();
        assert_eq!(channel.in_flight(), 1000);
        // One that waits is aborted, and one is given up.
        let last = writes.pop().unwrap();
        desc.abort(&channel, ids[999]).await?;
        assert_eq!(cause(last.await), IoError::Aborted);
        drop(writes.pop());
        for write in writes {
            write.await?;
        }
        crate::support::until("the last one", || channel.in_flight() == 0).await;
        // What was written last is there.
        assert!(bufs[998].is_empty());
        let mut data = buf(4 * 512, 0);
        desc.read_blocks(&channel, &mut data, 0, 4).await?;
        let seen: Vec<u8> = data.chunks(512).map(|block| block[0]).collect();
        assert_eq!(seen, [996, 997, 994, 995].map(|i: u32| i as u8));
        Ok(())
    });
}

/// SPDK cannot be told that nobody waits for a request any more.
fn none_waits_any_more() {
    let options = json!({ "bdev_io_pool_size": 256 + 64, "bdev_io_cache_size": 64 });
    let config = [
        ("bdev_set_options", options),
        malloc("m0", 64, 512),
        malloc("m1", 64, 512),
        delay("d0", "m0", 20_000),
    ];
    run(&config, async || {
        let (desc, channel) = open("d0");
        let mut bufs: Vec<DmaBuf> = (0..400).map(|_| buf(512, 1)).collect();
        let start = |buf| {
            let mut write = desc.write_blocks(&channel, buf, 0, 1);
            write.start();
            write
        };
        let writes: Vec<_> = bufs.iter_mut().map(start).collect();
        // The only one of its channel that waits, twice; and then the channel goes, and the bdev.
        let (other, other_channel) = open("m1");
        let mut data = buf(512, 2);
        for _ in 0..2 {
            let mut read = other.read_blocks(&other_channel, &mut data, 0, 1);
            let id = read.start();
            other.abort(&other_channel, id).await?;
            assert_eq!(cause(read.await), IoError::Aborted);
            assert_eq!(other_channel.in_flight(), 0);
        }
        drop((other, other_channel));
        for write in writes {
            write.await?;
        }
        let (other, other_channel) = open("m1");
        other.read_blocks(&other_channel, &mut data, 0, 1).await
    });
}

/// A block size that is no power of two, and metadata.
fn odd_blocks() {
    run(&[], async || {
        let metadata = Metadata { size: 8, interleaved: true };
        let builder = BdevBuilder::new("disk", 512, 64).metadata(metadata);
        let device = builder.register(Disk).await?;
        let (desc, channel) = open("disk");
        assert_eq!(desc.block_size(), 520);
        let mut data = buf(1040, 1);
        desc.write(&channel, &mut data, 1040, 1040).await?;
        assert!(matches!(desc.write(&channel, &mut data, 512, 1040).await, Err(Error::Invalid(_))));
        let mut options = IoOptions::new().exclude_dif_checks(1);
        let result = desc.read(&channel, &mut data, 0, 520).with_options(&mut options).await;
        supported(result);
        let mut options = IoOptions::new().with_metadata(buf(8, 0));
        let refused = desc.read(&channel, &mut data, 0, 520).with_options(&mut options).await;
        assert!(refused.is_err(), "its metadata are not separate");
        assert_eq!((data.len(), options.metadata.len()), (1040, 8));
        drop((desc, channel));
        device.unregister().await
    });
}

/// Answers NVMe commands with what they are, and gives each block its number as metadata.
struct Nvme;

#[bdev_module(name = "case_nvme")]
impl Bdev for Nvme {
    type Channel = ();

    fn channel(&self) -> Result<()> {
        Ok(())
    }

    async fn read(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        let first = io.offset_blocks() as u8;
        io.bufs_mut().for_each(|buf| buf.fill(1));
        for (i, md) in io.metadata_mut().into_iter().flat_map(|md| md.chunks_mut(8)).enumerate() {
            md.fill(first + i as u8);
        }
        Ok(())
    }

    async fn write(&self, _: &(), io: BdevIo<'_>) -> IoResult {
        let given = io.metadata().is_some_and(|md| md.iter().all(|byte| *byte == 9));
        if given { Ok(()) } else { Err(IoError::INVALID_FIELD) }
    }

    async fn nvme_admin(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        let nvme = io.nvme().ok_or(IoError::Failed)?;
        let opcode = nvme.command[0];
        nvme.data[..64].copy_from_slice(nvme.command);
        io.set_cdw0(77);
        if opcode == 0xc0 { Err(IoError::Nvme { cdw0: 5, sct: 1, sc: 2 }) } else { Ok(()) }
    }

    async fn nvme_io(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        io.nvme().ok_or(IoError::Failed)?.data.fill(3);
        Ok(())
    }

    async fn nvme_io_md(&self, _: &(), mut io: BdevIo<'_>) -> IoResult {
        io.nvme().ok_or(IoError::Failed)?.metadata.fill(4);
        Ok(())
    }
}

fn passthrough() {
    run(&[], async || {
        let device = BdevBuilder::new("nvme", 512, 64).register(Nvme).await?;
        let (desc, channel) = open("nvme");
        let (mut data, mut md) = (buf(512, 0), buf(16, 0));
        let mut cmd = NvmeCmd::new(6);
        cmd.cdw10_15[0] = 0x0102_0304;
        // SAFETY: the device is the one above, which stays inside the buffers.
        unsafe {
            let cdw0 = desc.nvme_admin_passthru(&channel, cmd, &mut data).await?;
            assert_eq!((cdw0, data[0], &data[40..44]), (77, 6, &[4, 3, 2, 1][..]));
            let result = desc.nvme_admin_passthru(&channel, NvmeCmd::new(0xc0), &mut data).await;
            assert_eq!(cause(result), IoError::Nvme { cdw0: 5, sct: 1, sc: 2 });
            desc.nvme_io_passthru(&channel, cmd, &mut data).await?;
            assert_eq!((data.len(), data[511]), (512, 3));
            desc.nvme_io_passthru_md(&channel, cmd, &mut data, &mut md).await?;
            assert_eq!((md.len(), md[15]), (16, 4));
        }
        drop((desc, channel));
        device.unregister().await
    });
}

fn separate_metadata() {
    run(&[], async || {
        let metadata = Metadata { size: 8, interleaved: false };
        let builder = BdevBuilder::new("nvme", 512, 64).metadata(metadata);
        let device = builder.register(Nvme).await?;
        let (desc, channel) = open("nvme");
        let mut data = buf(1024, 0);
        let mut options = IoOptions::new().with_metadata(buf(16, 0));
        desc.read_blocks(&channel, &mut data, 5, 2).with_options(&mut options).await?;
        assert_eq!((data[1023], options.metadata[7], options.metadata[8]), (1, 5, 6));
        let mut list: IoVec = data.into_chunks(512).into();
        options.metadata.fill(9);
        desc.writev(&channel, &mut list, 0, 1024).with_options(&mut options).await?;
        options.metadata.fill(8);
        let result = desc.writev(&channel, &mut list, 0, 1024).with_options(&mut options).await;
        assert_eq!(cause(result), IoError::INVALID_FIELD);
        let mut short = IoOptions::new().with_metadata(buf(8, 0));
        let error = desc.writev(&channel, &mut list, 0, 1024).with_options(&mut short).await;
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("needs 16 bytes of metadata, and there are 8"), "{text}");
        drop((desc, channel));
        device.unregister().await
    });
}
