//! The models. Each is run by a test of its name.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use crate::error::Error;
use crate::inbox::{Entry, Inbox, Sent};
use crate::join::pair;

/// What can be woken: a task's place, and what those who wake it wrote before.
#[derive(Default)]
struct Slot {
    mark: AtomicBool,
    written: AtomicUsize,
}

impl Entry for Arc<Slot> {
    fn mark(&self) -> &AtomicBool {
        &self.mark
    }
}

/// An SPDK thread: its messages, and its memory, which is read to send and written to free it.
struct Thread {
    inbox: Inbox<Arc<Slot>, ()>,
    messages: AtomicUsize,
    /// Messages that find no room.
    full: AtomicUsize,
    memory: UnsafeCell<()>,
}

impl Thread {
    fn new(full: usize) -> Arc<Self> {
        let inbox = Inbox::new();
        inbox.open(());
        let (messages, full) = (AtomicUsize::new(0), AtomicUsize::new(full));
        Arc::new(Self { inbox, messages, full, memory: UnsafeCell::new(()) })
    }

    fn send(&self) -> Sent {
        // Loom reports it if the thread is freed meanwhile, or was.
        self.memory.with(|_| ());
        if self.full.load(Ordering::Relaxed) > 0 {
            self.full.fetch_sub(1, Ordering::Relaxed);
            return Sent::Full;
        }
        // Relaxed: the protocol must not lean on the queue's own ordering.
        self.messages.fetch_add(1, Ordering::Relaxed);
        Sent::Yes
    }

    fn wake(&self, slot: &Arc<Slot>) {
        self.inbox.post(Arc::clone(slot), |()| self.send());
    }

    /// Takes a message if there is one.
    fn turn(&self, poll: impl FnMut(Arc<Slot>)) -> bool {
        if self.messages.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.inbox.take(&mut Vec::new(), poll);
        true
    }

    fn exit(&self) {
        self.inbox.close();
        self.memory.with_mut(|_| ());
    }
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

/// Whatever was written before a wake is seen by a poll after it.
pub fn no_wake_is_lost() {
    model(|| {
        let home = Thread::new(0);
        let slot = Arc::<Slot>::default();
        let wakers = [(); 2].map(|()| {
            let (home, slot) = (Arc::clone(&home), Arc::clone(&slot));
            thread::spawn(move || {
                slot.written.fetch_add(1, Ordering::Relaxed);
                home.wake(&slot);
            })
        });
        let seen = Cell::new(0);
        let poll = |slot: Arc<Slot>| seen.set(slot.written.load(Ordering::Relaxed));
        home.turn(poll);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        while home.turn(poll) {}
        assert_eq!(seen.get(), 2);
        assert!(!slot.mark.load(Ordering::Relaxed));
    });
}

/// As many messages as batches, and each entry once in a batch.
pub fn a_message_stands_for_all() {
    model(|| {
        let home = Thread::new(0);
        let slots = [(); 2].map(|()| Arc::<Slot>::default());
        let wakers = [0, 1].map(|i| {
            let (home, slot) = (Arc::clone(&home), Arc::clone(&slots[i]));
            thread::spawn(move || {
                home.wake(&slot);
                home.wake(&slot);
            })
        });
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        assert_eq!(home.messages.load(Ordering::Relaxed), 1);
        let polls = Cell::new(0);
        assert!(home.turn(|_| polls.set(polls.get() + 1)));
        assert_eq!(polls.get(), 2);
    });
}

/// Where there is no room for a message, whoever wakes tries again.
pub fn a_full_queue_loses_none() {
    model(|| {
        let home = Thread::new(2);
        let slots = [(); 2].map(|()| Arc::<Slot>::default());
        let wakers = [0, 1].map(|i| {
            let (home, slot) = (Arc::clone(&home), Arc::clone(&slots[i]));
            thread::spawn(move || {
                slot.written.store(1, Ordering::Relaxed);
                home.wake(&slot);
            })
        });
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        let seen = Cell::new(0);
        while home.turn(|slot| seen.set(seen.get() + slot.written.load(Ordering::Relaxed))) {}
        assert_eq!(seen.get(), 2);
    });
}

/// No message is sent to a thread that is freed, and the next thread finds its slots free.
pub fn a_thread_that_exits_gets_no_message() {
    model(|| {
        let home = Thread::new(0);
        let slot = Arc::<Slot>::default();
        let waker = {
            let (home, slot) = (Arc::clone(&home), Arc::clone(&slot));
            thread::spawn(move || home.wake(&slot))
        };
        home.turn(|_| ());
        home.exit();
        waker.join().unwrap();
        assert!(!slot.mark.load(Ordering::Relaxed));
        // Stale messages of the thread that has gone are none of the next one's.
        home.messages.store(0, Ordering::Relaxed);
        home.inbox.open(());
        home.wake(&slot);
        assert!(home.turn(|_| ()));
    });
}

/// A wake that comes late may reach the next thread of the home; it is neither lost nor stuck.
pub fn a_home_goes_to_another_thread() {
    model(|| {
        let home = Thread::new(0);
        let slot = Arc::<Slot>::default();
        let waker = {
            let (home, slot) = (Arc::clone(&home), Arc::clone(&slot));
            thread::spawn(move || home.wake(&slot))
        };
        home.inbox.close();
        home.inbox.open(());
        waker.join().unwrap();
        home.wake(&slot);
        assert!(home.turn(|_| ()));
        assert!(!slot.mark.load(Ordering::Relaxed));
    });
}

/// The result reaches whoever waits on another thread.
pub fn a_result_crosses_threads() {
    model(|| {
        let (finish, handle) = pair("a task");
        let task = thread::spawn(move || finish.finish(Ok(7)));
        assert!(matches!(loom::future::block_on(handle), Ok(7)));
        task.join().unwrap();
    });
}

/// A handle that goes, while the result comes, takes it along.
pub fn a_handle_may_go_meanwhile() {
    model(|| {
        let (finish, mut handle) = pair("a task");
        let result = Arc::new(());
        let sent = Arc::clone(&result);
        let task = thread::spawn(move || finish.finish(Ok(sent)));
        let polled = Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop()));
        drop((polled, handle));
        task.join().unwrap();
        assert!(Arc::try_unwrap(result).is_ok());
    });
}

/// The poll that an abort leads to sees it, be its wake the one that was announced or not.
pub fn an_abort_is_seen() {
    model(|| {
        let home = Thread::new(0);
        let slot = Arc::<Slot>::default();
        let (finish, handle) = pair::<()>("a task");
        finish.started(waker(&home, &slot));
        let others = {
            let (home, slot) = (Arc::clone(&home), Arc::clone(&slot));
            thread::spawn(move || home.wake(&slot))
        };
        let aborts = thread::spawn(move || {
            handle.abort();
            handle
        });
        let finish = Cell::new(Some(finish));
        let poll = |_: Arc<Slot>| {
            if let Some(still) = finish.take().filter(|finish| !finish.is_aborted()) {
                finish.set(Some(still));
            }
        };
        home.turn(poll);
        others.join().unwrap();
        let mut handle = aborts.join().unwrap();
        while home.turn(poll) {}
        let polled = Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Err(Error::Cancelled(_)))));
    });
}

/// A waker of the slot's.
fn waker(home: &Arc<Thread>, slot: &Arc<Slot>) -> Waker {
    type Data = (Arc<Thread>, Arc<Slot>);
    const TABLE: RawWakerVTable = RawWakerVTable::new(
        |data| {
            // SAFETY: the data of this table's wakers is a box of theirs.
            let (home, slot) = unsafe { &*data.cast::<Data>() };
            raw(home, slot)
        },
        // SAFETY: as above.
        |data| unsafe {
            let (home, slot) = *Box::from_raw(data.cast_mut().cast::<Data>());
            home.wake(&slot);
        },
        // SAFETY: as above.
        |data| unsafe {
            let (home, slot) = &*data.cast::<Data>();
            home.wake(slot);
        },
        // SAFETY: as above.
        |data| drop(unsafe { Box::from_raw(data.cast_mut().cast::<Data>()) }),
    );
    fn raw(home: &Arc<Thread>, slot: &Arc<Slot>) -> RawWaker {
        let data: Data = (Arc::clone(home), Arc::clone(slot));
        RawWaker::new(Box::into_raw(Box::new(data)).cast(), &TABLE)
    }
    // SAFETY: each waker has a box of its own, which its last use frees; what is in it is `Send` and `Sync`.
    unsafe { Waker::from_raw(raw(home, slot)) }
}
