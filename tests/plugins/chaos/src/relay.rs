//! RPC methods that call RPC methods.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spdk_plugin::rpc::{RpcClient, RpcError};
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, rpc};

#[derive(Clone, Deserialize, PartialEq, Eq, Hash)]
struct To {
    /// A Unix socket.
    path: Option<PathBuf>,
    /// A TCP address. Without either: this process itself.
    tcp: Option<SocketAddr>,
    max_reply: Option<usize>,
}

#[derive(Deserialize)]
struct Calls {
    to: To,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    method: String,
    #[serde(default)]
    params: Value,
    /// Instead of the params' own field: this many bytes in a field `padding`.
    #[serde(default)]
    padding: usize,
    /// Dropped once all have been polled.
    #[serde(default)]
    drop: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Result(Value),
    Error { code: i32, message: String },
    Failed { errno: i32, message: String },
    Dropped,
}

thread_local! {
    /// Made once for each address. Used on the app thread alone.
    static CLIENTS: RefCell<HashMap<To, RpcClient>> = RefCell::default();
}

fn client(to: To) -> RpcClient {
    let make = |to: &To| {
        let client = match (&to.path, to.tcp) {
            (Some(path), _) => RpcClient::unix(path),
            (None, Some(address)) => RpcClient::tcp(address),
            (None, None) => RpcClient::local(),
        };
        to.max_reply.map_or(client.clone(), |bytes| client.with_max_reply(bytes))
    };
    CLIENTS
        .with_borrow_mut(|clients| clients.entry(to.clone()).or_insert_with(|| make(&to)).clone())
}

async fn call(client: RpcClient, call: Call) -> Outcome {
    let mut params = call.params;
    if call.padding > 0 {
        params = serde_json::json!({ "padding": "x".repeat(call.padding) });
    }
    match client.call(&call.method, params).await {
        Ok(result) => Outcome::Result(result),
        Err(Error::Rpc { method, error }) => {
            assert_eq!(method, call.method);
            Outcome::Error { code: error.code(), message: error.message().into() }
        }
        Err(error) => Outcome::Failed { errno: error.errno(), message: error.to_string() },
    }
}

/// Makes all calls at once.
#[rpc(name = "chaos_relay")]
async fn relay(params: Calls) -> Result<Vec<Outcome>, RpcError> {
    let client = client(params.to);
    type Calling = Pin<Box<dyn Future<Output = Outcome>>>;
    let start = |c: Call| (c.drop, Box::pin(call(client.clone(), c)) as Calling);
    let mut calls: Vec<(bool, Calling)> = params.calls.into_iter().map(start).collect();
    let mut early = Vec::new();
    poll_fn(|cx| {
        early = calls.iter_mut().map(|(_, call)| call.as_mut().poll(cx)).collect();
        Poll::Ready(())
    })
    .await;
    let rest = early.into_iter().zip(calls).map(|(early, (dropped, call))| async move {
        match early {
            _ if dropped => {
                drop(call);
                Outcome::Dropped
            }
            Poll::Ready(outcome) => outcome,
            Poll::Pending => call.await,
        }
    });
    Ok(join_all(rest).await)
}

/// Answers with an error of another method's, as `?` passes it on.
#[rpc(name = "chaos_pass_on")]
async fn pass_on(params: Method) -> Result<u64, RpcError> {
    Ok(RpcClient::local().call(&params.method, ()).await?)
}

#[derive(Deserialize)]
struct Method {
    method: String,
}

/// Answers with `value`, later.
#[rpc(name = "chaos_echo")]
async fn echo(params: Echo) -> Result<Value, RpcError> {
    ECHOES.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(params.ms)).await;
    Ok(params.value)
}

static ECHOES: AtomicU64 = AtomicU64::new(0);

/// How many have begun.
#[rpc(name = "chaos_echoes")]
async fn echoes() -> Result<u64, RpcError> {
    Ok(ECHOES.load(Ordering::Relaxed))
}

#[derive(Deserialize)]
struct Echo {
    #[serde(default)]
    ms: u64,
    value: Value,
}

/// Answers with a text of so many bytes, whatever the padding.
#[rpc(name = "chaos_text")]
async fn text(params: Text) -> Result<String, RpcError> {
    Ok("y".repeat(params.bytes))
}

#[derive(Deserialize)]
struct Text {
    bytes: usize,
}

/// Answers how much padding came.
#[rpc(name = "chaos_padding")]
async fn padding(params: Padding) -> Result<usize, RpcError> {
    Ok(params.padding.len())
}

#[derive(Deserialize)]
struct Padding {
    padding: String,
}
