//! The model against a disk that is as simple as can be, with faults and without.

use super::*;
use crate::plan::{Geometry, Plan};
use crate::random::Random;

const BLOCK: usize = 64;
const BLOCKS: u64 = 300;

/// A disk that does each operation at one moment while it is in flight.
struct Disk {
    bytes: Vec<u8>,
    random: Random,
}

impl Disk {
    fn new(seed: u64) -> Self {
        let mut random = Random::stream(seed, 99);
        let bytes = (0..BLOCKS as usize * BLOCK).map(|_| random.any() as u8).collect();
        Self { bytes, random }
    }

    fn of(&mut self, blocks: Range<u64>) -> &mut [u8] {
        &mut self.bytes[blocks.start as usize * BLOCK..blocks.end as usize * BLOCK]
    }

    /// Gives what was read.
    fn perform(&mut self, ticket: &Ticket) -> Vec<u8> {
        let op = &ticket.op;
        match op.kind {
            Kind::Write | Kind::CompareAndWrite => {
                ticket.fill_new(self.of(op.blocks.clone()), BLOCK)
            }
            Kind::WriteZeroes => self.of(op.blocks.clone()).fill(0),
            Kind::Unmap => {
                let byte = self.random.any() as u8;
                self.of(op.blocks.clone()).fill(byte);
            }
            Kind::Copy => {
                let data = self.of(op.reads()).to_vec();
                self.of(op.blocks.clone()).copy_from_slice(&data);
            }
            _ => {}
        }
        self.of(op.blocks.clone()).to_vec()
    }
}

fn geometry() -> Geometry {
    Geometry { blocks: 0..BLOCKS, boundary: 16, write_unit: 1, atomic: 4, compared: 20, most: 40 }
}

fn plan(seed: u64) -> Plan {
    let kinds = Kind::SHARES.map(|(kind, _)| kind);
    Plan::new(geometry(), Random::new(seed), &kinds)
}

fn judge(model: &mut Model, ticket: &Ticket, data: &[u8]) -> Result<u64, Box<Mismatch>> {
    let (right, suspects) = ticket.check(data, BLOCK);
    model.judge(ticket, &suspects, data, BLOCK)?;
    Ok(right)
}

/// A read of everything.
fn sweep(model: &mut Model, disk: &mut Disk) -> Result<u64, Box<Mismatch>> {
    let op = Op { kind: Kind::Read, blocks: 0..BLOCKS, source: 0, differs: false };
    let ticket = model.begin(op).expect("nothing is in flight");
    let data = disk.perform(&ticket);
    let right = judge(model, &ticket, &data);
    model.end(&ticket, Ended::Well);
    right
}

/// What an operation does may be done when it begins, or when it ends.
struct Flight {
    ticket: Ticket,
    done: Option<Vec<u8>>,
    lost: bool,
}

/// Runs operations with some in flight; of those that fail some have happened. Gives how many blocks were right.
fn run(seed: u64, races: bool, fails: bool) -> Result<u64, Box<Mismatch>> {
    let (mut model, mut disk, mut plan) =
        (Model::new(seed, 0..BLOCKS), Disk::new(seed), plan(seed));
    model.set_races(races);
    let (mut flying, mut right): (Vec<Flight>, u64) = (Vec::new(), 0);
    for _ in 0..4000 {
        if flying.len() < 6
            && let Some(ticket) = model.begin(plan.draw().unwrap())
        {
            let lost = fails && ticket.op.kind.changes() && disk.random.one_in(20);
            let now = !lost && disk.random.one_in(2);
            let done = now.then(|| disk.perform(&ticket));
            flying.push(Flight { ticket, done, lost });
        }
        if flying.len() == 6 || disk.random.one_in(4) {
            let at = disk.random.below(flying.len() as u64) as usize;
            if at >= flying.len() {
                continue;
            }
            let Flight { ticket, done, lost } = flying.swap_remove(at);
            if lost {
                if disk.random.one_in(2) {
                    disk.perform(&ticket);
                }
                model.end(&ticket, Ended::Maybe("told to".into()));
                continue;
            }
            let data = done.unwrap_or_else(|| disk.perform(&ticket));
            if ticket.op.kind == Kind::Read {
                right += judge(&mut model, &ticket, &data)?;
            }
            model.end(&ticket, Ended::Well);
        }
    }
    for Flight { ticket, .. } in flying {
        disk.perform(&ticket);
        model.end(&ticket, Ended::Well);
    }
    right += sweep(&mut model, &mut disk)?;
    // What was found out does not change.
    Ok(right + sweep(&mut model, &mut disk)?)
}

#[test]
fn no_false_alarm() {
    for (races, fails) in [(false, false), (true, false), (false, true), (true, true)] {
        for seed in 0..12 {
            match run(seed, races, fails) {
                Ok(right) => assert!(right > 3000, "seed {seed}: {right}"),
                Err(wrong) => panic!("seed {seed}, races {races}, fails {fails}: {wrong:#?}"),
            }
        }
    }
}

/// Runs operations one by one, spoils one, and tells what the sweep at the end finds.
fn spoiled(seed: u64, kind: Kind, spoil: impl Fn(&mut Disk, &Ticket)) -> Box<Mismatch> {
    let (mut model, mut disk, mut plan) =
        (Model::new(seed, 0..BLOCKS), Disk::new(seed), plan(seed));
    for i in 0.. {
        let Some(ticket) = model.begin(plan.draw().unwrap()) else { continue };
        let last = i > 200 && ticket.op.kind == kind && ticket.becomes(0) != State::Anything;
        if last {
            spoil(&mut disk, &ticket);
        } else {
            disk.perform(&ticket);
        }
        model.end(&ticket, Ended::Well);
        if last {
            break;
        }
    }
    sweep(&mut model, &mut disk).expect_err("an error")
}

#[test]
fn metadata_are_told_apart() {
    let mut model = Model::new(1, 0..8);
    let op = |kind| Op { kind, blocks: 0..4, source: 0, differs: false };
    let write = model.begin(op(Kind::Write)).unwrap();
    let mut metadata = [0; 64];
    write.fill_new(&mut metadata, 16);
    model.end(&write, Ended::Well);
    let read = model.begin(op(Kind::Read)).unwrap();
    assert_eq!(read.check_metadata(&metadata, 16), Ok(()));
    metadata.swap(16, 32);
    assert!(read.check_metadata(&metadata, 16).unwrap_err().contains("block 1"));
}

#[test]
fn a_lost_write_is_found() {
    for seed in 0..100 {
        let wrong = spoiled(seed, Kind::Write, |_, _| {});
        assert!(wrong.expected.starts_with("what #"), "{wrong:?}");
        assert!(!wrong.history.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_misdirected_write_is_found() {
    for seed in 0..100 {
        spoiled(seed, Kind::Write, |disk, ticket| {
            let mut op = ticket.op.clone();
            let len = op.blocks.end - op.blocks.start;
            op.blocks.start = (op.blocks.start + 1) % (BLOCKS - len);
            op.blocks.end = op.blocks.start + len;
            disk.perform(&Ticket { op, ..ticket.clone() });
        });
    }
}

#[test]
fn a_flipped_bit_is_found_where_it_is() {
    for seed in 0..100 {
        let wrong = spoiled(seed, Kind::WriteZeroes, |disk, ticket| {
            disk.perform(ticket);
            let block = ticket.op.blocks.start;
            disk.of(block..block + 1)[17] ^= 4;
        });
        assert_eq!((wrong.byte, wrong.expected.as_str()), (17, "zeroes"), "{wrong:?}");
        assert!(wrong.history[0].contains("WriteZeroes of blocks"), "{wrong:?}");
    }
}

#[test]
fn a_copy_of_the_wrong_blocks_is_found() {
    for seed in 0..100 {
        spoiled(seed, Kind::Copy, |disk, ticket| {
            let (target, source) = (ticket.op.blocks.clone(), ticket.op.source);
            let data = disk.of(source..source + 1).to_vec();
            disk.perform(ticket);
            let block = disk.of(target.start..target.start + 1);
            block.copy_from_slice(&data);
            block[0] ^= 1;
        });
    }
}

#[test]
fn a_journal_makes_the_same_model() {
    let dir = std::env::temp_dir().join(format!("verifier-journal-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for seed in 0..20 {
        let path = dir.join(seed.to_string());
        let (mut disk, mut plan) = (Disk::new(seed), plan(seed));
        let mut model = Model::new(seed, 0..BLOCKS);
        model.set_journal(Journal::create(&path, seed, 0..BLOCKS).unwrap());
        let mut right = 0;
        for round in 0..6 {
            for i in 0..300 {
                let Some(ticket) = model.begin(plan.draw().unwrap()) else { continue };
                // The last of a round is in flight when the program is killed.
                if i != 299 || disk.random.one_in(2) {
                    disk.perform(&ticket);
                }
                if i != 299 {
                    model.end(&ticket, Ended::Well);
                }
            }
            drop(model);
            model = Journal::resume(&path).unwrap();
            let known = model.known();
            right += match sweep(&mut model, &mut disk) {
                Ok(right) => right,
                Err(wrong) => panic!("seed {seed}, round {round}: {wrong:#?}"),
            };
            assert!(known > 100, "{known}");
        }
        assert!(right > 1000, "{right}");
        // A write that the disk forgets is found after a restart, too.
        let op = Op { kind: Kind::Write, blocks: 5..7, source: 0, differs: false };
        let ticket = model.begin(op).unwrap();
        model.end(&ticket, Ended::Well);
        drop(model);
        assert_eq!(sweep(&mut Journal::resume(&path).unwrap(), &mut disk).unwrap_err().block, 5);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
