//! A mirror in miniature, on disks that lose power, fail and come back: whatever happens, a leg that may be
//! read has all that was acknowledged.

use super::*;
use crate::Geometry;

const REGIONS: usize = 4;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone)]
struct Disk {
    superblock: Option<(Record, Uuid)>,
    bits: [bool; REGIONS],
    data: [u64; REGIONS],
    broken: bool,
}

#[derive(Debug)]
struct Crash;

#[derive(PartialEq, Debug)]
enum Io {
    Done,
    Failed,
}

/// The mirror while it runs: what the owner and the copier know.
struct Running {
    record: Record,
    /// Which disk each slot's leg is.
    disk: Vec<Option<usize>>,
    trusted: Legs,
    readable: Legs,
    behind: [Legs; REGIONS],
    dirty: [bool; REGIONS],
    unsynced: [bool; REGIONS],
}

struct World {
    random: Random,
    disks: Vec<Disk>,
    acknowledged: [u64; REGIONS],
    version: u64,
    fuel: usize,
    nonce: u64,
    starts: u32,
    rebuilt: u32,
    lost: usize,
}

impl World {
    fn new(seed: u64, disks: usize) -> Self {
        let disk =
            Disk { superblock: None, bits: [false; REGIONS], data: [0; REGIONS], broken: false };
        Self {
            random: Random(seed),
            disks: vec![disk; disks],
            acknowledged: [0; REGIONS],
            version: 0,
            fuel: usize::MAX,
            nonce: 1,
            starts: 0,
            rebuilt: 0,
            lost: 0,
        }
    }

    fn nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    /// One write to a disk. A broken one may have done it all the same.
    fn io(&mut self, disk: usize, write: impl FnOnce(&mut Disk)) -> Result<Io, Crash> {
        if self.fuel == 0 {
            return Err(Crash);
        }
        self.fuel -= 1;
        let broken = self.disks[disk].broken;
        if !broken || self.random.one_in(2) {
            write(&mut self.disks[disk]);
        }
        Ok(if broken { Io::Failed } else { Io::Done })
    }

    /// The same write on several legs, in any order. Gives those that failed.
    fn all(
        &mut self,
        run: &Running,
        legs: Legs,
        write: impl Fn(&mut Disk, usize),
    ) -> Result<Legs, Crash> {
        let mut order: Vec<_> = legs.iter().collect();
        for i in (1..order.len()).rev() {
            let j = self.random.below(i + 1);
            order.swap(i, j);
        }
        let mut failed = Legs::NONE;
        for slot in order {
            let disk = run.disk[slot].unwrap();
            if self.io(disk, |disk| write(disk, slot))? == Io::Failed {
                failed.add(slot);
            }
        }
        Ok(failed)
    }

    fn written(run: &Running) -> Legs {
        (run.record.active() | run.record.rebuilding())
            .iter()
            .filter(|slot| run.disk[*slot].is_some())
            .collect()
    }

    /// Makes `record` the one that all written legs have; legs that do not take it fail.
    fn store(&mut self, run: &mut Running, record: Record) -> Result<bool, Crash> {
        run.record = record.clone();
        // Those that a start depends on come first: no other leg may know of an event that they do not.
        let active = record.active();
        for legs in [active & run.trusted, active - run.trusted, record.rebuilding()] {
            let legs = legs & Self::written(run);
            let failed = self.all(run, legs, |disk, slot| {
                disk.superblock = Some((record.clone(), record.slots[slot].leg));
            })?;
            if !failed.is_empty() {
                return self.fail(run, failed);
            }
        }
        run.trusted = record.active();
        Ok(true)
    }

    fn fail(&mut self, run: &mut Running, legs: Legs) -> Result<bool, Crash> {
        // One must stay that the legs which go know as active: else they would start without it.
        if (run.trusted & (run.record.active() - legs)).is_empty() {
            return Ok(false);
        }
        run.readable = run.readable - legs;
        for region in 0..REGIONS {
            if run.dirty[region] {
                run.behind[region] = run.behind[region] | legs;
            }
        }
        let nonce = self.nonce();
        let record = run.record.fail(legs, nonce);
        self.store(run, record)
    }

    fn set_bit(&mut self, run: &mut Running, region: usize) -> Result<bool, Crash> {
        while !run.dirty[region] {
            let failed = self.all(run, Self::written(run), |disk, _| disk.bits[region] = true)?;
            if failed.is_empty() {
                run.dirty[region] = true;
                let away = run.record.failed();
                run.behind[region] = run.behind[region] | away;
            } else if !self.fail(run, failed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, run: &mut Running, region: usize) -> Result<(), Crash> {
        self.version += 1;
        let version = self.version;
        if !self.set_bit(run, region)? {
            return Ok(());
        }
        let legs = Self::written(run);
        let failed = self.all(run, legs, |disk, _| disk.data[region] = version)?;
        let ok = legs - failed;
        let mut done = failed.is_empty();
        if !failed.is_empty() && !(ok & run.readable).is_empty() {
            done = self.fail(run, failed)?;
        }
        if done && (run.trusted - ok).is_empty() {
            self.acknowledged[region] = version;
        } else {
            run.unsynced[region] = true;
        }
        Ok(())
    }

    fn copy(&mut self, run: &mut Running, region: usize) -> Result<(), Crash> {
        let Some(source) = run.readable.iter().find(|slot| !run.behind[region].has(*slot)) else {
            return Ok(());
        };
        let from = run.disk[source].unwrap();
        if self.disks[from].broken {
            return Ok(());
        }
        let mut targets = run.behind[region];
        if run.unsynced[region] {
            // Those that are rebuilt, too: they may have the half that others lack.
            targets = Legs::ALL;
        }
        let targets = (targets & Self::written(run)) - Legs::one(source);
        let version = self.disks[from].data[region];
        let failed = self.all(run, targets, |disk, _| disk.data[region] = version)?;
        if !failed.is_empty() {
            self.fail(run, failed)?;
        }
        if failed.is_empty() {
            run.unsynced[region] = false;
        }
        run.behind[region] = run.behind[region] - (targets - failed);
        Ok(())
    }

    fn clear(&mut self, run: &mut Running, region: usize) -> Result<(), Crash> {
        if run.dirty[region] && !run.unsynced[region] && run.behind[region].is_empty() {
            run.dirty[region] = false;
            let failed = self.all(run, Self::written(run), |disk, _| disk.bits[region] = false)?;
            if !failed.is_empty() {
                // Those that took it have it clear, and nothing differs.
                self.fail(run, failed)?;
            }
        }
        Ok(())
    }

    fn rebuilt(&mut self, run: &mut Running) -> Result<(), Crash> {
        for slot in run.record.rebuilding().iter() {
            if run.behind.iter().all(|legs| !legs.has(slot)) {
                let nonce = self.nonce();
                let record = run.record.set(Legs::one(slot), SlotState::Active, nonce);
                if self.store(run, record)? && run.record.active().has(slot) {
                    run.readable.add(slot);
                    self.rebuilt += 1;
                } else if run.record.slots[slot].state == SlotState::Active {
                    run.record.slots[slot].state = SlotState::Rebuilding;
                }
            }
        }
        Ok(())
    }

    /// Takes a leg back, or a new one in its place.
    fn add(&mut self, run: &mut Running, slot: usize, disk: usize) -> Result<(), Crash> {
        if !run.record.failed().has(slot) || run.disk.contains(&Some(disk)) {
            return Ok(());
        }
        let known = self.disks[disk].superblock.clone();
        let back = known.is_some_and(|(record, leg)| {
            leg == run.record.slots[slot].leg
                && matches!(run.record.slots[slot].state, SlotState::Failed { since }
                    if record.stamp.events < since && record.stamp.events + 2 >= since)
        });
        let mut record = run.record.clone();
        if !back {
            let missing = run.disk[slot].is_none();
            if !missing {
                return Ok(());
            }
            for region in 0..REGIONS {
                if !self.set_bit(run, region)? {
                    return Ok(());
                }
            }
            record = run.record.clone();
            record.slots[slot].leg = Uuid::from_u128(u128::from(self.nonce()) << 64);
            (0..REGIONS).for_each(|region| run.behind[region].add(slot));
        }
        let bits = run.dirty;
        if self.io(disk, |disk| disk.bits = bits)? == Io::Failed {
            return Ok(());
        }
        run.disk[slot] = Some(disk);
        let nonce = self.nonce();
        let record = record.set(Legs::one(slot), SlotState::Rebuilding, nonce);
        self.store(run, record)?;
        Ok(())
    }

    fn start(&mut self, present: &[usize], degraded: bool) -> Result<Option<Running>, Crash> {
        let candidates: Vec<_> = present
            .iter()
            .map(|disk| Candidate {
                base: disk.to_string(),
                found: match &self.disks[*disk].superblock {
                    Some((record, leg)) => {
                        let (record, leg) = Record::decode(&record.encode(*leg)).unwrap();
                        Found::Leg(record, leg)
                    }
                    None => Found::Blank,
                },
            })
            .collect();
        let absent = vec!["x".to_owned(); self.disks.len() - present.len()];
        let plan = match decide(&candidates, &absent, None, degraded) {
            Verdict::Fresh => return self.make().map(Some),
            Verdict::Start(plan) => plan,
            Verdict::Wait(_) => return Ok(None),
            Verdict::Refuse(why) => panic!("nobody ran alone: {why}"),
        };
        let current = plan.current();
        let disk_of = |role: &Role| match role {
            Role::Current(at) | Role::Behind(at) | Role::Lost(at) => Some(present[*at]),
            Role::Missing => None,
        };
        let disk: Vec<_> = plan.roles.iter().map(disk_of).collect();
        let lost = plan.which(|role| matches!(role, Role::Lost(_)));
        let disks = &self.disks;
        let set =
            |region: usize| current.iter().any(|slot| disks[disk[slot].unwrap()].bits[region]);
        // Legs that were about to be taken back and were not told; all is copied to them.
        self.lost += lost.len();
        let dirty: [bool; REGIONS] = std::array::from_fn(|region| set(region) || !lost.is_empty());
        for slot in current.iter() {
            for (region, dirty) in dirty.iter().enumerate() {
                let data = self.disks[disk[slot].unwrap()].data[region];
                assert!(data >= self.acknowledged[region], "slot {slot} is stale: {plan:?}");
                let first = disk[current.first().unwrap()].unwrap();
                let equal = data == self.disks[first].data[region];
                assert!(equal || *dirty, "clean region {region} differs");
            }
        }
        let others: Legs = (0..disk.len()).filter(|slot| !current.has(*slot)).collect();
        for slot in others.iter().filter(|slot| disk[*slot].is_some()) {
            for region in (0..REGIONS).filter(|region| !dirty[*region]) {
                let first = disk[current.first().unwrap()].unwrap();
                let data = self.disks[disk[slot].unwrap()].data[region];
                assert_eq!(data, self.disks[first].data[region], "a bit is missing: {plan:?}");
            }
        }
        let behind = dirty.map(|dirty| if dirty { others } else { Legs::NONE });
        let top = plan.top;
        let mut run = Running {
            trusted: current,
            readable: current,
            behind,
            dirty,
            unsynced: dirty,
            record: top.clone(),
            disk,
        };
        // Bits of all before the event that makes legs be written again.
        let away = others.iter().filter(|slot| run.disk[*slot].is_none()).collect::<Legs>();
        let back = others - away;
        let nonce = self.nonce();
        let record = top.fail(away, nonce);
        let record =
            Record { stamp: record.stamp, ..record.set(back, SlotState::Rebuilding, nonce) };
        let record = Record { before: top.stamp.nonce, ..record };
        let bits = run.dirty;
        let failed = self.all(&run, current | back, |disk, _| disk.bits = bits)?;
        if !failed.is_empty() || !self.store(&mut run, record)? {
            return Ok(None);
        }
        self.starts += 1;
        Ok(Some(run))
    }

    fn make(&mut self) -> Result<Running, Crash> {
        let names: Vec<_> = (0..self.disks.len()).map(|i| i.to_string()).collect();
        let legs: Vec<_> =
            names.iter().enumerate().map(|(i, n)| (Uuid::from_u128(i as u128 + 1), &**n)).collect();
        let geometry = Geometry::new(512, 1 << 18, None, 1).unwrap();
        let zero = Record::new(Uuid::from_u128(77), "m", geometry, &legs);
        let all: Legs = (0..legs.len()).collect();
        let mut run = Running {
            disk: (0..legs.len()).map(Some).collect(),
            trusted: all,
            readable: all,
            behind: [Legs::NONE; REGIONS],
            dirty: [false; REGIONS],
            unsynced: [false; REGIONS],
            record: zero.clone(),
        };
        self.all(&run, all, |disk, _| disk.bits = [false; REGIONS])?;
        self.all(&run, all, |disk, slot| {
            disk.superblock = Some((zero.clone(), zero.slots[slot].leg));
        })?;
        let nonce = self.nonce();
        self.store(&mut run, zero.next(nonce))?;
        Ok(run)
    }

    fn live(&mut self, run: &mut Running, steps: usize) -> Result<(), Crash> {
        for _ in 0..steps {
            let region = self.random.below(REGIONS);
            let disk = self.random.below(self.disks.len());
            match self.random.below(16) {
                0..6 => self.write(run, region)?,
                6..9 => self.copy(run, region)?,
                9..11 => self.clear(run, region)?,
                11 => self.rebuilt(run)?,
                12 => {
                    let good = self.disks.iter().filter(|disk| !disk.broken).count();
                    self.disks[disk].broken = good > 1 && self.random.one_in(2);
                }
                13 => self.disks[disk].broken = false,
                14 => {
                    // The failed leg's base goes, so that another may come.
                    let gone = run.record.failed().iter().find(|slot| run.disk[*slot].is_some());
                    if let Some(slot) = gone {
                        run.disk[slot] = None;
                    }
                }
                _ => {
                    let slot = self.random.below(run.record.slots.len());
                    if !self.disks[disk].broken {
                        self.add(run, slot, disk)?;
                    }
                }
            }
            for slot in run.readable.iter() {
                for region in 0..REGIONS {
                    if run.behind[region].has(slot) {
                        continue;
                    }
                    let data = self.disks[run.disk[slot].unwrap()].data[region];
                    assert!(data >= self.acknowledged[region], "slot {slot} would be read stale");
                }
            }
        }
        Ok(())
    }
}

fn play(seed: u64) -> [u64; 3] {
    let disks = 2 + (seed % 3) as usize;
    let mut world = World::new(seed, disks);
    for _ in 0..40 {
        let mut present: Vec<_> = (0..disks).filter(|_| !world.random.one_in(4)).collect();
        if !present.is_empty() {
            let split = world.random.below(present.len());
            present.rotate_left(split);
        }
        world.disks.iter_mut().for_each(|disk| disk.broken = false);
        world.fuel = if world.random.one_in(5) { world.random.below(10) } else { usize::MAX };
        let Ok(Some(mut run)) = world.start(&present, false) else { continue };
        world.fuel = 20 + world.random.below(400);
        let steps = world.random.below(120);
        let _ = world.live(&mut run, steps);
    }
    [world.starts.into(), world.rebuilt.into(), world.lost as u64]
}

#[test]
fn a_stale_leg_is_never_chosen() {
    let first: u64 = std::env::var("SPDK_PLUGIN_TEST_SEED").map_or(1, |s| s.parse().unwrap());
    let worlds = std::env::var("SPDK_PLUGIN_TEST_ROUNDS").map_or(1000, |s| s.parse().unwrap());
    let mut sums = [0; 3];
    for seed in first..first + worlds {
        let played = std::panic::catch_unwind(|| play(seed));
        let played = played.unwrap_or_else(|_| panic!("SPDK_PLUGIN_TEST_SEED={seed}"));
        sums.iter_mut().zip(played).for_each(|(sum, n)| *sum += n);
    }
    let [starts, rebuilt, lost] = sums;
    println!("seeds {first}..{}: {starts} starts, {rebuilt} rebuilt, {lost} lost", first + worlds);
    assert!(starts > worlds * 5 && rebuilt > worlds && lost * 20 < starts, "{sums:?}");
}
