//! Keys: where they come from, and what makes one good.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zeroize::Zeroizing;

/// The longest key in bytes.
const LONGEST: usize = 64;

/// What a key is for. The number is the strength in bits; the key has twice as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-XTS with two keys of 128 bits.
    Aes128,
    /// AES-XTS with two keys of 256 bits.
    Aes256,
}

impl Cipher {
    /// The length of both keys together in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 32,
            Self::Aes256 => 64,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "AES-XTS-128",
            Self::Aes256 => "AES-XTS-256",
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cipher {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Aes128, Self::Aes256]
            .into_iter()
            .find(|cipher| cipher.name() == name)
            .ok_or_else(|| format!("cipher is {name:?}; it must be AES-XTS-128 or AES-XTS-256"))
    }
}

/// Why there is no key. No message holds any of what was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The name of the file would mean another one where the process is started elsewhere.
    #[error("the path of the key file {0} is not absolute; it must begin with /")]
    NotAbsolute(PathBuf),
    /// The file cannot be read.
    #[error("the key file {path} cannot be read: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is a directory, a device, a pipe...
    #[error("the key file {0} is no regular file")]
    NotRegular(PathBuf),
    /// Someone else could put another key there.
    #[error(
        "the key file {path} belongs to user {owner}; it must belong to user {user}, as whom this \
         process runs, or to root"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// Others may read it.
    #[error(
        "the key file {path} has mode {mode:04o}, which lets others than its owner use it; \
         `chmod 600` mends it"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is too much or too little of it.
    #[error(
        "{origin} has {len} bytes; {cipher} takes a key of {} bytes or of {} hexadecimal digits",
        .cipher.key_len(), 2 * .cipher.key_len()
    )]
    Length {
        /// Where the key is from.
        origin: String,
        /// How long it is. What is longer than any key counts as one byte longer.
        len: usize,
        /// What it was to be for.
        cipher: Cipher,
    },
    /// It has the length of a key in hexadecimal, and is none.
    #[error("{origin} has the length of a key in hexadecimal, and holds other characters")]
    NotHex {
        /// Where the key is from.
        origin: String,
    },
    /// These would be the keys of a cipher of half the strength.
    #[error(
        "{origin} holds {} hexadecimal digits, which are a key of {} bytes; {cipher} takes {} digits",
        .cipher.key_len(), .cipher.key_len() / 2, 2 * .cipher.key_len()
    )]
    HalfAKey {
        /// Where the key is from.
        origin: String,
        /// What it was to be for.
        cipher: Cipher,
    },
    /// FIPS 140 asks for two different keys; XTS with equal ones is weak.
    #[error("the two halves of {origin} are equal; AES-XTS needs two different keys")]
    EqualHalves {
        /// Where the key is from.
        origin: String,
    },
}

/// A key for AES-XTS: the key of the data, and the key of the tweaks behind it. It is overwritten when it
/// is dropped, and nothing shows it.
pub struct Key {
    cipher: Cipher,
    /// In one place: a move of the key leaves no copy behind.
    bytes: Box<Zeroizing<[u8; LONGEST]>>,
}

impl Key {
    /// The most bytes that a key can take where it is kept: in hexadecimal, with the end of a line.
    pub const LONGEST_TEXT: usize = 2 * LONGEST + 2;

    /// The key in `material`: its bytes, or hexadecimal digits, which an end of line may follow. `origin`
    /// says in errors where it is from: `"key file /etc/key"`.
    ///
    /// # Errors
    /// When it is no key for `cipher`, or its halves are equal.
    pub fn parse(cipher: Cipher, material: &[u8], origin: &str) -> Result<Self, KeyError> {
        let (len, origin) = (cipher.key_len(), || origin.to_owned());
        let mut bytes = Box::new(Zeroizing::new([0; LONGEST]));
        let line = material.strip_suffix(b"\n").unwrap_or(material);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_hex = |text: &[u8]| text.iter().all(u8::is_ascii_hexdigit);
        if line.len() == len && is_hex(line) {
            return Err(KeyError::HalfAKey { origin: origin(), cipher });
        } else if material.len() == len {
            bytes[..len].copy_from_slice(material);
        } else if line.len() == 2 * len {
            base16ct::mixed::decode(line, &mut bytes[..len])
                .map_err(|_| KeyError::NotHex { origin: origin() })?;
        } else {
            return Err(KeyError::Length { origin: origin(), len: material.len(), cipher });
        }
        let (data, tweak) = bytes[..len].split_at(len / 2);
        if data.iter().zip(tweak).fold(0, |different, (a, b)| different | (a ^ b)) == 0 {
            return Err(KeyError::EqualHalves { origin: origin() });
        }
        Ok(Self { cipher, bytes })
    }

    /// The key in a file: as for [`parse`](Self::parse). The file must be a regular one, of this process'
    /// user or root, that nobody else may use.
    ///
    /// # Errors
    /// When it is not, cannot be read, or has no such key.
    pub fn read(cipher: Cipher, path: &Path) -> Result<Self, KeyError> {
        if !path.is_absolute() {
            return Err(KeyError::NotAbsolute(path.into()));
        }
        let failed = |error| KeyError::Io { path: path.into(), error };
        // Opening a pipe does not wait for its other end.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file =
            OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
        // What is checked is what was opened, whatever the name stands for by now.
        check(path, &file)?;
        let mut text = Zeroizing::new([0; Self::LONGEST_TEXT + 1]);
        let mut len = 0;
        loop {
            match (&file).read(&mut text[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Self::parse(cipher, &text[..len], &format!("the key file {}", path.display()))
    }

    /// What it is for.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The key of the data and the key of the tweaks.
    pub(crate) fn halves(&self) -> (&[u8], &[u8]) {
        let len = self.cipher.key_len();
        self.bytes[..len].split_at(len / 2)
    }
}

fn check(path: &Path, file: &File) -> Result<(), KeyError> {
    let meta = file.metadata().map_err(|error| KeyError::Io { path: path.into(), error })?;
    let (path, user) = (path.to_owned(), rustix::process::geteuid().as_raw());
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    if !meta.is_file() {
        Err(KeyError::NotRegular(path))
    } else if owner != user && owner != 0 {
        Err(KeyError::Owner { path, owner, user })
    } else if mode & 0o077 != 0 {
        Err(KeyError::Mode { path, mode })
    } else {
        Ok(())
    }
}

/// Says nothing of the key but what it is for.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.cipher)
    }
}

#[cfg(test)]
mod tests;
