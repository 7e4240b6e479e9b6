//! Tasks: futures that an SPDK thread runs by itself. Stands on `spdk/thread.h`.

use std::future::Future;
use std::ptr;
use std::task::{Context, Poll};

use super::home::HomeRef;
use super::queue::{DisposeFn, Node};
use crate::guard::{catch, drop_caught};

/// A future on the heap. The node comes first, so that the run queue's pointer is the task's.
#[repr(C)]
struct Task<F> {
    node: Node,
    home: HomeRef,
    what: &'static str,
    future: Option<F>,
}

/// Runs `future` on the current SPDK thread. Its first poll is at the exit of the callback that we
/// are in. A panic ends it and is logged as one of `what`.
pub(crate) fn spawn<F: Future<Output = ()> + 'static>(
    home: HomeRef,
    what: &'static str,
    future: F,
) {
    let queue = home.get();
    let task = Box::into_raw(Box::<Task<F>>::new_uninit()).cast::<Task<F>>();
    // SAFETY: the box has room for a task, which `dispose` frees after its last poll.
    let node = unsafe {
        task.write(Task { node: queue.attach(task.cast()), home, what, future: Some(future) });
        &(*task).node
    };
    queue.park(node, poll::<F>);
    queue.schedule(node);
}

unsafe fn poll<F: Future<Output = ()>>(node: *const Node, cx: &mut Context<'_>) -> Poll<DisposeFn> {
    // SAFETY: the node is the first field of the task that `spawn` made, which only its polls touch.
    // The reference leaves the node alone, which wakes may look at meanwhile.
    let (future, what) = unsafe {
        let task = node.cast_mut().cast::<Task<F>>();
        (&mut *ptr::addr_of_mut!((*task).future), (*task).what)
    };
    let polled = catch(what, || match future {
        // SAFETY: the future lies in the task's box and is dropped in place.
        Some(future) => unsafe { std::pin::Pin::new_unchecked(future) }.poll(cx),
        None => Poll::Ready(()),
    });
    match polled {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) | Err(_) => Poll::Ready(dispose::<F>),
    }
}

unsafe fn dispose<F>(node: *const Node) {
    // SAFETY: the node is the task that `spawn` boxed, and its last poll is over.
    let task = unsafe { Box::from_raw(node.cast_mut().cast::<Task<F>>()) };
    task.home.get().detach(&task.node);
    drop_caught(task.what, task);
}
