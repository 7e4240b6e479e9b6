//! Telling the fast disk of lines that are clean, some time later: what it does not know of is lost with
//! the process, but is on the slow disk.

use crate::cache::Cache;
use crate::ports::{Dev, Disks};
use crate::set::{Claim, State};
use crate::stats::Counters;

/// Lines looked at together.
const BATCH: usize = 1024;

/// A line of which the disk could say more.
#[derive(Clone, Copy)]
struct Candidate {
    set: u64,
    way: usize,
    line: u64,
    version: u32,
}

impl Cache {
    /// Has the records say of clean lines that they are clean. At most one run of it is under way.
    ///
    /// # Errors
    /// A disk's. It may be tried again.
    pub async fn save<D: Disks>(&self, disks: &D, counters: &Counters) -> Result<(), D::Error> {
        let mut from = 0;
        while !self.is_fast_gone() {
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                let Some(set) = self.unsaved.next(from) else { break };
                from = set + 1;
                self.unsaved.clear(set);
                self.candidates(set, &mut batch);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let result = self.save_batch(disks, &batch, counters).await;
            if result.is_err() {
                batch.iter().for_each(|candidate| self.unsaved.set(candidate.set));
                return result;
            }
        }
        Ok(())
    }

    fn candidates(&self, set: u64, batch: &mut Vec<Candidate>) {
        let state = self.set(set);
        let mut busy = false;
        for (at, way) in state.ways.iter().enumerate() {
            let unknown = way.claim != Claim::Clean || !way.settled;
            if way.state != State::Valid || way.dirty || !unknown {
                // One that fills or is busy says so itself when it is done.
                continue;
            }
            if state.arounds == 0 && !way.cleaning && self.pins(set).no_writer(at) {
                batch.push(Candidate { set, way: at, line: way.line, version: way.version });
            } else {
                busy = true;
            }
        }
        if busy {
            self.unsaved.set(set);
        }
    }

    async fn save_batch<D: Disks>(
        &self,
        disks: &D,
        batch: &[Candidate],
        counters: &Counters,
    ) -> Result<(), D::Error> {
        // Else the slow disk might have something older after a loss of power.
        if disks.is_volatile(Dev::Slow) {
            disks.flush(Dev::Slow).await?;
        }
        let mut pages = Vec::new();
        let mut claimed = Vec::new();
        for candidate in batch {
            let Candidate { set, way: at, line, version } = *candidate;
            let mut state = self.set(set);
            let no_writer = self.pins(set).no_writer(at);
            let way = &mut state.ways[at];
            let same = way.line == line && way.version == version && way.state == State::Valid;
            if same && !way.dirty && !way.cleaning && no_writer {
                way.claim = Claim::Clean;
                way.settled = false;
                pages.push(self.geometry.page_of(set));
                claimed.push(*candidate);
            }
        }
        pages.dedup();
        for page in pages {
            self.commit(disks, page, counters).await?;
        }
        for Candidate { set, way: at, line, version } in claimed {
            let mut state = self.set(set);
            let way = &mut state.ways[at];
            if way.line == line && way.version == version && way.claim == Claim::Clean {
                way.settled = true;
            }
        }
        Ok(())
    }
}
