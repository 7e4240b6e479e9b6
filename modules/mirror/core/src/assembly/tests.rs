//! One case for each line of the table in the manual.

use super::*;
use crate::Geometry;

fn record(legs: usize) -> Record {
    let geometry = Geometry::new(512, 1 << 18, None, 1).unwrap();
    let names = ["a", "b", "c", "d"];
    let legs: Vec<_> = (0..legs).map(|i| (leg(i), names[i])).collect();
    Record::new(Uuid::from_u128(99), "m", geometry, &legs).next(1)
}

fn leg(slot: usize) -> Uuid {
    Uuid::from_u128(slot as u128 + 1)
}

fn on(base: &str, record: &Record, slot: usize) -> Candidate {
    Candidate { base: base.into(), found: Found::Leg(record.clone(), leg(slot)) }
}

fn with(base: &str, found: Found) -> Candidate {
    Candidate { base: base.into(), found }
}

fn roles(verdict: Verdict) -> Vec<Role> {
    match verdict {
        Verdict::Start(plan) => plan.roles,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(verdict: Verdict, part: &str) {
    assert!(matches!(&verdict, Verdict::Refuse(why) if why.contains(part)), "{verdict:?}");
}

#[track_caller]
fn waits(verdict: Verdict, part: &str) {
    assert!(matches!(&verdict, Verdict::Wait(why) if why.contains(part)), "{verdict:?}");
}

#[test]
fn blank_bases_make_a_new_mirror() {
    let blank = [with("a", Found::Blank), with("b", Found::Blank)];
    assert_eq!(decide(&blank, &[], None, false), Verdict::Fresh);
    waits(decide(&blank[..1], &["b".into()], None, true), "b");
    let made_half = Record { stamp: Default::default(), ..record(2) };
    let half = [on("a", &made_half, 0), with("b", Found::Blank)];
    assert_eq!(decide(&half, &[], None, false), Verdict::Fresh);
}

#[test]
fn all_are_there() {
    let now = record(2);
    let both = [on("b", &now, 1), on("a", &now, 0)];
    assert_eq!(roles(decide(&both, &[], None, false)), [Role::Current(1), Role::Current(0)]);
}

#[test]
fn a_leg_that_failed_is_behind_in_either_order() {
    let before = record(2);
    let after = before.fail(Legs::one(0), 2);
    let stale_first = [on("a", &before, 0), on("b", &after, 1)];
    assert_eq!(roles(decide(&stale_first, &[], None, false)), [Role::Behind(0), Role::Current(1)]);
    let good_first = [on("b", &after, 1), on("a", &before, 0)];
    assert_eq!(roles(decide(&good_first, &[], None, true)), [Role::Behind(1), Role::Current(0)]);
    // It is known to be gone.
    let good = [on("b", &after, 1)];
    assert_eq!(roles(decide(&good, &["a".into()], None, false)), [Role::Missing, Role::Current(0)]);
    // It cannot know.
    let stale = [on("a", &before, 0)];
    waits(decide(&stale, &["b".into()], None, false), "may have newer data");
    assert_eq!(roles(decide(&stale, &[], None, true)), [Role::Current(0), Role::Missing]);
}

#[test]
fn a_leg_that_missed_the_last_event_follows() {
    let before = record(3);
    let after = before.fail(Legs::one(2), 2);
    let legs = [on("a", &before, 0), on("b", &after, 1)];
    let expected = [Role::Behind(0), Role::Current(1), Role::Missing];
    assert_eq!(roles(decide(&legs, &["c".into()], None, false)), expected);
    // Two events behind, it has lost what it knew.
    let later = after.next(3);
    let legs = [on("a", &before, 0), on("b", &later, 1)];
    let expected = [Role::Lost(0), Role::Current(1), Role::Missing];
    assert_eq!(roles(decide(&legs, &["c".into()], None, false)), expected);
}

#[test]
fn a_leg_that_is_rebuilt_is_no_source() {
    let rebuilding = record(2).set(Legs::one(1), SlotState::Rebuilding, 2);
    let legs = [on("a", &rebuilding, 0), on("b", &rebuilding, 1)];
    assert_eq!(roles(decide(&legs, &[], None, false)), [Role::Current(0), Role::Behind(1)]);
    waits(decide(&legs[1..], &["a".into()], None, true), "no leg with all data");
    // It knows more than the one that failed since.
    let knows = record(3).set(Legs::one(2), SlotState::Rebuilding, 2).fail(Legs::one(0), 3);
    let legs = [on("a", &record(3), 0), on("c", &knows, 2)];
    waits(decide(&legs, &["b".into()], None, true), "no leg with all data");
}

#[test]
fn halves_that_lived_alone_are_not_joined() {
    let both = record(2);
    let (one, two) = (both.fail(Legs::one(1), 2), both.fail(Legs::one(0), 3));
    for (one, two) in [(one.clone(), two.clone()), (one.next(5).next(6), two), (one, both.next(9))]
    {
        let legs = [on("a", &one, 0), on("b", &two, 1)];
        refused(decide(&legs, &[], None, true), "without each other");
    }
}

#[test]
fn strangers_are_refused() {
    let ours = record(2).fail(Legs::one(1), 2);
    let theirs = Record { array: Uuid::from_u128(5), name: "other".into(), ..record(2) };
    let legs = [on("a", &ours, 0), on("x", &theirs, 0)];
    refused(decide(&legs, &[], None, false), "two mirrors");
    let Verdict::Start(plan) = decide(&legs, &[], Some(ours.array), false) else { panic!() };
    assert!(plan.refused[0].1.contains("\"other\""), "{plan:?}");
    refused(decide(&legs[1..], &[], Some(ours.array), false), "\"other\"");
    let odd = [on("a", &ours, 0), with("b", Found::Unreadable("bad version".into()))];
    let Verdict::Start(plan) = decide(&odd, &[], None, false) else { panic!() };
    assert!(plan.refused[0].1.contains("bad version"));
    refused(decide(&odd[1..], &[], None, false), "bad version");
    let whole = record(2);
    let swapped = [on("a", &whole, 0), with("b", Found::Blank)];
    waits(decide(&swapped, &[], None, false), "\"b\" is refused: it has no superblock");
    let twice = [on("a", &whole, 0), on("copy", &whole, 0)];
    refused(decide(&twice, &[], None, false), "copy of the other");
}
