//! State that a module keeps on a base: a few bytes of which the last ones stored are found again, whenever
//! the power goes.
//!
//! Two copies lie one behind the other, each in whole blocks, and stores overwrite them by turns:
//!
//! ```text
//! 0        8         12       16        24             32
//! | magic  | CRC-32C | length | version | sequence     | payload ... 0 |
//! ```
//! The checksum covers all that follows it. What is read is taken for anything until it has been checked.

use crate::bdev::{BdevDesc, IoChannel};
use crate::dma::DmaBuf;
use crate::error::{Error, Result};

use super::base::BaseChannel;

const HEADER: usize = 32;

/// A superblock's place and kind.
///
/// ```no_run
/// # use spdk_plugin::{Result, module::{BaseChannel, Superblock}};
/// # async fn example(base: &BaseChannel) -> Result<()> {
/// let mut superblock = Superblock::new(*b"EXAMPLE1", 1, 0, 4096);
/// let state = superblock.load(base).await?.unwrap_or_default();
/// superblock.store(base, &[&state[..], b"!"].concat()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Superblock {
    magic: [u8; 8],
    version: u64,
    first_block: u64,
    /// Of a copy's payload.
    room: usize,
    /// That of the newest copy, and which it is.
    newest: Option<(u64, usize)>,
}

/// What a copy is.
#[derive(Debug, PartialEq, Eq)]
enum Copy<'a> {
    /// Another's, or nothing.
    Foreign,
    /// Ours, and not as it was stored.
    Torn,
    Whole {
        version: u64,
        sequence: u64,
        payload: &'a [u8],
    },
}

impl Superblock {
    /// A superblock of this magic number from `first_block` on, whose payload is up to `room` bytes.
    /// `version` is that of the payload's layout.
    pub fn new(magic: [u8; 8], version: u32, first_block: u64, room: usize) -> Self {
        Self { magic, version: version.into(), first_block, room, newest: None }
    }

    /// The blocks that both copies take, of a base with blocks of `block_size` bytes.
    pub fn num_blocks(&self, block_size: u32) -> u64 {
        2 * self.copy_blocks(block_size)
    }

    fn copy_blocks(&self, block_size: u32) -> u64 {
        ((HEADER + self.room) as u64).div_ceil(block_size.max(1).into())
    }

    /// Reads the newest payload; `None` where there is no superblock of this magic number.
    ///
    /// # Errors
    /// [`Error::Invalid`] when both copies are damaged, or when the newest is of a later version than this
    /// one; and as reads of the base.
    pub async fn load(&mut self, channel: &BaseChannel) -> Result<Option<Vec<u8>>> {
        let (desc, channel) = channel.parts();
        self.load_from(desc, channel).await
    }

    /// As [`load`](Self::load), from a bdev that is not a base (yet), as [`Vbdev::probe`](super::Vbdev::probe)
    /// gets one.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_from(
        &mut self,
        desc: &BdevDesc,
        channel: &IoChannel,
    ) -> Result<Option<Vec<u8>>> {
        let (size, blocks) = (desc.block_size() as usize, self.copy_blocks(desc.block_size()));
        let end = self.first_block.checked_add(2 * blocks);
        if end.is_none_or(|end| end > desc.num_blocks()) {
            return Ok(None);
        }
        let mut both = DmaBuf::alloc(2 * blocks as usize * size, desc.alignment().max(512))?;
        desc.read_blocks(channel, &mut both, self.first_block, 2 * blocks).await?;
        let (first, second) = both[..].split_at(both.len() / 2);
        self.choose([first, second]).map_err(|why| {
            Error::Invalid(format!(
                "the superblock at block {} of bdev {} {why}",
                self.first_block,
                desc.name()
            ))
        })
    }

    fn choose(&mut self, copies: [&[u8]; 2]) -> Result<Option<Vec<u8>>, String> {
        self.newest = None;
        let (mut torn, mut newest) = (false, None);
        for (at, copy) in copies.into_iter().enumerate() {
            match self.open(copy) {
                Copy::Foreign => (),
                Copy::Torn => torn = true,
                // No store makes such a number.
                Copy::Whole { sequence: u64::MAX, .. } => torn = true,
                Copy::Whole { version, sequence, payload } => {
                    if self.newest.is_none_or(|(newest, _)| sequence > newest) {
                        self.newest = Some((sequence, at));
                        newest = Some((version, payload));
                    }
                }
            }
        }
        match newest {
            Some((version, _)) if version > self.version => Err(format!(
                "is of version {version}, and this program knows up to {}: use a newer one",
                self.version
            )),
            Some((_, payload)) => Ok(Some(payload.to_vec())),
            None if torn => Err("is damaged in both copies".into()),
            None => Ok(None),
        }
    }

    /// Writes a new payload over the older copy, and makes it durable where the base can. When it fails,
    /// either payload may be loaded next.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a payload that is too long; and as [`load`](Self::load), which comes first
    /// where it was not called, and as writes to the base.
    pub async fn store(&mut self, channel: &BaseChannel, payload: &[u8]) -> Result<()> {
        if self.newest.is_none() {
            self.load(channel).await?;
        }
        let (sequence, at) = self.newest.map_or((1, 0), |(newest, at)| (newest + 1, 1 - at));
        self.write(channel, payload, sequence, at).await
    }

    /// Writes both copies, whatever was there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a payload that is too long, and as writes to the base.
    pub async fn format(&mut self, channel: &BaseChannel, payload: &[u8]) -> Result<()> {
        self.write(channel, payload, 1, 0).await?;
        self.write(channel, payload, 2, 1).await
    }

    async fn write(
        &mut self,
        channel: &BaseChannel,
        payload: &[u8],
        sequence: u64,
        at: usize,
    ) -> Result<()> {
        let base = channel.base();
        if payload.len() > self.room {
            return Err(Error::Invalid(format!(
                "a superblock of {} bytes for bdev {}; there is room for {}",
                payload.len(),
                base.name(),
                self.room
            )));
        }
        let size = base.block_size();
        let blocks = self.copy_blocks(size);
        let bytes = (blocks * u64::from(size)) as usize;
        let mut copy = DmaBuf::alloc_zeroed(bytes, base.alignment().max(512))?;
        self.seal(&mut copy, sequence, payload);
        channel.write_blocks(&mut copy, self.first_block + at as u64 * blocks, blocks).await?;
        if base.supports(super::IoKind::Flush) {
            channel.flush_blocks(self.first_block, 2 * blocks).await?;
        }
        self.newest = Some((sequence, at));
        Ok(())
    }

    /// Fills in a copy, which is zeroed and long enough.
    fn seal(&self, copy: &mut [u8], sequence: u64, payload: &[u8]) {
        copy[..8].copy_from_slice(&self.magic);
        copy[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        copy[16..24].copy_from_slice(&self.version.to_le_bytes());
        copy[24..HEADER].copy_from_slice(&sequence.to_le_bytes());
        copy[HEADER..][..payload.len()].copy_from_slice(payload);
        let crc = crc32c::crc32c(&copy[12..]);
        copy[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    fn open<'a>(&self, copy: &'a [u8]) -> Copy<'a> {
        let word = |at: usize| copy[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let long = |at: usize| copy[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if copy.len() < HEADER || copy[..8] != self.magic {
            return Copy::Foreign;
        }
        let payload = copy[HEADER..].get(..word(12) as usize);
        match payload {
            Some(payload) if word(8) == crc32c::crc32c(&copy[12..]) => {
                Copy::Whole { version: long(16), sequence: long(24), payload }
            }
            _ => Copy::Torn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock::new(*b"TEST 001", 2, 0, 512 - HEADER)
    }

    fn copy(sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut copy = vec![0; 512];
        superblock().seal(&mut copy, sequence, payload);
        copy
    }

    fn choose(first: &[u8], second: &[u8]) -> Result<Option<Vec<u8>>, String> {
        superblock().choose([first, second])
    }

    #[test]
    fn the_newest_whole_copy_counts() {
        let (old, new) = (copy(4, b"old"), copy(5, b"newer"));
        assert_eq!(choose(&old, &new).unwrap().unwrap(), b"newer");
        assert_eq!(choose(&new, &old).unwrap().unwrap(), b"newer");
        assert_eq!(choose(&[0; 512], &old).unwrap().unwrap(), b"old");
        assert_eq!(choose(&[0; 512], &[7; 512]), Ok(None));
        assert_eq!(choose(&[], &[]), Ok(None));
    }

    /// Whatever bits are wrong, it is the other copy that counts.
    #[test]
    fn damage_is_seen() {
        let (old, new) = (copy(4, b"old"), copy(5, b"newer"));
        for bit in 0..new.len() * 8 {
            let mut damaged = new.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(choose(&old, &damaged).unwrap().unwrap(), b"old", "bit {bit}");
        }
        let mut damaged = old;
        damaged[100] ^= 1;
        assert!(choose(&damaged, &damaged).unwrap_err().contains("damaged"));
    }

    /// A write that was cut off leaves the older copy or the new one.
    #[test]
    fn a_torn_write_is_seen() {
        let (before, old, new) = (copy(3, b"before"), copy(4, b"old"), copy(5, &[9; 400]));
        for cut in 0..=new.len() {
            let torn = [&new[..cut], &before[cut..]].concat();
            let found = choose(&torn, &old).unwrap().unwrap();
            assert_eq!(found == [9; 400], torn == new, "cut at {cut}");
            assert!(found == b"old" || torn == new, "cut at {cut}");
        }
    }

    #[test]
    fn what_lies_is_refused() {
        let mut lies = copy(1, b"short");
        lies[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let crc = crc32c::crc32c(&lies[12..]);
        lies[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(choose(&lies, &[0; 512]).unwrap_err().contains("damaged"));

        let mut later = vec![0; 512];
        Superblock::new(*b"TEST 001", 3, 0, 100).seal(&mut later, 9, b"later");
        assert!(choose(&copy(1, b"ours"), &later).unwrap_err().contains("version 3"));
    }

    #[test]
    fn its_size_is_whole_blocks() {
        let superblock = |room| Superblock::new([0; 8], 1, 0, room);
        assert_eq!(superblock(512 - HEADER).num_blocks(512), 2);
        assert_eq!(superblock(512 - HEADER + 1).num_blocks(512), 4);
        assert_eq!(superblock(1).num_blocks(4096), 2);
    }
}
