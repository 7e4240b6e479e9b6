//! The directory a set-up works in, and the step that makes its result a finished copy.
//!
//! ```text
//! <cache>/spdk-plugin/
//!     setup.lock           held by the set-up that is at work
//!     setup.log            of the last set-up
//!     setup/download/      apt's directories and the source archive: kept until a set-up succeeds
//!     setup/work-<pid>/    one run's tree; a run that finds another's removes it
//!     spdk-20.07-1/        a finished copy: only ever appears here by a rename
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{statvfs, syncfs};

use crate::error::{Error, Result};
use crate::run::Interrupt;

/// What a set-up takes at its largest, in bytes.
const NEEDED: u64 = 450 << 20;

/// Exclusive use of the cache directory.
#[derive(Debug)]
pub(crate) struct Stage {
    root: PathBuf,
    work: PathBuf,
    lock: File,
}

impl Stage {
    /// Waits for another set-up to end, then removes what an interrupted one left.
    pub(crate) fn enter(root: &Path, interrupt: &Interrupt) -> Result<Self> {
        check_name(root)?;
        let setup = root.join("setup");
        fs::create_dir_all(&setup).map_err(|error| Error::io("create", &setup, &error))?;
        let lock = lock(&root.join("setup.lock"), interrupt)?;
        let work = setup.join(format!("work-{}", std::process::id()));
        let stage = Stage { root: root.to_owned(), work, lock };
        stage.remove_leftovers();
        fs::create_dir(&stage.work).map_err(|error| Error::io("create", &stage.work, &error))?;
        Ok(stage)
    }

    /// Fails if the disk has clearly too little room.
    pub(crate) fn check_space(&self) -> Result<()> {
        let Ok(disk) = statvfs(&self.root) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = NEEDED.saturating_sub(size(&self.download()));
        if free >= needed {
            return Ok(());
        }
        Err(Error::new(format!(
            "{} has {} MB free and the set-up takes {} MB: free some space or set XDG_CACHE_HOME to a directory on a \
             larger disk, then type `cargo spdk setup` again",
            self.root.display(),
            free >> 20,
            needed >> 20
        )))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("setup.log")
    }

    /// Survives an interrupted set-up.
    pub(crate) fn download(&self) -> PathBuf {
        self.root.join("setup/download")
    }

    /// A directory of this run alone.
    pub(crate) fn work(&self, name: &str) -> Result<PathBuf> {
        let dir = self.work.join(name);
        fs::create_dir_all(&dir).map_err(|error| Error::io("create", &dir, &error))?;
        Ok(dir)
    }

    /// Makes the finished tree `from` appear as `to`, in place of an older one if there is any.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("create", to, &error);
        // After a power cut, too, a tree of that name is whole.
        let dir = File::open(from).map_err(|error| Error::io("read", from, &error))?;
        syncfs(&dir).map_err(|error| failed(error.into()))?;
        if fs::symlink_metadata(to).is_ok() {
            fs::rename(to, self.work.join("old")).map_err(failed)?;
        }
        fs::rename(from, to).map_err(failed)?;
        // The copy is complete whatever becomes of this.
        let _ = fs::remove_dir_all(self.download());
        Ok(())
    }

    fn remove_leftovers(&self) {
        let entries = fs::read_dir(self.root.join("setup")).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with("work-")) {
            // A killed set-up's compilers may still write there for a moment: what stays is removed the next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.work);
        let _ = self.lock.set_len(0);
    }
}

/// The bytes below `dir`, as far as it can be read.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(file) if file.is_dir() => size(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn lock(path: &Path, interrupt: &Interrupt) -> Result<File> {
    let failed = |error: std::io::Error| Error::io("lock", path, &error);
    let mut options = File::options();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if !told {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            eprintln!("Waiting for another `cargo spdk setup` (process {}) to end", holder.trim());
            told = true;
        }
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = file.set_len(0);
    let _ = file.rewind();
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// SPDK's makefiles break in a directory whose name says something to make or to the shell.
fn check_name(root: &Path) -> Result<()> {
    let bad =
        |c: char| c.is_whitespace() || c.is_control() || ":;,#$%&*?[](){}<>|\\^'\"`=!~".contains(c);
    match root.to_str() {
        Some(text) if !text.contains(bad) => Ok(()),
        _ => Err(Error::new(format!(
            "SPDK cannot be built in {}, a path with characters that make does not take: set XDG_CACHE_HOME to a \
             directory with a plain name",
            root.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(root: &Path) -> Stage {
        Stage::enter(root, &Interrupt::listen().unwrap()).unwrap()
    }

    #[test]
    fn leftovers_go_and_downloads_stay() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("setup/work-1/src");
        fs::create_dir_all(&old).unwrap();
        let archive = root.path().join("setup/download/archive");
        fs::create_dir_all(archive.parent().unwrap()).unwrap();
        fs::write(&archive, "half").unwrap();
        let stage = enter(root.path());
        assert!(!old.exists() && archive.exists());
        let work = stage.work("src").unwrap();
        drop(stage);
        assert!(!work.exists() && archive.exists());
    }

    #[test]
    fn a_copy_appears_whole_and_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("copy");
        for content in ["first", "second"] {
            let stage = enter(root.path());
            let from = stage.work("prefix").unwrap();
            fs::write(from.join("file"), content).unwrap();
            assert!(fs::read_to_string(to.join("file")).map_or(true, |old| old != content));
            stage.publish(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(to.join("file")).unwrap(), content);
        }
    }

    #[test]
    fn the_second_waits() {
        let root = tempfile::tempdir().unwrap();
        let first = enter(root.path());
        let path = root.path().to_owned();
        let second = std::thread::spawn(move || drop(enter(&path)));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap();
    }

    #[test]
    fn names_that_make_cannot_take() {
        for name in ["/home/ann b/.cache", "/x:y", "/a$b", "/it's"] {
            let message = check_name(Path::new(name)).unwrap_err().to_string();
            assert!(message.contains("XDG_CACHE_HOME"), "{message}");
        }
        assert!(check_name(Path::new("/home/jürgen/.cache/spdk-plugin_1.0+x")).is_ok());
    }

    #[test]
    fn a_path_that_cannot_be() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Stage::enter(&file.join("sub"), &Interrupt::listen().unwrap()).unwrap_err();
        assert!(error.to_string().contains("XDG_CACHE_HOME"), "{error}");
    }
}
