//! Many tasks on all threads, woken and aborted from all threads, in an order that a seed gives.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use futures_channel::oneshot;
use serde::{Deserialize, Serialize};
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::{JoinHandle, spawn_local, yield_now};

use crate::threads::on_each;

/// OS threads that wake and abort, beside SPDK's.
const FOREIGN: usize = 3;

#[derive(Deserialize)]
struct Params {
    tasks: usize,
    seed: u64,
}

#[derive(Serialize)]
struct Report {
    threads: usize,
    finished: usize,
    cancelled: usize,
    /// Futures that were dropped.
    dropped: usize,
    wakes: usize,
}

/// What a task waits for: it ends when it has been woken as often as it wants.
struct Target {
    wants: usize,
    woken: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Target {
    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            // The waker is there before the count is read, so a wake that is not counted yet finds it.
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            if self.woken.load(Ordering::Relaxed) == self.wants {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[derive(Clone, Copy)]
enum Act {
    Wake(usize),
    Abort(usize),
}

type Handles = Mutex<Vec<Option<JoinHandle<usize>>>>;

/// All that the threads share.
struct Shared {
    targets: Vec<Target>,
    handles: Handles,
    next: AtomicUsize,
    threads: AtomicUsize,
    acts: Vec<Mutex<Vec<Act>>>,
    turn: AtomicUsize,
    dropped: Arc<AtomicUsize>,
}

impl Shared {
    fn act(&self, act: Act) {
        match act {
            Act::Wake(task) => self.targets[task].wake(),
            // The collector may have it already.
            Act::Abort(task) => {
                if let Some(handle) = &self.handles.lock().unwrap()[task] {
                    handle.abort();
                }
            }
        }
    }

    /// Spawns some of the tasks, and one that acts on others.
    fn spawn_some(self: &Arc<Self>, at_once: usize) {
        self.threads.fetch_add(1, Ordering::Relaxed);
        for _ in 0..at_once {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.targets.len() {
                break;
            }
            let (shared, guard) = (Arc::clone(self), Dropped(Arc::clone(&self.dropped)));
            let handle = spawn_local(async move {
                let _guard = guard;
                shared.targets[task].wait().await;
                task
            });
            self.handles.lock().unwrap()[task] = Some(handle);
        }
        let (shared, share) = (Arc::clone(self), self.turn.fetch_add(1, Ordering::Relaxed));
        spawn_local(async move {
            loop {
                for _ in 0..16 {
                    let Some(act) = shared.acts[share].lock().unwrap().pop() else { return };
                    shared.act(act);
                }
                yield_now().await;
            }
        })
        .detach();
    }
}

#[rpc(name = "tasks_stress")]
async fn stress(params: Params) -> Result<Report, RpcError> {
    let mut random = Random(params.seed | 1);
    let mut acts = Vec::new();
    let targets: Vec<Target> = (0..params.tasks)
        .map(|task| {
            let wants = random.below(4);
            acts.extend((0..wants).map(|_| Act::Wake(task)));
            if random.below(5) == 0 {
                acts.push(Act::Abort(task));
            }
            Target { wants, woken: AtomicUsize::new(0), waker: Mutex::default() }
        })
        .collect();
    let wakes = acts.iter().filter(|act| matches!(act, Act::Wake(_))).count();
    for i in (1..acts.len()).rev() {
        acts.swap(i, random.below(i + 1));
    }
    let counted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counted);
    on_each(move || {
        count.fetch_add(1, Ordering::Relaxed);
    })
    .await;
    let threads = counted.load(Ordering::Relaxed);
    let shares = threads + FOREIGN;
    let mut divided: Vec<Vec<Act>> = vec![Vec::new(); shares];
    for act in acts {
        divided[random.below(shares)].push(act);
    }
    let shared = Arc::new(Shared {
        handles: Mutex::new((0..params.tasks).map(|_| None).collect()),
        targets,
        next: AtomicUsize::new(0),
        threads: AtomicUsize::new(0),
        acts: divided.into_iter().map(Mutex::new).collect(),
        turn: AtomicUsize::new(0),
        dropped: Arc::default(),
    });
    // Some act before the tasks are there, some while they are spawned, most later.
    let foreign: Vec<_> = (threads..shares)
        .map(|share| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                loop {
                    let Some(act) = shared.acts[share].lock().unwrap().pop() else { return };
                    shared.act(act);
                }
            })
        })
        .collect();
    let (here, each) = (Arc::clone(&shared), params.tasks.div_ceil(threads));
    on_each(move || here.spawn_some(each)).await;

    let (report, reported) = oneshot::channel();
    let here = Arc::clone(&shared);
    let collector = thread::spawn(move || {
        for thread in foreign {
            thread.join().unwrap();
        }
        let (mut finished, mut cancelled) = (0, 0);
        for task in 0..here.targets.len() {
            let handle = here.handles.lock().unwrap()[task].take();
            match block_on(handle.unwrap()) {
                Ok(done) => {
                    assert_eq!(done, task);
                    finished += 1;
                }
                Err(spdk_plugin::Error::Cancelled(_)) => cancelled += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let _ = report.send((finished, cancelled));
    });
    let (finished, cancelled) = reported.await.map_err(|_| RpcError::internal("no report"))?;
    collector.join().unwrap();
    Ok(Report {
        threads: shared.threads.load(Ordering::Relaxed),
        finished,
        cancelled,
        dropped: shared.dropped.load(Ordering::Relaxed),
        wakes,
    })
}

/// Awaits on an OS thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
