//! How a client reaches the methods of its own process.
//!
//! From 24.05 on a process may have any number of servers. Each connection gets one, on a socket in a
//! directory that is this user's alone, polled on the app thread for as long as the connection lasts. So
//! the program need not serve JSON-RPC to anyone; where it does, SPDK does not answer there while it loads
//! its configuration. Before 24.05 SPDK has one server at a time, and the client uses that.

use std::cell::RefCell;
use std::ffi::{CString, OsString, c_void};
use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use spdk_plugin_sys as sys;

use crate::error::Error;
use crate::runtime::{PollStatus, Poller, send_to_app};

/// How often the app thread looks for requests.
const PERIOD: Duration = Duration::from_millis(1);

/// A server that lasts as long as this.
pub(super) struct Private {
    dir: Arc<PathBuf>,
}

impl Private {
    /// Starts a server; `None` where SPDK is too old for it.
    pub(super) fn start() -> io::Result<Option<Self>> {
        // SAFETY: asks whether symbols are there.
        if !unsafe { sys::spdkp_rpc_can_serve() } {
            return Ok(None);
        }
        let dir = Arc::new(private_dir()?);
        let private = Self { dir: Arc::clone(&dir) };
        let path = CString::new(private.path().as_os_str().as_bytes())?;
        // SAFETY: the path ends in NUL; SPDK copies it.
        let server = NonNull::new(unsafe { sys::spdkp_rpc_serve(path.as_ptr()) });
        let Some(raw) = server else {
            let _ = fs::remove_dir(&*dir);
            let what = format!("SPDK cannot listen in {}, and its log says why", dir.display());
            return Err(io::Error::other(what));
        };
        let server = Server { raw, dir: dir.to_path_buf() };
        let wanted = Arc::downgrade(&dir);
        let sent = send_to_app(Box::new(move || server.poll_while(wanted)));
        sent.map_err(|error: Error| io::Error::from_raw_os_error(error.errno()))?;
        Ok(Some(private))
    }

    /// Where the server listens.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("socket")
    }
}

/// A new directory that none but this user can look into.
fn private_dir() -> io::Result<PathBuf> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let base = std::env::temp_dir();
    loop {
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let dir = base.join(format!("spdk_plugin_rpc.{}.{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// SPDK's server. Whoever has it is the only one who uses it.
struct Server {
    raw: NonNull<c_void>,
    dir: PathBuf,
}

// SAFETY: the server has no ties to a thread; it is polled on the app thread, by its one owner.
unsafe impl Send for Server {}

impl Server {
    /// On the app thread.
    fn poll(&self) {
        // SAFETY: the server lives as long as this, and nobody else uses it.
        unsafe { sys::spdkp_rpc_serve_poll(self.raw.as_ptr()) };
    }

    /// Polls it on the app thread, where methods run, until nobody wants it any more.
    fn poll_while(self, wanted: Weak<PathBuf>) {
        let poller = Rc::new(RefCell::new(None));
        let own = Rc::clone(&poller);
        let registered = Poller::every(PERIOD, move || {
            if wanted.strong_count() == 0 {
                // The server goes with this function.
                drop(own.take());
            } else {
                self.poll();
            }
            PollStatus::Idle
        });
        match registered {
            Ok(registered) => drop(poller.replace(Some(registered))),
            Err(error) => log::error!("JSON-RPC within the program: {error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: made by `start`, and ended once. Requests that are not answered yet know then that
        // nobody waits.
        unsafe { sys::spdkp_rpc_serve_end(self.raw.as_ptr()) };
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The path on which SPDK serves JSON-RPC in this process.
///
/// SPDK does not tell it. But to such a socket belongs a lock file of its name, which SPDK keeps open: it
/// is the listening socket in the system's list whose lock file this process has open.
pub(super) fn served_at() -> io::Result<PathBuf> {
    let listening = fs::read("/proc/self/net/unix")?;
    let locks: Vec<(PathBuf, Metadata)> = listening
        .split(|byte| *byte == b'\n')
        .filter_map(listening_at)
        .filter_map(|path| fs::metadata(lock_of(&path)).ok().map(|lock| (path, lock)))
        .collect();
    let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let open = if locks.is_empty() { None } else { Some(fs::read_dir("/proc/self/fd")?) };
    for file in open.into_iter().flatten().flatten() {
        let Ok(file) = fs::metadata(file.path()) else { continue };
        if let Some((path, _)) = locks.iter().find(|(_, lock)| same(lock, &file)) {
            return Ok(path.clone());
        }
    }
    let what = "this program serves no JSON-RPC (yet); give it a socket with -r";
    Err(io::Error::new(ErrorKind::NotFound, what))
}

fn lock_of(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

/// The path in a line of the system's list of Unix sockets, if it is that of a listening one.
fn listening_at(line: &[u8]) -> Option<PathBuf> {
    const ACCEPTS: u32 = 0x1_0000;
    let mut rest = line;
    let mut field = || {
        rest = rest.trim_ascii_start();
        let (field, after) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
        rest = after;
        std::str::from_utf8(field).ok()
    };
    // Number, references, protocol, flags, type, state, inode; one space; the path as it is.
    let [_, _, _, flags, _, _, _] = [(); 7].map(|()| field());
    let listens = u32::from_str_radix(flags?, 16).ok()? & ACCEPTS != 0;
    let path = rest.strip_prefix(b" ").filter(|path| !path.is_empty() && path[0] != b'@')?;
    listens.then(|| OsString::from_vec(path.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::{listening_at, lock_of, served_at};

    #[test]
    fn the_system_list_is_understood() {
        let listening = |line: &str| listening_at(line.as_bytes());
        let line = "00000000c5ab1c00: 00000002 00000000 00010000 0001 01    52 /tmp/a  b";
        assert_eq!(listening(line).unwrap(), Path::new("/tmp/a  b"));
        assert_eq!(listening(&line.replace("00010000", "00000000")), None);
        assert_eq!(listening(&line.replace("/tmp/a  b", "@abstract")), None);
        assert_eq!(listening(line.strip_suffix(" /tmp/a  b").unwrap()), None);
        assert_eq!(listening("Num       RefCount Protocol Flags    Type St Inode Path"), None);
    }

    #[test]
    fn the_served_at_is_the_one_with_a_lock() {
        let dir = std::env::temp_dir().join(format!("spdk-plugin-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (ours, other) = (dir.join("our server"), dir.join("other"));
        let _listeners = [&ours, &other].map(|path| UnixListener::bind(path).unwrap());
        drop(File::create(lock_of(&other)).unwrap());
        assert_eq!(served_at().unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let _lock = File::create(lock_of(&ours)).unwrap();
        assert_eq!(served_at().unwrap(), ours);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
