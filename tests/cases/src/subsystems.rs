//! SPDK's subsystems in a program that owns its main loop.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, SpdkThread, Subsystems};

use crate::support::{DISK, app, env, socket};

crate::cases![bare, config, bad_config, rpc, dropped, abandoned, once, wrong_place];

fn bare() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    thread.block_on(async { Subsystems::builder().start().await?.stop().await }).unwrap().unwrap();
}

fn config() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let result = thread.block_on(async {
        let subsystems = Subsystems::builder().json_data(DISK).start().await?;
        assert_eq!(ask_for_bdevs(None).await, None);
        subsystems.stop().await
    });
    result.unwrap().unwrap();
    // Threads of the program's own live on.
    let worker = SpdkThread::spawn("worker", |thread| thread.block_on(async { 1 })).unwrap();
    assert_eq!(worker.join().unwrap().unwrap(), 1);
}

fn bad_config() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let config = DISK.replace("512", "511");
    let result = thread.block_on(Subsystems::builder().json_data(config).start()).unwrap();
    assert!(matches!(result, Err(Error::Errno { .. })), "{result:?}");
}

fn rpc() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let result = thread.block_on(async {
        let path = socket().to_string_lossy().into_owned();
        let builder = Subsystems::builder().json_data(DISK).rpc_addr(path);
        let subsystems = builder.start().await?;
        let answer = ask_for_bdevs(Some(UnixStream::connect(socket()).unwrap())).await.unwrap();
        assert!(answer.contains("\"disk\""), "{answer}");
        subsystems.stop().await?;
        assert!(UnixStream::connect(socket()).is_err());
        Ok::<_, Error>(())
    });
    result.unwrap().unwrap();
}

/// The answer of `bdev_get_bdevs` on a connection.
async fn ask_for_bdevs(stream: Option<UnixStream>) -> Option<String> {
    let mut stream = stream?;
    stream.set_nonblocking(true).unwrap();
    stream.write_all(br#"{ "jsonrpc": "2.0", "id": 1, "method": "bdev_get_bdevs" }"#).unwrap();
    let mut answer = Vec::new();
    while serde_json::from_slice::<serde_json::Value>(&answer).is_err() {
        sleep(Duration::from_millis(5)).await;
        let mut part = [0; 4096];
        if let Ok(len) = stream.read(&mut part) {
            answer.extend_from_slice(&part[..len]);
        }
    }
    Some(String::from_utf8(answer).unwrap())
}

fn dropped() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let started = thread.block_on(Subsystems::builder().json_data(DISK).start());
    drop(started.unwrap().unwrap());
}

fn abandoned() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let start = Subsystems::builder().json_data(DISK).start();
    let mut start = Box::pin(start);
    // One poll, and then nobody waits for it any more.
    thread
        .block_on(std::future::poll_fn(|cx| {
            let _ = start.as_mut().poll(cx);
            std::task::Poll::Ready(())
        }))
        .unwrap();
    drop(start);
}

fn once() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let result = thread.block_on(async {
        Subsystems::builder().start().await?.stop().await?;
        Subsystems::builder().start().await.map(drop)
    });
    assert!(matches!(result.unwrap(), Err(Error::Exists(_))));
}

fn wrong_place() {
    let under_app = app().block_on(async { Subsystems::builder().start().await.map(drop) });
    assert!(matches!(under_app, Err(Error::WrongThread(_))), "{under_app:?}");
}
