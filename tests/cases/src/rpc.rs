//! Calling JSON-RPC methods from an app.

use std::future::{Future, poll_fn};
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk_plugin::rpc::RpcClient;
use spdk_plugin::runtime::{sleep, spawn_local};
use spdk_plugin::{Error, Result, SpdkApp, SpdkThread, Subsystems};
use spdk_plugin_sys as sys;

use crate::support::{app, env, socket};

crate::cases![
    its_own,
    by_its_socket,
    at_once,
    given_up,
    no_server,
    not_on_an_spdk_thread,
    stopped,
    from_another_thread,
    without_an_app,
];

async fn make_and_delete(rpc: &RpcClient) -> Result<()> {
    let disk = json!({ "name": "disk", "num_blocks": 8, "block_size": 512 });
    let name: String = rpc.call("bdev_null_create", &disk).await?;
    assert_eq!(name, "disk");
    let disks: Vec<Value> = rpc.call("bdev_get_bdevs", ()).await?;
    assert_eq!((disks.len(), &disks[0]["num_blocks"]), (1, &json!(8)));
    let taken = rpc.call::<String>("bdev_null_create", &disk).await.unwrap_err();
    let Error::Rpc { method, error } = &taken else { panic!("{taken}") };
    assert_eq!(method, "bdev_null_create");
    assert!(error.code() < 0 && !error.message().is_empty(), "{error}");
    assert!(rpc.call::<bool>("bdev_null_delete", json!({ "name": "disk" })).await?);
    Ok(())
}

fn its_own() {
    app().block_on(async { make_and_delete(&RpcClient::local()).await }).unwrap();
}

fn by_its_socket() {
    app().block_on(async { make_and_delete(&RpcClient::unix(socket())).await }).unwrap();
}

/// Many tasks share one connection.
fn at_once() {
    app()
        .block_on(async {
            let rpc = RpcClient::local();
            let disk = |blocks: u64| {
                let rpc = rpc.clone();
                spawn_local(async move {
                    let name = format!("disk{blocks}");
                    let disk = json!({ "name": name, "num_blocks": blocks, "block_size": 512 });
                    assert_eq!(rpc.call::<String>("bdev_null_create", disk).await.unwrap(), name);
                    let query = json!({ "name": name });
                    let disks: Vec<Value> = rpc.call("bdev_get_bdevs", query).await.unwrap();
                    assert_eq!(disks[0]["num_blocks"], blocks);
                })
            };
            let tasks: Vec<_> = (1..=50).map(disk).collect();
            for task in tasks {
                task.await?;
            }
            Ok(())
        })
        .unwrap();
}

/// A server that is there and says nothing.
fn mute() -> (UnixListener, RpcClient) {
    let path = socket().with_extension("mute");
    let listener = UnixListener::bind(&path).unwrap();
    (listener, RpcClient::unix(path))
}

fn given_up() {
    app()
        .block_on(async {
            let (_listener, rpc) = mute();
            for _ in 0..100 {
                let mut call = pin!(rpc.call::<Value>("ask", ()));
                let mut timeout = pin!(sleep(Duration::from_millis(1)));
                poll_fn(|cx| {
                    assert!(call.as_mut().poll(cx).is_pending());
                    timeout.as_mut().poll(cx)
                })
                .await;
            }
            // Nor does it matter when the client is what goes first.
            let mut call = Box::pin({
                let rpc = rpc.clone();
                async move { rpc.call::<Value>("ask", ()).await }
            });
            assert!(poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await.is_pending());
            drop(rpc);
            sleep(Duration::from_millis(5)).await;
            drop(call);
            make_and_delete(&RpcClient::local()).await
        })
        .unwrap();
}

/// Whether a program need not serve JSON-RPC to call its own methods.
fn private() -> bool {
    (sys::VERSION_MAJOR, sys::VERSION_MINOR) >= (24, 5)
}

fn no_server() {
    let called = app().no_rpc().block_on(async { make_and_delete(&RpcClient::local()).await });
    if private() {
        return called.unwrap();
    }
    let error = called.unwrap_err();
    assert_eq!(error.errno(), libc::ENOENT, "{error}");
    assert!(error.to_string().contains("serves no JSON-RPC"), "{error}");
}

fn not_on_an_spdk_thread() {
    let rpc = RpcClient::unix(socket());
    let mut call = pin!(rpc.call::<Value>("spdk_get_version", ()));
    let Poll::Ready(Err(error)) = call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("it was called");
    };
    assert!(matches!(error, Error::WrongThread(_)), "{error}");
}

/// A call that waits does not keep the app from its end.
fn stopped() {
    let started = Instant::now();
    let result: Result<Value> = app().block_on(async {
        let (_listener, rpc) = mute();
        spawn_local(async {
            sleep(Duration::from_millis(10)).await;
            SpdkApp::stop().unwrap();
        })
        .detach();
        rpc.call("ask", ()).await
    });
    assert!(matches!(result, Err(Error::Stopped(_))), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// The methods run on the app thread all the same.
fn from_another_thread() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("app").unwrap();
    let called = thread.block_on(async {
        let path = socket().to_string_lossy().into_owned();
        let subsystems = Subsystems::builder().rpc_addr(path).start().await?;
        let worker = SpdkThread::spawn("worker", |thread| {
            thread.block_on(async {
                let local = RpcClient::local();
                for _ in 0..10 {
                    make_and_delete(&local).await?;
                }
                make_and_delete(&RpcClient::unix(socket())).await
            })
        });
        let called = worker?.await;
        subsystems.stop().await?;
        called
    });
    called.unwrap().unwrap().unwrap().unwrap();
}

/// A program that polls its threads itself, and serves JSON-RPC to nobody.
fn without_an_app() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("app").unwrap();
    let called = thread.block_on(async {
        let subsystems = Subsystems::builder().start().await?;
        let called = make_and_delete(&RpcClient::local()).await;
        subsystems.stop().await?;
        called
    });
    let called = called.unwrap();
    if private() {
        return called.unwrap();
    }
    assert_eq!(called.unwrap_err().errno(), libc::ENOENT);
}
