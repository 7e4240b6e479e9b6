//! XTS.

use std::fmt;

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes128, Aes256};
use region::LockGuard;

use crate::key::{Cipher, Key};
use crate::tweak::{Block, Tweak};

/// AES blocks that go through the cipher at once: enough for the widest vectors, and few enough that they
/// and their tweaks stay in the first-level cache.
const BATCH: usize = 128;
/// AES blocks whose tweaks are made at once, in four rows of eight that do not wait for one another.
const UNIT: usize = 32;
/// Disk blocks whose first tweaks are made at once.
const STARTS: usize = 16;

/// AES-XTS with one key, for disk blocks of one size.
///
/// The round keys lie in pages of their own that are not swapped out where the system lets the process
/// lock memory, and are overwritten when they go.
pub struct Xts {
    keys: Box<Pages>,
    lock: Option<LockGuard>,
    block_size: usize,
}

/// Begins at a page and fills whole pages: unlocking it unlocks nothing else.
#[repr(align(4096))]
struct Pages(Keys);

#[allow(clippy::large_enum_variant, reason = "it has pages of its own in any case")]
enum Keys {
    Aes128(Pair<Aes128>),
    Aes256(Pair<Aes256>),
}

struct Pair<C> {
    data: C,
    tweak: C,
}

impl Xts {
    /// For disk blocks of `block_size` bytes, a multiple of 16.
    ///
    /// # Panics
    /// If it is not.
    pub fn new(key: &Key, block_size: usize) -> Self {
        assert!(
            block_size > 0 && block_size.is_multiple_of(16),
            "blocks of {block_size} bytes are no multiple of 16"
        );
        let (data, tweak) = key.halves();
        let mut keys = Box::new(Pages(match key.cipher() {
            Cipher::Aes128 => Keys::Aes128(Pair::new(&[0; 16], &[0; 16])),
            Cipher::Aes256 => Keys::Aes256(Pair::new(&[0; 32], &[0; 32])),
        }));
        let lock = region::lock((&raw const *keys).cast::<u8>(), size_of::<Pages>()).ok();
        // The true keys only come now that the memory is locked.
        match &mut keys.0 {
            Keys::Aes128(pair) => *pair = Pair::new(data, tweak),
            Keys::Aes256(pair) => *pair = Pair::new(data, tweak),
        }
        Self { keys, lock, block_size }
    }

    /// Whether the system lets the keys lie in memory that is not swapped out.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// The size of a disk block in bytes.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Encrypts the disk blocks in `from`, of which the first one has the number `first`, into `to`.
    ///
    /// # Panics
    /// If the two differ in length, or do not hold whole blocks.
    pub fn encrypt(&self, first: u64, from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        self.encrypt_from(first.into(), Copied { from: blocks(from), to: blocks_mut(to) });
    }

    /// Encrypts the disk blocks in `data`, of which the first one has the number `first`.
    ///
    /// # Panics
    /// If they are not whole.
    pub fn encrypt_in_place(&self, first: u64, data: &mut [u8]) {
        self.encrypt_from(first.into(), InPlace(blocks_mut(data)));
    }

    /// Decrypts the disk blocks in `data`, of which the first one has the number `first`.
    ///
    /// # Panics
    /// If they are not whole.
    pub fn decrypt_in_place(&self, first: u64, data: &mut [u8]) {
        self.decrypt_from(first.into(), InPlace(blocks_mut(data)));
    }

    fn encrypt_from<'a>(&self, first: u128, data: impl Data<'a>) {
        match &self.keys.0 {
            Keys::Aes128(pair) => pair.each_batch(first, self.block_size, data, encrypt_batch),
            Keys::Aes256(pair) => pair.each_batch(first, self.block_size, data, encrypt_batch),
        }
    }

    fn decrypt_from<'a>(&self, first: u128, data: impl Data<'a>) {
        match &self.keys.0 {
            Keys::Aes128(pair) => pair.each_batch(first, self.block_size, data, decrypt_batch),
            Keys::Aes256(pair) => pair.each_batch(first, self.block_size, data, decrypt_batch),
        }
    }
}

/// The keys are overwritten while they are still locked, which is before they are freed.
impl Drop for Xts {
    fn drop(&mut self) {
        self.keys.0 = Keys::Aes128(Pair::new(&[0; 16], &[0; 16]));
        self.lock = None;
    }
}

/// Says nothing of the key.
impl fmt::Debug for Xts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cipher = match self.keys.0 {
            Keys::Aes128(_) => Cipher::Aes128,
            Keys::Aes256(_) => Cipher::Aes256,
        };
        write!(f, "Xts({cipher}, blocks of {} bytes)", self.block_size)
    }
}

fn encrypt_batch(cipher: &impl BlockCipherEncrypt<BlockSize = U16>, batch: &mut [Block]) {
    cipher.encrypt_blocks(Array::cast_slice_from_core_mut(batch));
}

fn decrypt_batch(cipher: &impl BlockCipherDecrypt<BlockSize = U16>, batch: &mut [Block]) {
    cipher.decrypt_blocks(Array::cast_slice_from_core_mut(batch));
}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit> Pair<C> {
    fn new(data: &[u8], tweak: &[u8]) -> Self {
        let cipher =
            |key| C::new_from_slice(key).expect("a key has the length that its cipher takes");
        Self { data: cipher(data), tweak: cipher(tweak) }
    }

    /// Takes `data` through `cipher` batch by batch, each AES block XORed with its tweak before and after.
    fn each_batch<'a>(
        &self,
        first: u128,
        block_size: usize,
        mut data: impl Data<'a>,
        cipher: impl Fn(&C, &mut [Block]),
    ) {
        let per_block = block_size / size_of::<Block>();
        assert!(data.len().is_multiple_of(per_block), "part of a block cannot be encrypted");
        let mut starts =
            Starts { cipher: &self.tweak, next: first, made: [[0; 16]; STARTS], at: STARTS };
        let mut tweaks = [[0; 16]; BATCH];
        // The tweak of the next AES block, and how many of its disk block are still to come.
        let (mut tweak, mut left) = (Tweak::new([0; 16]), 0);
        while data.len() > 0 {
            let mut batch = data.split_off(BATCH);
            let count = batch.len();
            let mut at = 0;
            while at < count {
                if left == 0 {
                    (tweak, left) = (starts.next((data.len() + count - at) / per_block), per_block);
                }
                let run = left.min(count - at);
                tweak = batch.whiten(at, tweak, &mut tweaks[at..at + run]);
                (at, left) = (at + run, left - run);
            }
            let batch = batch.into_blocks();
            cipher(&self.data, batch);
            for (block, tweak) in batch.iter_mut().zip(&tweaks) {
                *block = Tweak::new(*tweak).xor(block);
            }
        }
    }
}

/// The first tweak of each disk block, which is its encrypted number.
struct Starts<'a, C> {
    cipher: &'a C,
    next: u128,
    made: [Block; STARTS],
    at: usize,
}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>> Starts<'_, C> {
    /// The next one, of which at least so many will still be asked for.
    fn next(&mut self, coming: usize) -> Tweak {
        if self.at == STARTS {
            let count = coming.clamp(1, STARTS);
            self.at = STARTS - count;
            for start in &mut self.made[self.at..] {
                *start = self.next.to_le_bytes();
                self.next = self.next.wrapping_add(1);
            }
            self.cipher.encrypt_blocks(Array::cast_slice_from_core_mut(&mut self.made[self.at..]));
        }
        self.at += 1;
        Tweak::new(self.made[self.at - 1])
    }
}

/// AES blocks from a place, on their way through the cipher at that place or another.
trait Data<'a>: Sized {
    fn len(&self) -> usize;

    /// Takes off the first `count` blocks, or all when there are fewer.
    fn split_off(&mut self, count: usize) -> Self;

    /// XORs the blocks from `at` on with the tweaks that begin with `tweak` and are noted in `tweaks`, and
    /// gives the one that follows.
    fn whiten(&mut self, at: usize, tweak: Tweak, tweaks: &mut [Block]) -> Tweak;

    /// Where the blocks are when all were whitened.
    fn into_blocks(self) -> &'a mut [Block];
}

struct InPlace<'a>(&'a mut [Block]);

struct Copied<'a> {
    from: &'a [Block],
    to: &'a mut [Block],
}

impl<'a> Data<'a> for InPlace<'a> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn split_off(&mut self, count: usize) -> Self {
        let count = count.min(self.len());
        let (head, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        Self(head)
    }

    fn whiten(&mut self, at: usize, mut tweak: Tweak, tweaks: &mut [Block]) -> Tweak {
        let data = &mut self.0[at..at + tweaks.len()];
        let (units, rest) = data.as_chunks_mut::<UNIT>();
        let (unit_tweaks, rest_tweaks) = tweaks.as_chunks_mut::<UNIT>();
        for (unit, tweaks) in units.iter_mut().zip(unit_tweaks) {
            tweak = each_tweak(tweak, |i, tweak| {
                tweaks[i] = tweak.bytes();
                unit[i] = tweak.xor(&unit[i]);
            });
        }
        for (block, noted) in rest.iter_mut().zip(rest_tweaks) {
            (*noted, *block) = (tweak.bytes(), tweak.xor(block));
            tweak = tweak.doubled();
        }
        tweak
    }

    fn into_blocks(self) -> &'a mut [Block] {
        self.0
    }
}

impl<'a> Data<'a> for Copied<'a> {
    fn len(&self) -> usize {
        self.to.len()
    }

    fn split_off(&mut self, count: usize) -> Self {
        let count = count.min(self.len());
        let (from, from_rest) = self.from.split_at(count);
        let (to, to_rest) = std::mem::take(&mut self.to).split_at_mut(count);
        (self.from, self.to) = (from_rest, to_rest);
        Self { from, to }
    }

    fn whiten(&mut self, at: usize, mut tweak: Tweak, tweaks: &mut [Block]) -> Tweak {
        let range = at..at + tweaks.len();
        let (from, from_rest) = self.from[range.clone()].as_chunks::<UNIT>();
        let (to, to_rest) = self.to[range].as_chunks_mut::<UNIT>();
        let (unit_tweaks, rest_tweaks) = tweaks.as_chunks_mut::<UNIT>();
        for ((from, to), tweaks) in from.iter().zip(to).zip(unit_tweaks) {
            tweak = each_tweak(tweak, |i, tweak| {
                tweaks[i] = tweak.bytes();
                to[i] = tweak.xor(&from[i]);
            });
        }
        for ((from, to), noted) in from_rest.iter().zip(to_rest).zip(rest_tweaks) {
            (*noted, *to) = (tweak.bytes(), tweak.xor(from));
            tweak = tweak.doubled();
        }
        tweak
    }

    fn into_blocks(self) -> &'a mut [Block] {
        self.to
    }
}

/// Calls `each` with the tweaks of a unit and their places, and gives the one that follows.
#[inline(always)]
fn each_tweak(tweak: Tweak, mut each: impl FnMut(usize, Tweak)) -> Tweak {
    const ROW: usize = UNIT / 4;
    let mut rows = [tweak; 4];
    for row in 1..4 {
        rows[row] = rows[row - 1].times_x8();
    }
    for column in 0..ROW {
        for (row, tweak) in rows.iter_mut().enumerate() {
            each(row * ROW + column, *tweak);
            *tweak = tweak.doubled();
        }
    }
    rows[3]
}

fn blocks(data: &[u8]) -> &[Block] {
    let (blocks, rest) = data.as_chunks();
    assert!(rest.is_empty(), "part of a block cannot be encrypted");
    blocks
}

fn blocks_mut(data: &mut [u8]) -> &mut [Block] {
    let (blocks, rest) = data.as_chunks_mut();
    assert!(rest.is_empty(), "part of a block cannot be encrypted");
    blocks
}

#[cfg(test)]
mod tests;
