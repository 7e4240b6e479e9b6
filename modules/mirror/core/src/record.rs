//! What a superblock says: which legs a mirror has, and what is known of each.

use uuid::Uuid;

use crate::bytes::{Reader, Writer};
use crate::{Geometry, Legs, MAX_LEGS};

/// What a leg is to the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Has all data.
    Active,
    /// Is written, but lacks data in regions whose bits are set.
    Rebuilding,
    /// Is not written since the event of this number. Its data are right where bits are clear.
    Failed {
        /// The event that said so first.
        since: u64,
    },
    /// There is no leg any more.
    Vacant,
}

/// A place for a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Tells legs apart, also after they were replaced.
    pub leg: Uuid,
    /// What is known of it.
    pub state: SlotState,
    /// The name that the base had when it was last used.
    pub base: String,
}

/// Names one event in the life of a mirror.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// How many there were before it.
    pub events: u64,
    /// A random number: two halves of a mirror that live on without each other count alike.
    pub nonce: u64,
}

/// The part of the superblock that is the same on all legs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Tells mirrors apart.
    pub array: Uuid,
    /// The mirror's name.
    pub name: String,
    /// The last event. That of 0 events is being made, and nothing was written to it.
    pub stamp: Stamp,
    /// The nonce of the event before.
    pub before: u64,
    /// Sizes and places.
    pub geometry: Geometry,
    /// The places for legs.
    pub slots: Vec<Slot>,
}

const VERSION: u32 = 1;

impl Record {
    /// A mirror that nothing was written to, of legs that all are active.
    pub fn new(array: Uuid, name: &str, geometry: Geometry, legs: &[(Uuid, &str)]) -> Self {
        let slot = |(leg, base): &(Uuid, &str)| Slot {
            leg: *leg,
            state: SlotState::Active,
            base: (*base).to_owned(),
        };
        let slots = legs.iter().map(slot).collect();
        let (name, stamp) = (name.to_owned(), Stamp::default());
        Self { array, name, stamp, before: 0, geometry, slots }
    }

    /// The legs in a state.
    fn which(&self, is: impl Fn(SlotState) -> bool) -> Legs {
        (0..self.slots.len()).filter(|slot| is(self.slots[*slot].state)).collect()
    }

    /// Those that have all data.
    pub fn active(&self) -> Legs {
        self.which(|state| state == SlotState::Active)
    }

    /// Those that lack some.
    pub fn rebuilding(&self) -> Legs {
        self.which(|state| state == SlotState::Rebuilding)
    }

    /// Those that are not written.
    pub fn failed(&self) -> Legs {
        self.which(|state| matches!(state, SlotState::Failed { .. }))
    }

    /// Those there are, in whatever state.
    pub fn legs(&self) -> Legs {
        self.which(|state| state != SlotState::Vacant)
    }

    /// The slot of a leg.
    pub fn slot_of(&self, leg: Uuid) -> Option<usize> {
        self.slots.iter().position(|slot| slot.leg == leg && slot.state != SlotState::Vacant)
    }

    /// The next event, after which all is as before.
    #[must_use]
    pub fn next(&self, nonce: u64) -> Self {
        let stamp = Stamp { events: self.stamp.events + 1, nonce };
        Self { stamp, before: self.stamp.nonce, ..self.clone() }
    }

    /// The event that legs have failed.
    #[must_use]
    pub fn fail(&self, legs: Legs, nonce: u64) -> Self {
        let mut next = self.next(nonce);
        let since = next.stamp.events;
        for (number, slot) in next.slots.iter_mut().enumerate() {
            let written = matches!(slot.state, SlotState::Active | SlotState::Rebuilding);
            if legs.has(number) && written {
                slot.state = SlotState::Failed { since };
            }
        }
        next
    }

    /// The event that legs are in another state.
    #[must_use]
    pub fn set(&self, legs: Legs, state: SlotState, nonce: u64) -> Self {
        let mut next = self.next(nonce);
        legs.iter().for_each(|slot| next.slots[slot].state = state);
        next
    }

    /// The superblock of one of the legs.
    pub fn encode(&self, leg: Uuid) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(VERSION);
        out.uuid(self.array);
        out.uuid(leg);
        out.text(&self.name);
        out.u64(self.stamp.events);
        out.u64(self.stamp.nonce);
        out.u64(self.before);
        out.u32(self.geometry.block_size);
        out.u64(self.geometry.num_blocks);
        out.u64(self.geometry.data_offset);
        out.u64(self.geometry.region_blocks);
        out.u8(self.slots.len() as u8);
        for slot in &self.slots {
            out.uuid(slot.leg);
            let (state, since) = match slot.state {
                SlotState::Active => (0, 0),
                SlotState::Rebuilding => (1, 0),
                SlotState::Failed { since } => (2, since),
                SlotState::Vacant => (3, 0),
            };
            out.u8(state);
            out.u64(since);
            out.text(&slot.base);
        }
        out.0
    }

    /// What a superblock says, and whose it is.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Uuid), String> {
        let mut from = Reader(bytes);
        match from.u32() {
            Some(VERSION) => {}
            Some(version) => {
                return Err(format!("it has version {version}, and {VERSION} is known"));
            }
            None => return Err("it is empty".into()),
        }
        let (record, leg) = Self::fields(&mut from).ok_or("it is cut short or has no text")?;
        let record = Self { geometry: record.geometry.checked()?, ..record };
        if record.slot_of(leg).is_none() {
            return Err(format!("it is that of leg {leg}, which it does not know"));
        }
        if let Some(at) =
            record.legs().iter().find(|at| record.slot_of(record.slots[*at].leg) != Some(*at))
        {
            return Err(format!("it has leg {} twice", record.slots[at].leg));
        }
        if record.active().is_empty() {
            return Err("it calls no leg active".into());
        }
        Ok((record, leg))
    }

    fn fields(from: &mut Reader<'_>) -> Option<(Self, Uuid)> {
        let (array, leg) = (from.uuid()?, from.uuid()?);
        let name = from.text()?;
        let stamp = Stamp { events: from.u64()?, nonce: from.u64()? };
        let before = from.u64()?;
        let geometry = Geometry {
            block_size: from.u32()?,
            num_blocks: from.u64()?,
            data_offset: from.u64()?,
            region_blocks: from.u64()?,
        };
        let count = usize::from(from.u8()?);
        let slots = (0..count.min(MAX_LEGS + 1)).map(|_| {
            let leg = from.uuid()?;
            let state = match (from.u8()?, from.u64()?) {
                (0, _) => SlotState::Active,
                (1, _) => SlotState::Rebuilding,
                (2, since) => SlotState::Failed { since },
                (3, _) => SlotState::Vacant,
                _ => return None,
            };
            Some(Slot { leg, state, base: from.text()? })
        });
        let slots: Vec<Slot> = slots.collect::<Option<_>>()?;
        let sane = slots.len() <= MAX_LEGS && stamp.events < u64::MAX / 2;
        sane.then_some((Self { array, name, stamp, before, geometry, slots }, leg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let geometry = Geometry::new(512, 1 << 18, None, 1).unwrap();
        let legs =
            [(Uuid::from_u128(1), "a"), (Uuid::from_u128(2), "b"), (Uuid::from_u128(3), "c")];
        let record = Record::new(Uuid::from_u128(9), "m", geometry, &legs);
        record.next(5).fail(Legs::one(1), 6).set(Legs::one(2), SlotState::Rebuilding, 7)
    }

    #[test]
    fn what_was_written_is_read() {
        let record = sample();
        let bytes = record.encode(Uuid::from_u128(2));
        assert_eq!(Record::decode(&bytes).unwrap(), (record.clone(), Uuid::from_u128(2)));
        // What lies behind it does not matter.
        let padded = [bytes, vec![0xff; 100]].concat();
        assert_eq!(Record::decode(&padded).unwrap().0, record);
        assert_eq!(record.stamp, Stamp { events: 3, nonce: 7 });
        assert_eq!((record.before, record.slots[1].state), (6, SlotState::Failed { since: 2 }));
    }

    #[test]
    fn a_leg_that_failed_before_keeps_its_event() {
        let again = sample().fail(Legs(0b110), 8);
        assert_eq!(again.slots[1].state, SlotState::Failed { since: 2 });
        assert_eq!(again.slots[2].state, SlotState::Failed { since: 4 });
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let bytes = sample().encode(Uuid::from_u128(1));
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "{len}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                let _ = Record::decode(&bad);
            }
        }
        let other = sample().encode(Uuid::from_u128(4));
        assert!(Record::decode(&other).unwrap_err().contains("does not know"));
    }

    #[test]
    fn long_names_are_cut_between_letters() {
        let mut record = sample();
        record.name = "ä".repeat(200);
        let (read, _) = Record::decode(&record.encode(Uuid::from_u128(1))).unwrap();
        assert_eq!(read.name, "ä".repeat(127));
    }
}
