//! Programs that do not end by themselves, for tests that send them signals and RPCs:
//! `cases --program <name>`. Each writes `ready` when it is.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use spdk_plugin::runtime::{for_each_core, on_app_thread, sleep, spawn_local, spawn_on};
use spdk_plugin::{BdevDesc, DmaBuf, Error, Result};

use crate::support::{DISK, app, bdevs, cpus};

type Program = fn() -> Result<()>;

const PROGRAMS: &[(&str, Program)] = &[
    ("pending", pending),
    ("many", many),
    ("stubborn", stubborn),
    ("served", served),
    ("busy", busy),
];

/// With the codes that `#[spdk_plugin::main]` gives.
pub(crate) fn run(name: &str) -> ExitCode {
    let Some((_, program)) = PROGRAMS.iter().find(|(known, _)| *known == name) else {
        eprintln!("'{name}' is no program");
        return ExitCode::FAILURE;
    };
    match program() {
        Err(Error::Stopped(_)) => {
            println!("stopped in order");
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("{name} ended by itself: {other:?}");
            ExitCode::FAILURE
        }
    }
}

/// Says that it went, and where.
struct Tell(&'static str);

impl Drop for Tell {
    fn drop(&mut self) {
        println!("{} dropped, on the app thread: {}", self.0, on_app_thread());
    }
}

/// The future of the app and a task wait for ever.
fn pending() -> Result<()> {
    app().json_data(DISK).block_on(async {
        let _tell = Tell("future");
        spawn_local(async {
            let _tell = Tell("task");
            std::future::pending::<()>().await;
        });
        println!("ready");
        std::future::pending().await
    })
}

/// Tasks on every core, that are awaited.
fn many() -> Result<()> {
    let mask = format!("[0-{}]", cpus().min(2) - 1);
    app().reactor_mask(mask).json_data(DISK).block_on(async {
        println!("ready");
        for_each_core(|_| async {
            let _tell = Tell("task");
            loop {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .map(|_: Vec<(u32, ())>| ())
    })
}

/// Tasks that spawn others when they go.
fn stubborn() -> Result<()> {
    struct Again(u32);
    impl Drop for Again {
        fn drop(&mut self) {
            if self.0 < 10 {
                let again = Self(self.0 + 1);
                spawn_local(async move {
                    let _again = again;
                    std::future::pending::<()>().await;
                });
            }
        }
    }
    app().json_data(DISK).block_on(async {
        let again = Again(0);
        spawn_local(async move {
            let _again = again;
            std::future::pending::<()>().await;
        });
        let core = spdk_plugin::runtime::current_core().unwrap_or(0);
        drop(spawn_on(core, std::future::pending::<()>)?);
        println!("ready");
        std::future::pending().await
    })
}

/// The socket is the one that the test says.
fn served() -> Result<()> {
    let address = std::env::var("CASES_SOCKET").unwrap_or_default();
    app().rpc_addr(address).json_data(DISK).block_on(async {
        let _tell = Tell("future");
        println!("ready");
        std::future::pending().await
    })
}

/// Operations in flight on every core, on a quick bdev and on a slow one.
fn busy() -> Result<()> {
    let malloc = |name: &str| {
        ("bdev_malloc_create", json!({ "name": name, "num_blocks": 2048, "block_size": 4096 }))
    };
    let late = 500_000;
    let slow = json!({
        "base_bdev_name": "m1", "name": "slow", "avg_read_latency": late, "p99_read_latency": late,
        "avg_write_latency": late, "p99_write_latency": late,
    });
    let config = bdevs(&[malloc("m0"), malloc("m1"), ("bdev_delay_create", slow)]);
    let mask = format!("[0-{}]", cpus().min(2) - 1);
    app().reactor_mask(mask).json_data(config).block_on(async {
        for_each_core(|_| async {
            for (name, depth) in [("m0", 64), ("slow", 64)] {
                let desc = Rc::new(BdevDesc::open(name, true).expect("open"));
                let channel = desc.get_io_channel().expect("channel");
                for i in 0..depth {
                    let (desc, channel) = (Rc::clone(&desc), channel.clone());
                    spawn_local(async move {
                        let mut data = DmaBuf::alloc(4096, 4096).expect("memory");
                        for block in (i..).map(|at| at % 2048) {
                            if block % 2 == 0 {
                                desc.read_blocks(&channel, &mut data, block, 1)
                                    .await
                                    .expect("read");
                            } else {
                                desc.write_blocks(&channel, &mut data, block, 1)
                                    .await
                                    .expect("write");
                            }
                        }
                    });
                }
            }
            sleep(Duration::from_millis(50)).await;
        })
        .await?;
        println!("ready");
        std::future::pending().await
    })
}
