//! Writing records. Those of one block go together: while a write is on its way, all who come meanwhile
//! share the next.

use std::future::poll_fn;
use std::sync::{MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::cache::Cache;
use crate::ports::{Dev, Disks};
use crate::record;
use crate::stats::Counters;

/// A block of records.
#[derive(Default)]
pub(crate) struct Page {
    /// Tickets given out.
    wanted: u64,
    /// Tickets up to this were in a write that has ended well, and up to that in one that has failed.
    done: u64,
    failed: u64,
    writing: bool,
    waiters: Vec<Waker>,
}

enum Turn {
    /// To write, for all tickets up to this.
    Lead(u64),
    Done,
    Failed,
}

impl Cache {
    fn page(&self, page: u64) -> MutexGuard<'_, Page> {
        self.pages[page as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the records of a block as they are now, or later. When it ends well they are on the disk,
    /// and what they were made from before that is durable.
    pub(crate) async fn commit<D: Disks>(
        &self,
        disks: &D,
        page: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        let ticket = {
            let mut page = self.page(page);
            page.wanted += 1;
            page.wanted
        };
        let turn = poll_fn(|cx| {
            let mut page = self.page(page);
            if page.done >= ticket {
                return Poll::Ready(Turn::Done);
            }
            if page.failed >= ticket {
                return Poll::Ready(Turn::Failed);
            }
            if page.writing {
                if !page.waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
                    page.waiters.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            page.writing = true;
            Poll::Ready(Turn::Lead(page.wanted))
        })
        .await;
        let target = match turn {
            Turn::Done => return Ok(()),
            Turn::Failed => return Err(disks.lost()),
            Turn::Lead(target) => target,
        };
        let result = self.write_records(disks, page, target).await;
        counters.commits.add(1);
        let woken = {
            let mut page = self.page(page);
            page.writing = false;
            match result {
                Ok(()) => page.done = target,
                Err(_) => page.failed = target,
            }
            std::mem::take(&mut page.waiters)
        };
        woken.into_iter().for_each(Waker::wake);
        if result.is_err() {
            counters.fast_errors.add(1);
            self.set_failing();
        }
        result
    }

    async fn write_records<D: Disks>(
        &self,
        disks: &D,
        page: u64,
        sequence: u64,
    ) -> Result<(), D::Error> {
        let mut buf = disks.block_buf()?;
        buf.fill(0);
        for (set, bytes) in self.geometry.sets_of(page).zip(buf.chunks_exact_mut(record::SIZE)) {
            let entries = self.set(set).entries();
            record::encode(bytes, self.stamp, set, sequence, &entries);
        }
        // What a record claims was written before the claim was made.
        self.fence(disks).await?;
        disks.write(Dev::Fast, &mut buf, self.geometry.records_at + page).await
    }

    /// Nothing that is written later is durable before what was written to the fast disk so far.
    pub(crate) async fn fence<D: Disks>(&self, disks: &D) -> Result<(), D::Error> {
        if disks.is_volatile(Dev::Fast) { disks.flush(Dev::Fast).await } else { Ok(()) }
    }

    /// As `commit`, and what is written later is durable no sooner.
    pub(crate) async fn commit_first<D: Disks>(
        &self,
        disks: &D,
        set: u64,
        counters: &Counters,
    ) -> Result<(), D::Error> {
        self.commit(disks, self.geometry.page_of(set), counters).await?;
        self.fence(disks).await
    }
}
