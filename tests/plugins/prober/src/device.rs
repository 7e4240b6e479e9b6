//! An open bdev with a channel, and requests to it (`spdk/bdev.h`).

use std::ffi::{CString, c_void};
use std::ptr;
use std::slice;

use futures_channel::oneshot;
use spdk_plugin::rpc::RpcError;
use spdk_plugin_sys as sys;

use crate::{Kind, Op, Outcome};

/// Closed when it is dropped, for which no request may be in flight.
pub(crate) struct Open {
    desc: *mut sys::spdk_bdev_desc,
    channel: *mut sys::spdk_io_channel,
    block_size: u64,
}

/// A request's context, freed by its callback.
struct Request {
    reply: oneshot::Sender<Outcome>,
    /// Ours, or null.
    buf: *mut c_void,
    compare: sys::iovec,
    write: sys::iovec,
    is_read: bool,
}

/// The address of a request's context, by which an abort names it. It may be gone.
#[derive(Clone, Copy)]
pub(crate) struct Submitted(*mut c_void);

impl Open {
    pub(crate) fn new(name: &str) -> Result<Self, RpcError> {
        let name = CString::new(name).map_err(|_| RpcError::invalid_params("a NUL"))?;
        let mut desc = ptr::null_mut();
        // SAFETY: on the app thread, where RPC handlers run; the name lives through the call.
        let rc = unsafe {
            sys::spdk_bdev_open_ext(
                name.as_ptr(),
                true,
                Some(on_event),
                ptr::null_mut(),
                &raw mut desc,
            )
        };
        if rc != 0 {
            return Err(RpcError::new(rc, "cannot be opened"));
        }
        // SAFETY: the descriptor was just opened on this thread.
        let channel = unsafe { sys::spdk_bdev_get_io_channel(desc) };
        if channel.is_null() {
            // SAFETY: as above; nothing uses it.
            unsafe { sys::spdk_bdev_close(desc) };
            return Err(RpcError::new(-12, "no channel"));
        }
        // SAFETY: an open descriptor has a bdev.
        let block_size =
            unsafe { sys::spdk_bdev_get_block_size(sys::spdk_bdev_desc_get_bdev(desc)) };
        Ok(Self { desc, channel, block_size: block_size.into() })
    }

    /// Submits a request, or answers at once that it was refused.
    pub(crate) fn submit(
        &self,
        op: &Op,
        reply: oneshot::Sender<Outcome>,
        earlier: &[Submitted],
    ) -> Submitted {
        let len = usize::try_from(op.blocks * self.block_size).unwrap_or(usize::MAX);
        let buf = match op.kind {
            Kind::Read if op.no_buffer => ptr::null_mut(),
            Kind::Read | Kind::Write | Kind::Compare | Kind::CompareAndWrite => {
                buffer(len, op.fill)
            }
            _ => ptr::null_mut(),
        };
        let iov = sys::iovec { iov_base: buf, iov_len: len };
        let is_read = matches!(op.kind, Kind::Read);
        let request = Box::new(Request { reply, buf, compare: iov, write: iov, is_read });
        let request = Box::into_raw(request);
        let rc = self.call(op, request, earlier);
        if rc != 0 {
            // SAFETY: it was not submitted, so it is still ours.
            let request = unsafe { Box::from_raw(request) };
            let outcome =
                Outcome { refused: Some(-rc), success: false, status: (0, 0), data: None };
            request.end(outcome);
        }
        Submitted(request.cast())
    }

    fn call(&self, op: &Op, request: *mut Request, earlier: &[Submitted]) -> i32 {
        let (desc, channel) = (self.desc, self.channel);
        let (offset, blocks) = (op.offset, op.blocks);
        let (done, ctx) = (Some(on_done as DoneFn), request.cast::<c_void>());
        // SAFETY: descriptor and channel are open on this thread; the request, and with it buffer
        // and vectors, lives until its callback frees it.
        unsafe {
            let buf = (*request).buf;
            match op.kind {
                Kind::Read => {
                    sys::spdk_bdev_read_blocks(desc, channel, buf, offset, blocks, done, ctx)
                }
                Kind::Write => {
                    sys::spdk_bdev_write_blocks(desc, channel, buf, offset, blocks, done, ctx)
                }
                Kind::Compare => {
                    sys::spdk_bdev_compare_blocks(desc, channel, buf, offset, blocks, done, ctx)
                }
                Kind::CompareAndWrite => sys::spdk_bdev_comparev_and_writev_blocks(
                    desc,
                    channel,
                    &raw mut (*request).compare,
                    1,
                    &raw mut (*request).write,
                    1,
                    offset,
                    blocks,
                    done,
                    ctx,
                ),
                Kind::Unmap => {
                    sys::spdk_bdev_unmap_blocks(desc, channel, offset, blocks, done, ctx)
                }
                Kind::Flush => {
                    sys::spdk_bdev_flush_blocks(desc, channel, offset, blocks, done, ctx)
                }
                Kind::WriteZeroes => {
                    sys::spdk_bdev_write_zeroes_blocks(desc, channel, offset, blocks, done, ctx)
                }
                #[cfg(has_copy)]
                Kind::Copy => {
                    sys::spdk_bdev_copy_blocks(desc, channel, offset, op.source, blocks, done, ctx)
                }
                #[cfg(not(has_copy))]
                Kind::Copy => {
                    let _ = op.source;
                    -95
                }
                Kind::Reset => sys::spdk_bdev_reset(desc, channel, done, ctx),
                Kind::Abort => match earlier.get(op.target) {
                    Some(target) => sys::spdk_bdev_abort(desc, channel, target.0, done, ctx),
                    None => -22,
                },
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: opened on this thread, and closed once; says the type, no request is in flight.
        unsafe {
            sys::spdk_put_io_channel(self.channel);
            sys::spdk_bdev_close(self.desc);
        }
    }
}

type DoneFn = unsafe extern "C" fn(*mut sys::spdk_bdev_io, bool, *mut c_void);

unsafe extern "C" fn on_event(
    _: sys::spdk_bdev_event_type,
    _: *mut sys::spdk_bdev,
    _: *mut c_void,
) {
    // A bdev that is removed is closed when its requests have ended, as it would be anyway.
}

unsafe extern "C" fn on_done(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    // SAFETY: `submit` boxed it, and this is the one call for it.
    let request = unsafe { Box::from_raw(ctx.cast::<Request>()) };
    let (mut cdw0, mut sct, mut sc) = (0, 0, 0);
    // SAFETY: the request has ended and is not yet freed.
    let data = unsafe {
        sys::spdk_bdev_io_get_nvme_status(io, &raw mut cdw0, &raw mut sct, &raw mut sc);
        let data = (success && request.is_read).then(|| uniform(io)).flatten();
        sys::spdk_bdev_free_io(io);
        data
    };
    request.end(Outcome { refused: None, success, status: (sct, sc), data });
}

impl Request {
    fn end(self, outcome: Outcome) {
        // SAFETY: allocated by `buffer`, or null, and nobody uses it any more.
        unsafe { sys::spdk_free(self.buf) };
        // The RPC's handler waits for it.
        let _ = self.reply.send(outcome);
    }
}

/// What every byte of the data is, if they are all the same.
///
/// # Safety
/// `io` is a read that has ended well.
unsafe fn uniform(io: *mut sys::spdk_bdev_io) -> Option<u8> {
    let (mut iovs, mut count) = (ptr::null_mut(), 0);
    // SAFETY: says the caller; the vectors and what they point at live until the request is freed.
    let bytes = unsafe {
        sys::spdk_bdev_io_get_iovec(io, &raw mut iovs, &raw mut count);
        let iovs = slice::from_raw_parts(iovs, usize::try_from(count).unwrap_or(0));
        iovs.iter().map(|iov| slice::from_raw_parts(iov.iov_base.cast::<u8>(), iov.iov_len))
    };
    let mut bytes = bytes.flatten();
    let first = *bytes.next()?;
    bytes.all(|byte| *byte == first).then_some(first)
}

/// DMA memory filled with a byte.
fn buffer(len: usize, fill: u8) -> *mut c_void {
    // SAFETY: plain allocation, and the memory is as long as it is filled.
    unsafe {
        let buf = sys::spdk_zmalloc(len, 4096, ptr::null_mut(), -1, sys::SPDK_MALLOC_DMA);
        if !buf.is_null() {
            ptr::write_bytes(buf.cast::<u8>(), fill, len);
        }
        buf
    }
}
