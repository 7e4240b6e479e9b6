//! How a request of ours has ended, from its last poll until the bdev layer is told. Stands on
//! `spdk/bdev_module.h`.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;

use spdk_plugin_sys as sys;
use sys::{
    SPDK_BDEV_IO_STATUS_ABORTED as ABORTED, SPDK_BDEV_IO_STATUS_FAILED as FAILED,
    SPDK_BDEV_IO_STATUS_MISCOMPARE as MISCOMPARE, SPDK_BDEV_IO_STATUS_NOMEM as NOMEM,
    SPDK_BDEV_IO_STATUS_SUCCESS as SUCCESS,
};

use super::channel::ChannelCore;
use super::io::BdevIo;
use super::kind::IoKind;
use super::status::{IoError, IoResult};
use crate::dma::DmaRegion;
use crate::runtime::queue::Link;

/// What lies in a request's `driver_ctx`: how it ended, and what a zcopy has lent.
#[repr(C)]
pub(crate) struct Record {
    link: Link,
    /// The channel. A bit tells whether there is an `outcome`, or mere success.
    channel: *const ChannelCore,
    outcome: MaybeUninit<IoResult>,
    /// Set for a zcopy alone, from its start to its end.
    lent: MaybeUninit<Cell<Option<DmaRegion>>>,
    /// The zcopy of the base whose memory it has lent, if any. Set as `lent` is.
    below: MaybeUninit<Cell<*mut sys::spdk_bdev_io>>,
}

/// See [`Record::channel`].
const OUTCOME: usize = 1;
const _: () = assert!(align_of::<ChannelCore>() > OUTCOME);

/// What the bdev layer reserves of every request for us: the maximum over all modules of the process,
/// times a pool of 64 Ki requests.
pub(crate) const DRIVER_CTX: usize = size_of::<Record>();

/// `driver_ctx` is aligned to 8 bytes in SPDK 20.07, with three words to the end of its cache line, and
/// to a cache line from 24.09.
const _: () = assert!(align_of::<Record>() <= 8 && std::mem::offset_of!(Record, lent) <= 24);

impl Record {
    /// The record's place in a request of ours.
    #[inline]
    pub(crate) fn of(io: *mut sys::spdk_bdev_io) -> *mut Self {
        io.cast::<u8>().wrapping_add(sys::SPDKP_IO_DRIVER_CTX as usize).cast()
    }

    /// The request whose record begins with the link.
    #[inline]
    fn request(link: *const Link) -> *mut sys::spdk_bdev_io {
        link.cast::<u8>().wrapping_sub(sys::SPDKP_IO_DRIVER_CTX as usize).cast_mut().cast()
    }

    /// What a zcopy has lent.
    ///
    /// # Safety
    /// The request is a zcopy that is with us, and [`init_lent`](Self::init_lent) was called at its
    /// start.
    #[inline]
    pub(crate) unsafe fn lent<'a>(io: *mut sys::spdk_bdev_io) -> &'a Cell<Option<DmaRegion>> {
        // SAFETY: says the caller.
        unsafe { (*Self::of(io)).lent.assume_init_ref() }
    }

    /// The zcopy of the base that a zcopy was forwarded as.
    ///
    /// # Safety
    /// As for [`lent`](Self::lent).
    #[inline]
    pub(crate) unsafe fn below<'a>(io: *mut sys::spdk_bdev_io) -> &'a Cell<*mut sys::spdk_bdev_io> {
        // SAFETY: says the caller.
        unsafe { (*Self::of(io)).below.assume_init_ref() }
    }

    /// A zcopy starts, with nothing lent.
    ///
    /// # Safety
    /// The request is a zcopy that was just submitted to us.
    pub(crate) unsafe fn init_lent(io: *mut sys::spdk_bdev_io) {
        // SAFETY: `driver_ctx` is ours while the request is, as long as `ctx_size` told, and aligned.
        unsafe {
            (&raw mut (*Self::of(io)).lent).write(MaybeUninit::new(Cell::new(None)));
            (&raw mut (*Self::of(io)).below).write(MaybeUninit::new(Cell::new(ptr::null_mut())));
        }
    }

    /// Notes that the request succeeded, to be completed next, with nothing else to see to.
    ///
    /// # Safety
    /// The request is with us.
    #[inline]
    pub(super) unsafe fn note_success(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
    ) -> *const Link {
        let record = Self::of(io);
        // SAFETY: as in `init_lent`; what is lent stays, and any bytes are a link, which its queue sets.
        unsafe { (&raw mut (*record).channel).write(channel) };
        record.cast()
    }

    /// Notes how the request ended, to be completed next.
    ///
    /// # Safety
    /// The request is with us.
    pub(super) unsafe fn note(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        outcome: Option<IoResult>,
    ) -> *const Link {
        let Some(outcome) = outcome else {
            // SAFETY: says the caller.
            return unsafe { Self::note_success(io, channel) };
        };
        let record = Self::of(io);
        // SAFETY: as in `note_success`.
        unsafe {
            (&raw mut (*record).channel).write(ptr::from_ref(channel).map_addr(|at| at | OUTCOME));
            (&raw mut (*record).outcome).write(MaybeUninit::new(outcome));
        }
        record.cast()
    }

    /// Whether a record is of a request of the channel.
    ///
    /// # Safety
    /// The link is that of a record that was noted.
    pub(crate) unsafe fn is_of(link: *const Link, channel: &ChannelCore) -> bool {
        // SAFETY: says the caller.
        let about = unsafe { (*link.cast::<Self>()).channel };
        about.addr() & !OUTCOME == ptr::from_ref(channel).addr()
    }

    /// Puts a request that ends in its `submit_request` on the batch: completing it there would cost the
    /// bdev layer a message.
    ///
    /// # Safety
    /// The request is with us, and nothing of it is in flight.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn end_in_submit(
        io: *mut sys::spdk_bdev_io,
        channel: &ChannelCore,
        outcome: Option<IoResult>,
    ) {
        // SAFETY: says the caller; it is completed once.
        unsafe {
            let link = Self::note(io, channel, outcome);
            if outcome == Some(Err(IoError::NoMemory)) && !channel.must_retry() {
                // The bdev layer queues it, and stops to submit what it had queued when it sees this.
                complete(link);
            } else {
                channel.home().push_done(link);
            }
        }
    }
}

/// Completes a batch of requests that have ended, from the first link on.
///
/// # Safety
/// The links are those of [`Record`]s that were noted. They are gone afterwards.
pub(crate) unsafe fn complete_all(first: *const Link) {
    let mut link = first;
    while !link.is_null() {
        // SAFETY: says the caller, for each of them.
        unsafe {
            let next = (*link).next();
            prefetch(next);
            complete(link);
            link = next;
        }
    }
}

/// Has the processor fetch what completing the request will touch first. Many requests are in flight, so
/// it is not in the nearest cache.
#[inline]
fn prefetch(link: *const Link) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let internal =
            Record::request(link).cast::<i8>().wrapping_add(sys::SPDKP_IO_INTERNAL as usize);
        // SAFETY: a prefetch of any address is allowed.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(link.cast());
            _mm_prefetch::<_MM_HINT_T0>(internal);
            _mm_prefetch::<_MM_HINT_T0>(internal.wrapping_add(64));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = link;
}

/// Tells the bdev layer how the request ended.
///
/// # Safety
/// The link is that of a [`Record`] that was noted and is on no list. It is gone afterwards.
#[inline]
pub(super) unsafe fn complete(link: *const Link) {
    // SAFETY: says the caller. The request is ours, and this is its one completion.
    unsafe {
        let io = Record::request(link);
        if (*link.cast::<Record>()).channel.addr() & OUTCOME == 0 {
            sys::spdk_bdev_io_complete(io, SUCCESS);
        } else {
            complete_other(io);
        }
    }
}

/// Completes a request that has not merely succeeded.
///
/// # Safety
/// As for [`complete`].
#[cold]
unsafe fn complete_other(io: *mut sys::spdk_bdev_io) {
    // SAFETY: as in `complete`. The channel is there while it has requests.
    unsafe {
        let record = Record::of(io);
        let outcome = (*record).outcome.assume_init();
        let channel = &*(*record).channel.map_addr(|at| at & !OUTCOME);
        if outcome == Err(IoError::NoMemory) && channel.must_retry() {
            return channel.serve_again(io);
        }
        if BdevIo::kind_of(io) == IoKind::Zcopy as u8 {
            end_loan(io, outcome);
        }
        match outcome {
            Ok(()) => sys::spdk_bdev_io_complete(io, SUCCESS),
            Err(error) => complete_failed(io, error),
        }
    }
}

/// Lets go of what was lent, unless that is what a zcopy has just started with, or its end is to be
/// submitted again.
unsafe fn end_loan(io: *mut sys::spdk_bdev_io, outcome: IoResult) {
    // SAFETY: the request is a zcopy that is with us.
    unsafe {
        let starts = sys::spdkp_io_zcopy_flags(io) & sys::SPDKP_ZCOPY_START != 0;
        let stays = match outcome {
            Ok(()) | Err(IoError::Nvme { sct: 0, sc: 0, .. }) => starts,
            Err(error) => !starts && error == IoError::NoMemory,
        };
        if stays {
            return;
        }
        Record::lent(io).set(None);
        let below = Record::below(io).replace(ptr::null_mut());
        if !below.is_null()
            && sys::spdk_bdev_zcopy_end(below, false, Some(given_back), ptr::null_mut()) != 0
        {
            sys::spdk_bdev_free_io(below);
        }
    }
}

unsafe extern "C" fn given_back(
    io: *mut sys::spdk_bdev_io,
    _success: bool,
    _: *mut std::ffi::c_void,
) {
    // SAFETY: a zcopy of ours that has ended.
    unsafe { sys::spdk_bdev_free_io(io) };
}

unsafe fn complete_failed(io: *mut sys::spdk_bdev_io, error: IoError) {
    // SAFETY: as in `complete`.
    unsafe {
        match error {
            IoError::Failed => sys::spdk_bdev_io_complete(io, FAILED),
            IoError::NoMemory => sys::spdk_bdev_io_complete(io, NOMEM),
            IoError::Aborted => sys::spdk_bdev_io_complete(io, ABORTED),
            IoError::Miscompare => sys::spdk_bdev_io_complete(io, MISCOMPARE),
            IoError::Nvme { cdw0, sct, sc } => {
                sys::spdk_bdev_io_complete_nvme_status(io, cdw0, sct.into(), sc.into());
            }
            IoError::Scsi { sc, sk, asc, ascq } => {
                sys::spdk_bdev_io_complete_scsi_status(io, sc.into(), sk.into(), asc, ascq);
            }
            IoError::Errno(errno) => sys::spdkp_io_complete_errno(io, errno),
        }
    }
}
