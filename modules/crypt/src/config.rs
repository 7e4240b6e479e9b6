//! What a bdev is made with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use spdk_plugin::{Error, Result, keyring};
use spdk_plugin_crypt_core as core;
use spdk_plugin_crypt_core::Key;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The parameters of `bdev_crypt_create`. The key itself is never one of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) base_bdev_name: String,
    #[serde(default)]
    pub(crate) cipher: Cipher,
    /// Of SPDK's keyring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// By default one that the base's determines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uuid: Option<Uuid>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) enum Cipher {
    #[serde(rename = "AES-XTS-128")]
    Aes128,
    #[default]
    #[serde(rename = "AES-XTS-256")]
    Aes256,
}

impl Config {
    /// Reads the key.
    pub(crate) fn key(&self) -> Result<Key> {
        let cipher = match self.cipher {
            Cipher::Aes128 => core::Cipher::Aes128,
            Cipher::Aes256 => core::Cipher::Aes256,
        };
        let bad = |why: String| Error::Invalid(format!("bdev {}: {why}", self.name));
        match (&self.key_name, &self.key_file) {
            (Some(name), None) => {
                // What is longer than this is no key.
                let mut text = Zeroizing::new([0; 4096]);
                let len = keyring::read(name, &mut *text)?;
                let text = text.get(..len).unwrap_or_default();
                Key::parse(cipher, text, &format!("key {name:?} of the keyring"))
                    .map_err(|error| bad(error.to_string()))
            }
            (None, Some(file)) => Key::read(cipher, file).map_err(|error| bad(error.to_string())),
            (None, None) => Err(bad("it has no key; give key_name or key_file".into())),
            (Some(_), Some(_)) => {
                Err(bad("it has two keys; give key_name or key_file, not both".into()))
            }
        }
    }
}
