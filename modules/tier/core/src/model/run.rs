//! One run: clients and the background over a cache, a crash, and what must hold after it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::history::History;
use super::sim::{BLOCK, Disk, Io, LINE_BLOCKS, Rng, Sim, Tasks, block_of, value_of};
use crate::cache::{Cache, Mode};
use crate::geometry::Geometry;
use crate::ports::{Dev, Discard};
use crate::record;
use crate::set::{Claim, State, WAYS};
use crate::stats::Counters;

const SETS: u64 = 3;
const LINES: u64 = 20;
const BLOCKS: u64 = LINES * LINE_BLOCKS as u64;
/// Ways of each set that are used, for lines to be short of.
const USED: usize = 3;
const STAMP: u64 = 77;

#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) seed: u64,
    pub(super) fast_volatile: bool,
    pub(super) slow_volatile: bool,
    /// One operation in so many fails.
    pub(super) failures: u64,
    pub(super) mode: Mode,
    /// Whether the mode changes meanwhile.
    pub(super) switches: bool,
    pub(super) clients: u64,
    pub(super) ops: u64,
}

pub(super) struct Run {
    setup: Setup,
    sim: Sim,
    history: Rc<RefCell<History>>,
    next_value: Rc<Cell<u64>>,
}

#[derive(Clone)]
struct Client {
    sim: Sim,
    cache: Rc<Cache>,
    counters: Rc<Counters>,
    history: Rc<RefCell<History>>,
    next_value: Rc<Cell<u64>>,
    context: String,
}

fn geometry() -> Geometry {
    let records = SETS.div_ceil(record::per_block(BLOCK as u32));
    Geometry {
        block_size: BLOCK as u32,
        line_blocks: LINE_BLOCKS,
        sets: SETS,
        slow_lines: LINES,
        records_at: 0,
        lines_at: records,
    }
}

impl Run {
    pub(super) fn new(setup: Setup) -> Self {
        let fast = Disk::new(geometry().fast_end(), setup.fast_volatile);
        let slow = Disk::new(BLOCKS, setup.slow_volatile);
        Self {
            setup,
            sim: Sim::new(setup.seed, fast, slow),
            history: Rc::new(RefCell::new(History::new(BLOCKS as usize))),
            next_value: Rc::new(Cell::new(1)),
        }
    }

    fn rng(&self) -> Rng {
        Rng(self.sim.0.borrow_mut().rng.next())
    }

    fn is_volatile(&self) -> bool {
        self.setup.fast_volatile || self.setup.slow_volatile
    }

    /// Loads the cache from the disks.
    fn start(&self, mode: Mode) -> Client {
        let cache = Rc::new(Cache::new(geometry(), STAMP, mode));
        let client = Client {
            sim: self.sim.clone(),
            cache,
            counters: Rc::default(),
            history: Rc::clone(&self.history),
            next_value: Rc::clone(&self.next_value),
            context: format!("{:?}", self.setup),
        };
        let this = client.clone();
        self.finish(async move {
            let loaded = this.cache.load(&this.sim, false).await.unwrap();
            assert_eq!(loaded.damaged, 0, "{:?} in {}", loaded.damage, this.context);
            this.cache.repair(&this.sim, &loaded).await.unwrap();
        });
        for set in 0..SETS {
            for way in &mut client.cache.set(set).ways[USED..WAYS] {
                assert_eq!(way.state, State::Free);
                way.take(u64::MAX, State::Busy);
            }
        }
        client
    }

    /// Runs a task to its end, without failures.
    fn finish(&self, task: impl Future<Output = ()> + 'static) {
        let failures = std::mem::take(&mut self.sim.0.borrow_mut().failures);
        let mut tasks = Tasks::new(&self.sim);
        tasks.spawn(task);
        tasks.run(u64::MAX);
        assert!(tasks.is_done());
        self.sim.0.borrow_mut().failures = failures;
    }

    /// Has clients at it for so many steps, then crashes. Tells how many there were.
    pub(super) fn round(&self, steps: u64) -> u64 {
        let client = self.start(self.setup.mode);
        self.sim.0.borrow_mut().failures = self.setup.failures;
        let mut tasks = Tasks::new(&self.sim);
        let left = Rc::new(Cell::new(self.setup.clients));
        for _ in 0..self.setup.clients {
            let (client, left) = (client.clone(), Rc::clone(&left));
            let (rng, ops, switches) = (self.rng(), self.setup.ops, self.setup.switches);
            tasks.spawn(async move {
                client.work(rng, ops, switches).await;
                left.set(left.get() - 1);
            });
        }
        let (cleaner, left_too, mut rng) = (client.clone(), Rc::clone(&left), self.rng());
        tasks.spawn(async move {
            let mut cursor = 0;
            while left_too.get() > 0 {
                for _ in 0..rng.below(20) {
                    cleaner.sim.pause().await;
                }
                let Client { cache, sim, counters, .. } = &cleaner;
                cache.clean(sim, &mut cursor, 1 + rng.below(4) as usize, counters).await;
                cache.retry();
            }
        });
        let (saver, mut rng) = (client.clone(), self.rng());
        tasks.spawn(async move {
            while left.get() > 0 {
                for _ in 0..rng.below(30) {
                    saver.sim.pause().await;
                }
                let _ = saver.cache.save(&saver.sim, &saver.counters).await;
            }
        });
        let taken = tasks.run(steps);
        self.sim.0.borrow_mut().failures = 0;
        if tasks.is_done() {
            self.check_at_rest(&client);
        }
        drop(tasks);
        taken
    }

    /// The process dies, or the power goes, and comes back.
    pub(super) fn crash(&self) {
        self.sim.0.borrow_mut().crash();
        let client = self.start(Mode::WriteBack);
        let all = !self.is_volatile();
        let this = client.clone();
        self.finish(async move {
            for block in 0..BLOCKS {
                let value = this.read_one(block, true).await;
                let mut history = this.history.borrow_mut();
                assert!(
                    history.may_survive(block, value, all),
                    "block {block} has {value} after a crash; {} in {}",
                    history.describe(block),
                    this.context
                );
                let now = this.sim.0.borrow().now;
                history.settle(block, value, now);
            }
        });
        // It is the same from the slow disk alone.
        if self.rng().one_in(2) {
            let this = client.clone();
            self.finish(async move {
                let mut cursor = 0;
                while this.cache.dirty() > 0 {
                    this.cache.clean(&this.sim, &mut cursor, 8, &this.counters).await;
                }
            });
            self.check_at_rest(&client);
            for block in 0..BLOCKS {
                let value = value_of(&self.sim.0.borrow_mut().disk(Dev::Slow).now[block as usize]);
                let history = self.history.borrow();
                assert!(
                    history.may_survive(block, value, true),
                    "block {block} has {value} when written back; {} in {}",
                    history.describe(block),
                    client.context
                );
            }
        }
    }

    /// What holds while nothing is under way.
    fn check_at_rest(&self, client: &Client) {
        let (geometry, context) = (geometry(), &client.context);
        let mut dirty = 0;
        let mut world = self.sim.0.borrow_mut();
        assert_eq!(world.bufs, 0, "{context}");
        for set in 0..SETS {
            let state = client.cache.set(set);
            assert_eq!(state.arounds, 0, "{context}");
            let page = geometry.records_at + geometry.page_of(set);
            let at = (set - geometry.sets_of(geometry.page_of(set)).start) as usize * record::SIZE;
            let bytes = &world.disk(Dev::Fast).now[page as usize][at..];
            let on_disk = record::decode(bytes, &geometry, STAMP, set).unwrap();
            for (at, way) in state.ways.iter().enumerate().take(USED) {
                assert!(client.cache.pins(set).none(at) && !way.cleaning, "{way:?} in {context}");
                let said = on_disk[at].0;
                match way.state {
                    State::Free => assert_eq!(said, Claim::None, "{way:?} in {context}"),
                    State::Valid => {
                        let expected = if way.claim == Claim::None {
                            (Claim::None, 0)
                        } else {
                            (way.claim, way.line)
                        };
                        assert!(!way.settled || on_disk[at] == expected, "{way:?} in {context}");
                        assert!(!way.dirty || way.claim == Claim::Dirty, "{way:?} in {context}");
                        dirty += u64::from(way.dirty);
                        let lines = (geometry.fast_block(set, at), geometry.slow_block(way.line));
                        for i in 0..u64::from(LINE_BLOCKS) {
                            let fast = world.disk(Dev::Fast).now[(lines.0 + i) as usize];
                            let slow = world.disk(Dev::Slow).now[(lines.1 + i) as usize];
                            assert!(way.dirty || fast == slow, "{way:?} in {context}");
                        }
                    }
                    _ => panic!("{way:?} in {context}"),
                }
            }
        }
        assert_eq!(client.cache.dirty(), dirty, "{context}");
    }
}

impl Client {
    fn now(&self) -> u64 {
        // Each use is a moment of its own.
        let mut world = self.sim.0.borrow_mut();
        world.now += 1;
        world.now
    }

    async fn work(&self, mut rng: Rng, ops: u64, switches: bool) {
        for _ in 0..ops {
            match rng.below(20) {
                0..9 => self.write(&mut rng).await,
                9..15 => self.read(&mut rng).await,
                15..17 => self.discard(&mut rng).await,
                17 => {
                    let start = self.now();
                    if self.cache.flush(&self.sim).await.is_ok() {
                        self.history.borrow_mut().flushed(start);
                    }
                }
                18 if switches => {
                    let modes = [Mode::WriteBack, Mode::WriteThrough, Mode::Pass];
                    self.cache.set_mode(modes[rng.below(3) as usize]);
                    self.cache.set_draining(rng.one_in(4));
                }
                _ => self.sim.pause().await,
            }
        }
    }

    /// Some lines are used more often.
    fn line(rng: &mut Rng) -> u64 {
        if rng.one_in(3) { rng.below(LINES) } else { rng.below(LINES / 3) * 2 }
    }

    async fn write(&self, rng: &mut Rng) {
        let line = Self::line(rng);
        let first = rng.below(u64::from(LINE_BLOCKS)) as u32;
        let first = if rng.one_in(2) { 0 } else { first };
        let count = if first == 0 && !rng.one_in(3) { LINE_BLOCKS } else { 1 };
        let value = self.next_value.replace(self.next_value.get() + 1);
        let start = line * u64::from(LINE_BLOCKS) + u64::from(first);
        let blocks = start..start + u64::from(count);
        let data = block_of(value).repeat(count as usize);
        let mut io = Io { first, data, write: true, streams: false };
        let started = self.now();
        self.history.borrow_mut().start(blocks.clone(), value, started);
        let ok = self.cache.write(&self.sim, &mut io, line, &self.counters).await.is_ok();
        let ended = self.now();
        self.history.borrow_mut().end(blocks, value, started, ended, ok);
    }

    async fn discard(&self, rng: &mut Rng) {
        let start = rng.below(BLOCKS);
        let most = if rng.one_in(5) { BLOCKS } else { 6 };
        let blocks = start..BLOCKS.min(start + 1 + rng.below(most));
        let started = self.now();
        self.history.borrow_mut().start(blocks.clone(), 0, started);
        let discarded =
            self.cache.discard(&self.sim, Discard::Unmap, blocks.clone(), &self.counters);
        let ok = discarded.await.is_ok();
        let ended = self.now();
        self.history.borrow_mut().end(blocks, 0, started, ended, ok);
    }

    async fn read(&self, rng: &mut Rng) {
        let block = Self::line(rng) * u64::from(LINE_BLOCKS) + rng.below(LINE_BLOCKS.into());
        let started = self.now();
        let mut io = Io {
            first: (block % u64::from(LINE_BLOCKS)) as u32,
            data: vec![0; BLOCK],
            write: false,
            streams: rng.one_in(5),
        };
        let line = block / u64::from(LINE_BLOCKS);
        if self.cache.read(&self.sim, &mut io, line, &self.counters).await.is_err() {
            return;
        }
        let (value, ended) = (value_of(&io.data), self.now());
        let history = self.history.borrow();
        assert!(
            history.may_read(block, value, started, ended),
            "block {block} reads {value} from {started} to {ended}; {} in {}",
            history.describe(block),
            self.context
        );
    }

    async fn read_one(&self, block: u64, streams: bool) -> u64 {
        let first = (block % u64::from(LINE_BLOCKS)) as u32;
        let mut io = Io { first, data: vec![0; BLOCK], write: false, streams };
        let line = block / u64::from(LINE_BLOCKS);
        self.cache.read(&self.sim, &mut io, line, &self.counters).await.unwrap();
        value_of(&io.data)
    }
}
