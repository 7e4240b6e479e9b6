//! Rules without a device.

use serde_json::{Value, json};

use super::*;

fn params(value: Value) -> RuleParams {
    serde_json::from_value(value).unwrap()
}

fn rule(value: Value, seed: u64) -> Rule {
    let params = params(value);
    params.check().unwrap();
    Rule::new(1, params, seed)
}

/// Which of so many reads of block 5 go wrong.
fn hits(rule: &Rule, count: u64) -> Vec<u64> {
    (0..count).filter(|_| rule.hits(IoKind::Read, &(5..6)).is_some()).collect()
}

#[test]
fn skip_and_count() {
    let rule = rule(json!({ "fault": "fail", "skip": 3, "count": 2 }), 1);
    assert_eq!(hits(&rule, 10), [3, 4]);
    let Counters { matched, hits, stuck } = rule.counters();
    assert_eq!((matched, hits, stuck), (10, 2, 0));
}

#[test]
fn kinds_and_blocks() {
    let rule = rule(
        json!({ "fault": "fail", "io_types": ["write"], "first_block": 8, "num_blocks": 8 }),
        1,
    );
    let hit = |kind, blocks| rule.hits(kind, &blocks).is_some();
    assert!(hit(IoKind::Write, 0..9) && hit(IoKind::Write, 15..20) && hit(IoKind::Write, 0..100));
    assert!(!hit(IoKind::Write, 0..8) && !hit(IoKind::Write, 16..20));
    assert!(!hit(IoKind::Read, 8..9));
    assert_eq!(rule.common(&(0..10)), 8..10);
    assert_eq!(rule.counters().matched, 3);
}

/// What a fault cannot be done to is not among all of its kinds.
#[test]
fn all_kinds_of_a_fault() {
    let rule = rule(json!({ "fault": "drop" }), 1);
    assert!(rule.hits(IoKind::Write, &(0..1)).is_some());
    assert!(rule.hits(IoKind::Flush, &(0..1)).is_some());
    assert!(rule.hits(IoKind::Read, &(0..1)).is_none());
}

#[test]
fn a_probability_is_kept_to() {
    for (seed, probability) in [(1, 0.5), (2, 0.1), (3, 0.01), (4, 0.9), (5, 1.0)] {
        let rule = rule(json!({ "fault": "fail", "probability": probability }), seed);
        let count = hits(&rule, 1_000_000).len() as f64;
        let off = (count / (1e6 * probability) - 1.0).abs();
        assert!(off < 0.03, "seed {seed}, probability {probability}: off by {off}");
    }
    let [one, same, other] = [1, 1, 2]
        .map(|seed| hits(&rule(json!({ "fault": "fail", "probability": 0.2 }), seed), 100));
    assert_eq!(one, same);
    assert_ne!(one, other);
}

/// Runs of hits and of misses are as long as chance makes them: no pattern.
#[test]
fn hits_do_not_depend_on_the_last() {
    let rule = rule(json!({ "fault": "fail", "probability": 0.25 }), 9);
    let outcomes: Vec<bool> =
        (0..400_000).map(|_| rule.hits(IoKind::Read, &(0..1)).is_some()).collect();
    let after_a_hit = outcomes.windows(2).filter(|pair| pair[0]).count() as f64;
    let two = outcomes.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64;
    assert!((two / after_a_hit / 0.25 - 1.0).abs() < 0.03, "{two} of {after_a_hit}");
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |value: Value, text: &str| {
        let error = params(value).check().unwrap_err();
        assert!(error.contains(text), "{error}");
    };
    refused(json!({ "fault": "corrupt", "io_types": ["unmap"] }), "io_type \"unmap\"");
    refused(json!({ "fault": "drop", "io_types": ["write", "read"] }), "io_type \"read\"");
    refused(json!({ "fault": "fail", "io_types": [] }), "io_types is empty");
    refused(json!({ "fault": "fail", "probability": 0.0 }), "probability is 0");
    refused(json!({ "fault": "fail", "probability": 1.5 }), "probability is 1.5");
    refused(json!({ "fault": "fail", "count": 0 }), "count is 0");
    refused(json!({ "fault": "fail", "bits": 1 }), "bits is for");
    refused(json!({ "fault": "corrupt", "bits": 5000 }), "bits is 5000");
    refused(json!({ "fault": "corrupt", "when": "after" }), "when is for");
    refused(json!({ "fault": "fail", "status": "success" }), "status is a success");
    refused(json!({ "fault": "fail", "status": { "nvme": { "sct": 0, "sc": 0 } } }), "a success");
    refused(json!({ "fault": "fail", "first_block": 5, "num_blocks": u64::MAX }), "too large");
    assert!(serde_json::from_value::<RuleParams>(json!({ "fault": "explode" })).is_err());
}

#[test]
fn what_is_shown_can_be_given_again() {
    let given = json!({
        "rule": 7, "fault": "fail", "io_types": ["read"], "skip": 1,
        "status": { "nvme": { "sct": 2, "sc": 129 } },
    });
    assert_eq!(serde_json::to_value(params(given.clone())).unwrap(), given);
}
