//! One operation after the other, and what becomes of each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use spdk_plugin::bdev::IoOptions;
use spdk_plugin::dma::{DmaBuf, IoVec};
use spdk_plugin::module::IoError;
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::yield_now;
use spdk_plugin::{Error, Result};
use spdk_plugin_test_model::{Ended, Geometry, Kind, Model, Op, Plan, Random, Ticket};

use crate::buffer::{Buffer, Parts};
use crate::disk::Disk;
use crate::settings::{Failure, Report, Verify};

/// What all cores have in common.
pub(crate) struct Run {
    pub(crate) settings: Verify,
    pub(crate) geometry: Geometry,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) model: Mutex<Model>,
    pub(crate) report: Mutex<Report>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) left: AtomicU64,
    pub(crate) stopped: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Operations that do not suit those in flight, one after the other, until others have their turn.
const TURN: u32 = 32;
/// Turns after which nothing will suit any more.
const TURNS: u32 = 1_000_000;

impl Run {
    /// Whether there is to be another operation.
    fn goes_on(&self, disk: &Disk) -> bool {
        if disk.desc.is_removed() {
            self.stopped.store(true, Ordering::Relaxed);
            lock(&self.report).removed = true;
        }
        !self.stopped.load(Ordering::Relaxed)
            && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
    }

    fn fail(&self, failure: Failure) {
        self.stopped.store(true, Ordering::Relaxed);
        lock(&self.report).failure.get_or_insert(failure);
    }

    fn may_fail(&self, error: &Error) -> bool {
        let aborted = matches!(error, Error::Io { cause: IoError::Aborted, .. });
        self.settings.may_fail || aborted && self.kinds.contains(&Kind::Reset)
    }
}

/// Does operations by turns with others like it.
pub(crate) struct Worker<'a> {
    run: &'a Run,
    disk: &'a Disk,
    plan: Plan,
    random: Random,
    data: Buffer,
    more: Buffer,
    options: IoOptions,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(run: &'a Run, disk: &'a Disk, number: u64) -> Result<Self, RpcError> {
        let seed = run.settings.seed;
        // A run that goes on with another does not repeat it.
        let seed = Random::stream(seed, lock(&run.model).begun()).any();
        let plan = Plan::new(run.geometry.clone(), Random::stream(seed, 2 * number), &run.kinds);
        let most = run.geometry.most.max(run.geometry.write_unit) as usize;
        let buffer = |blocks: usize| {
            let bytes = blocks * disk.block_size;
            Buffer::new(bytes, disk.block_size, disk.desc.alignment(), run.settings.odd_buffers)
        };
        let options = match most * disk.md_size {
            0 => IoOptions::new(),
            bytes => IoOptions::new().with_metadata(DmaBuf::alloc_zeroed(bytes, 4096)?),
        };
        Ok(Self {
            run,
            disk,
            plan,
            random: Random::stream(seed, 2 * number + 1),
            data: buffer(most)?,
            more: buffer(run.geometry.atomic.clamp(1, most as u64) as usize)?,
            options,
        })
    }

    /// Does operations until the run is over.
    pub(crate) async fn work(mut self) {
        let mut refused = 0;
        let mut next = None;
        loop {
            if next.is_none() && !self.run.goes_on(self.disk) {
                return;
            }
            let op = self.plan.draw();
            let Some(op) = op else {
                return self
                    .run
                    .fail(Failure::Operation("the bdev knows none of the kinds".into()));
            };
            let Some(ticket) = lock(&self.run.model).begin(op) else {
                refused += 1;
                next = Some(());
                if refused % TURN == 0 {
                    yield_now().await;
                }
                if refused == TURN * TURNS {
                    let why = "no operation can begin: nothing is known to compare with";
                    return self.run.fail(Failure::Operation(why.into()));
                }
                continue;
            };
            (refused, next) = (0, None);
            self.perform(ticket).await;
        }
    }

    /// Reads every block from the next on that nobody else has read.
    pub(crate) async fn sweep(mut self, next: &AtomicU64) {
        let (blocks, most) = (self.run.geometry.blocks.clone(), self.run.geometry.most);
        loop {
            let start = next.fetch_add(most, Ordering::Relaxed);
            let over = start >= blocks.end || self.run.stopped.load(Ordering::Relaxed);
            if over || self.disk.desc.is_removed() {
                return;
            }
            let blocks = start..blocks.end.min(start + most);
            let op = Op { kind: Kind::Read, blocks, source: 0, differs: false };
            let Some(ticket) = lock(&self.run.model).begin(op) else { return };
            let checked = self.perform(ticket).await;
            lock(&self.run.report).blocks_swept += checked;
        }
    }

    /// Does an operation; gives how many blocks it has checked.
    async fn perform(&mut self, ticket: Ticket) -> u64 {
        let kind = ticket.op.kind;
        let (result, checked) = match kind {
            Kind::Read => self.read(&ticket).await,
            Kind::Write => (self.write(&ticket).await, Ok(0)),
            Kind::Compare => (self.compare(&ticket).await, Ok(0)),
            Kind::CompareAndWrite => (self.compare_and_write(&ticket).await, Ok(0)),
            _ => (self.plain(&ticket.op).await, Ok(0)),
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(failure) => {
                self.run.fail(failure);
                0
            }
        };
        let miscompared = matches!(result, Err(Error::Io { cause: IoError::Miscompare, .. }));
        let compares = matches!(kind, Kind::Compare | Kind::CompareAndWrite);
        let ended = match result {
            Ok(()) if compares && ticket.op.differs => {
                let why = "was told of no difference where there is one";
                self.run
                    .fail(Failure::Operation(format!("#{} {} {why}", ticket.number, ticket.op)));
                Ended::Maybe(why.into())
            }
            Ok(()) => Ended::Well,
            Err(_) if miscompared && compares && ticket.op.differs => {
                Ended::Never("as it should".into())
            }
            Err(_) if miscompared && compares => self.look(&ticket).await,
            Err(error) => self.failed(&ticket, error),
        };
        let mut report = lock(&self.run.report);
        if !report.unsupported.contains(&kind) {
            *report.operations.entry(kind).or_default() += 1;
        }
        report.blocks_checked += checked;
        drop(report);
        lock(&self.run.model).end(&ticket, ended);
        checked
    }

    fn failed(&mut self, ticket: &Ticket, error: Error) -> Ended {
        let kind = ticket.op.kind;
        let refused = !matches!(error, Error::Io { .. });
        let unsupported =
            matches!(error, Error::Unsupported { .. }) || error.errno() == libc::ENOTSUP;
        if refused && unsupported && !matches!(kind, Kind::Read | Kind::Write) {
            self.plan.forget(kind);
            let mut report = lock(&self.run.report);
            if !report.unsupported.contains(&kind) {
                report.unsupported.push(kind);
            }
            return Ended::Never("it is not supported".into());
        }
        let text = error.to_string();
        if self.run.may_fail(&error) {
            let mut report = lock(&self.run.report);
            report.failed += 1;
            report.last_error = Some(text.clone());
        } else {
            let text = format!("#{} {}: {text}", ticket.number, ticket.op);
            self.run.fail(Failure::Operation(text));
        }
        if refused { Ended::Never(text) } else { Ended::Maybe(text) }
    }

    /// There is a difference where there should be none: a read tells where.
    async fn look(&mut self, ticket: &Ticket) -> Ended {
        let failure = match self.read(ticket).await {
            (_, Err(failure)) => failure,
            (Err(error), _) => Failure::Operation(error.to_string()),
            (Ok(()), Ok(_)) => Failure::Operation(format!(
                "#{} {} was told of a difference, but what is read is right",
                ticket.number, ticket.op
            )),
        };
        self.run.fail(failure);
        Ended::Maybe("it was told of a difference".into())
    }

    fn bytes(&self, op: &Op) -> usize {
        (op.blocks.end - op.blocks.start) as usize * self.disk.block_size
    }

    async fn read(&mut self, ticket: &Ticket) -> (Result<()>, Result<u64, Failure>) {
        let (op, size) = (&ticket.op, self.disk.block_size);
        let count = op.blocks.end - op.blocks.start;
        // What is not read shows.
        let mut parts = self.data.take(self.bytes(op), &mut self.random, |data| data.fill(0xdb));
        let Parts { list, .. } = &mut parts;
        let (desc, channel) = (&self.disk.desc, &self.disk.channel);
        let result = if self.disk.md_size > 0 {
            self.options.metadata.fill(0xdb);
            let read = desc.readv_blocks(channel, list, op.blocks.start, count);
            read.with_options(&mut self.options).await
        } else if let Some(mut buf) = only(list) {
            let result = desc.read_blocks(channel, &mut buf, op.blocks.start, count).await;
            list.push(buf);
            result
        } else {
            desc.readv_blocks(channel, list, op.blocks.start, count).await
        };
        let place = self.data.put(parts);
        if result.is_err() {
            return (result, Ok(0));
        }
        let data = self.data.bytes(place);
        let (mut checked, suspects) = ticket.check(data, size);
        let judged = match &suspects[..] {
            [] => Ok(()),
            _ => lock(&self.run.model).judge(ticket, &suspects, data, size),
        };
        checked += suspects.len() as u64;
        let metadata = match self.disk.md_size {
            0 => Ok(()),
            md => ticket.check_metadata(&self.options.metadata[..count as usize * md], md),
        };
        let failure = match (judged, metadata) {
            (Err(mismatch), _) => Failure::Mismatch(*mismatch),
            (_, Err(text)) => Failure::Operation(format!("#{} {op}: {text}", ticket.number)),
            (Ok(()), Ok(())) => return (Ok(()), Ok(checked)),
        };
        (Ok(()), Err(failure))
    }

    async fn write(&mut self, ticket: &Ticket) -> Result<()> {
        let (op, size) = (&ticket.op, self.disk.block_size);
        let count = op.blocks.end - op.blocks.start;
        let fill = |data: &mut [u8]| ticket.fill_new(data, size);
        let mut parts = self.data.take(self.bytes(op), &mut self.random, fill);
        let Parts { list, .. } = &mut parts;
        let (desc, channel) = (&self.disk.desc, &self.disk.channel);
        let result = if self.disk.md_size > 0 {
            let md = self.disk.md_size;
            ticket.fill_new(&mut self.options.metadata[..count as usize * md], md);
            let write = desc.writev_blocks(channel, list, op.blocks.start, count);
            write.with_options(&mut self.options).await
        } else if let Some(mut buf) = only(list) {
            let result = desc.write_blocks(channel, &mut buf, op.blocks.start, count).await;
            list.push(buf);
            result
        } else {
            desc.writev_blocks(channel, list, op.blocks.start, count).await
        };
        self.data.put(parts);
        result
    }

    async fn compare(&mut self, ticket: &Ticket) -> Result<()> {
        let (op, size) = (&ticket.op, self.disk.block_size);
        let fill = |data: &mut [u8]| ticket.fill_expected(data, size);
        let mut parts = self.data.take(self.bytes(op), &mut self.random, fill);
        let count = op.blocks.end - op.blocks.start;
        let Disk { desc, channel, .. } = self.disk;
        let result = desc.comparev_blocks(channel, &mut parts.list, op.blocks.start, count).await;
        self.data.put(parts);
        result
    }

    async fn compare_and_write(&mut self, ticket: &Ticket) -> Result<()> {
        let (op, size, bytes) = (&ticket.op, self.disk.block_size, self.bytes(&ticket.op));
        let fill = |data: &mut [u8]| ticket.fill_expected(data, size);
        let mut expected = self.data.take(bytes, &mut self.random, fill);
        let fill = |data: &mut [u8]| ticket.fill_new(data, size);
        let mut new = self.more.take(bytes, &mut self.random, fill);
        let count = op.blocks.end - op.blocks.start;
        let Disk { desc, channel, .. } = self.disk;
        let (one, other) = (&mut expected.list, &mut new.list);
        let result =
            desc.comparev_and_writev_blocks(channel, one, other, op.blocks.start, count).await;
        self.data.put(expected);
        self.more.put(new);
        result
    }

    /// What brings no data along.
    async fn plain(&mut self, op: &Op) -> Result<()> {
        let (start, count) = (op.blocks.start, op.blocks.end - op.blocks.start);
        let Disk { desc, channel, .. } = self.disk;
        match op.kind {
            Kind::Unmap => desc.unmap_blocks(channel, start, count).await,
            Kind::WriteZeroes => desc.write_zeroes_blocks(channel, start, count).await,
            Kind::Flush => desc.flush_blocks(channel, start, count).await,
            Kind::Copy => desc.copy_blocks(channel, start, op.source, count).await,
            Kind::Reset => desc.reset(channel).await,
            Kind::Read | Kind::Write | Kind::Compare | Kind::CompareAndWrite => Ok(()),
        }
    }
}

/// Takes out the buffer of a list that has one.
fn only(list: &mut IoVec) -> Option<DmaBuf> {
    if list.bufs().len() == 1 { list.pop() } else { None }
}
