use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Cipher, Key, KeyError};

fn raw(cipher: Cipher) -> Vec<u8> {
    (0..cipher.key_len() as u8).map(|i| i ^ 0xa5).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(key: &Key) -> Vec<u8> {
    let (data, tweak) = key.halves();
    [data, tweak].concat()
}

/// The message, which must not hold any of the key.
fn refused(result: Result<Key, KeyError>, material: &[u8]) -> String {
    let error = result.expect_err("it is no good key");
    let (text, debug) = (error.to_string(), format!("{error:?}"));
    for part in material.windows(8) {
        for part in [String::from_utf8_lossy(part).into_owned(), hex(part), format!("{part:?}")] {
            assert!(!text.contains(&part) && !debug.contains(&part), "{text}");
        }
    }
    text
}

fn parse(cipher: Cipher, material: impl AsRef<[u8]>) -> Result<Key, KeyError> {
    Key::parse(cipher, material.as_ref(), "key \"k\"")
}

#[test]
fn bytes_and_digits_are_the_same_key() {
    for cipher in [Cipher::Aes128, Cipher::Aes256] {
        let raw = raw(cipher);
        let text = hex(&raw);
        let texts = [text.clone(), text.to_uppercase(), format!("{text}\n"), format!("{text}\r\n")];
        for key in texts.into_iter().map(String::into_bytes).chain([raw.clone()]) {
            let key = parse(cipher, key).unwrap();
            assert_eq!((key.cipher(), bytes(&key)), (cipher, raw.clone()));
        }
    }
}

#[test]
fn what_is_no_key_is_refused() {
    let (short, long) = (raw(Cipher::Aes128), raw(Cipher::Aes256));
    let refused = |cipher, material: &[u8]| refused(parse(cipher, material), material);
    let takes = "AES-XTS-256 takes a key of 64 bytes or of 128 hexadecimal digits";
    assert_eq!(refused(Cipher::Aes256, &short), format!("key \"k\" has 32 bytes; {takes}"));
    assert_eq!(refused(Cipher::Aes256, b""), format!("key \"k\" has 0 bytes; {takes}"));
    assert_eq!(refused(Cipher::Aes256, &[9; 500]), format!("key \"k\" has 500 bytes; {takes}"));
    assert!(refused(Cipher::Aes128, &[&short[..], b"\n"].concat()).contains("has 33 bytes"));
    assert!(refused(Cipher::Aes128, &long).contains("length of a key in hexadecimal"));
    let half = refused(Cipher::Aes256, hex(&short).as_bytes());
    assert!(half.contains("64 hexadecimal digits, which are a key of 32 bytes"), "{half}");
    let line = refused(Cipher::Aes256, format!("{}\n", hex(&short)).as_bytes());
    assert_eq!(line, half);
    let mut text = hex(&long).into_bytes();
    text[77] = b'g';
    assert!(refused(Cipher::Aes256, &text).contains("holds other characters"));
    for cipher in [Cipher::Aes128, Cipher::Aes256] {
        let half = &long[..cipher.key_len() / 2];
        assert!(refused(cipher, &half.repeat(2)).contains("two halves of key \"k\" are equal"));
        assert!(refused(cipher, hex(half).repeat(2).as_bytes()).contains("are equal"));
    }
}

#[test]
fn nothing_shows_a_key() {
    let key = parse(Cipher::Aes256, raw(Cipher::Aes256)).unwrap();
    assert_eq!(format!("{key:?}"), "Key(AES-XTS-256)");
}

fn file(dir: &TempDir, content: &[u8], mode: u32) -> PathBuf {
    let path = dir.path().join("key");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_file_of_ones_own_is_read() {
    let (dir, key) = (tempfile::tempdir().unwrap(), raw(Cipher::Aes256));
    for mode in [0o400, 0o600, 0o700] {
        let path = file(&dir, hex(&key).as_bytes(), mode);
        assert_eq!(bytes(&Key::read(Cipher::Aes256, &path).unwrap()), key);
        // A link is as good as what it leads to.
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(bytes(&Key::read(Cipher::Aes256, &link).unwrap()), key);
        fs::remove_file(&link).unwrap();
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_file_that_others_may_use_is_refused() {
    let (dir, key) = (tempfile::tempdir().unwrap(), raw(Cipher::Aes256));
    let path = file(&dir, &key, 0o600);
    for mode in [0o640, 0o604, 0o660, 0o610, 0o601, 0o620, 0o602, 0o644, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let text = refused(Key::read(Cipher::Aes256, &path), &key);
        let (path, chmod) = (path.display(), "`chmod 600` mends it");
        assert!(text.starts_with(&format!("the key file {path} has mode {mode:04o}")), "{text}");
        assert!(text.ends_with(chmod), "{text}");
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (dir, key) = (tempfile::tempdir().unwrap(), raw(Cipher::Aes256));
    let path = file(&dir, &key, 0o600);
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    let text = refused(Key::read(Cipher::Aes256, &path), &key);
    assert!(text.contains("belongs to user 12345; it must belong to user 0"), "{text}");
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| refused(Key::read(Cipher::Aes256, path), b"");
    assert!(refused(dir.path()).contains("is no regular file"));
    assert!(refused(Path::new("/dev/null")).contains("is no regular file"));
    let missing = refused(&dir.path().join("missing"));
    assert!(missing.contains("cannot be read: No such file"), "{missing}");
    assert!(refused(Path::new("key")).contains("the key file key is not absolute"));
    let pipe = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    assert!(refused(&pipe).contains("is no regular file"));
    let large = file(&dir, &[b'7'; 1 << 20], 0o600);
    assert!(refused(&large).contains("has 131 bytes"), "{}", refused(&large));
}
