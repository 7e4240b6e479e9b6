//! Two subsystems, `first` and `second`, which depends on it. What goes wrong in `second` the environment variable
//! `TEST_SUBSYSTEM` tells.

#![forbid(unsafe_code)]

use std::env;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spdk_plugin::module::RpcCall;
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::sleep;
use spdk_plugin::{Error, Result, Subsystem, rpc, subsystem};

spdk_plugin::spdk_plugin! { modules: [] }

/// What `first` was set to.
static LEVEL: Mutex<u32> = Mutex::new(1);

struct First;

#[subsystem(name = "first", depends_on = ["bdev"])]
impl Subsystem for First {
    async fn init() -> Result<()> {
        log::info!("first starts at level {}", *LEVEL.lock().unwrap());
        Ok(())
    }

    async fn fini() -> Result<()> {
        log::info!("first stops");
        Ok(())
    }

    fn config() -> Vec<RpcCall> {
        vec![RpcCall::new("first_set", Level { level: *LEVEL.lock().unwrap() })]
    }
}

#[derive(Deserialize, Serialize)]
struct Level {
    level: u32,
}

#[rpc(name = "first_set", state = "startup")]
async fn set(params: Level) -> Result<bool, RpcError> {
    *LEVEL.lock().unwrap() = params.level;
    Ok(true)
}

#[rpc(name = "first_get", state = "any")]
async fn get() -> Result<u32, RpcError> {
    Ok(*LEVEL.lock().unwrap())
}

struct Second;

fn told(what: &str) -> bool {
    env::var("TEST_SUBSYSTEM").is_ok_and(|told| told == what)
}

#[subsystem(name = "second", depends_on = ["first"])]
impl Subsystem for Second {
    const TIMEOUT: Duration = Duration::from_millis(500);

    async fn init() -> Result<()> {
        log::info!("second starts");
        if told("init panics") {
            panic!("told to");
        }
        sleep(Duration::from_millis(1)).await;
        if told("init panics later") {
            panic!("told to, after an await");
        }
        if told("init fails") {
            return Err(Error::Busy("the licence server does not answer".into()));
        }
        if told("init hangs") {
            std::future::pending::<()>().await;
        }
        if told("init hangs and panics") {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn fini() -> Result<()> {
        log::info!("second stops");
        sleep(Duration::from_millis(1)).await;
        if told("fini panics") {
            panic!("told to");
        }
        if told("fini fails") {
            return Err(Error::Busy("the licence server does not answer".into()));
        }
        if told("fini hangs") {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn config() -> Vec<RpcCall> {
        if told("config panics") {
            panic!("told to");
        }
        Vec::new()
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("told to, in a drop");
    }
}
