//! Two disks in memory, and a scheduler that takes everything in an order of chance.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::ports::{Dev, Discard, Disks, Request};

pub(super) const BLOCK: usize = 512;
type Block = [u8; BLOCK];

/// SplitMix64.
#[derive(Clone)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone)]
pub(super) struct Disk {
    /// What a read gives.
    pub(super) now: Vec<Block>,
    /// What a loss of power leaves for sure.
    durable: Vec<Block>,
    /// Writes that are done but not flushed: when, where, what.
    unflushed: Vec<(u64, u64, Block)>,
    pub(super) volatile: bool,
}

impl Disk {
    pub(super) fn new(blocks: u64, volatile: bool) -> Self {
        let zeroes = vec![[0; BLOCK]; blocks as usize];
        Self { now: zeroes.clone(), durable: zeroes, unflushed: Vec::new(), volatile }
    }

    fn put(&mut self, at: u64, block: u64, data: Block) {
        self.now[block as usize] = data;
        if self.volatile {
            self.unflushed.push((at, block, data));
        } else {
            self.durable[block as usize] = data;
        }
    }

    fn flush(&mut self, up_to: u64) {
        let (flushed, rest) = self.unflushed.iter().partition(|(at, ..)| *at < up_to);
        self.unflushed = rest;
        let flushed: Vec<(u64, u64, Block)> = flushed;
        for (_, block, data) in flushed {
            self.durable[block as usize] = data;
        }
    }

    /// What is left after a loss of power: of each block any one that was written since the last flush.
    fn crash(&mut self, rng: &mut Rng) {
        let mut histories = BTreeMap::<u64, Vec<Block>>::new();
        for (_, block, data) in std::mem::take(&mut self.unflushed) {
            histories.entry(block).or_default().push(data);
        }
        for (block, history) in histories {
            let kept = rng.below(history.len() as u64 + 1) as usize;
            if kept > 0 {
                self.durable[block as usize] = history[kept - 1];
            }
        }
        self.now = self.durable.clone();
    }
}

enum What {
    Read(u64, u64),
    Write(u64, Vec<Block>),
    Flush,
    /// Nothing, for some time.
    Wait,
}

struct Op {
    id: u64,
    dev: Dev,
    submitted: u64,
    what: What,
}

type Answer = Result<Vec<Block>, ()>;

pub(super) struct World {
    pub(super) rng: Rng,
    disks: [Disk; 2],
    ops: Vec<Op>,
    answers: BTreeMap<u64, Answer>,
    wakers: BTreeMap<u64, Waker>,
    pub(super) now: u64,
    next_id: u64,
    /// One operation in so many fails; 0 for none.
    pub(super) failures: u64,
    pub(super) bufs: i64,
}

impl World {
    pub(super) fn disk(&mut self, dev: Dev) -> &mut Disk {
        &mut self.disks[dev as usize]
    }

    /// Ends one of the operations in flight.
    fn complete_one(&mut self) {
        let index = self.rng.below(self.ops.len() as u64) as usize;
        let op = self.ops.swap_remove(index);
        let fails =
            self.failures > 0 && !matches!(op.what, What::Wait) && self.rng.one_in(self.failures);
        let now = self.now;
        let answer = match op.what {
            What::Wait => Ok(Vec::new()),
            What::Read(..) | What::Flush if fails => Err(()),
            What::Read(block, count) => {
                let range = block as usize..(block + count) as usize;
                Ok(self.disk(op.dev).now[range].to_vec())
            }
            What::Write(block, data) => {
                for (i, data) in data.into_iter().enumerate() {
                    if !fails || self.rng.one_in(2) {
                        self.disk(op.dev).put(now, block + i as u64, data);
                    }
                }
                if fails { Err(()) } else { Ok(Vec::new()) }
            }
            What::Flush => {
                self.disk(op.dev).flush(op.submitted);
                Ok(Vec::new())
            }
        };
        self.answers.insert(op.id, answer);
        if let Some(waker) = self.wakers.remove(&op.id) {
            waker.wake();
        }
    }

    /// The process dies, or the machine: what was in flight may have been done, block by block.
    pub(super) fn crash(&mut self) {
        for op in std::mem::take(&mut self.ops) {
            if let What::Write(block, data) = op.what {
                for (i, data) in data.into_iter().enumerate() {
                    if self.rng.one_in(2) {
                        let now = self.now;
                        self.disk(op.dev).put(now, block + i as u64, data);
                    }
                }
            }
        }
        let mut rng = self.rng.clone();
        self.disks.iter_mut().for_each(|disk| disk.crash(&mut rng));
        self.rng = rng;
        self.answers.clear();
        self.wakers.clear();
        self.bufs = 0;
    }
}

/// The disks as the cache sees them.
#[derive(Clone)]
pub(super) struct Sim(pub(super) Rc<RefCell<World>>);

pub(super) struct Buf {
    data: Vec<u8>,
    world: Rc<RefCell<World>>,
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.world.borrow_mut().bufs -= 1;
    }
}

impl std::ops::Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

impl std::ops::DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }
}

struct Ended {
    world: Rc<RefCell<World>>,
    id: u64,
}

impl Future for Ended {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut world = self.world.borrow_mut();
        match world.answers.remove(&self.id) {
            Some(answer) => Poll::Ready(answer),
            None => {
                world.wakers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn blocks_of(data: &[u8]) -> Vec<Block> {
    data.chunks_exact(BLOCK).map(|block| block.try_into().unwrap()).collect()
}

/// The block that stands for a value.
pub(super) fn block_of(value: u64) -> Block {
    let mut block = [0; BLOCK];
    block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
    block
}

pub(super) fn value_of(block: &[u8]) -> u64 {
    let value = u64::from_le_bytes(block[..8].try_into().unwrap());
    assert!(block == block_of(value), "a block that nobody wrote");
    value
}

impl Sim {
    pub(super) fn new(seed: u64, fast: Disk, slow: Disk) -> Self {
        Self(Rc::new(RefCell::new(World {
            rng: Rng(seed),
            disks: [fast, slow],
            ops: Vec::new(),
            answers: BTreeMap::new(),
            wakers: BTreeMap::new(),
            now: 1,
            next_id: 0,
            failures: 0,
            bufs: 0,
        })))
    }

    fn op(&self, dev: Dev, what: What) -> Ended {
        let mut world = self.0.borrow_mut();
        let (id, submitted) = (world.next_id, world.now);
        world.next_id += 1;
        world.ops.push(Op { id, dev, submitted, what });
        Ended { world: Rc::clone(&self.0), id }
    }

    pub(super) async fn pause(&self) {
        self.op(Dev::Fast, What::Wait).await.unwrap();
    }

    fn buf(&self, len: usize) -> Buf {
        self.0.borrow_mut().bufs += 1;
        Buf { data: vec![0xee; len], world: Rc::clone(&self.0) }
    }
}

pub(super) const LINE_BLOCKS: u32 = 2;

impl Disks for Sim {
    type Buf = Buf;
    type Error = ();

    fn line_buf(&self) -> Option<Buf> {
        let spare = self.0.borrow().bufs < 6;
        spare.then(|| self.buf(LINE_BLOCKS as usize * BLOCK))
    }

    fn block_buf(&self) -> Result<Buf, ()> {
        Ok(self.buf(BLOCK))
    }

    fn lost(&self) {}

    async fn read(&self, dev: Dev, buf: &mut Buf, block: u64) -> Result<(), ()> {
        let blocks = self.op(dev, What::Read(block, (buf.len() / BLOCK) as u64)).await?;
        buf.copy_from_slice(blocks.as_flattened());
        Ok(())
    }

    async fn write(&self, dev: Dev, buf: &mut Buf, block: u64) -> Result<(), ()> {
        self.op(dev, What::Write(block, blocks_of(buf))).await.map(drop)
    }

    async fn write_all(&self, dev: Dev, bufs: Vec<Buf>, block: u64) -> (Result<(), ()>, Vec<Buf>) {
        let data: Vec<u8> = bufs.iter().flat_map(|buf| buf.data.clone()).collect();
        (self.op(dev, What::Write(block, blocks_of(&data))).await.map(drop), bufs)
    }

    async fn flush(&self, dev: Dev) -> Result<(), ()> {
        self.op(dev, What::Flush).await.map(drop)
    }

    fn is_volatile(&self, dev: Dev) -> bool {
        self.0.borrow().disks[dev as usize].volatile
    }

    async fn discard(&self, dev: Dev, _: Discard, block: u64, blocks: u64) -> Result<(), ()> {
        self.op(dev, What::Write(block, vec![[0; BLOCK]; blocks as usize])).await.map(drop)
    }
}

/// A client's read or write.
pub(super) struct Io {
    pub(super) first: u32,
    pub(super) data: Vec<u8>,
    pub(super) write: bool,
    pub(super) streams: bool,
}

impl Request<Sim> for Io {
    async fn forward(&mut self, disks: &Sim, dev: Dev, block: u64) -> Result<(), ()> {
        let count = (self.data.len() / BLOCK) as u64;
        if self.write {
            return disks.op(dev, What::Write(block, blocks_of(&self.data))).await.map(drop);
        }
        let blocks = disks.op(dev, What::Read(block, count)).await?;
        self.data.copy_from_slice(blocks.as_flattened());
        Ok(())
    }

    fn blocks(&self) -> (u32, u32) {
        (self.first, (self.data.len() / BLOCK) as u32)
    }

    fn fill(&mut self, from: &[u8]) {
        self.data.copy_from_slice(from);
    }

    fn copy(&self, into: &mut [u8]) {
        into.copy_from_slice(&self.data);
    }

    fn streams(&self) -> bool {
        self.streams
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Task = (Pin<Box<dyn Future<Output = ()>>>, Arc<Flag>);

/// Tasks, of which one at a time goes on.
pub(super) struct Tasks {
    sim: Sim,
    tasks: Vec<Task>,
}

impl Tasks {
    pub(super) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), tasks: Vec::new() }
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.tasks.push((Box::pin(task), Arc::new(Flag(AtomicBool::new(true)))));
    }

    /// Goes on until all have ended, or for so many steps. Tells how many there were.
    pub(super) fn run(&mut self, steps: u64) -> u64 {
        for step in 0..steps {
            let ready: Vec<usize> = (0..self.tasks.len())
                .filter(|index| self.tasks[*index].1.0.load(Ordering::Relaxed))
                .collect();
            let mut world = self.sim.0.borrow_mut();
            world.now += 1;
            let ops = world.ops.len();
            if ready.is_empty() && ops == 0 {
                assert!(self.tasks.is_empty(), "{} tasks hang", self.tasks.len());
                return step;
            }
            let pick = world.rng.below((ready.len() + ops) as u64) as usize;
            let Some(&index) = ready.get(pick) else {
                world.complete_one();
                continue;
            };
            drop(world);
            let (task, flag) = &mut self.tasks[index];
            flag.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(flag));
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                drop(self.tasks.swap_remove(index));
            }
        }
        steps
    }

    pub(super) fn is_done(&self) -> bool {
        self.tasks.is_empty()
    }
}
