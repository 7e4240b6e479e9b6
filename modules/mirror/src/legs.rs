//! Legs that come and go while the mirror runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use spdk_plugin::module::Base;
use spdk_plugin::{Error, Result};
use spdk_plugin_mirror_core::assembly::{Found, Role, returning};
use spdk_plugin_mirror_core::{Geometry, Legs, MAX_LEGS, Slot, SlotState};
use uuid::Uuid;

use crate::disk::Disk;
use crate::owner::{Owner, Terms, nonce};

/// Refuses a base that cannot be a leg of a mirror of this geometry.
pub(crate) fn suits(base: &Base, geometry: &Geometry) -> Result<()> {
    plain(base)?;
    let (name, size) = (base.name(), base.block_size());
    if size != geometry.block_size {
        return Err(Error::Invalid(format!(
            "base {name} has blocks of {size} bytes, and the mirror of {}",
            geometry.block_size
        )));
    }
    let needed = geometry.data_offset + geometry.num_blocks;
    if base.num_blocks() < needed {
        return Err(Error::Invalid(format!(
            "base {name} has {} blocks, and a leg of the mirror needs {needed}",
            base.num_blocks()
        )));
    }
    Ok(())
}

/// Refuses a base that can be no leg at all.
pub(crate) fn plain(base: &Base) -> Result<()> {
    if base.metadata().is_some() {
        return Err(Error::Invalid(format!(
            "base {} has metadata with its blocks, which a mirror does not copy; take one without",
            base.name()
        )));
    }
    Ok(())
}

impl Owner {
    fn slot_of(&self, base: &Base) -> Option<usize> {
        let legs = self.shared.legs();
        legs.iter().position(|leg| leg.as_ref().is_some_and(|leg| leg.base.name() == base.name()))
    }

    /// Goes on without a base, if it can.
    pub(crate) async fn leave(&mut self, base: &Base) -> bool {
        let left = match self.slot_of(base) {
            Some(slot) => self.fail(Legs::one(slot)).await,
            None => true,
        };
        if left {
            base.close();
        }
        left
    }

    /// Stops to use a leg. With `forget`, the mirror is one leg smaller from now on.
    pub(crate) async fn remove(&mut self, base: &str, forget: bool) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let is_it = |slot: &usize| self.record.slots[*slot].base == base;
        let Some(slot) = self.record.legs().iter().find(is_it) else {
            return Err(Error::NotFound(format!("mirror {:?} has no leg {base:?}", shared.name)));
        };
        if !self.fail(Legs::one(slot)).await {
            return Err(Error::Busy(format!(
                "leg {base:?} of mirror {:?} is the last one with all data",
                shared.name
            )));
        }
        if forget {
            let next = self.record.set(Legs::one(slot), SlotState::Vacant, nonce());
            if !self.commit(next).await {
                return Err(failed("storing the superblocks"));
            }
            self.let_go().await;
            shared.regions.forget(Legs::one(slot));
        }
        Ok(())
    }

    /// Takes a base for a leg.
    pub(crate) async fn join(&mut self, base: Base, terms: Terms) -> Result<()> {
        let joined = self.try_join(&base, terms).await;
        if joined.is_err() && self.slot_of(&base).is_none() {
            base.close();
        }
        joined
    }

    async fn try_join(&mut self, base: &Base, terms: Terms) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let name = base.name();
        suits(base, &shared.geometry)?;
        if self.slot_of(base).is_some() {
            return Err(Error::Exists(format!("base {name} is a leg already")));
        }
        let disk = Disk::new(base)?;
        let found = disk.superblock().await?;
        let (slot, role) = self.place(name, &found, terms)?;
        let leg = match role {
            Role::Behind(_) | Role::Lost(_) => self.record.slots[slot].leg,
            _ => Uuid::new_v4(),
        };
        let whole = !matches!(role, Role::Behind(_));
        if whole {
            // All that it lacks is all there is.
            if !self.set_bits((0..shared.regions.len()).collect()).await {
                return Err(failed("setting the bitmap"));
            }
            let one = Legs::one(slot);
            (0..shared.regions.len()).for_each(|region| shared.regions.set_behind(region, one));
        }
        let pages: BTreeSet<_> = (0..shared.geometry.pages()).collect();
        for page in pages {
            let set = |region| shared.regions.is_dirty(region);
            disk.write_page(&shared.geometry, self.record.array, page, set).await?;
        }
        let mut next = self.record.clone();
        if slot == next.slots.len() {
            let state = SlotState::Vacant;
            next.slots.push(Slot { leg, state, base: String::new() });
        }
        next.slots[slot].leg = leg;
        next.slots[slot].base = name.to_owned();
        self.take_in(slot, disk).await?;
        let next = next.set(Legs::one(slot), SlotState::Rebuilding, nonce());
        let stored = self.commit(next).await;
        if !stored || !self.record.rebuilding().has(slot) {
            self.fail(Legs::one(slot)).await;
            return Err(failed("storing the superblocks"));
        }
        let how = if whole { "all of it" } else { "what it missed" };
        log::info!("mirror {}: base {name} is leg {slot} and gets {how}", shared.name);
        shared.kick();
        Ok(())
    }

    /// The slot for a base, and what the leg there is good for: `Missing` is a new one.
    fn place(&self, name: &str, found: &Found, terms: Terms) -> Result<(usize, Role)> {
        let refuse = |why: String| Err(Error::Invalid(format!("base {name}: {why}")));
        match found {
            Found::Leg(record, leg) if record.array == self.record.array => {
                if let Some(slot) = self.record.slot_of(*leg) {
                    if !self.record.failed().has(slot) {
                        return refuse(format!("it is a copy of leg {slot}, which is in use"));
                    }
                    match returning(&self.record, record, slot) {
                        Ok(role) => return Ok((slot, role)),
                        Err(_) if terms == Terms::Overwrite => (),
                        Err(why) => return refuse(why),
                    }
                } else if terms == Terms::Returning {
                    return refuse("the mirror has given up this leg".into());
                }
            }
            Found::Leg(record, _) if terms != Terms::Overwrite => {
                return refuse(format!(
                    "it is a leg of mirror {} ({:?}); \"overwrite\": true takes it nevertheless",
                    record.array, record.name
                ));
            }
            Found::Unreadable(why) if terms != Terms::Overwrite => {
                return refuse(format!(
                    "its superblock cannot be used: {why}; \"overwrite\": true takes it nevertheless"
                ));
            }
            Found::Blank if terms == Terms::Returning => {
                return refuse(
                    "it has no superblock; bdev_mirror_add_leg makes a new leg of it".into(),
                );
            }
            _ => (),
        }
        // In the place of one that was lost, or given up, or behind all others.
        let slots = self.record.slots.len();
        let vacant = |slot: &usize| self.record.slots[*slot].state == SlotState::Vacant;
        let slot = self.record.failed().first().or_else(|| (0..slots).find(vacant));
        match slot {
            Some(slot) => Ok((slot, Role::Missing)),
            None if slots < MAX_LEGS => Ok((slots, Role::Missing)),
            None => refuse(format!("the mirror has {MAX_LEGS} legs, which is all it can have")),
        }
    }
}

fn failed(what: &str) -> Error {
    Error::Errno { what: what.into(), errno: 5 }
}
