//! `integrity` above `fault`: bits flip, blocks are swapped, writes get lost or go elsewhere.

use serde_json::{Value, json};
use spdk_plugin_tests::{Config, Host, Outcome, modules, probe, prober, rounds, seed, spdk, until};

/// Blocks that are used.
const SPAN: u64 = 2000;
const GUARD: (i32, i32) = (2, 0x82);

/// A generator of chance, xorshift64*.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % end
    }
}

struct Disk {
    host: Host,
    chance: Chance,
    /// What each block is to be filled with.
    fills: Vec<u8>,
    data: u64,
    records: u64,
}

impl Disk {
    fn new(seed: u64) -> Self {
        let config = Config::new()
            .malloc("base", 16 << 8, 4096)
            .bdev("bdev_fault_create", json!({ "name": "faulty", "base_bdev_name": "base" }))
            .bdev("bdev_integrity_create", json!({ "name": "top", "base_bdev_name": "faulty" }));
        let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), prober()]);
        let host = builder.config(config).start().unwrap();
        let listed: Vec<Value> = host.call("bdev_integrity_get_bdevs", ()).unwrap();
        let data = listed[0]["data_offset_blocks"].as_u64().unwrap();
        let fills = vec![0; SPAN as usize];
        Self { host, chance: Chance(seed | 1), fills, data, records: data }
    }

    fn call(&self, method: &str, params: Value) -> Value {
        self.host.call(method, params).unwrap()
    }

    /// The next of this kind goes wrong.
    fn rule(&self, mut rule: Value) {
        rule["name"] = "faulty".into();
        self.call("bdev_fault_add_rule", rule);
    }

    fn heal(&self) {
        self.call("bdev_fault_clear_rules", json!({ "name": "faulty" }));
    }

    fn damage(&self, mut damage: Value) {
        damage["name"] = "faulty".into();
        self.call("bdev_fault_damage", damage);
    }

    fn block(&mut self) -> u64 {
        self.chance.below(SPAN)
    }

    /// Another fill than it has.
    fn other(&mut self, lba: u64) -> u8 {
        let other = self.chance.below(254) as u8 + 1;
        if self.fills[lba as usize] == other { 255 } else { other }
    }

    fn write(&mut self, lba: u64) {
        let fill = self.other(lba);
        let done = probe(
            &self.host,
            "top",
            &[json!({ "kind": "write", "offset": lba, "blocks": 1, "fill": fill })],
        );
        assert!(done[0].success, "{done:?}");
        self.fills[lba as usize] = fill;
    }

    fn read(&self, lbas: &[u64]) -> Vec<Outcome> {
        let read = |lba: &u64| json!({ "kind": "read", "offset": lba, "blocks": 1 });
        probe(&self.host, "top", &lbas.iter().map(read).collect::<Vec<_>>())
    }

    /// These are bad, each time, and a few others are not.
    #[track_caller]
    fn are_bad(&mut self, bad: &[u64], what: &str) {
        for _ in 0..2 {
            for (lba, outcome) in bad.iter().zip(self.read(bad)) {
                let caught = outcome.failed() && outcome.status == GUARD;
                assert!(caught, "{what}, block {lba}: {outcome:?}");
            }
        }
        let mut others = vec![(bad[0] + 1) % SPAN, (bad[0] + SPAN - 1) % SPAN];
        others.extend((0..6).map(|_| self.chance.below(SPAN)));
        others.retain(|lba| !bad.contains(lba));
        self.are_good(&others, what);
    }

    #[track_caller]
    fn are_good(&self, lbas: &[u64], what: &str) {
        for (lba, outcome) in lbas.iter().zip(self.read(lbas)) {
            let fill = self.fills[*lba as usize];
            let right = outcome.success && outcome.data == Some(fill);
            assert!(right, "{what}, false alarm or wrong at block {lba}, not {fill}: {outcome:?}");
        }
    }

    /// One round. What was done is found, until the blocks are written again.
    fn round(&mut self) {
        let lba = self.block();
        let at = self.data + lba;
        let one = json!({ "first_block": at, "num_blocks": 1, "io_types": ["write"] });
        let with = |more: Value| {
            let mut rule = one.clone();
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let (what, bad) = match self.chance.below(6) {
            0 => {
                self.write(lba);
                let bits = 1 + self.chance.below(12);
                self.damage(json!({ "block": at, "bits": bits, "seed": self.chance.0 }));
                ("bits flipped", vec![lba])
            }
            1 => {
                let other = (lba + 1 + self.chance.below(SPAN - 1)) % SPAN;
                self.write(lba);
                self.write(other);
                while self.fills[lba as usize] == self.fills[other as usize] {
                    self.write(other);
                }
                self.damage(json!({ "block": at, "swap_with": self.data + other }));
                ("blocks swapped", vec![lba, other])
            }
            2 => {
                self.rule(with(json!({ "fault": "drop" })));
                self.write(lba);
                self.heal();
                ("a lost write", vec![lba])
            }
            3 => {
                // Another block gets what was not for it.
                let other = (lba + 1 + self.chance.below(SPAN - 1)) % SPAN;
                self.write(other);
                self.rule(with(json!({ "fault": "misdirect", "to_block": self.data + other })));
                self.write(lba);
                self.heal();
                ("a misdirected write", vec![lba, other])
            }
            4 => {
                let bits = 1 + self.chance.below(9);
                self.rule(with(json!({ "fault": "corrupt", "bits": bits })));
                self.write(lba);
                self.heal();
                ("corruption on the way", vec![lba])
            }
            _ => {
                // A few of the writes of records, the log's among them, get lost: nobody is to notice.
                let (skip, count) = (self.chance.below(3), 1 + self.chance.below(3));
                self.rule(json!({
                    "fault": "drop", "io_types": ["write"], "first_block": 0,
                    "num_blocks": self.records, "count": count, "skip": skip,
                }));
                self.write(lba);
                let other = self.block();
                self.write(other);
                self.are_good(&[lba, other], "lost records");
                self.heal();
                return;
            }
        };
        self.are_bad(&bad, what);
        for lba in bad {
            self.write(lba);
            self.are_good(&[lba], "written again");
        }
    }
}

#[test]
fn all_damage_is_found_and_nothing_else() {
    let seed = seed();
    let mut disk = Disk::new(seed);
    for _ in 0..rounds() {
        disk.round();
    }
    let all: Vec<u64> = (0..SPAN).collect();
    all.chunks(100).for_each(|lbas| disk.are_good(lbas, "at the end"));
    let errors = disk.call("bdev_integrity_get_errors", json!({ "name": "top" }));
    let mismatches = errors["counts"]["mismatches"].as_u64().unwrap();
    assert!(mismatches >= u64::from(rounds()), "{errors}");
    assert_eq!(errors["counts"]["no_checksum"], 0);
    assert!(!errors["last"].as_array().unwrap().is_empty());
    println!("{} rounds, {}", rounds(), errors["counts"]);
    disk.host.shutdown().unwrap();
}

/// A scrub finds what was planted, goes on beside requests, and repairs records from memory.
#[test]
fn a_scrub() {
    let mut disk = Disk::new(seed());
    let name = || json!({ "name": "top" });
    let get = |disk: &Disk| disk.call("bdev_integrity_get_scrub", name());
    assert_eq!(get(&disk)["state"], "none");
    let fill = json!({ "kind": "write", "offset": 0, "blocks": 16, "fill": 7 });
    for first in (0..SPAN).step_by(16) {
        let mut fill = fill.clone();
        fill["offset"] = first.into();
        assert!(probe(&disk.host, "top", &[fill])[0].success);
        disk.fills[first as usize..][..16].fill(7);
    }
    let mut planted: Vec<u64> = (0..10).map(|at| at * 190 + disk.chance.below(190)).collect();
    for &lba in &planted {
        disk.damage(json!({ "block": disk.data + lba, "bits": 3 }));
    }
    planted.sort_unstable();
    disk.call("bdev_integrity_start_scrub", name());
    until("the scrub", || get(&disk)["state"] != "running");
    let found = get(&disk);
    assert_eq!((&found["state"], &found["bad_blocks"]), (&json!("done"), &json!(10)), "{found}");
    assert_eq!(
        (&found["checked_blocks"], &found["passed_blocks"]),
        (&json!(SPAN), &found["num_blocks"])
    );
    let first: Vec<u64> = found["first_bad"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bad| bad["lba"].as_u64().unwrap())
        .collect();
    assert_eq!(first, planted);
    planted.iter().for_each(|&lba| disk.write(lba));

    // So slow that it can be stopped: 2000 blocks are 8 MiB.
    disk.call("bdev_integrity_start_scrub", json!({ "name": "top", "mb_per_sec": 4 }));
    let again = disk.host.call::<Value>("bdev_integrity_start_scrub", name());
    assert!(again.unwrap_err().to_string().contains("running"));
    std::thread::sleep(std::time::Duration::from_millis(700));
    let half = get(&disk);
    let checked = half["checked_blocks"].as_u64().unwrap();
    assert!(half["state"] == "running" && (200..1900).contains(&checked), "{half}");
    disk.call("bdev_integrity_stop_scrub", name());
    until("the scrub", || get(&disk)["state"] == "stopped");

    // Records are damaged; memory has them.
    for block in 1..disk.records {
        disk.damage(json!({ "block": block, "how": "garbage" }));
    }
    disk.call("bdev_integrity_start_scrub", name());
    until("the scrub", || get(&disk)["state"] == "done");
    assert_eq!(get(&disk)["bad_blocks"], 0);
    disk.are_good(&planted, "after the scrub");
    disk.host.shutdown().unwrap();
}
