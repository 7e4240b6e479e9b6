//! Memory for what is encrypted on its way to the base.
//!
//! A thread has a fixed number of buffers. Who finds none waits for one, in order; he holds none then that
//! he does not write from, so the wait ends when the base has ended a write.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spdk_plugin::Result;
use spdk_plugin::dma::{DmaBuf, DmaPool};
use spdk_plugin::module::Base;
use spdk_plugin::runtime::{sleep, spawn_local};

/// The buffers of a thread: many for the writes that are frequent, and some for those that are long.
pub(crate) struct Bounce {
    short: Rc<Size>,
    long: Rc<Size>,
}

impl Bounce {
    const SHORT: (usize, usize) = (8 << 10, 128);
    const LONG: (usize, usize) = (128 << 10, 16);

    /// Buffers that hold whole write units of `base`.
    pub(crate) fn new(base: &Base) -> Result<Self> {
        let unit = base.block_size() as usize * base.write_unit_size().max(1) as usize;
        let size = |(len, count): (usize, usize)| {
            let bytes = (len / unit).max(1) * unit;
            // Large units do not take more memory, but two there must be.
            Size::new(bytes, (len * count / bytes).clamp(2, count))
        };
        Ok(Self { short: size(Self::SHORT)?, long: size(Self::LONG)? })
    }

    /// The buffers for a write of so many bytes.
    pub(crate) fn for_len(&self, len: usize) -> &Rc<Size> {
        if len <= self.short.len { &self.short } else { &self.long }
    }
}

/// The buffers of one size.
pub(crate) struct Size {
    pool: DmaPool,
    len: usize,
    count: u32,
    /// Buffers that somebody holds.
    held: Cell<u32>,
    waiting: RefCell<VecDeque<(u64, Waker)>>,
    next: Cell<u64>,
    /// A task sees to those who wait.
    nursed: Cell<bool>,
}

impl Size {
    fn new(len: usize, count: usize) -> Result<Rc<Self>> {
        let count = count as u32;
        Ok(Rc::new(Self {
            pool: DmaPool::new(count, len, 4096)?,
            len,
            count,
            held: Cell::new(0),
            // The handlers that can wait at once.
            waiting: RefCell::new(VecDeque::with_capacity(1024)),
            next: Cell::new(0),
            nursed: Cell::new(false),
        }))
    }

    /// The bytes that a buffer holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A buffer, if there is one that nobody waits for.
    pub(crate) fn try_take(self: &Rc<Self>) -> Option<Buf<'_>> {
        if self.waiting.borrow().is_empty() { self.get() } else { None }
    }

    fn get(self: &Rc<Self>) -> Option<Buf<'_>> {
        let buf = self.pool.get()?;
        self.held.set(self.held.get() + 1);
        Some(Buf { buf, size: self })
    }

    /// A buffer, when there is one.
    pub(crate) fn take(self: &Rc<Self>) -> Take<'_> {
        Take { size: self, ticket: None }
    }

    /// Wakes the first who waits, if there is a buffer.
    fn serve(&self) {
        if self.pool.available() > 0
            && let Some((_, waker)) = self.waiting.borrow().front()
        {
            waker.wake_by_ref();
        }
    }

    /// A write was dropped in flight: its buffer comes back when the base is done, and nobody says so. Until all
    /// of them have, somebody looks for those who wait.
    #[cold]
    fn nurse(self: &Rc<Self>) {
        if self.nursed.replace(true) {
            return;
        }
        let size = Rc::clone(self);
        spawn_local(async move {
            while size.held.get() + size.pool.available() < size.count {
                sleep(Duration::from_millis(1)).await;
                size.serve();
            }
            size.nursed.set(false);
        });
    }
}

/// Waits for a buffer.
pub(crate) struct Take<'a> {
    size: &'a Rc<Size>,
    /// The place in the queue.
    ticket: Option<u64>,
}

impl<'a> Future for Take<'a> {
    type Output = Buf<'a>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Buf<'a>> {
        let this = self.get_mut();
        let size = this.size;
        let mut waiting = size.waiting.borrow_mut();
        let is_first = waiting.front().is_none_or(|(first, _)| Some(*first) == this.ticket);
        if is_first && let Some(buf) = size.get() {
            if this.ticket.take().is_some() {
                waiting.pop_front();
            }
            drop(waiting);
            // There may be one for the next, too.
            size.serve();
            return Poll::Ready(buf);
        }
        match this.ticket {
            Some(ticket) => {
                if let Some((_, waker)) = waiting.iter_mut().find(|(other, _)| *other == ticket) {
                    waker.clone_from(cx.waker());
                }
            }
            None => {
                let ticket = size.next.replace(size.next.get() + 1);
                this.ticket = Some(ticket);
                waiting.push_back((ticket, cx.waker().clone()));
            }
        }
        Poll::Pending
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.size.waiting.borrow_mut().retain(|(other, _)| *other != ticket);
            self.size.serve();
        }
    }
}

/// A buffer of the thread's, which goes back when it is dropped.
pub(crate) struct Buf<'a> {
    buf: DmaBuf,
    size: &'a Rc<Size>,
}

impl Deref for Buf<'_> {
    type Target = DmaBuf;

    fn deref(&self) -> &DmaBuf {
        &self.buf
    }
}

impl DerefMut for Buf<'_> {
    fn deref_mut(&mut self) -> &mut DmaBuf {
        &mut self.buf
    }
}

impl Drop for Buf<'_> {
    fn drop(&mut self) {
        self.size.held.set(self.size.held.get() - 1);
        if self.buf.is_empty() {
            return self.size.nurse();
        }
        self.buf = DmaBuf::empty();
        self.size.serve();
    }
}
