//! AES-XTS (IEEE 1619) over the blocks of a disk, and its keys. Knows nothing of SPDK.
//!
//! The tweak of a block is its number, as 128 bits in little-endian order: what Linux's dm-crypt calls
//! `aes-xts-plain64` with a sector of the block's size.
//!
//! The cipher itself is the crate `aes`, which uses the processor's AES instructions where there are any
//! and otherwise code that takes the same time for all data. It is called for many blocks at once; here
//! is what XTS adds around it.

#![forbid(unsafe_code)]

mod key;
mod pieces;
mod tweak;
mod xts;

pub use key::{Cipher, Key, KeyError};
pub use pieces::{Pieces, decrypt, encrypt, equals};
pub use xts::Xts;

/// Whether the processor's AES instructions are in use.
pub fn is_hardware() -> bool {
    aes::hardware_accelerated()
}
