//! A JSON-RPC 2.0 client for SPDK's Unix socket.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The server answered with an error.
    #[error("JSON-RPC method '{method}' failed with {code}: {message}")]
    Remote {
        /// Method that was called; empty for a raw request.
        method: String,
        /// JSON-RPC or SPDK error code.
        code: i64,
        /// The server's text.
        message: String,
    },
    /// The socket could not be used.
    #[error("JSON-RPC socket {}: {source}", path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No complete reply came in time.
    #[error("JSON-RPC socket {}: no reply within {timeout:?}", path.display())]
    Timeout {
        /// Path of the socket.
        path: PathBuf,
        /// How long the reply was waited for.
        timeout: Duration,
    },
    /// The reply is not JSON-RPC.
    #[error("JSON-RPC reply is malformed: {0}")]
    Malformed(String),
    /// The parameters cannot be written as JSON.
    #[error("parameters of JSON-RPC method '{method}': {source}")]
    Params {
        /// Method that was called.
        method: String,
        /// What serde says.
        source: serde_json::Error,
    },
    /// The result is not of the type asked for.
    #[error("result of JSON-RPC method '{method}': {source}")]
    Result {
        /// Method that was called.
        method: String,
        /// Path and reason.
        source: serde_path_to_error::Error<serde_json::Error>,
    },
}

impl RpcError {
    /// The server's error code, if it was the server that failed the call.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Remote { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A client on one connection.
///
/// After a failure that leaves the position in the stream unknown (a time-out, a malformed reply), the next call
/// opens a new connection.
#[derive(Debug)]
pub struct RpcClient {
    path: PathBuf,
    timeout: Duration,
    stream: Option<BufReader<Timed>>,
    next_id: u64,
}

impl RpcClient {
    /// Connects to the socket at `path`. A reply may take `timeout`.
    pub fn connect(path: impl Into<PathBuf>, timeout: Duration) -> Result<Self, RpcError> {
        let mut client = Self { path: path.into(), timeout, stream: None, next_id: 1 };
        client.stream()?;
        Ok(client)
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets how long a reply may take from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Calls `method` and reads its result as a `T`.
    ///
    /// Params that serialize as `null`, such as `()`, are left out of the request: some methods refuse any.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, RpcError> {
        let id = self.send(method, params)?;
        self.receive(method, id)
    }

    /// Sends a request without waiting for its reply; the id is for [`receive`](Self::receive).
    pub fn send(&mut self, method: &str, params: impl Serialize) -> Result<u64, RpcError> {
        #[derive(Serialize)]
        struct Request<'a> {
            jsonrpc: &'a str,
            id: u64,
            method: &'a str,
            #[serde(skip_serializing_if = "Value::is_null")]
            params: Value,
        }
        let bad_params = |source| RpcError::Params { method: method.into(), source };
        let params = serde_json::to_value(params).map_err(bad_params)?;
        let id = self.next_id;
        let request = Request { jsonrpc: "2.0", id, method, params };
        let request = serde_json::to_vec(&request).map_err(bad_params)?;
        self.next_id += 1;
        self.write(&request)?;
        Ok(id)
    }

    /// Waits for the reply to request `id`; replies to other requests are dropped.
    pub fn receive<T: DeserializeOwned>(&mut self, method: &str, id: u64) -> Result<T, RpcError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let reply = self.read(deadline)?;
            let reply = Reply::deserialize(&reply)
                .map_err(|error| RpcError::Malformed(format!("{error} in {reply}")))?;
            // An error without an id answers a request that the server could not read.
            let ours = match &reply.id {
                Value::Null => reply.error.is_some(),
                other => other.as_u64() == Some(id),
            };
            if ours {
                return reply.into_result(method);
            }
        }
    }

    /// Sends `bytes` as they are and returns the one reply, of whatever form.
    pub fn call_raw(&mut self, bytes: &[u8]) -> Result<Value, RpcError> {
        let deadline = Instant::now() + self.timeout;
        self.write(bytes)?;
        self.read(deadline)
    }

    fn stream(&mut self) -> Result<&mut BufReader<Timed>, RpcError> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.path)
                .map_err(|source| RpcError::Io { path: self.path.clone(), source })?;
            self.stream = Some(BufReader::new(Timed { stream, deadline: Instant::now() }));
        }
        Ok(self.stream.as_mut().expect("was just set"))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RpcError> {
        let deadline = Instant::now() + self.timeout;
        let reader = self.stream()?;
        reader.get_mut().deadline = deadline;
        let written = reader.get_mut().write_all(bytes);
        written.map_err(|error| self.fail(error))
    }

    fn read(&mut self, deadline: Instant) -> Result<Value, RpcError> {
        let reader = self.stream()?;
        reader.get_mut().deadline = deadline;
        // Stops at the closing brace: what follows stays in the reader for the next reply.
        let mut json = serde_json::Deserializer::from_reader(reader);
        match Value::deserialize(&mut json) {
            Ok(value) => Ok(value),
            Err(error) if error.is_io() => Err(self.fail(error.into())),
            Err(error) if error.is_eof() => {
                Err(self.fail(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server")))
            }
            Err(error) => {
                self.stream = None;
                Err(RpcError::Malformed(error.to_string()))
            }
        }
    }

    fn fail(&mut self, source: io::Error) -> RpcError {
        self.stream = None;
        match source.kind() {
            io::ErrorKind::TimedOut => {
                RpcError::Timeout { path: self.path.clone(), timeout: self.timeout }
            }
            _ => RpcError::Io { path: self.path.clone(), source },
        }
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    result: Value,
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
struct ReplyError {
    code: i64,
    message: String,
}

impl Reply {
    fn into_result<T: DeserializeOwned>(self, method: &str) -> Result<T, RpcError> {
        let method = method.to_owned();
        match self.error {
            Some(ReplyError { code, message }) => Err(RpcError::Remote { method, code, message }),
            None => serde_path_to_error::deserialize(self.result)
                .map_err(|source| RpcError::Result { method, source }),
        }
    }
}

/// A socket whose reads and writes end at a deadline.
#[derive(Debug)]
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    fn remaining(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // The socket takes a zero time-out for none.
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// The socket reports the end of its time-out as `WouldBlock`.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.remaining()?)?;
        self.stream.read(buf).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.remaining()?)?;
        self.stream.write(buf).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
