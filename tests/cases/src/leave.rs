//! Operations that are left in flight: dropped, forgotten, timed out, lost in a race; and what they use
//! goes away in every order.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk_plugin::bdev::{BdevDesc, IoChannel, OpId, QosLimits};
use spdk_plugin::dma::{DmaBuf, DmaPool, IoVec};
use spdk_plugin::module::IoError;
use spdk_plugin::runtime::{cores, for_each_core, sleep, spawn_local};
use spdk_plugin::{Error, Result};

use crate::support::{app, bdevs, poll_once, rpc, supported, until};

crate::cases![
    every_operation_dropped,
    every_operation_forgotten,
    raced,
    orders,
    never_in_reused_memory,
    zcopy_left,
    waiting_left,
    removed_under_load,
    reset_under_load,
    no_allocations,
    signalled,
];

const BLOCK: usize = 512;
const BLOCKS: usize = 256;

fn config(us: u64) -> [(&'static str, Value); 2] {
    let malloc = json!({ "name": "m0", "num_blocks": BLOCKS, "block_size": BLOCK });
    let delay = json!({ "name": "d0", "base_bdev_name": "m0", "avg_read_latency": us,
        "p99_read_latency": us, "avg_write_latency": us, "p99_write_latency": us });
    [("bdev_malloc_create", malloc), ("bdev_delay_create", delay)]
}

fn run(us: u64, case: impl AsyncFnOnce() -> Result<()>) {
    app().json_data(bdevs(&config(us))).block_on(case()).unwrap();
}

fn open() -> (BdevDesc, IoChannel) {
    let desc = BdevDesc::open("d0", true).unwrap();
    let channel = desc.get_io_channel().unwrap();
    (desc, channel)
}

fn buf(fill: u8) -> DmaBuf {
    let mut buf = DmaBuf::alloc(BLOCK, BLOCK).unwrap();
    buf.fill(fill);
    buf
}

fn list(fill: u8) -> IoVec {
    buf(fill).into_chunks(BLOCK / 2).into()
}

/// Starts every kind of operation and leaves it by `leave`. Gives how many are in flight then.
fn leave_all(
    desc: &BdevDesc,
    channel: &IoChannel,
    leave: &mut dyn FnMut(&mut dyn FnMut()),
) -> usize {
    macro_rules! all {
        ($($op:expr;)*) => {$({
            let before = channel.in_flight();
            let op = $op;
            let mut op = Some(op);
            let id: OpId = op.as_mut().unwrap().start();
            let flies = channel.in_flight() > before;
            let _ = id;
            assert!(poll_once(pin!(op.as_mut().unwrap())).is_none() || !flies);
            leave(&mut || drop(op.take()));
            if let Some(op) = op.take() {
                std::mem::forget(op);
            }
        })*};
    }
    let (mut a, mut b, mut c, mut d, mut e) = (buf(1), buf(2), buf(3), buf(4), buf(5));
    let (mut f, mut g, mut h, mut i, mut j) = (list(6), list(7), list(8), list(9), list(10));
    all! {
        desc.read_blocks(channel, &mut a, 0, 1);
        desc.write_blocks(channel, &mut b, 1, 1);
        desc.readv_blocks(channel, &mut f, 2, 1);
        desc.writev_blocks(channel, &mut g, 3, 1);
        desc.compare_blocks(channel, &mut c, 4, 1);
        desc.comparev_blocks(channel, &mut h, 5, 1);
        desc.compare_and_write_blocks(channel, &mut d, &mut e, 6, 1);
        desc.comparev_and_writev_blocks(channel, &mut i, &mut j, 7, 1);
        desc.flush_blocks(channel, 8, 1);
        desc.unmap_blocks(channel, 9, 1);
        desc.write_zeroes_blocks(channel, 10, 1);
        desc.copy_blocks(channel, 11, 12, 1);
        desc.seek_data(channel, 13);
        desc.seek_hole(channel, 13);
        desc.zcopy_start(channel, 14, 1, true);
    }
    let in_flight = channel.in_flight();
    assert!(in_flight >= 9, "{in_flight}");
    assert!(a.is_empty() && b.is_empty() && c.is_empty() && d.is_empty() && e.is_empty());
    assert!([f, g, h, i, j].iter().all(IoVec::is_empty));
    in_flight
}

fn every_operation_dropped() {
    run(3000, async || {
        let (desc, channel) = open();
        for _ in 0..3 {
            leave_all(&desc, &channel, &mut |drop_it| drop_it());
            until("all operations", || channel.in_flight() == 0).await;
        }
        let mut read = buf(0);
        let base = BdevDesc::open("m0", false)?;
        let to_base = base.get_io_channel()?;
        let mut reset = base.reset(&to_base);
        reset.start();
        drop(reset);
        until("the reset", || to_base.in_flight() == 0).await;
        desc.read_blocks(&channel, &mut read, 1, 1).await?;
        assert!(read.iter().all(|byte| *byte == 2));
        // With everything else gone, too.
        leave_all(&desc, &channel, &mut |drop_it| drop_it());
        drop(channel);
        drop(desc);
        sleep(Duration::from_millis(50)).await;
        let (desc, channel) = open();
        desc.read_blocks(&channel, &mut read, 3, 1).await?;
        assert!(read.iter().all(|byte| *byte == 7));
        Ok(())
    });
}

fn every_operation_forgotten() {
    run(3000, async || {
        let (desc, channel) = open();
        for _ in 0..3 {
            leave_all(&desc, &channel, &mut |_| ());
            // A zcopy that was forgotten has begun, and nobody will end it.
            sleep(Duration::from_millis(50)).await;
            assert!(channel.in_flight() <= 3, "{}", channel.in_flight());
        }
        let mut read = buf(0);
        desc.read_blocks(&channel, &mut read, 1, 1).await?;
        assert!(read.iter().all(|byte| *byte == 2));
        // What it keeps open would keep the program from ending.
        std::process::exit(0);
    });
}

/// Whichever comes first; the other one is dropped.
async fn first<A: Future, B: Future>(a: A, b: B) -> Option<A::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => b.as_mut().poll(cx).map(|_| None),
    })
    .await
}

fn raced() {
    run(20_000, async || {
        let (desc, channel) = open();
        let mut data = buf(1);
        let lost =
            first(desc.write(&channel, &mut data, 0, 512), sleep(Duration::from_millis(1))).await;
        assert!(lost.is_none() && data.is_empty());
        data = buf(2);
        let won =
            first(desc.write(&channel, &mut data, 512, 512), sleep(Duration::from_secs(5))).await;
        assert!(won.is_some_and(|result| result.is_ok()) && data.len() == 512);
        let mut other = buf(3);
        let either = first(
            desc.write(&channel, &mut data, 1024, 512),
            desc.read(&channel, &mut other, 0, 512),
        );
        let _ = either.await;
        assert!(data.len() + other.len() >= 512);
        Ok(())
    });
}

/// The future, the buffer, the channel and the descriptor go in every order.
fn orders() {
    run(2000, async || {
        let mut order = [0, 1, 2, 3];
        let mut all = vec![];
        permute(&mut order, 0, &mut all);
        assert_eq!(all.len(), 24);
        for (round, order) in all.into_iter().enumerate() {
            let (desc, channel) = open();
            let clone = channel.clone();
            let mut data = buf(round as u8 + 1);
            // The future borrows the buffer and the channel: to have them go first it is forgotten.
            let before = |what| order.iter().position(|o| *o == what);
            let mut op = desc.write_blocks(&channel, &mut data, round as u64, 1);
            op.start();
            if before(0) < before(1) && before(0) < before(2) {
                drop(op);
            } else {
                std::mem::forget(op);
            }
            assert!(data.is_empty());
            let (mut data, mut channel, mut desc) =
                (Some(data), Some((channel, clone)), Some(desc));
            for what in order {
                match what {
                    1 => drop(data.take()),
                    2 => drop(channel.take()),
                    3 => drop(desc.take()),
                    _ => (),
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
        let (desc, channel) = open();
        let mut read = buf(0);
        for round in 0..24_u8 {
            desc.read_blocks(&channel, &mut read, round.into(), 1).await?;
            assert!(read.iter().all(|byte| *byte == round + 1), "{round}");
        }
        Ok(())
    });
}

fn permute(order: &mut [u8; 4], from: usize, all: &mut Vec<[u8; 4]>) {
    if from == 4 {
        all.push(*order);
        return;
    }
    for i in from..4 {
        order.swap(from, i);
        permute(order, from + 1, all);
        order.swap(from, i);
    }
}

/// Reads that were given up land in memory that nobody has been given since.
fn never_in_reused_memory() {
    run(3000, async || {
        let (desc, channel) = open();
        let mut data = buf(0xee);
        for block in 0..64 {
            desc.write_blocks(&channel, &mut data, block, 1).await?;
        }
        let pool = DmaPool::new(64, BLOCK, BLOCK)?;
        for round in 0..20_u8 {
            let mut given: Vec<DmaBuf> = std::iter::from_fn(|| pool.get()).collect();
            assert_eq!(given.len(), 64);
            for (block, buf) in given.iter_mut().enumerate() {
                buf.fill(0);
                let mut op = desc.read_blocks(&channel, buf, block as u64, 1);
                op.start();
                match block % 2 {
                    0 => drop(op),
                    _ => std::mem::forget(op),
                }
            }
            assert_eq!(pool.available(), 0);
            drop(given);
            assert_eq!(pool.available(), 0, "the device still writes there");
            // Memory of the same size that is had meanwhile stays as it is.
            let mut canaries: Vec<DmaBuf> = (0..64).map(|_| buf(round)).collect();
            until("the reads", || channel.in_flight() == 0).await;
            for canary in &mut canaries {
                assert!(canary.iter().all(|byte| *byte == round));
            }
            // The slots of forgotten futures keep theirs until the channel goes.
            assert_eq!(pool.available(), 32);
            if round % 2 == 0 {
                break;
            }
        }
        drop(channel);
        assert_eq!(pool.available(), 64);
        Ok(())
    });
}

fn zcopy_left() {
    run(3000, async || {
        let (desc, channel) = open();
        for commit in [true, false] {
            let blocks = match desc.zcopy_start(&channel, 0, 1, true).await {
                Ok(blocks) => blocks,
                // A delay bdev of older releases has none.
                Err(error) if error.errno() == 95 => return Ok(()),
                Err(error) => return Err(error),
            };
            // A delay bdev does not hand on where the blocks lie.
            assert!(blocks.is_empty() || blocks.len() == BLOCK);
            let end = if commit { blocks.commit() } else { blocks.abandon() };
            drop(end);
            until("the end", || channel.in_flight() == 0).await;
        }
        let mut start = desc.zcopy_start(&channel, 0, 1, true);
        start.start();
        drop(start);
        let guard = desc.zcopy_start(&channel, 1, 1, true).await?;
        drop(channel);
        drop(desc);
        drop(guard);
        sleep(Duration::from_millis(50)).await;
        let (desc, channel) = open();
        let mut data = buf(0);
        desc.read_blocks(&channel, &mut data, 0, 1).await
    });
}

/// Operations that wait for a request of SPDK's are left, too.
fn waiting_left() {
    let mut config = config(2000).to_vec();
    let options = json!({ "bdev_io_pool_size": 256 + 64, "bdev_io_cache_size": 64 });
    config.insert(0, ("bdev_set_options", options));
    app()
        .json_data(bdevs(&config))
        .block_on(async {
            let (desc, channel) = open();
            let mut bufs: Vec<DmaBuf> = (0..600).map(|i| buf(i as u8)).collect();
            for (i, buf) in bufs.iter_mut().enumerate() {
                let mut op = desc.write_blocks(&channel, buf, i as u64 % 64, 1);
                op.start();
                match i % 2 {
                    0 => drop(op),
                    _ => std::mem::forget(op),
                }
            }
            assert_eq!(channel.in_flight(), 600);
            drop(bufs);
            drop(desc);
            drop(channel);
            sleep(Duration::from_millis(100)).await;
            let (desc, channel) = open();
            let mut data = buf(0);
            desc.read_blocks(&channel, &mut data, 1, 1).await
        })
        .unwrap();
}

/// The device goes while 64 tasks read and write: each gets an error, and nothing hangs.
fn removed_under_load() {
    run(500, async || {
        let (desc, channel) = open();
        let (done, errors) = (Rc::new(std::cell::Cell::new(0)), Rc::default());
        let desc = Rc::new(desc);
        let tasks = 64;
        for task in 0..tasks {
            let (desc, channel) = (Rc::clone(&desc), channel.clone());
            let done = Rc::clone(&done);
            let errors: Rc<std::cell::RefCell<Vec<Error>>> = Rc::clone(&errors);
            spawn_local(async move {
                let mut data = buf(task as u8);
                let error = loop {
                    let result = match task % 2 {
                        0 => desc.read_blocks(&channel, &mut data, task, 1).await,
                        _ => desc.write_blocks(&channel, &mut data, task, 1).await,
                    };
                    assert_eq!(data.len(), BLOCK);
                    if let Err(error) = result {
                        break Some(error);
                    }
                    if desc.is_removed() {
                        break None;
                    }
                };
                errors.borrow_mut().extend(error);
                done.set(done.get() + 1);
            })
            .detach();
        }
        drop((desc, channel));
        sleep(Duration::from_millis(50)).await;
        let start = Instant::now();
        let reply = rpc("bdev_delay_delete", json!({ "name": "d0" })).await;
        assert_eq!(reply["result"], true, "{reply}");
        until("the tasks", || done.get() == tasks).await;
        assert!(start.elapsed() < Duration::from_secs(10));
        for error in errors.borrow().iter() {
            assert!(matches!(error, Error::Io { .. } | Error::Errno { .. }), "{error}");
        }
        let gone = BdevDesc::open("d0", true).unwrap_err();
        assert!(matches!(gone, Error::NotFound(_)), "{gone}");
        Ok(())
    });
}

fn reset_under_load() {
    // SPDK's own delay bdev of 20.07 looks for a channel in the end of a reset, where there is none.
    if spdk_plugin_sys::VERSION_MAJOR == 20 {
        return;
    }
    run(200_000, async || {
        let (desc, channel) = open();
        let mut bufs: Vec<DmaBuf> = (0..64).map(buf).collect();
        let mut ops: Vec<_> = bufs
            .iter_mut()
            .enumerate()
            .map(|(i, buf)| desc.write_blocks(&channel, buf, i as u64, 1))
            .collect();
        for op in &mut ops {
            op.start();
        }
        sleep(Duration::from_millis(20)).await;
        desc.reset(&channel).await?;
        for op in ops {
            match op.await {
                Err(Error::Io { cause: IoError::Aborted, op: "write", len: 512, .. }) => (),
                other => panic!("{other:?}"),
            }
        }
        assert!(bufs.iter().all(|buf| buf.len() == BLOCK));
        Ok(())
    });
}

/// In steady state no operation calls the allocator.
fn no_allocations() {
    run(0, async || {
        let desc = BdevDesc::open("m0", false)?;
        let channel = desc.get_io_channel()?;
        let pool = DmaPool::new(8, BLOCK, BLOCK)?;
        let mut list: IoVec = (0..4).map(|_| pool.get().unwrap()).collect();
        let mut rounds = async |count: usize| -> Result<()> {
            for _ in 0..count {
                let mut data = pool.get().unwrap();
                desc.read_blocks(&channel, &mut data, 0, 1).await?;
                desc.read(&channel, &mut data, 512, 512).await?;
                desc.readv_blocks(&channel, &mut list, 0, 4).await?;
                desc.compare_blocks(&channel, &mut data, 1, 1).await?;
                let mut given_up = desc.read_blocks(&channel, &mut data, 0, 1);
                given_up.start();
                drop(given_up);
            }
            Ok(())
        };
        rounds(200).await?;
        let before = crate::count::allocations();
        rounds(2000).await?;
        assert_eq!(crate::count::allocations() - before, 0);
        Ok(())
    });
}

/// A signal comes with I/O under way on every core: some of it waits for a request, some for a limit, some
/// for a range that is held.
fn signalled() {
    let mut config = config(2000).to_vec();
    let options = json!({ "bdev_io_pool_size": 512, "bdev_io_cache_size": 64 });
    config.insert(0, ("bdev_set_options", options));
    let slow = json!({ "name": "m1", "num_blocks": BLOCKS, "block_size": BLOCK });
    config.push(("bdev_malloc_create", slow.clone()));
    let mut held = slow;
    held["name"] = json!("m2");
    config.push(("bdev_malloc_create", held));
    let ended = two_cores().json_data(bdevs(&config)).block_on(async {
        static READY: AtomicU32 = AtomicU32::new(0);
        let load = |core: u32| async move {
            let open = |(name, tasks)| {
                let desc = Rc::new(BdevDesc::open(name, true).unwrap());
                let channel = desc.get_io_channel().unwrap();
                (desc, channel, tasks)
            };
            let opened = [("d0", 400), ("m1", 8), ("m2", 8)].map(open);
            // Those who come first would leave no requests for a channel.
            READY.fetch_add(1, Ordering::AcqRel);
            let all = cores().len() as u32;
            until("the channels", || READY.load(Ordering::Acquire) == all).await;
            for (desc, channel, tasks) in opened {
                for task in 0..tasks {
                    let (desc, channel) = (Rc::clone(&desc), channel.clone());
                    let work = async move {
                        let mut data = buf(core as u8);
                        loop {
                            let block = task % BLOCKS as u64;
                            let _ = desc.write_blocks(&channel, &mut data, block, 1).await;
                        }
                    };
                    spawn_local(work).detach();
                }
            }
        };
        for_each_core(load).await?;
        let limited = BdevDesc::open("m1", true)?;
        limited.set_qos(QosLimits::none().rw_iops(1000)).await?;
        let desc = BdevDesc::open("m2", true)?;
        let _held = supported(desc.quiesce().await);
        sleep(Duration::from_millis(20)).await;
        // SAFETY: sends a signal.
        unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
        std::future::pending::<Result<()>>().await
    });
    assert!(matches!(ended, Err(Error::Stopped(_))), "{ended:?}");
}

fn two_cores() -> spdk_plugin::SpdkAppBuilder {
    app().reactor_mask(format!("[0-{}]", crate::support::cpus().min(2) - 1))
}
