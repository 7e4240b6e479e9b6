//! The disk and the scheduler.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fastrand::Rng;

use crate::disk::{Disk, Error, Result};

/// What a crash does to writes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// The process was killed: what had ended is there.
    Stays,
    /// Of each block, any version since the last flush is there.
    Fails,
}

#[derive(Debug)]
enum Op {
    Read,
    Write { lba: u64, data: Vec<u8> },
    Flush { covers: u64 },
    Root(Vec<u8>),
    Pause,
}

/// What the disk has done, in order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write {
        lba: u64,
        data: Vec<u8>,
    },
    Flush,
    Root(Vec<u8>),
    /// The test's own mark.
    Mark(usize),
}

struct Pending {
    op: Op,
    done: bool,
    waker: Option<Waker>,
}

/// Says of a block that is written whether it gets lost.
type Loses = Box<dyn FnMut(u64) -> bool>;

#[derive(Default)]
struct Sim {
    block_size: usize,
    /// What a crash leaves of each block at least; what is missing is garbage.
    durable: BTreeMap<u64, Vec<u8>>,
    /// Writes that have ended since, with their number.
    written: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
    next_write: u64,
    root: Option<Vec<u8>>,
    ops: BTreeMap<u64, Pending>,
    next_op: u64,
    /// Fails writes to these blocks.
    fails: Option<Loses>,
    loses: Option<Loses>,
    trace: Option<Vec<Event>>,
}

impl Sim {
    fn visible(&self, lba: u64) -> Vec<u8> {
        let newest = self.written.get(&lba).and_then(|versions| versions.last());
        let there = newest.map(|(_, data)| data).or_else(|| self.durable.get(&lba));
        there.cloned().unwrap_or_else(|| vec![lba as u8 ^ 0x5a; self.block_size])
    }

    fn record(&mut self, event: impl FnOnce() -> Event) {
        if let Some(trace) = &mut self.trace {
            trace.push(event());
        }
    }

    fn apply(&mut self, lba: u64, data: &[u8]) {
        let no = self.next_write;
        self.next_write += 1;
        for (lba, block) in (lba..).zip(data.chunks(self.block_size)) {
            if !self.loses.as_mut().is_some_and(|loses| loses(lba)) {
                self.written.entry(lba).or_default().push((no, block.to_vec()));
            }
        }
    }

    fn finish(&mut self, no: u64) -> Option<Waker> {
        let pending = self.ops.get_mut(&no)?;
        pending.done = true;
        let waker = pending.waker.take();
        match std::mem::replace(&mut pending.op, Op::Pause) {
            Op::Write { lba, data } => {
                self.apply(lba, &data);
                self.record(|| Event::Write { lba, data });
            }
            Op::Flush { covers } => {
                let durable = &mut self.durable;
                self.written.retain(|&lba, versions| {
                    let last = versions.iter().rposition(|&(no, _)| no < covers);
                    if let Some((_, data)) = last.and_then(|at| versions.drain(..=at).next_back()) {
                        durable.insert(lba, data);
                    }
                    !versions.is_empty()
                });
                self.record(|| Event::Flush);
            }
            Op::Root(root) => {
                self.record(|| Event::Root(root.clone()));
                self.root = Some(root);
            }
            Op::Read | Op::Pause => {}
        }
        waker
    }
}

/// A disk in memory. Its operations end when the [`Executor`] says so, in any order.
#[derive(Clone)]
pub(crate) struct SimDisk(Rc<RefCell<Sim>>);

impl SimDisk {
    pub(crate) fn new(block_size: u32) -> Self {
        let sim = Sim { block_size: block_size as usize, ..Sim::default() };
        Self(Rc::new(RefCell::new(sim)))
    }

    async fn op(&self, op: Op) {
        let no = {
            let mut sim = self.0.borrow_mut();
            let no = sim.next_op;
            sim.next_op += 1;
            sim.ops.insert(no, Pending { op, done: false, waker: None });
            no
        };
        poll_fn(|cx| {
            let mut sim = self.0.borrow_mut();
            let Some(pending) = sim.ops.get_mut(&no) else { return Poll::Ready(()) };
            if pending.done {
                sim.ops.remove(&no);
                return Poll::Ready(());
            }
            pending.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends one operation. `false` if there is none under way.
    fn step(&self, rng: Option<&mut Rng>) -> bool {
        let mut sim = self.0.borrow_mut();
        let open: Vec<_> =
            sim.ops.iter().filter(|(_, pending)| !pending.done).map(|(&no, _)| no).collect();
        let Some(&first) = open.first() else { return false };
        let no = rng.map_or(first, |rng| open[rng.usize(..open.len())]);
        let waker = sim.finish(no);
        drop(sim);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// What a crash leaves.
    pub(crate) fn crash(&self, power: Power, rng: &mut Rng) -> Self {
        let mut sim = self.0.borrow_mut();
        // Any part of what was under way may have happened.
        let open: Vec<_> = sim.ops.values_mut().filter(|pending| !pending.done).collect();
        let open: Vec<_> =
            open.into_iter().map(|pending| std::mem::replace(&mut pending.op, Op::Pause)).collect();
        let mut root = sim.root.clone();
        for op in open {
            match op {
                Op::Write { lba, data } => {
                    let size = sim.block_size;
                    for (lba, block) in (lba..).zip(data.chunks(size)) {
                        if rng.bool() {
                            sim.apply(lba, block);
                        }
                    }
                }
                Op::Root(new) if rng.bool() => root = Some(new),
                _ => {}
            }
        }
        let mut left = sim.durable.clone();
        for (&lba, versions) in &sim.written {
            let newest = versions.len() - 1;
            let pick = match power {
                Power::Stays => Some(newest),
                Power::Fails => rng.usize(..=versions.len()).checked_sub(1),
            };
            if let Some(pick) = pick {
                left.insert(lba, versions[pick].1.clone());
            }
        }
        Self::with(sim.block_size, left, root)
    }

    pub(crate) fn with(
        block_size: usize,
        durable: BTreeMap<u64, Vec<u8>>,
        root: Option<Vec<u8>>,
    ) -> Self {
        Self(Rc::new(RefCell::new(Sim { block_size, durable, root, ..Sim::default() })))
    }

    /// The disk as it is, without what was under way, and the record of what happens from now on.
    pub(crate) fn start_trace(&self) {
        self.0.borrow_mut().trace = Some(Vec::new());
    }

    pub(crate) fn take_trace(&self) -> Vec<Event> {
        self.0.borrow_mut().trace.take().unwrap_or_default()
    }

    pub(crate) fn mark(&self, mark: usize) {
        self.0.borrow_mut().record(|| Event::Mark(mark));
    }

    /// All that is visible.
    pub(crate) fn image(&self) -> BTreeMap<u64, Vec<u8>> {
        let sim = self.0.borrow();
        let lbas = sim.durable.keys().chain(sim.written.keys());
        lbas.map(|&lba| (lba, sim.visible(lba))).collect()
    }

    pub(crate) fn root(&self) -> Option<Vec<u8>> {
        self.0.borrow().root.clone()
    }

    /// From now on writes to the blocks that it says are lost.
    pub(crate) fn lose(&self, loses: impl FnMut(u64) -> bool + 'static) {
        self.0.borrow_mut().loses = Some(Box::new(loses));
    }

    /// From now on writes that begin at the blocks that it says fail, some of them after they have happened.
    pub(crate) fn fail(&self, fails: impl FnMut(u64) -> bool + 'static) {
        self.0.borrow_mut().fails = Some(Box::new(fails));
    }
}

impl Disk for SimDisk {
    type Buf = Vec<u8>;

    fn buf(&self, len: usize) -> Result<Vec<u8>> {
        Ok(vec![0; len])
    }

    async fn read(&self, lba: u64, blocks: u64, buf: &mut Vec<u8>) -> Result<()> {
        self.op(Op::Read).await;
        let sim = self.0.borrow();
        for (lba, block) in (lba..lba + blocks).zip(buf.chunks_mut(sim.block_size)) {
            block.copy_from_slice(&sim.visible(lba));
        }
        Ok(())
    }

    async fn write(&self, lba: u64, blocks: u64, buf: &mut Vec<u8>) -> Result<()> {
        let (fails, size) = {
            let mut sim = self.0.borrow_mut();
            (sim.fails.as_mut().is_some_and(|fails| fails(lba)), sim.block_size)
        };
        if fails && lba.is_multiple_of(2) {
            self.op(Op::Read).await;
        } else {
            let data = buf[..blocks as usize * size].to_vec();
            self.op(Op::Write { lba, data }).await;
        }
        if fails { Err(Error::Io("told to fail".into())) } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        let covers = self.0.borrow().next_write;
        self.op(Op::Flush { covers }).await;
        Ok(())
    }

    async fn store_root(&self, root: &[u8]) -> Result<()> {
        self.op(Op::Root(root.to_vec())).await;
        Ok(())
    }

    async fn pause(&self, _: Duration) {
        self.op(Op::Pause).await;
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls tasks in any order, and lets the disk's operations end in any order between.
pub(crate) struct Executor<'a> {
    disk: SimDisk,
    tasks: Vec<(Option<Task<'a>>, Arc<Flag>)>,
    rng: Option<Rng>,
}

impl<'a> Executor<'a> {
    /// Without `rng` everything goes in the order in which it came.
    pub(crate) fn new(disk: &SimDisk, rng: Option<Rng>) -> Self {
        Self { disk: disk.clone(), tasks: Vec::new(), rng }
    }

    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + 'a) -> usize {
        self.tasks.push((Some(Box::pin(task)), Arc::new(Flag(AtomicBool::new(true)))));
        self.tasks.len() - 1
    }

    /// One step. `false` if nothing can go on.
    pub(crate) fn step(&mut self) -> bool {
        let ready = |(task, flag): &(Option<Task<'_>>, Arc<Flag>)| {
            task.is_some() && flag.0.load(Ordering::Relaxed)
        };
        let ready: Vec<_> = (0..self.tasks.len()).filter(|&at| ready(&self.tasks[at])).collect();
        let disk_first = self.rng.as_mut().is_some_and(|rng| rng.u8(..4) == 0);
        if ready.is_empty() || (disk_first && self.disk.step(self.rng.as_mut())) {
            return !ready.is_empty() || self.disk.step(self.rng.as_mut());
        }
        let at = self.rng.as_mut().map_or(ready[0], |rng| ready[rng.usize(..ready.len())]);
        let (task, flag) = &mut self.tasks[at];
        flag.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(flag));
        let polled = task.as_mut().map(|task| task.as_mut().poll(&mut Context::from_waker(&waker)));
        if polled.is_some_and(|polled| polled.is_ready()) {
            *task = None;
        }
        true
    }

    pub(crate) fn is_done(&self, task: usize) -> bool {
        self.tasks[task].0.is_none()
    }

    /// Runs until the tasks have ended.
    #[track_caller]
    pub(crate) fn run(&mut self, tasks: &[usize]) {
        while !tasks.iter().all(|&task| self.is_done(task)) {
            assert!(self.step(), "nothing goes on, but tasks wait");
        }
    }
}

/// Runs one future on the disk.
#[track_caller]
pub(crate) fn block_on<T>(disk: &SimDisk, future: impl Future<Output = T>) -> T {
    let result = RefCell::new(None);
    {
        let mut executor = Executor::new(disk, None);
        let task = executor.spawn(async { *result.borrow_mut() = Some(future.await) });
        executor.run(&[task]);
    }
    result.into_inner().unwrap()
}
