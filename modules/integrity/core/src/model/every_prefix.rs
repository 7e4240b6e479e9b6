//! One request after another, with a crash after each thing that the disk has done and with any part of what was
//! not flushed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use fastrand::Rng;

use super::crashes::{layout, open, options, root, rounds, seed};
use super::sim::{Event, block_on};
use super::{Executor, Reference, SimDisk, Workload};
use crate::device::{Device, Options};

const BLOCK: u32 = 4096;
/// Blocks that are used.
const SPAN: u64 = 8;
/// Parts of what was not flushed that are tried at most.
const PARTS: u64 = 24;

/// What the disk has done, and what is certain after so many requests.
struct Run {
    start: BTreeMap<u64, Vec<u8>>,
    root: Option<Vec<u8>>,
    events: Vec<Event>,
    /// The first is before all requests.
    certain: Vec<Reference>,
}

fn workload<'a>(
    device: &'a Device,
    disk: &'a SimDisk,
    reference: &'a RefCell<Reference>,
    harm: &'a Cell<bool>,
    write_cache: bool,
) -> Workload<'a> {
    Workload { device, disk, reference, span: SPAN, longest: 3, harm, write_cache }
}

fn run(options: Options, rng: Option<Rng>) -> Run {
    let disk = SimDisk::new(BLOCK);
    block_on(&disk, Device::format(&disk, layout(BLOCK), 77)).unwrap();
    let device = open(&disk, options).unwrap();
    let (start, first) = (disk.image(), disk.root());
    disk.start_trace();
    let reference = RefCell::new(Reference::new(layout(BLOCK).blocks, BLOCK));
    let (harm, certain) = (Cell::new(false), RefCell::new(vec![reference.borrow().clone()]));
    let workload = workload(&device, &disk, &reference, &harm, options.write_cache);
    let mut executor = Executor::new(&disk, rng);
    executor.spawn(async { device.run_log(&disk).await.unwrap() });
    executor.spawn(device.run_checkpoints(&disk));
    let requests = executor.spawn(async {
        for request in 0..11 {
            let done = match request {
                0 => workload.write(3, 2).await,
                1 => workload.write(4, 1).await,
                2 => workload.zero(3, 1).await,
                3 => workload.write(3, 3).await,
                4 => workload.flush().await,
                5 => workload.write(4, 2).await,
                6 => device.checkpoint().await.is_ok(),
                7 => workload.write(4, 1).await,
                8 => workload.zero(5, 1).await,
                9 => workload.flush().await,
                _ => device.checkpoint().await.is_ok(),
            };
            assert!(done);
            certain.borrow_mut().push(reference.borrow().clone());
            disk.mark(request + 1);
        }
    });
    executor.run(&[requests]);
    drop(executor);
    Run { start, root: first, events: disk.take_trace(), certain: certain.into_inner() }
}

/// Crashes after each event. Gives the number of crashes.
fn crash_everywhere(options: Options, order: Option<Rng>, rng: &mut Rng) -> u64 {
    let Run { start: mut durable, mut root, events, certain } = run(options, order);
    let all = certain.last().unwrap();
    let (mut pending, mut requests, mut crashes) = (Vec::new(), 0, 0);
    for event in [None].into_iter().chain(events.into_iter().map(Some)) {
        match event {
            None => {}
            Some(Event::Write { lba, data }) => {
                let blocks = data.chunks(BLOCK as usize).map(<[u8]>::to_vec);
                pending.extend((lba..).zip(blocks));
            }
            Some(Event::Flush) => durable.extend(pending.drain(..)),
            Some(Event::Root(new)) => root = Some(new),
            Some(Event::Mark(request)) => requests = request,
        }
        let every = pending.len() < 63 && 1 << pending.len() <= PARTS;
        for part in 0..if every { 1 << pending.len() } else { PARTS } {
            let part = if every { part } else { rng.u64(..) };
            let mut left = durable.clone();
            for (at, (lba, data)) in pending.iter().enumerate() {
                if part >> (at % 64) & 1 == 1 {
                    left.insert(*lba, data.clone());
                }
            }
            let reference = all.as_certain_as(&certain[requests]);
            recovers(SimDisk::with(BLOCK as usize, left, root.clone()), reference, options);
            crashes += 1;
        }
    }
    crashes
}

#[track_caller]
fn recovers(disk: SimDisk, reference: Reference, options: Options) {
    let device = open(&disk, options).unwrap();
    let (reference, harm) = (RefCell::new(reference), Cell::new(false));
    let workload = workload(&device, &disk, &reference, &harm, options.write_cache);
    block_on(&disk, workload.check()).unwrap();
    assert_eq!(device.counts().log_holes, 0);
    assert_eq!(root(&disk).epoch, device.epoch);
}

/// In the order in which things are begun, and in others.
fn in_many_orders(options: Options) {
    let mut rng = Rng::with_seed(seed());
    let mut crashes = crash_everywhere(options, None, &mut rng);
    for _ in 0..rounds(20) {
        crashes += crash_everywhere(options, Some(rng.fork()), &mut rng);
    }
    println!("{crashes} crashes");
    assert!(crashes > 1000);
}

#[test]
fn writes_go_through() {
    in_many_orders(options(true, false));
}

#[test]
fn with_a_write_cache() {
    in_many_orders(options(true, true));
}
