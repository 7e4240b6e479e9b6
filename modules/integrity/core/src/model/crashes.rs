//! Crashes at any moment of many requests at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fastrand::Rng;

use super::sim::block_on;
use super::{Executor, Power, Reference, SimDisk, Workload};
use crate::device::{Device, Options};
use crate::layout::{Geometry, Layout, Root};

/// `SPDK_PLUGIN_TEST_ROUNDS`, or `default`.
pub(super) fn rounds(default: u64) -> u64 {
    let rounds = std::env::var("SPDK_PLUGIN_TEST_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// `SPDK_PLUGIN_TEST_SEED`, or another one each time.
pub(super) fn seed() -> u64 {
    let seed = std::env::var("SPDK_PLUGIN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SPDK_PLUGIN_TEST_SEED={seed}");
    seed
}

pub(super) fn layout(block_size: u32) -> Layout {
    let blocks = u64::from((6 << 20) / block_size);
    Layout::new(Geometry { block_size, blocks, first: 16, align: 8 }).unwrap()
}

pub(super) fn root(disk: &SimDisk) -> Root {
    Root::decode(&disk.root().unwrap(), 16, 1 << 20).unwrap()
}

pub(super) fn open(disk: &SimDisk, options: Options) -> crate::disk::Result<Device> {
    block_on(disk, Device::open(disk, root(disk), options))
}

#[derive(Clone, Copy, Debug)]
struct Case {
    block_size: u32,
    power: Power,
    options: Options,
    /// One of so many writes of records is lost; 0 is none.
    loses_records: u32,
    loses_data: u32,
    fails: u32,
}

fn one_of(rng: &mut Rng, count: u32) -> bool {
    count > 0 && rng.u32(..count) == 0
}

/// Runs and crashes a device `lives` times, and looks each time.
fn crash(case: Case, lives: u32, seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let layout = layout(case.block_size);
    let first_data = layout.data;
    let span = if rng.bool() { 40 } else { layout.per_page() + 40 };
    let reference = Rc::new(RefCell::new(Reference::new(layout.blocks, case.block_size)));
    let harm = Cell::new(false);
    let mut disk = SimDisk::new(case.block_size);
    block_on(&disk, Device::format(&disk, layout, rng.u64(..))).unwrap();
    let mut recovered = 0;
    for life in 0..lives {
        let device = match open(&disk, case.options) {
            Ok(device) => device,
            Err(_) if harm.get() => return recovered,
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        };
        recovered += device.counts().recovered;
        let workload = Workload {
            device: &device,
            disk: &disk,
            reference: &reference,
            span,
            longest: 5,
            harm: &harm,
            write_cache: case.options.write_cache,
        };
        if device.counts().log_holes > 0 {
            // It is known that something is unknown.
            return recovered;
        }
        block_on(&disk, workload.check()).unwrap_or_else(|wrong| {
            panic!("seed {seed}, life {life}: {wrong}, {:?}, {case:?}", device.counts())
        });
        let (mut loses, told) = (rng.fork(), Rc::clone(&reference));
        disk.lose(move |lba| {
            let data = lba >= first_data;
            let lost = one_of(&mut loses, if data { case.loses_data } else { case.loses_records });
            if lost && data {
                told.borrow_mut().lost(lba - first_data);
            }
            lost
        });
        harm.set(harm.get() || case.loses_records > 0);
        let mut fails = rng.fork();
        disk.fail(move |_| one_of(&mut fails, case.fails));
        let mut executor = Executor::new(&disk, Some(rng.fork()));
        executor.spawn(async { device.run_log(&disk).await.unwrap() });
        executor.spawn(device.run_checkpoints(&disk));
        for _ in 0..rng.u32(1..12) {
            executor.spawn(workload.run(rng.fork()));
        }
        let steps = if rng.bool() { rng.u32(..200) } else { rng.u32(..6000) };
        for _ in 0..steps {
            assert!(executor.step(), "seed {seed}, life {life}: nothing goes on");
        }
        if case.power == Power::Stays {
            reference.borrow_mut().answered_is_certain();
        }
        drop(executor);
        let left = disk.crash(case.power, &mut rng);
        disk = left;
    }
    recovered
}

fn many(default: u64, case: Case) {
    let seed = seed();
    let recovered: u64 =
        (0..rounds(default)).map(|round| crash(case, 4, seed.wrapping_add(round))).sum();
    assert!(recovered > 0, "no crash has met a write");
}

pub(super) fn options(barriers: bool, write_cache: bool) -> Options {
    Options { barriers, write_cache, cached_pages: 16 }
}

fn case(block_size: u32, power: Power, barriers: bool, write_cache: bool) -> Case {
    let options = options(barriers, write_cache);
    Case { block_size, power, options, loses_records: 0, loses_data: 0, fails: 0 }
}

#[test]
fn power_fails_with_a_write_cache() {
    many(60, case(512, Power::Fails, true, true));
    many(60, case(4096, Power::Fails, true, true));
}

#[test]
fn power_fails_and_writes_go_through() {
    many(60, case(512, Power::Fails, true, false));
    many(60, case(4096, Power::Fails, true, false));
}

#[test]
fn the_process_is_killed() {
    many(40, case(512, Power::Stays, false, false));
    many(40, case(4096, Power::Stays, false, true));
    many(40, case(512, Power::Stays, true, true));
}

/// Each write that was answered and is lost is found, and nothing else.
#[test]
fn data_get_lost() {
    many(60, Case { loses_data: 10, ..case(512, Power::Fails, true, false) });
    many(60, Case { loses_data: 10, ..case(4096, Power::Stays, false, false) });
}

/// Blocks may become unreadable, but never wrong.
#[test]
fn records_get_lost() {
    many(60, Case { loses_records: 200, ..case(512, Power::Fails, true, false) });
    many(60, Case { loses_records: 200, ..case(4096, Power::Stays, false, false) });
}

/// A write that fails leaves the old or the new data, and no alarm.
#[test]
fn writes_fail() {
    many(60, Case { fails: 8, ..case(512, Power::Fails, true, false) });
    many(60, Case { fails: 8, ..case(4096, Power::Stays, false, true) });
}
