//! The sockets of the client, none of which ever waits.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

/// Where a server is.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// In this process, at whatever path.
    Local,
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A connection, or one that is about to be.
pub(super) struct Socket {
    socket: socket2::Socket,
    to: SockAddr,
    connected: bool,
    /// Nobody but this process may be at the other end.
    local: bool,
}

impl Socket {
    /// A socket that [`connect`](Self::connect) connects.
    pub(super) fn new(address: &Address) -> io::Result<Self> {
        let (domain, to) = match address {
            Address::Local => (Domain::UNIX, SockAddr::unix(own_server()?)?),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
            Address::Tcp(address) => (Domain::for_address(*address), (*address).into()),
        };
        let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let local = matches!(address, Address::Local);
        Ok(Self { socket, to, connected: false, local })
    }

    /// Goes on connecting. `WouldBlock`: not yet.
    pub(super) fn connect(&mut self) -> io::Result<()> {
        if self.connected {
            return Ok(());
        }
        let connected = self.socket.connect(&self.to);
        match connected.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) | Err(Some(libc::EISCONN)) => {}
            Err(Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR)) => {
                return Err(ErrorKind::WouldBlock.into());
            }
            // Of a Unix socket: so many wait to be accepted that there is no room for us yet.
            Err(_) => return connected,
        }
        if self.local && peer(&self.socket)? != std::process::id() {
            return Err(io::Error::other("it is another process that serves there"));
        }
        self.connected = true;
        Ok(())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // Not by `write`: the signal would end a program that does not ignore it.
        self.socket.send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(buffer)
    }
}

/// The process that listens at the other end of a Unix socket.
fn peer(socket: &socket2::Socket) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the option's value is a `ucred`, whose length is passed.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(peer.pid.cast_unsigned()) } else { Err(io::Error::last_os_error()) }
}

/// The path on which SPDK serves JSON-RPC in this process.
///
/// SPDK does not tell it. But to each such socket belongs a lock file of its name, which SPDK keeps open: it
/// is the one listening socket in the system's list whose lock file this process has open.
fn own_server() -> io::Result<PathBuf> {
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

    use super::{Address, Socket, listening_at, lock_of, own_server};

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
    fn the_own_server_is_the_one_with_a_lock() {
        let dir = std::env::temp_dir().join(format!("spdk-plugin-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (ours, other) = (dir.join("our server"), dir.join("other"));
        let _listeners = [&ours, &other].map(|path| UnixListener::bind(path).unwrap());
        drop(File::create(lock_of(&other)).unwrap());
        assert_eq!(own_server().unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let _lock = File::create(lock_of(&ours)).unwrap();
        assert_eq!(own_server().unwrap(), ours);
        Socket::new(&Address::Local).unwrap().connect().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
