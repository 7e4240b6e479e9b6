//! From a request's kind to the method of [`Bdev`] that serves it.

use std::future::{Future, Ready, ready};

use spdk_plugin_sys as sys;

use super::Bdev;
use super::cell::IoCell;
use super::channel::{Channel, quiesce_all};
use super::io::BdevIo;
use super::kind::{IoKind, IoKinds};
use super::record::Record;
use super::status::{IoError, IoResult};
use crate::guard::catch;

/// The kinds that a device serves: what its module overrides, what its `submit` does, and what the crate does
/// for every module.
pub(crate) fn kinds<B: Bdev>(submits: IoKinds) -> IoKinds {
    B::OVERRIDES.kinds.and(IoKinds::RESET).and(IoKinds::ABORT).and(submits)
}

/// The kinds that the module's `submit` serves. Its word is taken once, as the bdev layer may ask between the
/// halves of one request.
pub(crate) fn submits<B: Bdev>(bdev: &B) -> IoKinds {
    if !B::OVERRIDES.submit {
        return IoKinds::NONE;
    }
    let supports = |kind: &IoKind| {
        catch("asking what a bdev supports", || bdev.supports(*kind)).unwrap_or(false)
    };
    // An abort is about a handler of ours, which `submit` knows nothing of.
    let kinds = IoKind::all().filter(|kind| *kind != IoKind::Abort).filter(supports);
    kinds.fold(IoKinds::NONE, |kinds, kind| kinds.and(kind.into()))
}

macro_rules! handlers {
    ($($kind:ident => $method:ident,)*) => {
        /// The size of the module's largest future.
        #[expect(clippy::extra_unused_lifetimes, reason = "the closures' arguments need a name for it")]
        pub(crate) fn largest<'a, B: Bdev>() -> usize {
            fn size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
                size_of::<F>()
            }
            let always = size(|c: &'a Channel<B>, cell: &'a IoCell, ()| reset(c, cell));
            let mut largest = always.max(size_of::<Ready<IoResult>>());
            let served = |kind| B::OVERRIDES.kinds.contains(kind);
            $(if served(IoKind::$kind) {
                largest = largest.max(size(|b: &'a B, c: &'a B::Channel, io: BdevIo<'a>| {
                    b.$method(c, io)
                }));
            })*
            if served(IoKind::Zcopy) {
                largest = largest.max(size(|b: &'a B, c: &'a B::Channel, io: BdevIo<'a>| {
                    b.zcopy_end(c, io)
                }));
            }
            if B::OVERRIDES.submit {
                largest = largest.max(size(|b: &'a B, c: &'a B::Channel, io: BdevIo<'a>| {
                    b.submit(c, io)
                }));
            }
            largest
        }

        #[inline]
        unsafe fn dispatch<B: Bdev>(
            channel: &Channel<B>,
            cell: &IoCell,
            kind: IoKind,
        ) {
            let (core, bdev) = (channel.core(), &channel.device.user);
            let io = || BdevIo::new(cell);
            // SAFETY: each arm ends the function, so a cell is started once; the bdev and the channel
            // outlive their requests.
            unsafe {
                match kind {
                    IoKind::Zcopy if B::OVERRIDES.kinds.contains(IoKind::Zcopy) => {
                        if is_zcopy_start(cell) {
                            cell.start(core, || bdev.zcopy_start(&channel.user, io()))
                        } else {
                            cell.start(core, || bdev.zcopy_end(&channel.user, io()))
                        }
                    }
                    $(IoKind::$kind if B::OVERRIDES.kinds.contains(IoKind::$kind) => {
                        cell.start(core, || bdev.$method(&channel.user, io()))
                    })*
                    _ => rest(channel, cell, kind),
                }
            }
        }
    };
}

handlers! {
    Read => read,
    Write => write,
    Unmap => unmap,
    Flush => flush,
    WriteZeroes => write_zeroes,
    Compare => compare,
    Copy => copy,
    Zcopy => zcopy_start,
    NvmeAdmin => nvme_admin,
    NvmeIo => nvme_io,
    NvmeIoMd => nvme_io_md,
    Reset => reset,
    Abort => abort,
}

/// What has no method of its own in this module.
unsafe fn rest<B: Bdev>(channel: &Channel<B>, cell: &IoCell, kind: IoKind) {
    let (core, bdev) = (channel.core(), &channel.device.user);
    // SAFETY: as in `dispatch`.
    unsafe {
        if B::OVERRIDES.submit && channel.device.core.submits.contains(kind) {
            cell.start(core, || bdev.submit(&channel.user, BdevIo::new(cell)));
        } else {
            our_own(channel, cell, kind);
        }
    }
}

/// What the crate does without the module.
unsafe fn our_own<B: Bdev>(channel: &Channel<B>, cell: &IoCell, kind: IoKind) {
    let core = channel.core();
    // SAFETY: as in `dispatch`.
    unsafe {
        match kind {
            IoKind::Reset => cell.start(core, || reset(channel, cell)),
            IoKind::Abort => cell.start(core, || ready(abort(channel, cell))),
            _ => cell.start(core, || ready(Err(IoError::Failed))),
        }
    }
}

/// Serves a request.
///
/// # Safety
/// The request was just submitted to the channel, on whose thread we are.
pub(crate) unsafe fn submit<B: Bdev>(channel: &Channel<B>, io: *mut sys::spdk_bdev_io) {
    let core = channel.core();
    // SAFETY: says the caller.
    unsafe {
        let kind = IoKind::from_raw(u32::from(BdevIo::kind_of(io)));
        if kind == Some(IoKind::Zcopy) && zcopy_starts(io) {
            Record::init_lent(io);
        }
        let outcome = match (kind, IoCell::new(io, core, kind)) {
            (Some(kind), Some(cell)) if core.device().is_poisoned() => {
                return our_own(channel, cell, kind);
            }
            (Some(kind), Some(cell)) => return dispatch(channel, cell, kind),
            (Some(_), None) => IoError::NoMemory,
            (None, Some(cell)) => return cell.start(core, || ready(Err(IoError::Failed))),
            (None, None) => IoError::Failed,
        };
        Record::end_in_submit(io, core, Some(Err(outcome)));
    }
}

unsafe fn zcopy_starts(io: *mut sys::spdk_bdev_io) -> bool {
    // SAFETY: the request is with us.
    unsafe { sys::spdkp_io_zcopy_flags(io) & sys::SPDKP_ZCOPY_START != 0 }
}

fn is_zcopy_start(cell: &IoCell) -> bool {
    // SAFETY: a cell's request is with us.
    unsafe { zcopy_starts(cell.io()) }
}

/// Cancels everything on all threads and ends when all of it has ended.
async fn reset<B: Bdev>(channel: &Channel<B>, cell: &IoCell) -> IoResult {
    struct Counted<'a, B: Bdev>(&'a Channel<B>);
    impl<B: Bdev> Drop for Counted<'_, B> {
        fn drop(&mut self) {
            self.0.core().reset_ended();
        }
    }
    channel.core().reset_started();
    let _counted = Counted(channel);
    quiesce_all(channel.core().device(), cell);
    std::future::poll_fn(|_| cell.poll_children()).await;
    Ok(())
}

/// Cancels the one request, if it still waits in its handler.
fn abort<B: Bdev>(channel: &Channel<B>, cell: &IoCell) -> IoResult {
    let target = BdevIo::new(cell).abort_target();
    let mut pending = channel.core().pending.iter().filter(|cell| !cell.is_reset());
    let waiting = pending.find(|cell| Some(BdevIo::new(cell).id()) == target);
    match waiting {
        Some(waiting) if waiting.cancel() => Ok(()),
        _ => Err(IoError::Failed),
    }
}
