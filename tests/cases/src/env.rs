//! The environment without an app.

use spdk_plugin::dma::{DmaBuf, DmaPool};
use spdk_plugin::{Error, SpdkApp, SpdkEnv, SpdkThread};

use crate::support::{app, env};

crate::cases![
    once,
    after_drop,
    before_app,
    options,
    outlived,
    in_app,
    without_hugepages,
    gone,
    failed
];

fn once() {
    let _env = env().init().unwrap();
    assert!(matches!(env().init(), Err(Error::Exists(_))));
    assert!(matches!(app().run(|| ()), Err(Error::Exists(_))));
}

fn after_drop() {
    drop(env().init().unwrap());
    assert!(matches!(SpdkEnv::init(), Err(Error::Exists(_))));
}

fn before_app() {
    let error = SpdkThread::new("early").unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert!(matches!(SpdkApp::stop(), Err(Error::NotFound(_))));
    assert!(spdk_plugin::runtime::cores().is_empty());
}

fn options() {
    for bad in [env().name(""), env().name("a\0b"), env().pci_allowed(["no address"])] {
        let error = bad.init().unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    let bdf = ["0000:00:1f.7"];
    let env = env().shm_id(std::process::id()).base_virtaddr(0x2000_0000_0000).pci_blocked(bdf);
    let _env = env.log_level(log::LevelFilter::Warn).init().unwrap();
    assert_eq!(spdk_plugin::runtime::cores().len(), 1);
}

fn outlived() {
    let env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    drop(env);
    assert_eq!(thread.block_on(async { 1 }).unwrap(), 1);
}

fn in_app() {
    app()
        .block_on(async {
            assert!(matches!(env().init(), Err(Error::Exists(_))));
            assert!(matches!(SpdkThread::new("own"), Err(Error::NotFound(_))));
            Ok(())
        })
        .unwrap();
}

fn without_hugepages() {
    // Also where the rig would see to it.
    let _env = env().no_huge(true).init().unwrap();
    let thread = SpdkThread::new("main").unwrap();
    assert_eq!(thread.block_on(async { 1 }).unwrap(), 1);
}

/// Memory keeps the environment; when the last is back, there is no more to be had.
fn gone() {
    let env = env().init().unwrap();
    let pool = DmaPool::new(4, 4096, 4096).unwrap();
    drop(env);
    DmaBuf::alloc(4096, 4096).unwrap().fill(1);
    let last = pool.get().unwrap();
    drop(pool);
    SpdkThread::new("not yet").unwrap();
    drop(last);
    none_left();
}

fn failed() {
    env().core_mask("[127]").init().unwrap_err();
    none_left();
}

fn none_left() {
    let error = DmaBuf::alloc(4096, 4096).map(|mut buf| buf.fill(1)).unwrap_err();
    assert!(matches!(error, Error::NoMemory(_)), "{error}");
    let error = SpdkThread::new("late").unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert!(spdk_plugin::runtime::cores().is_empty());
}
