//! The events of an open bdev.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int};
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use spdk_plugin::Result;
use spdk_plugin::bdev::{Bdev, BdevDesc, Event, MediaEvent};
use spdk_plugin::runtime::{sleep, spawn_local};

use spdk_plugin_sys as sys;

use crate::disk::disk;
use crate::support::{app, bdevs, poll_once, rpc, until};

crate::cases![
    resize,
    nothing_is_lost,
    remove,
    remove_in_a_task,
    many_streams,
    closed_first,
    forgotten_stream,
    dropped_in_the_callback,
    media,
    media_of_another_thread,
    hot_remove_of_stock,
];

fn run(case: impl AsyncFnOnce() -> Result<()>) {
    app().block_on(case()).unwrap();
}

fn resize() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", false)?;
        let mut events = desc.events();
        let mut next = Box::pin(events.next());
        assert!(poll_once(next.as_mut()).is_none());
        device.resize(16).await?;
        assert_eq!(next.await, Some(Event::Resize { num_blocks: 16 }));
        device.resize(32).await?;
        assert_eq!(events.next().await, Some(Event::Resize { num_blocks: 32 }));
        drop(desc);
        assert_eq!(events.next().await, None);
        device.unregister().await
    });
}

/// A stream that is made and polled late has all since the opening, several resizes as one.
fn nothing_is_lost() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", false)?;
        device.resize(16).await?;
        device.resize(24).await?;
        sleep(Duration::from_millis(1)).await;
        let early = desc.events();
        let removal = Box::pin(device.unregister());
        let mut removal = removal;
        assert!(poll_once(removal.as_mut()).is_none());
        until("the removal", || desc.is_removed()).await;
        for mut events in [early, desc.events()] {
            assert_eq!(events.next().await, Some(Event::Resize { num_blocks: 24 }));
            assert_eq!(events.next().await, Some(Event::Remove));
            assert_eq!(events.next().await, None);
        }
        drop(desc);
        removal.await
    });
}

fn remove() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        let mut events = desc.events();
        let mut removal = Box::pin(device.unregister());
        assert!(poll_once(removal.as_mut()).is_none());
        assert_eq!(events.next().await, Some(Event::Remove));
        assert!(desc.is_removed());
        assert!(BdevDesc::open("disk", false).is_err());
        assert!(poll_once(removal.as_mut()).is_none());
        drop(desc);
        removal.await?;
        assert_eq!(events.next().await, None);
        Ok(())
    });
}

/// The way of a program: a task owns the descriptor and lets it go.
fn remove_in_a_task() {
    run(async || {
        let device = disk("disk", 8).await;
        let seen = Rc::new(RefCell::new(Vec::new()));
        let desc = BdevDesc::open("disk", true)?;
        let log = Rc::clone(&seen);
        spawn_local(async move {
            let mut events = desc.events();
            while let Some(event) = events.next().await {
                log.borrow_mut().push(event);
            }
        });
        device.resize(9).await?;
        sleep(Duration::from_millis(1)).await;
        device.unregister().await?;
        assert_eq!(*seen.borrow(), [Event::Resize { num_blocks: 9 }, Event::Remove]);
        Ok(())
    });
}

fn many_streams() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = Rc::new(BdevDesc::open("disk", true)?);
        let ended = Rc::new(Cell::new(0));
        for _ in 0..50 {
            let (desc, ended) = (Rc::clone(&desc), Rc::clone(&ended));
            spawn_local(async move {
                let mut events = desc.events();
                while events.next().await.is_some() {}
                ended.set(ended.get() + 1);
            });
        }
        // Some that no one polls any more.
        for _ in 0..50 {
            let mut events = desc.events();
            let mut next = Box::pin(events.next());
            assert!(poll_once(next.as_mut()).is_none());
        }
        drop(desc);
        sleep(Duration::from_millis(1)).await;
        device.unregister().await?;
        until("the streams", || ended.get() == 50).await;
        Ok(())
    });
}

/// The descriptor is closed while the message about an event is on its way.
fn closed_first() {
    run(async || {
        for _ in 0..3 {
            let device = disk("disk", 8).await;
            let desc = BdevDesc::open("disk", true)?;
            let mut events = desc.events();
            device.resize(16).await?;
            let mut removal = Box::pin(device.unregister());
            assert!(poll_once(removal.as_mut()).is_none());
            drop(desc);
            assert_eq!(events.next().await, None);
            removal.await?;
        }
        Ok(())
    });
}

fn forgotten_stream() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        let mut events = Box::pin(desc.events());
        {
            let mut next = Box::pin(events.next());
            assert!(poll_once(next.as_mut()).is_none());
            std::mem::forget(next);
        }
        std::mem::forget(events);
        std::mem::forget(desc.events());
        drop(desc);
        device.unregister().await
    });
}

/// The task that a removal wakes closes the descriptor inside SPDK's callback.
fn dropped_in_the_callback() {
    run(async || {
        for _ in 0..10 {
            let device = disk("disk", 8).await;
            let (one, two) = (BdevDesc::open("disk", true)?, BdevDesc::open("disk", false)?);
            for desc in [one, two] {
                spawn_local(async move {
                    assert_eq!(desc.events().next().await, Some(Event::Remove));
                });
            }
            sleep(Duration::from_millis(1)).await;
            device.unregister().await?;
        }
        Ok(())
    });
}

fn hot_remove_of_stock() {
    let malloc = json!({ "name": "m0", "num_blocks": 64, "block_size": 512 });
    let config = bdevs(&[("bdev_malloc_create", malloc)]);
    let case = async {
        let desc = BdevDesc::open("m0", true)?;
        let mut events = desc.events();
        let mut delete = Box::pin(rpc("bdev_malloc_delete", json!({ "name": "m0" })));
        assert!(poll_once(delete.as_mut()).is_none());
        assert_eq!(events.next().await, Some(Event::Remove));
        drop(desc);
        assert_eq!(delete.await["result"], true);
        Ok(())
    };
    app().json_data(config).block_on(case).unwrap();
}

unsafe extern "C" {
    fn case_has_media_events(name: *const c_char);
    fn case_push_media_event(name: *const c_char, offset: u64, num_blocks: u64) -> c_int;
    fn case_notify_media_events(name: *const c_char);
}

const DISK: &CStr = c"disk";

fn push(offset_blocks: u64, num_blocks: u64) -> Option<Event> {
    // SAFETY: the disk is there and tells of media events.
    assert_eq!(unsafe { case_push_media_event(DISK.as_ptr(), offset_blocks, num_blocks) }, 1);
    let mut event = MediaEvent::default();
    (event.offset_blocks, event.num_blocks) = (offset_blocks, num_blocks);
    Some(Event::Media(event))
}

fn media() {
    run(async || {
        let device = disk("disk", 100).await;
        // SAFETY: the disk is there, and nobody has it open.
        unsafe { case_has_media_events(DISK.as_ptr()) };
        assert!(Bdev::find("disk").await?.has_media_events());
        let (reader, writer) = (BdevDesc::open("disk", false)?, BdevDesc::open("disk", true)?);
        let (mut others, mut events) = (reader.events(), writer.events());
        let mut next = Box::pin(events.next());
        assert!(poll_once(next.as_mut()).is_none());
        let (first, second) = (push(1, 2), push(3, 4));
        // SAFETY: the disk is there.
        unsafe { case_notify_media_events(DISK.as_ptr()) };
        assert_eq!(next.await, first);
        assert_eq!(events.next().await, second);
        // One that came before anybody asked, and one whose descriptor goes before it is told.
        let third = push(5, 6);
        assert_eq!(writer.events().next().await, third);
        push(7, 8);
        // SAFETY: as above.
        unsafe { case_notify_media_events(DISK.as_ptr()) };
        drop(writer);
        assert_eq!(events.next().await, None);
        let mut next = Box::pin(others.next());
        assert!(poll_once(next.as_mut()).is_none());
        drop(reader);
        assert_eq!(next.await, None);
        device.unregister().await
    });
}

/// Before 23.05 SPDK tells of them on whatever thread they come up, with a lock held.
fn media_of_another_thread() {
    if (sys::VERSION_MAJOR, sys::VERSION_MINOR) >= (23, 5) {
        return;
    }
    run(async || {
        let device = disk("disk", 100).await;
        // SAFETY: the disk is there, and nobody has it open.
        unsafe { case_has_media_events(DISK.as_ptr()) };
        let desc = BdevDesc::open("disk", true)?;
        let seen = Rc::new(Cell::new(None));
        let told = Rc::clone(&seen);
        // The task closes the descriptor as soon as it is told.
        spawn_local(async move {
            told.set(desc.events().next().await);
        });
        sleep(Duration::from_millis(1)).await;
        let event = push(1, 2);
        // SAFETY: the disk is there.
        let notify = || unsafe { case_notify_media_events(DISK.as_ptr()) };
        std::thread::spawn(notify).join().unwrap();
        let mut got = None;
        until("the event", || {
            got = seen.take();
            got.is_some()
        })
        .await;
        assert_eq!(got, event);
        device.unregister().await
    });
}
