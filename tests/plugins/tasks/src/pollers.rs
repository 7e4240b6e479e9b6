//! Pollers: their periods, names and pauses, and what they may do to themselves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use spdk_plugin::Error;
use spdk_plugin::runtime::{PollStatus, Poller, sleep, timeout};

use crate::Case;

pub(crate) const CASES: &[(&str, Case)] = &[
    ("pause", || Box::pin(pause())),
    ("inside", || Box::pin(inside())),
    ("poll_fn", || Box::pin(poll_fn())),
    ("interrupt_mode", || Box::pin(interrupt_mode())),
    ("keep", || Box::pin(keep())),
];

const MS: Duration = Duration::from_millis(1);
const PERIODS: [Duration; 2] = [Duration::ZERO, Duration::from_micros(100)];

async fn pause() {
    for period in PERIODS {
        let runs = Rc::new(Cell::new(0));
        let count = Rc::clone(&runs);
        let poller = Poller::builder().name("pausing").period(period).register(move || {
            count.set(count.get() + 1);
            PollStatus::Busy
        });
        let poller = poller.unwrap();
        sleep(5 * MS).await;
        assert!(runs.get() > 1);
        for _ in 0..3 {
            poller.pause().unwrap();
            poller.pause().unwrap();
            let before = runs.get();
            sleep(5 * MS).await;
            assert_eq!(runs.get(), before);
            poller.resume().unwrap();
            poller.resume().unwrap();
            sleep(5 * MS).await;
            assert!(runs.get() > before);
        }
        // Neither is one that goes while it is paused called again.
        poller.pause().unwrap();
        sleep(MS).await;
        drop(poller);
        let before = runs.get();
        sleep(5 * MS).await;
        assert_eq!(runs.get(), before);
        assert_eq!(Rc::strong_count(&runs), 1);
    }
}

/// Each order of pausing, resuming and going inside the function itself.
async fn inside() {
    for period in PERIODS {
        for acts in ["d", "pd", "prd", "pprrd", "p", "pr"] {
            let own: Rc<RefCell<Option<Poller>>> = Rc::default();
            let runs = Rc::new(Cell::new(0));
            let (count, me) = (Rc::clone(&runs), Rc::clone(&own));
            let poller = Poller::builder().period(period).register(move || {
                count.set(count.get() + 1);
                for act in acts.chars() {
                    let poller = me.borrow_mut().take();
                    let Some(poller) = poller else { break };
                    match act {
                        'p' => poller.pause().unwrap(),
                        'r' => poller.resume().unwrap(),
                        _ => {
                            drop(poller);
                            break;
                        }
                    }
                    *me.borrow_mut() = Some(poller);
                }
                PollStatus::Busy
            });
            *own.borrow_mut() = Some(poller.unwrap());
            sleep(5 * MS).await;
            let stops = acts != "pr";
            assert_eq!(runs.get() == 1, stops, "{acts} {period:?}: {} runs", runs.get());
            drop(own.borrow_mut().take());
            // Others still run in order.
            let other = Poller::every(period, || PollStatus::Idle);
            sleep(MS).await;
            drop(other);
        }
    }
}

async fn poll_fn() {
    for period in PERIODS {
        let mut left = 10;
        let count = move || {
            left -= 1;
            if left == 0 { Poll::Ready("done") } else { Poll::Pending }
        };
        assert_eq!(Poller::builder().period(period).poll_fn(count).await.unwrap(), "done");
        let panics =
            Poller::builder().period(period).poll_fn(|| -> Poll<()> { panic!("in there") });
        let Err(Error::Panicked(said)) = panics.await else { panic!("no panic") };
        assert!(said.contains("in there"), "{said}");
        let never = Poller::builder().period(period).poll_fn(|| Poll::<()>::Pending);
        assert!(matches!(timeout(MS, never).await, Err(Error::TimedOut(_))));
    }
    // It need not be polled at all.
    drop(Poller::poll_fn(|| Poll::Ready(())));
}

/// Registers, or says what it needs; the program is in poll mode.
async fn interrupt_mode() {
    let builder = Poller::builder().on_interrupt_mode(|_| panic!("the mode has not changed"));
    match builder.register(|| PollStatus::Idle) {
        Ok(poller) => {
            sleep(MS).await;
            drop(poller);
        }
        Err(Error::Unsupported { needs, .. }) => assert_eq!(needs, "21.04"),
        Err(error) => panic!("{error}"),
    }
    assert!(matches!(
        Poller::builder().name("a\0b").register(|| PollStatus::Idle),
        Err(Error::Invalid(_))
    ));
}

/// Leaves one that shows its name.
async fn keep() {
    let poller = Poller::builder().name("a_kept_one").period(MS).register(|| PollStatus::Idle);
    std::mem::forget(poller.unwrap());
}
