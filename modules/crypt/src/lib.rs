//! A bdev that encrypts what it writes to the one below it, with AES-XTS, and decrypts what it reads.
//!
//! - A block is a unit of XTS and its number the tweak, so block `n` of the bdev is block `n` of the base and
//!   nothing else is stored: the format of Linux's `aes-xts-plain64`.
//! - A read goes to the base with its own buffers and is decrypted there. A write is encrypted into buffers of
//!   the thread's, as its data are the submitter's. Neither allocates.
//! - Zeroes must be encrypted like all else, so the bdev layer writes them. Flush and unmap pass through.
//! - The key is read when the bdev is made, from SPDK's keyring or a file. What is saved and shown is its name.

#![forbid(unsafe_code)]

mod bounce;
mod config;
mod rpc;

use std::cell::RefCell;
use std::ops::Range;

use serde_json::{Value, json};
use spdk_plugin::module::{
    Base, BaseChannel, Bases, Bdev, BdevBuilder, BdevHandle, BdevIo, IoError, IoKind, IoResult,
    Vbdev,
};
use spdk_plugin::{Error, Result, bdev_module};
use spdk_plugin_crypt_core::{Pieces, Xts, decrypt, encrypt, equals, is_hardware};
use uuid::Uuid;

use bounce::{Bounce, Buf};
use config::Config;

struct Crypt {
    base: Base,
    xts: Xts,
    shown: Value,
}

struct Channel {
    base: BaseChannel,
    bounce: Bounce,
    /// Room for a block that lies in more than one buffer.
    scratch: RefCell<Box<[u8]>>,
}

#[bdev_module(name = "crypt")]
impl Bdev for Crypt {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        let scratch = RefCell::new(vec![0; self.xts.block_size()].into());
        Ok(Channel { base: self.base.channel()?, bounce: Bounce::new(&self.base)?, scratch })
    }

    async fn read(&self, channel: &Channel, mut io: BdevIo<'_>) -> IoResult {
        io.forward(&channel.base).await?;
        let first = io.offset_blocks();
        decrypt(&self.xts, first, &mut Data(&mut io), &mut channel.scratch.borrow_mut());
        Ok(())
    }

    async fn write(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let len = io.num_blocks() as usize * self.xts.block_size();
        let bufs = channel.bounce.for_len(len);
        let mut done = 0;
        while done < len {
            // Two at once are encrypted and written, if there is a second one.
            let middle = (done + bufs.len()).min(len);
            let end = (middle + bufs.len()).min(len);
            let mut buf = bufs.take().await;
            match if middle < end { bufs.try_take() } else { None } {
                None => {
                    self.write_part(channel, &io, done..middle, &mut buf).await?;
                    done = middle;
                }
                Some(mut other) => {
                    let one = self.write_part(channel, &io, done..middle, &mut buf);
                    let two = self.write_part(channel, &io, middle..end, &mut other);
                    let (one, two) = futures_util::future::join(one, two).await;
                    one.and(two)?;
                    done = end;
                }
            }
        }
        Ok(())
    }

    /// The bdev layer would compare in one piece, for which 20.07 has no buffers beyond 64 KiB.
    async fn compare(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        let len = io.num_blocks() as usize * self.xts.block_size();
        let bufs = channel.bounce.for_len(len);
        let mut buf = bufs.take().await;
        let mut done = 0;
        while done < len {
            let part = done..(done + bufs.len()).min(len);
            done = part.end;
            if !self.part_equals(channel, &io, part, &mut buf).await? {
                return Err(IoError::Miscompare);
            }
        }
        Ok(())
    }

    fn supports(&self, kind: IoKind) -> bool {
        match kind {
            IoKind::Read | IoKind::Write => true,
            IoKind::Flush | IoKind::Unmap => self.base.supports(kind),
            _ => false,
        }
    }

    /// Flush and unmap.
    async fn submit(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        io.forward(&channel.base).await
    }

    fn dump_info(&self) -> Option<Value> {
        Some(self.shown.clone())
    }
}

impl Crypt {
    /// Encrypts the bytes `part` of a request into `buf`, and writes them.
    async fn write_part(
        &self,
        channel: &Channel,
        io: &BdevIo<'_>,
        part: Range<usize>,
        buf: &mut Buf<'_>,
    ) -> IoResult {
        let (offset, count) = self.blocks(io, &part);
        let len = part.len();
        encrypt(&self.xts, io.offset_blocks(), pieces(io), part, &mut buf[..len]);
        channel.base.write_blocks(buf, offset, count).within(io).await?;
        Ok(())
    }

    /// Reads the bytes `part` of a request's range into `buf` and compares them with its data.
    async fn part_equals(
        &self,
        channel: &Channel,
        io: &BdevIo<'_>,
        part: Range<usize>,
        buf: &mut Buf<'_>,
    ) -> IoResult<bool> {
        let (offset, count) = self.blocks(io, &part);
        channel.base.read_blocks(buf, offset, count).within(io).await?;
        let stored = &mut buf[..part.len()];
        self.xts.decrypt_in_place(offset, stored);
        Ok(equals(pieces(io), part, stored))
    }

    /// The first block of a part of a request, and how many there are.
    fn blocks(&self, io: &BdevIo<'_>, part: &Range<usize>) -> (u64, u64) {
        let size = self.xts.block_size();
        (io.offset_blocks() + (part.start / size) as u64, (part.len() / size) as u64)
    }
}

/// The data of a request, each with its place in the request.
fn pieces<'a>(io: &'a BdevIo<'_>) -> impl Iterator<Item = (usize, &'a [u8])> {
    let begin = io.bytes().start;
    io.chunks().map(move |(at, piece)| ((at - begin) as usize, piece))
}

/// The buffers of a read that the base has filled.
struct Data<'a, 'io>(&'a mut BdevIo<'io>);

impl Pieces for Data<'_, '_> {
    fn for_each(&mut self, each: &mut dyn FnMut(usize, &mut [u8])) {
        let begin = self.0.bytes().start;
        self.0.chunks_mut().for_each(|(at, piece)| each((at - begin) as usize, piece));
    }
}

impl Vbdev for Crypt {
    type Config = Config;

    const CREATE: &'static str = "bdev_crypt_create";

    fn name(config: &Config) -> &str {
        &config.name
    }

    fn bases(config: &Config) -> Vec<String> {
        vec![config.base_bdev_name.clone()]
    }

    async fn build(config: &Config, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let base = bases[0].clone();
        if let Some(metadata) = base.metadata() {
            let (name, base, size) = (&config.name, base.name(), metadata.size);
            return Err(Error::Invalid(format!(
                "bdev {name} cannot be on {base}, which has {size} bytes of metadata with each block: they \
                 would not be encrypted; take a base without"
            )));
        }
        let xts = Xts::new(&config.key()?, base.block_size() as usize);
        if !xts.is_locked() {
            log::warn!(
                "bdev {}: the key may be swapped out, as memory cannot be locked",
                config.name
            );
        }
        if !is_hardware() {
            log::warn!(
                "bdev {}: this processor has no AES instructions; expect little",
                config.name
            );
        }
        let uuid =
            config.uuid.unwrap_or_else(|| Uuid::new_v5(&base.uuid(), Self::CREATE.as_bytes()));
        let bdev = BdevBuilder::like(&*config.name, &base).product_name("AES-XTS in Rust");
        let shown = json!({
            "base_bdev_name": base.name(),
            "cipher": config.cipher,
            "key_name": config.key_name,
            "key_file": config.key_file,
        });
        Ok((bdev.uuid(Some(uuid)), Self { base, xts, shown }))
    }

    async fn base_resized(bdev: &BdevHandle<Self>, base: &Base) {
        if let Err(error) = bdev.resize(base.num_blocks()).await {
            log::error!("{error}");
        }
    }
}
