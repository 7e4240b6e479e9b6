//! Bdevs that are used where their SPDK thread is not current: between its polls, and on another SPDK
//! thread of the same OS thread.

use serde_json::json;
use spdk_plugin::bdev::{
    BdevDesc, ClaimKind, HistogramOptions, IoChannel, QosLimits, Quiesced, ResetStats, Zcopy,
};
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::{Error, Result, SpdkThread, Subsystems};
use std::pin::pin;

use crate::support::{bdevs, delay, env, malloc, poll_once, supported, until};

crate::cases![between_polls, other_thread, left_behind];

/// Runs `case` with a thread that is not current and its bdevs, and ends all.
fn run(case: impl FnOnce(&SpdkThread)) {
    let _env = env().init().unwrap();
    let thread = SpdkThread::new("main").unwrap();
    let config = bdevs(&[
        malloc("m0"),
        malloc("m1"),
        delay("d0", "m0", std::time::Duration::from_millis(3)),
        ("bdev_null_create", json!({ "name": "n0", "num_blocks": 8, "block_size": 512 })),
    ]);
    let started = Subsystems::builder().json_data(config).start();
    let subsystems = thread.block_on(started).unwrap().unwrap();
    case(&thread);
    thread.block_on(subsystems.stop()).unwrap().unwrap();
}

fn open(thread: &SpdkThread, name: &str) -> (BdevDesc, IoChannel) {
    let open = async {
        let desc = BdevDesc::open(name, true)?;
        let channel = desc.get_io_channel()?;
        Ok::<_, Error>((desc, channel))
    };
    thread.block_on(open).unwrap().unwrap()
}

/// Whatever a future of the descriptor does here, it does not do it here.
#[track_caller]
fn refused<T: std::fmt::Debug>(future: impl Future<Output = Result<T>>) {
    match poll_once(pin!(future)) {
        Some(Err(Error::WrongThread(_) | Error::Unsupported { .. })) => (),
        other => panic!("{other:?}"),
    }
}

fn all_refused(desc: &BdevDesc, channel: &IoChannel) {
    let mut buf = DmaBuf::alloc_zeroed(512, 4096).unwrap();
    refused(desc.read(channel, &mut buf, 0, 512));
    refused(desc.zcopy_start(channel, 0, 1, true));
    refused(desc.reset(channel));
    refused(async { desc.get_io_channel() });
    refused(desc.io_stats(ResetStats::Keep));
    refused(desc.current_queue_depth());
    refused(desc.set_qos(QosLimits::none().rw_mib(100)));
    refused(desc.enable_histogram(HistogramOptions::new()));
    refused(desc.disable_histogram());
    refused(desc.histogram());
    refused(desc.quiesce());
    assert_eq!((buf.len(), channel.in_flight()), (512, 0));
    assert!(!desc.is_removed() && desc.size() > 0);
    channel.io_stats(ResetStats::Keep).unwrap();
    assert!(poll_once(pin!(desc.events().next())).is_none());
}

fn guards(thread: &SpdkThread) -> (Option<Zcopy>, Option<Quiesced>, IoChannel) {
    let (desc, channel) = open(thread, "m1");
    let guards = async {
        let zcopy = desc.zcopy_start(&channel, 0, 1, true).await?;
        let other = BdevDesc::open("n0", true)?;
        Ok::<_, Error>((Some(zcopy), supported(other.quiesce().await)))
    };
    let (zcopy, quiesced) = thread.block_on(guards).unwrap().unwrap();
    (zcopy, quiesced, channel)
}

fn between_polls() {
    run(|thread| {
        let (desc, channel) = open(thread, "d0");
        all_refused(&desc, &channel);
        let (zcopy, quiesced, zcopied) = guards(thread);
        let mut commit = zcopy.unwrap().commit();
        assert!(poll_once(pin!(&mut commit)).is_none());
        if let Some(quiesced) = quiesced {
            refused(quiesced.release());
        }
        thread.block_on(commit).unwrap().unwrap();
        drop((zcopied, desc, channel));
        // A range that stayed held would stay so for the read.
        let (desc, channel) = open(thread, "n0");
        let mut buf = DmaBuf::alloc_zeroed(512, 4096).unwrap();
        thread.block_on(desc.read(&channel, &mut buf, 0, 512)).unwrap().unwrap();
        let claim = thread.block_on(desc.claim(ClaimKind::Exclusive)).unwrap().unwrap();
        assert!(poll_once(pin!(claim.release())).is_none());
        let released = until("the release", || BdevDesc::open("n0", true).is_ok());
        thread.block_on(released).unwrap();
    });
}

fn other_thread() {
    run(|thread| {
        let other = SpdkThread::new("other").unwrap();
        let (desc, channel) = open(thread, "d0");
        other.block_on(async { all_refused(&desc, &channel) }).unwrap();
        let guards = guards(thread);
        other.block_on(async move { drop((guards, desc, channel)) }).unwrap();
    });
}

/// Operations whose thread is not polled while their future is, and goes.
fn left_behind() {
    run(|thread| {
        let (desc, channel) = open(thread, "d0");
        let mut bufs: Vec<_> = (0..8).map(|_| DmaBuf::alloc_zeroed(512, 4096).unwrap()).collect();
        let mut ops: Vec<_> =
            bufs.iter_mut().map(|buf| desc.write(&channel, buf, 0, 512)).collect();
        thread.block_on(async { ops.iter_mut().map(|op| op.start()).count() }).unwrap();
        let mut last = pin!(ops.pop().unwrap());
        assert!(poll_once(last.as_mut()).is_none());
        drop(ops.split_off(4));
        until_idle(thread, &channel);
        assert!(matches!(poll_once(last), Some(Ok(()))));
        assert!(ops.into_iter().all(|op| matches!(poll_once(pin!(op)), Some(Ok(())))));
    });
}

fn until_idle(thread: &SpdkThread, channel: &IoChannel) {
    while channel.in_flight() > 0 {
        thread.poll();
    }
}
