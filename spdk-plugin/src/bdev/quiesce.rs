//! Holding up all I/O of a range (`spdk_bdev_quiesce_range` in `spdk/bdev_module.h`).

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use spdk_plugin_sys as sys;

use super::call::{check_thread, start};
use super::desc::{BdevDesc, DescInner};
use super::stats::supported;
use crate::error::{Error, Result};

/// A range of a bdev whose I/O is held up. Dropping it lets the I/O go on.
///
/// It keeps the descriptor open. SPDK does not even begin to remove a bdev before all its ranges are
/// let go, so one that is forgotten keeps the bdev for good.
#[must_use = "dropping it lets the I/O go on"]
pub struct Quiesced {
    /// `None` once it was let go.
    desc: Option<Arc<DescInner>>,
    offset: u64,
    blocks: u64,
    _on_its_thread: PhantomData<*const ()>,
}

impl BdevDesc {
    /// Waits until no I/O of the whole bdev is in flight, and holds up what comes, on every channel of
    /// every user (`spdk_bdev_quiesce`).
    ///
    /// # Errors
    /// As for [`quiesce_range`](Self::quiesce_range).
    pub async fn quiesce(&self) -> Result<Quiesced> {
        self.quiesce_range(0..self.num_blocks()).await
    }

    /// Waits until no I/O of these blocks is in flight, and holds up what comes, on every channel of
    /// every user, this one too: to wait for I/O to the range while it is held is to wait for ever. A
    /// range that overlaps one that is held waits its turn. Dropped while it waits, the range is let go
    /// as soon as it is held.
    ///
    /// SPDK means it for the module that made the bdev.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before SPDK 23.05, [`Error::Invalid`] for blocks that are not the bdev's or
    /// an empty range, [`Error::NotFound`] when the bdev is being removed, [`Error::NoMemory`].
    pub async fn quiesce_range(&self, range: Range<u64>) -> Result<Quiesced> {
        let (desc, what) = (self.inner(), || format!("quiescing bdev {}", self.name()));
        let (offset, blocks) = (range.start, range.end.saturating_sub(range.start));
        if blocks == 0 || range.end > self.num_blocks() {
            return Err(Error::Invalid(format!(
                "{}: blocks {} to {} are not a range of its {} blocks",
                what(),
                range.start,
                range.end,
                self.num_blocks()
            )));
        }
        let answer = start(
            desc,
            (),
            |_, done, ctx| {
                let mut needs = std::ptr::null();
                // SAFETY: the bdev is open.
                let rc = unsafe {
                    sys::spdkp_quiesce(desc.bdev(), offset, blocks, Some(done), ctx, &raw mut needs)
                };
                supported(what, needs)?;
                match -rc {
                    0 => Ok(()),
                    libc::ENODEV => Err(Error::NotFound(format!("bdev {} has gone", self.name()))),
                    _ => Err(Error::from_rc(what(), rc)),
                }
            },
            move |desc, rc, ()| match rc {
                0 => Ok(Quiesced {
                    desc: Some(Arc::clone(desc)),
                    offset,
                    blocks,
                    _on_its_thread: PhantomData,
                }),
                rc => Err(rc),
            },
        )?;
        answer.get().await?.map_err(|rc| Error::from_rc(what(), rc))
    }
}

impl Quiesced {
    /// The blocks that are held up.
    pub fn blocks(&self) -> Range<u64> {
        self.offset..self.offset + self.blocks
    }

    /// Lets the I/O go on and waits until it does, on all channels (`spdk_bdev_unquiesce_range`).
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::WrongThread`] where the descriptor's thread is not current.
    pub async fn release(mut self) -> Result<()> {
        // The drop sends it home.
        self.desc.as_deref().map_or(Ok(()), check_thread)?;
        let Some(desc) = self.desc.take() else { return Ok(()) };
        let what = || format!("letting the I/O of bdev {} go on", desc.name());
        match unquiesce(&desc, self.offset, self.blocks)?.get().await? {
            0 => Ok(()),
            rc => Err(Error::from_rc(what(), rc)),
        }
    }
}

fn unquiesce(desc: &Arc<DescInner>, offset: u64, blocks: u64) -> Result<super::call::Answer<i32>> {
    start(
        desc,
        (),
        |_, done, ctx| {
            // SAFETY: the bdev is open.
            match unsafe { sys::spdkp_unquiesce(desc.bdev(), offset, blocks, Some(done), ctx) } {
                0 => Ok(()),
                rc => Err(Error::from_rc(format!("unquiescing bdev {}", desc.name()), rc)),
            }
        },
        |_, rc, ()| rc,
    )
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        let Some(desc) = self.desc.take() else { return };
        let (offset, blocks) = (self.offset, self.blocks);
        // SAFETY: the descriptor belongs to its home, and this guard had the share.
        unsafe {
            desc.home().run(move || match unquiesce(&desc, offset, blocks) {
                Ok(answer) => drop(answer),
                Err(error) => log::error!("its I/O stays held up: {error}"),
            });
        }
    }
}

impl fmt::Debug for Quiesced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiesced").field("blocks", &self.blocks()).finish_non_exhaustive()
    }
}
