//! Where data come from or go to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use blocking::unblock;
use spdk_plugin::runtime::unaffinitized;
use spdk_plugin::{BdevDesc, DmaBuf, Error, IoChannel, Result};

pub(crate) enum End {
    Bdev(BdevDesc, IoChannel),
    File(Arc<File>, u64),
}

impl End {
    /// The bdev of this name, or else the file.
    pub(crate) async fn open(name: &str, write: bool) -> Result<Self> {
        match BdevDesc::open(name, write) {
            Ok(desc) => {
                let channel = desc.get_io_channel()?;
                return Ok(Self::Bdev(desc, channel));
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let path = name.to_owned();
        let open = move || {
            let options = File::options().read(!write).write(write).create(write).clone();
            let file = options.open(path)?;
            let size = file.metadata()?.len();
            Ok((Arc::new(file), size))
        };
        let (file, size) = elsewhere(format!("opening {name}"), open).await?;
        Ok(Self::File(file, size))
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Bdev(desc, _) => desc.size(),
            Self::File(_, size) => *size,
        }
    }

    pub(crate) fn block_size(&self) -> u64 {
        match self {
            Self::Bdev(desc, _) => desc.block_size().into(),
            Self::File(..) => 1,
        }
    }

    /// Fills the buffer from byte `at` on. Gives it back with the number of bytes, which is less at the
    /// end; zeroes follow.
    pub(crate) async fn read(&self, mut buf: DmaBuf, at: u64) -> Result<(DmaBuf, usize)> {
        match self {
            Self::Bdev(desc, channel) => {
                let len = (buf.len() as u64).min(desc.size().saturating_sub(at));
                desc.read(channel, &mut buf, at, len).await?;
                buf[len as usize..].fill(0);
                Ok((buf, len as usize))
            }
            Self::File(file, _) => {
                let file = Arc::clone(file);
                elsewhere("reading".into(), move || {
                    let mut len = 0;
                    while len < buf.len() {
                        match file.read_at(&mut buf[len..], at + len as u64)? {
                            0 => break,
                            read => len += read,
                        }
                    }
                    buf[len..].fill(0);
                    Ok((buf, len))
                })
                .await
            }
        }
    }

    /// Writes the first `len` bytes at byte `at`; on a bdev, all of the last block.
    pub(crate) async fn write(&self, mut buf: DmaBuf, at: u64, len: usize) -> Result<()> {
        match self {
            Self::Bdev(desc, channel) => {
                let len = (len as u64).next_multiple_of(self.block_size());
                desc.write(channel, &mut buf, at, len).await
            }
            Self::File(file, _) => {
                let file = Arc::clone(file);
                elsewhere("writing".into(), move || file.write_all_at(&buf[..len], at)).await
            }
        }
    }
}

/// Does what blocks on another OS thread, which does not share SPDK's core.
async fn elsewhere<T: Send + 'static>(
    what: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let result = unaffinitized(|| unblock(work)).await;
    result.map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Error::Errno { what, errno }
    })
}
