//! What a thread of a mirror has: a way to each leg, and what it has sent there.

use std::array;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use spdk_plugin::Result;
use spdk_plugin::module::BaseChannel;
use spdk_plugin_mirror_core::{Legs, Load, MAX_LEGS};

use crate::shared::{Leg, Shared};

/// A thread's way to a leg.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) base: Rc<BaseChannel>,
    pub(crate) turn: u32,
}

pub(crate) type Ways = [Option<Way>; MAX_LEGS];

/// The state of a thread that uses a mirror.
pub(crate) struct Channel {
    pub(crate) ways: RefCell<Ways>,
    pub(crate) load: RefCell<Load>,
    busy: Arc<AtomicU32>,
}

/// A request of the thread is in flight.
pub(crate) struct Busy<'a>(&'a AtomicU32);

impl Drop for Busy<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Channel {
    pub(crate) fn new(shared: &Shared) -> Result<Self> {
        let legs = shared.legs().clone();
        let mut ways: Ways = array::from_fn(|_| None);
        for (slot, leg) in legs.into_iter().enumerate() {
            let Some(leg) = leg else { continue };
            ways[slot] = match way(&leg) {
                Ok(way) => Some(way),
                // It goes, and writes that miss it will say so.
                Err(_) if leg.base.is_removed() => None,
                Err(error) => return Err(error),
            };
        }
        let (ways, load) = (RefCell::new(ways), RefCell::default());
        Ok(Self { ways, load, busy: shared.new_busy() })
    }

    #[inline]
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(&self.busy)
    }

    /// A leg has come to a slot. Where no channel to it can be had, writes will miss it and say so.
    pub(crate) fn join(&self, slot: usize, leg: &Leg) {
        let way = way(leg);
        if let Err(error) = &way {
            log::error!("a thread has no channel to {}: {error}", leg.base.name());
        }
        let old = std::mem::replace(&mut self.ways.borrow_mut()[slot], way.ok());
        drop(old);
        self.load.borrow_mut().end[slot] = 0;
    }

    /// The leg that was in a slot has gone.
    pub(crate) fn leave(&self, slot: usize, turn: u32) {
        let gone = self.ways.borrow_mut()[slot].take_if(|way| way.turn == turn);
        drop(gone);
    }

    /// The ways to some legs.
    #[inline]
    pub(crate) fn to(&self, legs: Legs) -> Ways {
        let ways = self.ways.borrow();
        array::from_fn(|slot| if legs.has(slot) { ways[slot].clone() } else { None })
    }
}

fn way(leg: &Leg) -> Result<Way> {
    Ok(Way { base: Rc::new(leg.base.channel()?), turn: leg.turn })
}
