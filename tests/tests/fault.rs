//! `fault` does wrong what its rules tell it to, and nothing else.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Config, Host, Outcome, Verify, at_least, bdevs, check, fill, modules, probe, prober, seed,
    spdk, try_verify, until, verifier, verify,
};

const BLOCKS: u64 = 1 << 14;

fn config(rules: Value) -> Config {
    let disk = json!({ "name": "disk", "base_bdev_name": "base", "seed": 5, "rules": rules });
    Config::new().malloc("base", BLOCKS, 512).bdev("bdev_fault_create", disk)
}

fn start(rules: Value) -> Host {
    let host = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier(), prober()]);
    host.config(config(rules)).cores(2).start().unwrap()
}

fn call(host: &Host, method: &str, params: Value) -> Value {
    let mut all = json!({ "name": "disk" });
    all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
    host.call(&format!("bdev_fault_{method}"), all).unwrap()
}

fn add(host: &Host, rule: Value) -> Value {
    call(host, "add_rule", rule)
}

/// The one rule that there is, with its counters.
fn rule(host: &Host) -> Value {
    let listed: Vec<Value> = host.call("bdev_fault_get_bdevs", ()).unwrap();
    let rules = listed[0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1, "{listed:?}");
    rules[0].clone()
}

fn read(offset: u64, blocks: u64) -> Value {
    json!({ "kind": "read", "offset": offset, "blocks": blocks })
}

fn write(offset: u64, blocks: u64, fill: u8) -> Value {
    json!({ "kind": "write", "offset": offset, "blocks": blocks, "fill": fill })
}

/// One request after the other.
fn each(host: &Host, ops: &[Value]) -> Vec<Outcome> {
    ops.iter().flat_map(|op| probe(host, "disk", std::slice::from_ref(op))).collect()
}

/// What is in the blocks, if it is all the same.
fn held(host: &Host, offset: u64, blocks: u64) -> Option<u8> {
    let outcome = &probe(host, "disk", &[read(offset, blocks)])[0];
    assert!(outcome.success, "{outcome:?}");
    outcome.data
}

#[test]
fn failures() {
    let mut host = start(json!([]));
    add(&host, json!({ "fault": "fail", "io_types": ["write"], "skip": 1, "count": 2 }));
    let outcomes = each(&host, &[write(0, 1, 1), write(0, 1, 2), write(0, 1, 3), write(0, 1, 4)]);
    let well: Vec<bool> = outcomes.iter().map(|outcome| outcome.success).collect();
    assert_eq!(well, [true, false, false, true]);
    let rule = rule(&host);
    assert_eq!((&rule["matched"], &rule["hits"]), (&json!(4), &json!(2)), "{rule}");
    assert_eq!(call(&host, "clear_rules", json!({})), 1);

    // Statuses of every sort.
    let nvme = |sct, sc| json!({ "nvme": { "sct": sct, "sc": sc } });
    for (status, found) in [
        (json!("failed"), (0, 6)),
        (json!("aborted"), (0, 7)),
        (nvme(2, 0x81), (2, 0x81)),
        (json!("miscompare"), (2, 0x85)),
    ] {
        let number = add(&host, json!({ "fault": "fail", "status": status, "count": 1 }));
        let outcome = &each(&host, &[read(0, 8)])[0];
        assert!(outcome.failed(), "{status}: {outcome:?}");
        // 20.07 knows neither of the two others by a name of NVMe's.
        if at_least(20, 10) || status.is_object() || status == "failed" {
            assert_eq!(outcome.status, found, "{status}");
        }
        call(&host, "remove_rule", json!({ "rule": number }));
    }
    for status in
        [json!({ "scsi": { "sc": 2, "sk": 3, "asc": 17, "ascq": 0 } }), json!({ "errno": 5 })]
    {
        add(&host, json!({ "fault": "fail", "status": status, "count": 1 }));
        assert!(each(&host, &[read(0, 8)])[0].failed());
        call(&host, "clear_rules", json!({}));
    }

    // What lacks memory is tried again.
    add(&host, json!({ "fault": "fail", "status": "nomem", "count": 5 }));
    let outcomes = probe(
        &host,
        "disk",
        &[json!({
            "kind": "read", "offset": 0, "blocks": 1, "repeat": 20,
        })],
    );
    assert!(outcomes.iter().all(|outcome| outcome.success), "{outcomes:?}");
    call(&host, "clear_rules", json!({}));

    // Carried out all the same, or not.
    for (when, holds) in [("before", 7), ("after", 8)] {
        assert!(each(&host, &[write(100, 4, 7)])[0].success);
        add(&host, json!({ "fault": "fail", "when": when, "io_types": ["write"] }));
        assert!(each(&host, &[write(100, 4, 8)])[0].failed());
        call(&host, "clear_rules", json!({}));
        assert_eq!(held(&host, 100, 4), Some(holds));
    }
    host.shutdown().unwrap();
}

/// Only the blocks of the rule are affected, and only its kinds.
#[test]
fn ranges_and_kinds() {
    let mut host = start(json!([
        { "fault": "fail", "first_block": 10, "num_blocks": 10, "io_types": ["read", "unmap"] },
    ]));
    let outcomes = each(
        &host,
        &[
            read(0, 10),
            read(9, 2),
            read(19, 1),
            read(20, 5),
            write(12, 1, 1),
            json!({ "kind": "unmap", "offset": 19, "blocks": 2 }),
            json!({ "kind": "unmap", "offset": 20, "blocks": 2 }),
        ],
    );
    let well: Vec<bool> = outcomes.iter().map(|outcome| outcome.success).collect();
    assert_eq!(well, [true, false, false, true, true, false, true]);
    host.shutdown().unwrap();
}

#[test]
fn corruption() {
    let mut host = start(json!([]));
    assert!(each(&host, &[write(0, 64, 0xaa)])[0].success);
    // Of a read, and nothing that is stored.
    add(&host, json!({ "fault": "corrupt", "io_types": ["read"], "count": 1 }));
    assert_eq!(held(&host, 0, 64), None);
    assert_eq!(held(&host, 0, 64), Some(0xaa));
    call(&host, "clear_rules", json!({}));
    // Of a write, for good.
    for how in [json!({ "how": "flip", "bits": 3 }), json!({ "how": "garbage", "blocks": 2 })] {
        let mut rule = json!({ "fault": "corrupt", "io_types": ["write"], "count": 1 });
        rule.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
        add(&host, rule);
        assert!(each(&host, &[write(0, 64, 0xaa)])[0].success);
        assert_eq!(held(&host, 0, 64), None);
        assert!(each(&host, &[write(0, 64, 0xaa)])[0].success);
        assert_eq!(held(&host, 0, 64), Some(0xaa));
        call(&host, "clear_rules", json!({}));
    }
    // Of these blocks alone, all of them.
    add(
        &host,
        json!({
            "fault": "corrupt", "how": "zero", "first_block": 8, "num_blocks": 4, "blocks": 100,
            "io_types": ["write"],
        }),
    );
    assert!(each(&host, &[write(0, 64, 0xaa)])[0].success);
    let parts = [(0, 8), (8, 4), (12, 52)].map(|(at, count)| held(&host, at, count));
    assert_eq!(parts, [Some(0xaa), Some(0), Some(0xaa)]);
    host.shutdown().unwrap();
}

#[test]
fn writes_that_go_astray() {
    let mut host = start(json!([]));
    assert!(each(&host, &[write(0, 64, 1)])[0].success);
    add(&host, json!({ "fault": "misdirect", "to_block": 32, "io_types": ["write"] }));
    assert!(each(&host, &[write(0, 8, 2)])[0].success);
    call(&host, "clear_rules", json!({}));
    assert_eq!(
        [held(&host, 0, 32), held(&host, 32, 8), held(&host, 40, 24)],
        [Some(1), Some(2), Some(1)]
    );
    add(&host, json!({ "fault": "drop" }));
    assert!(each(&host, &[write(0, 8, 3)])[0].success);
    call(&host, "clear_rules", json!({}));
    assert_eq!(held(&host, 0, 32), Some(1));
    add(&host, json!({ "fault": "tear", "keep_blocks": 3 }));
    assert!(each(&host, &[write(0, 8, 4)])[0].success);
    call(&host, "clear_rules", json!({}));
    assert_eq!([held(&host, 0, 3), held(&host, 3, 29)], [Some(4), Some(1)]);
    // A read of elsewhere.
    add(&host, json!({ "fault": "misdirect", "to_block": 34, "io_types": ["read"] }));
    assert_eq!(held(&host, 3, 4), Some(2));
    host.shutdown().unwrap();
}

/// The verifier finds each of them, wherever they hit.
#[test]
fn the_verifier_finds_them_all() {
    let mut host = start(json!([]));
    let run = verify(&host, "disk", Verify::new().operations(5000).cores(2));
    assert!(run.blocks_checked > 10_000, "{run:?}");
    for fault in [
        json!({ "fault": "corrupt", "io_types": ["read"] }),
        json!({ "fault": "corrupt", "io_types": ["write"] }),
        json!({ "fault": "corrupt", "how": "garbage" }),
        json!({ "fault": "misdirect", "io_types": ["read"] }),
        json!({ "fault": "misdirect", "io_types": ["write"] }),
        json!({ "fault": "drop", "io_types": ["write"] }),
        json!({ "fault": "tear" }),
    ] {
        let mut rule = fault.clone();
        // Late, so that something is known of the blocks, and often: a change of what is not read again is not found.
        rule.as_object_mut()
            .unwrap()
            .extend([("skip".to_owned(), json!(1000)), ("count".to_owned(), json!(20))]);
        add(&host, rule);
        let options = Verify::new().operations(6000).kinds(&["read", "write", "write_zeroes"]);
        let run = try_verify(&host, "disk", options).unwrap();
        let failure = run.failure.unwrap_or_else(|| panic!("{fault} was not found"));
        assert!(failure["mismatch"]["block"].is_u64(), "{fault}: {failure}");
        call(&host, "clear_rules", json!({}));
    }
    host.shutdown().unwrap();
}

/// A write that is torn behind its end is all there, and so are its metadata.
#[test]
fn copies_are_whole() {
    let mut base = json!({ "name": "base", "num_blocks": BLOCKS, "block_size": 512 });
    if at_least(23, 9) {
        base["md_size"] = 16.into();
    }
    let rules = json!([{ "fault": "tear", "keep_blocks": 1 << 20 }]);
    let disk = json!({ "name": "disk", "base_bdev_name": "base", "rules": rules });
    let config = Config::new().bdev("bdev_malloc_create", base).bdev("bdev_fault_create", disk);
    let host = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier()]);
    let mut host = host.config(config).cores(2).start().unwrap();
    let run = verify(&host, "disk", Verify::new().operations(20_000).cores(2));
    assert!(rule(&host)["hits"].as_u64().unwrap() > 5000 && run.blocks_checked > 50_000);
    host.shutdown().unwrap();
}

/// What sticks ends when it is released, reset or aborted, and not before.
#[test]
fn stuck() {
    let mut host = start(json!([]));
    let sticks = |host: &Host, count: u64| until("sticking", || rule(host)["stuck"] == count);
    assert!(each(&host, &[write(0, 8, 1)])[0].success);
    let number = add(&host, json!({ "fault": "stick", "io_types": ["write"] }));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| probe(&host, "disk", &[write(0, 8, 2), write(8, 8, 2)]));
        sticks(&host, 2);
        assert_eq!(held(&host, 0, 8), Some(1));
        assert_eq!(call(&host, "release", json!({ "count": 1 })), 1);
        sticks(&host, 1);
        assert!(!waits.is_finished());
        assert_eq!(call(&host, "release", json!({ "rule": 77 })), 0);
        assert_eq!(call(&host, "release", json!({ "rule": number, "fail": true })), 1);
        let outcomes = waits.join().unwrap();
        assert!(outcomes[0].success && outcomes[1].failed(), "{outcomes:?}");
    });
    assert_eq!([held(&host, 0, 8), held(&host, 8, 8)], [Some(2), Some(0)]);

    let outcomes = probe(&host, "disk", &[write(0, 8, 3), json!({ "kind": "abort", "target": 0 })]);
    assert!(outcomes[0].failed() && outcomes[1].success, "{outcomes:?}");
    let outcomes = probe(&host, "disk", &[write(0, 8, 3), json!({ "kind": "reset" })]);
    assert!(outcomes[0].failed() && outcomes[1].success, "{outcomes:?}");
    assert_eq!((held(&host, 0, 8), &rule(&host)["stuck"]), (Some(2), &json!(0)));

    // Its rule goes: it goes on.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| probe(&host, "disk", &[write(0, 8, 4)]));
        sticks(&host, 1);
        call(&host, "remove_rule", json!({ "rule": number }));
        assert!(waits.join().unwrap()[0].success);
    });
    assert_eq!(held(&host, 0, 8), Some(4));

    // The bdev goes, by itself or with its base: it fails.
    for (method, name) in [("bdev_fault_delete", "disk"), ("bdev_malloc_delete", "base")] {
        add(&host, json!({ "fault": "stick", "when": "after" }));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| probe(&host, "disk", &[write(0, 8, 5)]));
            sticks(&host, 1);
            assert!(host.call::<bool>(method, json!({ "name": name })).unwrap());
            assert!(waits.join().unwrap()[0].failed());
        });
        if name == "disk" {
            let disk = json!({ "name": "disk", "base_bdev_name": "base" });
            let _: String = host.call("bdev_fault_create", disk).unwrap();
        }
    }
    assert!(bdevs(&host).is_empty());
    host.shutdown().unwrap();
}

/// As often as was asked for, within 5 %, whatever the number of cores.
#[test]
fn probabilities() {
    let mut host = start(json!([]));
    let seed = seed();
    for (probability, cores) in [(0.5, 1), (0.1, 2), (0.02, 2)] {
        let number = add(
            &host,
            json!({ "fault": "fail", "probability": probability, "io_types": ["write"] }),
        );
        let options = Verify::new().seed(seed).operations(200_000).cores(cores).no_sweep();
        let run = verify(&host, "disk", options.kinds(&["write"]).longest(512).may_fail());
        let rule = rule(&host);
        let [matched, hits] = ["matched", "hits"].map(|name| rule[name].as_u64().unwrap());
        assert_eq!((run.operations["write"], run.failed), (matched, hits));
        let off = hits as f64 / matched as f64 / probability - 1.0;
        eprintln!("{hits} of {matched}, asked for {probability}, off by {off:.4}");
        assert!(matched == 200_000 && off.abs() < 0.05);
        call(&host, "remove_rule", json!({ "rule": number }));
    }
    host.shutdown().unwrap();
}

/// What is stored is changed behind everybody's back.
#[test]
fn damage() {
    let mut host = start(json!([]));
    let seed = seed();
    let wrong = |host: &Host| -> Value {
        host.call("check_bdev", json!({ "name": "disk", "seed": seed })).unwrap()
    };
    for (harm, blocks, first) in [
        (json!({ "block": 77 }), 1, 77),
        (json!({ "block": 78, "num_blocks": 5, "how": "zero" }), 5, 78),
        (json!({ "block": 100, "num_blocks": 2, "how": "garbage" }), 2, 100),
        (json!({ "block": 5000, "swap_with": 4000 }), 2, 4000),
        (json!({ "block": BLOCKS - 1, "bits": 100 }), 1, BLOCKS - 1),
    ] {
        assert_eq!(fill(&host, "disk", seed), BLOCKS);
        assert_eq!(check(&host, "disk", seed), BLOCKS);
        assert_eq!(call(&host, "damage", harm.clone()), true);
        let found = wrong(&host);
        assert_eq!(
            (&found["wrong"], &found["first_wrong"][0]),
            (&json!(blocks), &json!(first)),
            "{harm}"
        );
    }
    let refused = |params: Value| {
        let error = host.call::<Value>("bdev_fault_damage", params).unwrap_err().to_string();
        assert!(error.contains("must lie within") || error.contains("bits is"), "{error}");
    };
    refused(json!({ "name": "disk", "block": BLOCKS }));
    refused(json!({ "name": "disk", "block": 0, "num_blocks": 0 }));
    refused(json!({ "name": "disk", "block": 1, "num_blocks": u64::MAX }));
    refused(json!({ "name": "disk", "block": 0, "num_blocks": 1, "swap_with": u64::MAX }));
    refused(json!({ "name": "disk", "block": 0, "bits": 1_000_000 }));
    host.shutdown().unwrap();
}

#[test]
fn methods() {
    let mut host = start(json!([{ "fault": "drop", "probability": 0.5 }]));
    let refused = |method: &str, params: Value, text: &str| {
        let method = format!("bdev_fault_{method}");
        let error = host.call::<Value>(&method, params).unwrap_err().to_string();
        assert!(error.contains(text), "{method}: {error}");
    };
    refused("add_rule", json!({ "name": "none", "fault": "fail" }), "there is no bdev");
    refused("add_rule", json!({ "name": "base", "fault": "fail" }), "belongs to module malloc");
    refused("add_rule", json!({ "name": "disk", "fault": "no" }), "unknown variant");
    refused("add_rule", json!({ "name": "disk", "fault": "fail", "cuont": 1 }), "cuont");
    refused("add_rule", json!({ "name": "disk" }), "fault");
    refused("add_rule", json!({ "name": "disk", "fault": "fail", "rule": 1 }), "rule 1 already");
    refused("add_rule", json!({ "name": "disk", "fault": "fail", "count": 0 }), "count is 0");
    refused("remove_rule", json!({ "name": "disk", "rule": 9 }), "has no rule 9");
    refused("delete", json!({ "name": "none" }), "there is no bdev");
    let bad = json!({ "name": "x", "base_bdev_name": "y", "rules": [{ "fault": "drop", "io_types": ["read"] }] });
    refused("create", bad, "cannot be done");

    assert_eq!(
        add(&host, json!({ "fault": "fail", "first_block": 5, "status": { "errno": 28 } })),
        2
    );
    let config: Value = host.call("framework_get_config", json!({ "name": "bdev" })).unwrap();
    let calls = config.as_array().unwrap();
    let saved = calls.iter().find(|call| call["method"] == "bdev_fault_create").unwrap();
    assert_eq!(
        saved["params"],
        json!({
            "name": "disk", "base_bdev_name": "base", "seed": 5, "rules": [
                { "rule": 1, "fault": "drop", "io_types": ["all"], "probability": 0.5 },
                { "rule": 2, "fault": "fail", "io_types": ["all"], "first_block": 5, "status": { "errno": 28 } },
            ],
        })
    );
    // With its base it goes and comes, and has its rules again.
    assert!(host.call::<bool>("bdev_malloc_delete", json!({ "name": "base" })).unwrap());
    until("the end", || bdevs(&host).is_empty());
    assert_eq!(add(&host, json!({ "fault": "stick", "io_types": ["compare"] })), 3);
    let base = json!({ "name": "base", "num_blocks": BLOCKS, "block_size": 512 });
    let _: String = host.call("bdev_malloc_create", base).unwrap();
    until("the bdev", || bdevs(&host).contains(&"disk".to_owned()));
    let shown = spdk_plugin_tests::bdev(&host, "disk")["driver_specific"].to_string();
    assert!(shown.contains("\"errno\":28") && shown.contains("\"stick\""), "{shown}");
    std::thread::sleep(Duration::from_millis(10));
    assert!(host.call::<bool>("bdev_fault_delete", json!({ "name": "disk" })).unwrap());
    assert_eq!(bdevs(&host), ["base"]);
    host.shutdown().unwrap();
}
