//! The sockets of the client, none of which ever waits.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use socket2::{Domain, SockAddr, Type};

use super::own::{Private, served_at};

/// Where a server is.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// In this process, wherever.
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
    private: Option<Private>,
}

impl Socket {
    /// A socket that [`connect`](Self::connect) connects.
    pub(super) fn new(address: &Address) -> io::Result<Self> {
        let mut private = None;
        let (domain, to) = match address {
            Address::Local => {
                private = Private::start()?;
                let path = private.as_ref().map_or_else(served_at, |server| Ok(server.path()))?;
                (Domain::UNIX, SockAddr::unix(path)?)
            }
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
            Address::Tcp(address) => (Domain::for_address(*address), (*address).into()),
        };
        let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let local = matches!(address, Address::Local);
        Ok(Self { socket, to, connected: false, local, private })
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

    /// Whether the server is there for this connection alone.
    pub(super) fn is_private(&self) -> bool {
        self.private.is_some()
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
