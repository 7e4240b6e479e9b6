//! Calling JSON-RPC methods, of this process or another, without blocking the SPDK thread. Stands for
//! `spdk/jsonrpc.h`'s client.

mod frames;
mod own;
mod socket;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use self::frames::{Broken, Frames};
use self::socket::{Address, Socket};
use super::error::RpcError;
use crate::error::{Error, Result};
use crate::json::short;
use crate::runtime::{PollStatus, Poller};

/// SPDK gives up a reply of more than 32 MiB in the middle and sends what it has. Below that, a reply
/// without an end is noticed.
const MAX_REPLY: usize = 16 << 20;

/// How often a client looks for replies. SPDK's server looks for requests every 4 ms.
const PERIOD: Duration = Duration::from_millis(1);

/// What is read in one go, so that a large reply leaves the thread's other work its turns.
const READ_BUDGET: usize = 256 << 10;

/// Calls JSON-RPC methods.
///
/// It has one connection, made at the first call and made again at the first call after it was lost.
/// Calls may overlap: each gets its own reply, in whatever order they come. A clone shares the
/// connection; the last one to go closes it.
///
/// It stays on its thread: calls are made, and their futures polled, on one SPDK thread, under any
/// executor. That thread is never blocked; while a call waits, a poller looks for its reply once a
/// millisecond.
///
/// ```no_run
/// use serde::Deserialize;
/// use serde_json::json;
/// use spdk_plugin::rpc::{RpcClient, RpcError};
///
/// #[derive(Deserialize)]
/// struct Info {
///     name: String,
///     num_blocks: u64,
/// }
///
/// /// Makes a disk by whatever method there is for it, and tells its size.
/// #[spdk_plugin::rpc(name = "example_malloc")]
/// async fn malloc() -> Result<u64, RpcError> {
///     let rpc = RpcClient::local();
///     let disk = json!({ "num_blocks": 2048, "block_size": 512 });
///     let name: String = rpc.call("bdev_malloc_create", disk).await?;
///     let infos: Vec<Info> = rpc.call("bdev_get_bdevs", json!({ "name": name })).await?;
///     infos.first().map(|info| info.num_blocks).ok_or_else(|| RpcError::internal("it has gone"))
/// }
/// ```
#[derive(Clone)]
pub struct RpcClient {
    inner: Rc<Inner>,
}

impl RpcClient {
    /// A client of this process itself. Nobody else than this process can answer it.
    ///
    /// From SPDK 24.05 on it works in any SPDK program, through a private socket below the directory for
    /// temporary files while a call waits. Methods of the startup state can be called before the
    /// subsystems have started, and the others from then on.
    ///
    /// Before 24.05 the calls go over the socket on which the program serves JSON-RPC. Until it does, or if
    /// it was told not to, each fails with an [`Error::Errno`] of `ENOENT`.
    pub fn local() -> Self {
        Self::new(Address::Local)
    }

    /// A client of the server on a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Address::Unix(path.into()))
    }

    /// A client of a server that is reached by TCP. JSON-RPC has neither encryption nor passwords.
    pub fn tcp(address: SocketAddr) -> Self {
        Self::new(Address::Tcp(address))
    }

    fn new(address: Address) -> Self {
        Self { inner: Rc::new(Inner { address, max_reply: MAX_REPLY, state: RefCell::default() }) }
    }

    /// Sets how many bytes a reply may have: 16 MiB unless set. SPDK cuts off replies above 32 MiB.
    ///
    /// The new client has a connection of its own.
    pub fn with_max_reply(self, bytes: usize) -> Self {
        let address = self.inner.address.clone();
        Self { inner: Rc::new(Inner { address, max_reply: bytes, state: RefCell::default() }) }
    }

    /// Calls `method` and reads its result as a `T`.
    ///
    /// Parameters that serialize as `null`, such as `()`, are left out of the request: some methods
    /// refuse any. SPDK's server takes requests up to 32 KiB (256 KiB in late releases) and closes the
    /// connection at a longer one.
    ///
    /// The request goes out when the future is polled first. Dropping it drops the reply; whether the
    /// method has run then remains unknown, unless the request was not sent yet. There is no time
    /// limit: a method may take as long as it likes.
    ///
    /// # Errors
    /// - [`Error::Rpc`]: the method answered with an error, whose code and message it has.
    /// - [`Error::Errno`]: the socket could not be used (`ENOENT`, `ECONNREFUSED`, `EACCES`...), the
    ///   server closed the connection before it answered (`ECONNRESET`), the reply is too long
    ///   (`EMSGSIZE`), not JSON-RPC (`EBADMSG`), or its result is no `T` (`EPROTO`). After all but the
    ///   last, every other call that waits fails too.
    /// - [`Error::Invalid`]: `params` do not serialize to JSON.
    /// - [`Error::WrongThread`]: the current thread is not one of SPDK's.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T> {
        let params = serde_json::to_value(params)
            .map_err(|error| Error::Invalid(format!("parameters of {method}: {error}")))?;
        let result = self.exchange(method, params).await?;
        let mut json = serde_json::Deserializer::from_str(result.get());
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let what = format!("the result of {method}: {}", short(&error.to_string()));
            Error::Errno { what, errno: libc::EPROTO }
        })
    }

    async fn exchange(&self, method: &str, params: Value) -> Result<Box<RawValue>> {
        #[derive(Serialize)]
        struct Request<'a> {
            jsonrpc: &'a str,
            id: u64,
            method: &'a str,
            #[serde(skip_serializing_if = "Value::is_null")]
            params: Value,
        }
        let id = self.inner.next_id();
        let request = Request { jsonrpc: "2.0", id, method, params };
        let request = serde_json::to_vec(&request)
            .map_err(|error| Error::Invalid(format!("parameters of {method}: {error}")))?;
        let call = self.inner.start(id, request)?;
        call.await.map_err(|failure| match failure {
            Failure::Answer(error) => Error::Rpc { method: method.into(), error },
            Failure::Connection { what, errno } => {
                let what = format!("{method} by {}{what}", self.inner.address);
                Error::Errno { what, errno }
            }
        })
    }
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcClient").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("this program's JSON-RPC socket"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

struct Inner {
    address: Address,
    max_reply: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    socket: Option<Socket>,
    frames: Frames,
    /// Requests that are not wholly sent, by the id of their call.
    unsent: VecDeque<(u64, Vec<u8>)>,
    /// So much of the first of them is.
    sent: usize,
    calls: BTreeMap<u64, Entry>,
    /// There while there are calls.
    poller: Option<Poller>,
}

enum Entry {
    Waits(Option<Waker>),
    Ended(Outcome),
}

type Outcome = Result<Box<RawValue>, Failure>;

#[derive(Clone)]
enum Failure {
    Answer(RpcError),
    /// The words follow the name of the connection.
    Connection {
        what: String,
        errno: i32,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
            return Self::closed();
        }
        let errno = error.raw_os_error().unwrap_or(match error.kind() {
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::InvalidInput => libc::EINVAL,
            _ => libc::EIO,
        });
        match error.raw_os_error() {
            // The number has words of its own.
            Some(_) => Self::Connection { what: String::new(), errno },
            None => Self::connection(error, errno),
        }
    }
}

impl Failure {
    fn connection(what: impl fmt::Display, errno: i32) -> Self {
        Self::Connection { what: format!(": {what}"), errno }
    }

    fn closed() -> Self {
        let what = "the server closed the connection before it answered";
        Self::connection(what, libc::ECONNRESET)
    }
}

impl Inner {
    fn next_id(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.last_id += 1;
        state.last_id
    }

    /// Sends the request, or has the poller do it.
    fn start(self: &Rc<Self>, id: u64, request: Vec<u8>) -> Result<Call> {
        // A connection that the server closed meanwhile is not for this call.
        self.with(State::receive);
        let polled = {
            let mut state = self.state.borrow_mut();
            state.unsent.push_back((id, request));
            state.calls.insert(id, Entry::Waits(None));
            state.poller.is_some()
        };
        let call = Call { inner: Rc::clone(self), id };
        if !polled {
            let this = Rc::downgrade(self);
            let look = move || this.upgrade().map_or(PollStatus::Idle, |inner| inner.turn());
            let poller = Poller::every(PERIOD, look)?;
            self.state.borrow_mut().poller = Some(poller);
        }
        self.with(State::send);
        Ok(call)
    }

    fn turn(&self) -> PollStatus {
        let sent = self.with(State::send);
        let received = self.with(State::receive);
        if sent || received { PollStatus::Busy } else { PollStatus::Idle }
    }

    /// Does a step, ends what it has to, and tells those who wait. Gives whether something was done.
    fn with(&self, step: fn(&mut State, &Self, &mut Vec<Waker>) -> Result<bool, Failure>) -> bool {
        let mut woken = Vec::new();
        let stepped = {
            let mut state = self.state.borrow_mut();
            step(&mut state, self, &mut woken).unwrap_or_else(|failure| {
                state.lose(&failure, &mut woken);
                true
            })
        };
        // Foreign code: not while the state is borrowed.
        woken.into_iter().for_each(Waker::wake);
        stepped
    }

    /// Ends what costs time when there is no call. The poller's drop is no business of a borrowed state.
    fn rest(&self) {
        let poller = {
            let mut state = self.state.borrow_mut();
            if !state.calls.is_empty() {
                return;
            }
            if state.socket.as_ref().is_some_and(Socket::is_private) {
                state.disconnect();
            }
            state.poller.take()
        };
        drop(poller);
    }
}

impl State {
    fn send(&mut self, inner: &Inner, woken: &mut Vec<Waker>) -> Result<bool, Failure> {
        let mut done = false;
        while let Some((_, request)) = self.unsent.front() {
            let socket = match &mut self.socket {
                Some(socket) => socket,
                none => none.insert(Socket::new(&inner.address)?),
            };
            let sent = socket.connect().and_then(|()| socket.send(&request[self.sent..]));
            match sent {
                Ok(bytes) => self.sent += bytes,
                Err(error) if waits(&error) => break,
                Err(error) => {
                    // What was answered before is still to be read; not for ever, if more and more comes.
                    self.receive(inner, woken)?;
                    return Err(error.into());
                }
            }
            done = true;
            if self.sent == request.len() {
                self.unsent.pop_front();
                self.sent = 0;
            }
        }
        Ok(done)
    }

    fn receive(&mut self, inner: &Inner, woken: &mut Vec<Waker>) -> Result<bool, Failure> {
        let Some(socket) = self.socket.as_ref().filter(|socket| socket.is_connected()) else {
            return Ok(false);
        };
        let mut buffer = [0; 16 << 10];
        let mut objects = Vec::new();
        let mut total = 0;
        let ended = loop {
            match socket.receive(&mut buffer) {
                Ok(0) => break Err(Failure::closed()),
                Ok(bytes) => {
                    total += bytes;
                    let each = |object| objects.push(object);
                    let pushed = self.frames.push(&buffer[..bytes], inner.max_reply, each);
                    if let Err(broken) = pushed {
                        break Err(inner.broken(broken));
                    }
                    if total >= READ_BUDGET {
                        break Ok(true);
                    }
                }
                Err(error) if waits(&error) => break Ok(total > 0),
                Err(error) => break Err(error.into()),
            }
        };
        // Whoever was answered before the connection broke has a result.
        for object in objects {
            self.answer(&object, woken)?;
        }
        ended
    }

    /// Gives a reply to the call that it is for. Nobody waits for one to a call that was dropped, nor for
    /// a second one.
    fn answer(&mut self, object: &[u8], woken: &mut Vec<Waker>) -> Result<(), Failure> {
        let reply: Reply<'_> = serde_json::from_slice(object).map_err(|error| {
            let what = format!("a reply is not JSON-RPC: {}", short(&error.to_string()));
            Failure::connection(what, libc::EBADMSG)
        })?;
        let outcome = match reply.error {
            Some(ReplyError { code, message }) => {
                let code = i32::try_from(code).unwrap_or(RpcError::INTERNAL);
                Err(Failure::Answer(RpcError::new(code, message)))
            }
            None => Ok(reply.result.map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned)),
        };
        let id = match (reply.id, &outcome) {
            // The server could not read a request, and where it goes on reading is anybody's guess.
            (Value::Null, Err(failure)) => return Err(failure.clone()),
            (id, _) => id.as_u64(),
        };
        if let Some(entry) = id.and_then(|id| self.calls.get_mut(&id)) {
            entry.end(outcome, woken);
        }
        Ok(())
    }

    /// The connection is lost, and with it the replies that were to come.
    fn lose(&mut self, failure: &Failure, woken: &mut Vec<Waker>) {
        self.disconnect();
        for entry in self.calls.values_mut() {
            entry.end(Err(failure.clone()), woken);
        }
    }
}

impl State {
    fn disconnect(&mut self) {
        self.socket = None;
        self.frames = Frames::default();
        self.unsent.clear();
        self.sent = 0;
    }
}

impl Inner {
    fn broken(&self, broken: Broken) -> Failure {
        match broken {
            Broken::TooLong => {
                let what = format!("a reply of more than {} bytes", self.max_reply);
                Failure::connection(what, libc::EMSGSIZE)
            }
            Broken::NoObject => {
                Failure::connection("what the server sends is not JSON-RPC", libc::EBADMSG)
            }
        }
    }
}

impl Entry {
    fn end(&mut self, outcome: Outcome, woken: &mut Vec<Waker>) {
        if let Self::Waits(waker) = self {
            woken.extend(waker.take());
            *self = Self::Ended(outcome);
        }
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: Value,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
struct ReplyError {
    code: i64,
    #[serde(default)]
    message: String,
}

/// A call that was started. It has an entry among the calls until it is dropped.
struct Call {
    inner: Rc<Inner>,
    id: u64,
}

impl Future for Call {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let new = cx.waker().clone();
        let mut state = self.inner.state.borrow_mut();
        let polled = match state.calls.remove(&self.id) {
            Some(Entry::Ended(outcome)) => Ok(outcome),
            Some(Entry::Waits(old)) => Err(old),
            None => Ok(Err(Failure::connection("polled after its end", libc::EINVAL))),
        };
        match polled {
            Ok(outcome) => Poll::Ready(outcome),
            Err(old) => {
                state.calls.insert(self.id, Entry::Waits(Some(new)));
                drop(state);
                drop(old);
                Poll::Pending
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let entry = {
            let mut state = self.inner.state.borrow_mut();
            // Of what is sent in part the rest must follow.
            let begun = usize::from(state.sent > 0);
            let at = state.unsent.iter().skip(begun).position(|(id, _)| *id == self.id);
            if let Some(at) = at {
                state.unsent.remove(begun + at);
            }
            state.calls.remove(&self.id)
        };
        drop(entry);
        self.inner.rest();
    }
}
