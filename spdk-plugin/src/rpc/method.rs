//! Registered methods, and the way of a request through one.

use std::ffi::{CStr, CString};
use std::future::Future;
use std::mem;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spdk_plugin_sys as sys;

use super::error::RpcError;
use super::params;
use crate::guard::catch;
use crate::json;
use crate::plugin;
use crate::runtime::home::HomeRef;
use crate::runtime::task::spawn;

/// When a method may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Before `framework_start_init` alone.
    Startup,
    /// After it alone.
    Runtime,
    /// Before and after.
    Any,
}

impl State {
    fn mask(self) -> u32 {
        match self {
            Self::Startup => sys::SPDK_RPC_STARTUP,
            Self::Runtime => sys::SPDK_RPC_RUNTIME,
            Self::Any => sys::SPDK_RPC_STARTUP | sys::SPDK_RPC_RUNTIME,
        }
    }
}

/// SPDK's request, which only SPDK can make.
#[derive(Debug)]
#[repr(transparent)]
pub struct Request(*mut sys::spdk_jsonrpc_request);

/// A request's parameters, which only SPDK can make.
#[derive(Debug)]
#[repr(transparent)]
pub struct Params(*const sys::spdk_json_val);

/// A method's entry in the table that the plugin's constructor walks.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    #[doc(hidden)]
    pub name: &'static str,
    #[doc(hidden)]
    pub aliases: &'static [&'static str],
    #[doc(hidden)]
    pub state: State,
    #[doc(hidden)]
    pub entry: extern "C" fn(Request, Params),
    #[doc(hidden)]
    pub owner: &'static str,
}

type Handler = unsafe extern "C" fn(*mut sys::spdk_jsonrpc_request, *const sys::spdk_json_val);

impl Method {
    /// Adds the method and its aliases to SPDK's table.
    pub(crate) fn register(&self) {
        // SAFETY: both argument types are `repr(transparent)` over the pointers of `Handler`.
        let entry: Handler =
            unsafe { std::mem::transmute::<extern "C" fn(Request, Params), Handler>(self.entry) };
        for name in std::iter::once(&self.name).chain(self.aliases) {
            let name = CString::new(*name).unwrap_or_default();
            // SAFETY: SPDK copies the name.
            unsafe { sys::spdk_rpc_register_method(name.as_ptr(), Some(entry), self.state.mask()) };
        }
    }
}

/// Whether SPDK has a method of this name, be it whose it may.
pub(crate) fn allowed(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: reads SPDK's table.
    unsafe { sys::spdk_rpc_is_method_allowed(name.as_ptr(), 0) == 0 }
}

/// Answers once: by [`send`](Self::send), or with an error when it is dropped.
struct Reply(*mut sys::spdk_jsonrpc_request);

impl Reply {
    fn new(request: *mut sys::spdk_jsonrpc_request) -> Self {
        waiting::add(request);
        Self(request)
    }

    fn send<R: Serialize>(self, result: &Result<R, RpcError>) {
        // The value's own code comes first: if it panics, the reply is dropped and so answers.
        let text = match result {
            Ok(value) => serde_json::to_vec(value).map_err(|error| {
                RpcError::internal(format!("the method's result has no JSON: {error}"))
            }),
            Err(error) => Err(error.clone()),
        };
        let request = self.0;
        mem::forget(self);
        if !waiting::remove(request) {
            return;
        }
        match text {
            // SAFETY: the request waits for its reply, which this is.
            Ok(text) => unsafe {
                let writer = sys::spdk_jsonrpc_begin_result(request);
                json::write_text(writer, &text);
                sys::spdk_jsonrpc_end_result(request, writer);
            },
            Err(error) => {
                let text = error.message().replace('\0', "");
                let text = CString::new(text).unwrap_or_default();
                // SAFETY: as above; SPDK copies the text.
                unsafe { send_error(request, error.code(), &text) };
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if waiting::remove(self.0) {
            // SAFETY: `send` forgets the reply, so the request still waits.
            unsafe { send_error(self.0, RpcError::INTERNAL, c"the method's handler panicked") };
        }
    }
}

/// The requests that wait for a reply of ours, and their connections.
///
/// Before 23.09 SPDK frees the connections when the program stops and leaves waiting requests pointing
/// at them: those are never answered. SPDK has one callback for each connection; where another plugin
/// has it, the request stays unguarded, as a C module's is.
mod waiting {
    use super::{Mutex, PoisonError, sys};

    const NEEDED: bool = sys::VERSION_MAJOR * 100 + sys::VERSION_MINOR < 2309;

    /// Addresses of requests, and of the connections that they came on.
    static WAITING: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

    fn with<R>(body: impl FnOnce(&mut Vec<(usize, usize)>) -> R) -> R {
        body(&mut WAITING.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(request: *mut sys::spdk_jsonrpc_request) {
        if NEEDED {
            // SAFETY: SPDK has just passed the request.
            let conn = unsafe { sys::spdk_jsonrpc_get_conn(request) };
            with(|waiting| waiting.push((request.addr(), conn.addr())));
            // SAFETY: the connection is open. Added again, the same callback stays as it is.
            unsafe {
                sys::spdk_jsonrpc_conn_add_close_cb(conn, Some(on_close), std::ptr::null_mut())
            };
        }
    }

    /// Whether the request may still be answered.
    pub(super) fn remove(request: *mut sys::spdk_jsonrpc_request) -> bool {
        !NEEDED
            || with(|waiting| {
                let at = waiting.iter().position(|&(waits, _)| waits == request.addr());
                at.map(|at| waiting.swap_remove(at)).is_some()
            })
    }

    unsafe extern "C" fn on_close(
        conn: *mut sys::spdk_jsonrpc_server_conn,
        _ctx: *mut std::ffi::c_void,
    ) {
        with(|waiting| waiting.retain(|&(_, on)| on != conn.addr()));
    }
}

unsafe fn send_error(request: *mut sys::spdk_jsonrpc_request, code: i32, text: &CStr) {
    // SAFETY: says the caller.
    unsafe { sys::spdk_jsonrpc_send_error_response(request, code, text.as_ptr()) };
}

/// Runs `handler` for a request. What `#[rpc]` expands to calls this.
pub fn call<P, R, F>(request: Request, params: Params, handler: fn(P) -> F)
where
    P: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Future<Output = Result<R, RpcError>> + 'static,
{
    run(request, params, move |params| Ok(handler(params::parse(params)?)));
}

/// As [`call`], for a handler that takes no parameters.
pub fn call_without_params<R, F>(request: Request, params: Params, handler: fn() -> F)
where
    R: Serialize + 'static,
    F: Future<Output = Result<R, RpcError>> + 'static,
{
    #[derive(serde::Deserialize)]
    struct None {}
    run(request, params, move |params| {
        let None {} = params::parse(params)?;
        Ok(handler())
    });
}

fn run<R, F>(
    request: Request,
    params: Params,
    start: impl FnOnce(Value) -> Result<F, RpcError> + 'static,
) where
    R: Serialize + 'static,
    F: Future<Output = Result<R, RpcError>> + 'static,
{
    let reply = Reply::new(request.0);
    plugin::started();
    let Some(home) = HomeRef::current() else { return };
    home.get().enter(|| {
        // A panic drops the reply, which answers.
        let _ = catch("an RPC handler", move || {
            // SAFETY: SPDK passes the values that it parsed, until this call returns.
            let params = unsafe { json::read(params.0) };
            let params = params.map_err(|why| RpcError::invalid_params(format!("params: {why}")));
            match params.and_then(start) {
                Ok(future) => {
                    spawn(home, "an RPC handler", async move { reply.send(&future.await) });
                }
                Err(error) => reply.send::<()>(&Err(error)),
            }
        });
    });
}
