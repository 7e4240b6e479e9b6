//! The app: how it starts, what it runs, how it ends.

use std::cell::Cell;
use std::time::Duration;

use spdk_plugin::runtime::{on_app_thread, sleep};
use spdk_plugin::{Error, SpdkApp};

use crate::support::{DISK, app};

crate::cases![
    lacking, block_on, borrows, run, error, panics, second, nested, json_data, bad_config, stop
];

fn block_on() {
    let thread = std::thread::current().id();
    let sum = app().block_on(async move {
        assert!(on_app_thread());
        assert_eq!(std::thread::current().id(), thread);
        sleep(Duration::from_millis(1)).await;
        Ok(1 + 1)
    });
    assert_eq!(sum.unwrap(), 2);
    assert!(!on_app_thread());
}

fn borrows() {
    let (text, seen) = (String::from("of the caller"), Cell::new(0));
    let got = app().block_on(async {
        sleep(Duration::from_millis(1)).await;
        seen.set(text.len());
        Ok(text.as_str())
    });
    assert_eq!((got.unwrap(), seen.get()), (text.as_str(), text.len()));
}

fn run() {
    let mut calls = 0;
    app()
        .run(|| {
            calls += 1;
            SpdkApp::stop().unwrap();
            SpdkApp::stop().unwrap();
        })
        .unwrap();
    assert_eq!(calls, 1);
    assert!(matches!(SpdkApp::stop(), Err(Error::NotFound(_))));
}

fn error() {
    let result = app().block_on::<()>(async { Err(Error::Busy("the disk is in use".into())) });
    assert_eq!(result.unwrap_err().to_string(), "the disk is in use");
}

fn panics() {
    let result = app().block_on::<()>(async {
        sleep(Duration::from_millis(1)).await;
        panic!("of the future");
    });
    assert!(matches!(result, Err(Error::Panicked(_))), "{result:?}");
}

fn second() {
    app().block_on(async { Ok(()) }).unwrap();
    let error = app().block_on(async { Ok(()) }).unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
}

fn nested() {
    let nested = app().block_on(async { Ok(app().block_on(async { Ok(()) })) });
    let error = nested.unwrap().unwrap_err();
    assert!(matches!(error, Error::WrongThread(_)), "{error}");
}

fn json_data() {
    app().json_data(DISK).block_on(async { Ok(()) }).unwrap();
}

fn bad_config() {
    let error = app().json_data(DISK.replace("512", "511")).block_on(async { Ok(()) });
    assert!(matches!(error, Err(Error::Errno { .. })), "{error:?}");
}

fn stop() {
    let dropped = Cell::new(false);
    struct Tell<'a>(&'a Cell<bool>);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            self.0.set(on_app_thread());
        }
    }
    let result = app().block_on::<()>(async {
        let _tell = Tell(&dropped);
        std::thread::spawn(|| SpdkApp::stop().unwrap()).join().unwrap();
        std::future::pending().await
    });
    assert!(matches!(result, Err(Error::Stopped(_))), "{result:?}");
    assert!(dropped.get());
}

fn lacking() {
    // What a release lacks can be left out then.
    match app().no_huge(true).block_on(async { Ok(()) }) {
        Ok(()) => {}
        Err(Error::Unsupported { needs, .. }) => {
            assert_eq!(needs, "21.10");
            app().block_on(async { Ok(()) }).unwrap();
        }
        Err(other) => panic!("{other}"),
    }
}
