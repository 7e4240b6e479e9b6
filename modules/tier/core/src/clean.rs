//! Writing back, and flushing.

use std::sync::MutexGuard;

use futures_util::future::join_all;

use crate::cache::Cache;
use crate::ports::{Dev, Disks};
use crate::set::{Set, State};
use crate::stats::Counters;

/// What a round of writing back has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Lines that were dirty and are not now.
    pub lines: u64,
    /// Lines that were tried.
    pub tried: u64,
    /// Lines that a disk has failed; they stay dirty.
    pub failed: u64,
}

/// A line that is being written back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    line: u64,
    set: u64,
    way: usize,
}

/// Lines written at once; so many buffers a run takes.
const RUN: usize = 32;

impl Cache {
    /// Writes back up to about `most` lines, in the order of the slow disk, from the set `cursor` on and
    /// round, and moves that on. At most one run of it is under way.
    pub async fn clean<D: Disks>(
        &self,
        disks: &D,
        cursor: &mut u64,
        most: usize,
        counters: &Counters,
    ) -> Cleaned {
        let mut jobs = self.jobs(cursor, most);
        jobs.sort_unstable();
        let mut cleaned = Cleaned { tried: jobs.len() as u64, ..Cleaned::default() };
        let mut written = Vec::with_capacity(jobs.len());
        let mut rest = &jobs[..];
        while !rest.is_empty() {
            let len = run_of(rest);
            let (run, next) = rest.split_at(len);
            rest = next;
            if self.write_run(disks, run, counters).await {
                written.push((run, true));
            } else if len == 1 {
                written.push((run, false));
            } else {
                // One bad line keeps no others.
                for alone in run.chunks(1) {
                    written.push((alone, self.write_run(disks, alone, counters).await));
                }
            }
        }
        // What is called clean may go from the fast disk, so it is durable on the slow one first.
        let durable = !written.iter().any(|(_, ok)| *ok)
            || !disks.is_volatile(Dev::Slow)
            || disks.flush(Dev::Slow).await.is_ok();
        for (run, ok) in written {
            for job in run {
                let done = self.change(job.set, job.way, |way| {
                    way.cleaning = false;
                    let done = ok && durable && !std::mem::take(&mut way.redirtied);
                    if done {
                        self.make_clean(way);
                    }
                    done
                });
                if done {
                    self.unsaved.set(job.set);
                    cleaned.lines += 1;
                }
            }
            if !(ok && durable) {
                cleaned.failed += run.len() as u64;
            }
        }
        counters.write_backs.add(cleaned.lines);
        cleaned
    }

    fn jobs(&self, cursor: &mut u64, most: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut wrapped = false;
        let start = *cursor;
        while jobs.len() < most && !self.is_fast_gone() {
            match self.dirty_sets.next(*cursor) {
                Some(set) if !wrapped || set < start => {
                    *cursor = set + 1;
                    let state = self.set(set);
                    self.jobs_of(set, state, &mut jobs);
                }
                None if !wrapped && start > 0 => {
                    wrapped = true;
                    *cursor = 0;
                }
                _ => break,
            }
        }
        jobs
    }

    fn jobs_of(&self, set: u64, mut state: MutexGuard<'_, Set>, jobs: &mut Vec<Job>) {
        if state.ways.iter().all(|way| !way.dirty) {
            self.dirty_sets.clear(set);
            return;
        }
        // One of the writes that go around the cache may be to a line that came in meanwhile.
        if state.arounds > 0 {
            return;
        }
        for (at, way) in state.ways.iter_mut().enumerate() {
            let idle = way.state == State::Valid && !way.cleaning && self.pins(set).no_writer(at);
            if way.dirty && idle {
                way.cleaning = true;
                way.redirtied = false;
                jobs.push(Job { line: way.line, set, way: at });
            }
        }
    }

    /// Writes lines that follow each other. One that cannot be read or written
    /// fails all of them.
    async fn write_run<D: Disks>(&self, disks: &D, run: &[Job], counters: &Counters) -> bool {
        let reads = run.iter().map(|job| async {
            let mut buf = disks.line_buf()?;
            let at = self.geometry.fast_block(job.set, job.way);
            match disks.read(Dev::Fast, &mut buf, at).await {
                Ok(()) => Some(buf),
                Err(_) => {
                    counters.fast_errors.add(1);
                    None
                }
            }
        });
        let bufs: Option<Vec<_>> = join_all(reads).await.into_iter().collect();
        let Some(bufs) = bufs else { return false };
        let at = self.geometry.slow_block(run[0].line);
        let (result, _) = disks.write_all(Dev::Slow, bufs, at).await;
        if result.is_err() {
            counters.slow_errors.add(1);
        }
        result.is_ok()
    }

    /// Makes durable what was acknowledged.
    ///
    /// # Errors
    /// A disk's.
    pub async fn flush<D: Disks>(&self, disks: &D) -> Result<(), D::Error> {
        if !self.is_fast_gone() {
            disks.flush(Dev::Fast).await?;
        } else if self.dirty() > 0 {
            return Err(disks.lost());
        }
        disks.flush(Dev::Slow).await
    }
}

/// How many of the first jobs follow each other on the slow disk.
fn run_of(jobs: &[Job]) -> usize {
    let follows = |pair: &&[Job]| pair[0].line + 1 == pair[1].line;
    (1 + jobs.windows(2).take_while(follows).count()).min(RUN)
}
