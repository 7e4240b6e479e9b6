//! Seeds, and crashes at each step of each.

use super::run::{Run, Setup};
use crate::cache::Mode;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is '{text}', which is no number")))
}

/// Tries so many seeds for each 100 rounds, of which there are 200 unless it is said otherwise.
fn seeds(per_hundred: u64) -> Vec<u64> {
    if let Some(seed) = from_env("TIER_MODEL_SEED") {
        return vec![seed];
    }
    let rounds = from_env("SPDK_PLUGIN_TEST_ROUNDS").unwrap_or(200);
    let first = std::process::id().into();
    let count = (rounds * per_hundred / 100).max(1);
    println!("{count} seeds from {first} on");
    (first..first + count).collect()
}

fn setup(seed: u64, fast_volatile: bool, slow_volatile: bool) -> Setup {
    Setup {
        seed,
        fast_volatile,
        slow_volatile,
        failures: 0,
        mode: Mode::WriteBack,
        switches: false,
        clients: 4,
        ops: 12,
    }
}

/// A crash at each step.
fn every_prefix(setup: Setup) {
    let all = Run::new(setup).round(u64::MAX);
    for steps in 0..all {
        let run = Run::new(setup);
        run.round(steps);
        run.crash();
    }
}

/// Several crashes in a row, each after steps of chance.
fn rounds(setup: Setup, rounds: u64) {
    let run = Run::new(setup);
    for i in 0..rounds {
        let steps = (setup.seed ^ (i * 0x9e37)) % 997;
        run.round(steps);
        run.crash();
    }
}

#[test]
fn a_process_dies_at_any_step() {
    for seed in seeds(5) {
        every_prefix(setup(seed, false, false));
    }
}

#[test]
fn the_power_goes_at_any_step() {
    for seed in seeds(5) {
        every_prefix(setup(seed, true, true));
    }
}

#[test]
fn many_crashes_in_a_row() {
    for seed in seeds(50) {
        for (fast, slow) in [(false, false), (true, true), (false, true), (true, false)] {
            rounds(setup(seed, fast, slow), 8);
        }
    }
}

#[test]
fn modes_change_meanwhile() {
    for seed in seeds(50) {
        let mode = if seed % 2 == 0 { Mode::WriteThrough } else { Mode::WriteBack };
        rounds(Setup { switches: true, mode, ..setup(seed, true, true) }, 8);
        rounds(Setup { switches: true, mode, ..setup(seed, false, false) }, 8);
    }
}

#[test]
fn write_through() {
    for seed in seeds(50) {
        rounds(Setup { mode: Mode::WriteThrough, ..setup(seed, true, true) }, 8);
        rounds(Setup { mode: Mode::WriteThrough, ..setup(seed, false, false) }, 8);
    }
}

#[test]
fn disks_fail_now_and_then() {
    for seed in seeds(50) {
        let setup =
            Setup { failures: 5 + seed % 40, switches: seed % 3 == 0, ..setup(seed, true, true) };
        rounds(setup, 8);
        rounds(Setup { fast_volatile: false, slow_volatile: false, ..setup }, 8);
    }
}
