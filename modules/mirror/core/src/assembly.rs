//! Which legs may be trusted when a mirror starts (invariant 6).

use std::fmt::Write;

use uuid::Uuid;

use crate::{Legs, Record, SlotState};

/// What was found on one of the bases.
#[derive(Clone, Debug)]
pub enum Found {
    /// No superblock.
    Blank,
    /// Something that is no superblock of a mirror's leg.
    Unreadable(String),
    /// A leg's superblock.
    Leg(Record, Uuid),
}

/// One of the bases that are there.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What the user calls it.
    pub base: String,
    /// What is on it.
    pub found: Found,
}

/// What a slot's leg is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has all that was acknowledged: the candidate of this number.
    Current(usize),
    /// Is right but for the regions whose bits are set.
    Behind(usize),
    /// May be wrong anywhere.
    Lost(usize),
    /// Is not there.
    Missing,
}

/// What to do with what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever written: make a new mirror of all candidates.
    Fresh,
    /// Start.
    Start(Plan),
    /// Legs are missing that may know better. The text names them.
    Wait(String),
    /// It must not start. The text says why and what to do.
    Refuse(String),
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The newest superblock.
    pub top: Record,
    /// A role for each of its slots.
    pub roles: Vec<Role>,
    /// Candidates that are no legs of this mirror, and why.
    pub refused: Vec<(usize, String)>,
}

impl Plan {
    /// The slots whose role is `is`.
    pub fn which(&self, is: impl Fn(Role) -> bool) -> Legs {
        (0..self.roles.len()).filter(|slot| is(self.roles[*slot])).collect()
    }

    /// The slots that may be read.
    pub fn current(&self) -> Legs {
        self.which(|role| matches!(role, Role::Current(_)))
    }
}

/// Decides how a mirror starts from what was found on its bases.
///
/// `array` is its UUID, where the user has said it. `absent` names the bases that are not there.
/// `degraded`: the user knows that no missing leg has newer data.
pub fn decide(
    candidates: &[Candidate],
    absent: &[String],
    array: Option<Uuid>,
    degraded: bool,
) -> Verdict {
    let legs = || {
        candidates.iter().enumerate().filter_map(|(at, candidate)| match &candidate.found {
            Found::Leg(record, leg) => Some((at, record, *leg)),
            _ => None,
        })
    };
    // Which mirror is it?
    let mine = |record: &Record| array.is_none_or(|array| array == record.array);
    let Some(newest) = legs().filter(|(_, r, _)| mine(r)).max_by_key(|(_, r, _)| r.stamp.events)
    else {
        return nothing_known(candidates, absent, array);
    };
    let top = newest.1;
    let stranger = legs().find(|(_, record, _)| record.array != top.array);
    if let (None, Some((at, other, _))) = (array, stranger) {
        return Verdict::Refuse(format!(
            "bases {:?} and {:?} are legs of two mirrors, {} ({:?}) and {} ({:?}); give the uuid of one",
            candidates[newest.0].base,
            candidates[at].base,
            top.array,
            top.name,
            other.array,
            other.name
        ));
    }
    if top.stamp.events == 0 && absent.is_empty() {
        // The making of it was cut short.
        let own = |c: &Candidate| match &c.found {
            Found::Blank => true,
            Found::Leg(record, _) => record.array == top.array,
            Found::Unreadable(_) => false,
        };
        if candidates.iter().all(own) {
            return Verdict::Fresh;
        }
    }

    let mut plan =
        Plan { top: top.clone(), roles: vec![Role::Missing; top.slots.len()], refused: vec![] };
    for (at, candidate) in candidates.iter().enumerate() {
        let (record, leg) = match &candidate.found {
            Found::Leg(record, leg) => (record, *leg),
            Found::Blank => {
                let why = "it has no superblock; bdev_mirror_add_leg makes a leg of it";
                plan.refused.push((at, why.into()));
                continue;
            }
            Found::Unreadable(why) => {
                plan.refused.push((at, format!("its superblock cannot be used: {why}")));
                continue;
            }
        };
        if record.array != top.array {
            let why = format!("it is a leg of mirror {} ({:?})", record.array, record.name);
            plan.refused.push((at, why));
            continue;
        }
        let Some(slot) = top.slot_of(leg) else {
            let why = format!("it was leg {leg}, which the mirror has given up");
            plan.refused.push((at, why));
            continue;
        };
        if let Role::Current(other) | Role::Behind(other) | Role::Lost(other) = plan.roles[slot] {
            return Verdict::Refuse(format!(
                "bases {:?} and {:?} are both leg {leg} of mirror {:?}: one is a copy of the other; leave one out",
                candidates[other].base, candidate.base, top.name
            ));
        }
        match role(top, record, slot, at) {
            Some(role) => plan.roles[slot] = role,
            None => {
                return Verdict::Refuse(format!(
                    "bases {:?} and {:?} of mirror {:?} were written without each other; choose one: wipe the \
                     superblock of the other, and add it as a new leg",
                    candidates[newest.0].base, candidate.base, top.name
                ));
            }
        }
    }
    settle(candidates, plan, degraded)
}

/// What a leg that has come back while the mirror runs is good for, of which `found` was read.
///
/// # Errors
/// Says why it cannot be taken back.
pub fn returning(top: &Record, found: &Record, slot: usize) -> Result<Role, String> {
    match role(top, found, slot, 0) {
        Some(role) => Ok(role),
        None => Err(format!(
            "it was written without the others of mirror {:?}; wipe its superblock to make a new leg of it",
            top.name
        )),
    }
}

/// What the leg of a slot is good for; `None` when it has a life of its own that `top` does not know of.
fn role(top: &Record, record: &Record, slot: usize, at: usize) -> Option<Role> {
    if record.stamp == top.stamp {
        return Some(match top.slots[slot].state {
            SlotState::Active => Role::Current(at),
            _ => Role::Behind(at),
        });
    }
    if record.stamp.events >= top.stamp.events {
        return None;
    }
    // Only the last event may have been under way when all stopped.
    let last = record.stamp.events + 1 == top.stamp.events;
    let recent = last && record.stamp.nonce == top.before;
    match top.slots[slot].state {
        _ if last && !recent => None,
        SlotState::Active | SlotState::Rebuilding if recent => Some(Role::Behind(at)),
        // It was told of all later events, and has forgotten them.
        SlotState::Active | SlotState::Rebuilding => Some(Role::Lost(at)),
        SlotState::Failed { since } if record.stamp.events >= since => None,
        // It missed the event that says so, and maybe the one before, which it then failed to store.
        SlotState::Failed { since } if record.stamp.events + 2 >= since => Some(Role::Behind(at)),
        SlotState::Failed { .. } | SlotState::Vacant => Some(Role::Lost(at)),
    }
}

fn nothing_known(candidates: &[Candidate], absent: &[String], array: Option<Uuid>) -> Verdict {
    for candidate in candidates {
        match &candidate.found {
            Found::Blank => {}
            Found::Unreadable(why) => {
                return Verdict::Refuse(format!(
                    "the superblock of base {:?} cannot be used: {why}; wipe it to make a new leg of it",
                    candidate.base
                ));
            }
            Found::Leg(record, _) => {
                let wanted = array.unwrap_or_default();
                return Verdict::Refuse(format!(
                    "base {:?} is a leg of mirror {} ({:?}), not of {wanted}",
                    candidate.base, record.array, record.name
                ));
            }
        }
    }
    if absent.is_empty() {
        return Verdict::Fresh;
    }
    Verdict::Wait(format!(
        "no base that is there is a leg of it; it waits for {}",
        absent.join(", ")
    ))
}

/// Whether the legs that are there are enough.
fn settle(candidates: &[Candidate], plan: Plan, degraded: bool) -> Verdict {
    let trusted = plan.top.active();
    let missing = plan.which(|role| role == Role::Missing) & trusted;
    let why = |plan: &Plan, slots: Legs| {
        let mut text = String::new();
        for slot in slots.iter() {
            let Slot { leg, base } = Slot::of(&plan.top, slot);
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}leg {slot} ({leg}, once base {base:?})");
        }
        for (at, why) in &plan.refused {
            let _ = write!(text, "; base {:?} is refused: {why}", candidates[*at].base);
        }
        text
    };
    if plan.current().is_empty() {
        return Verdict::Wait(format!(
            "no leg with all data is there: it waits for {}",
            why(&plan, trusted)
        ));
    }
    if !missing.is_empty() && !degraded {
        return Verdict::Wait(format!(
            "it waits for {}, which may have newer data; if it is lost, create the mirror with \"degraded\": \
             true",
            why(&plan, missing)
        ));
    }
    Verdict::Start(plan)
}

/// What messages say of a slot.
struct Slot<'a> {
    leg: Uuid,
    base: &'a str,
}

impl<'a> Slot<'a> {
    fn of(record: &'a Record, slot: usize) -> Self {
        Self { leg: record.slots[slot].leg, base: &record.slots[slot].base }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
