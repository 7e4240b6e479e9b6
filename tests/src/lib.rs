//! What the integration tests share.

use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
pub use spdk_plugin_rig::*;

pub mod mirror;
mod verifier;

pub use verifier::{Verified, Verify, check, fill, seed, try_verify, verifier, verify};

/// The plugin with every module of the project.
pub fn modules() -> PathBuf {
    plugin("spdk-plugin-modules")
}

/// The plugin with the project's modules whose allocator counts; see [`Heap`].
pub fn counting() -> PathBuf {
    plugin("spdk-plugin-test-counting")
}

/// The plugin that panics, waits and fails when told to.
pub fn chaos() -> PathBuf {
    test_plugin("spdk-plugin-test-chaos")
}

/// The plugin whose RPC methods try out tasks, time and pollers.
pub fn tasks() -> PathBuf {
    test_plugin("spdk-plugin-test-tasks")
}

/// The plugin whose RPC method submits I/O to any bdev; see [`probe`].
pub fn prober() -> PathBuf {
    test_plugin("spdk-plugin-test-prober")
}

/// Builds a plugin of the tests, with all checks and without optimization, which takes long.
pub fn test_plugin(package: &str) -> PathBuf {
    let built = Build::package(package).cdylib(spdk());
    built.unwrap_or_else(|error| panic!("cannot build the plugin of {package}: {error}"))
}

/// As [`test_plugin`], for a plugin that is an example of the package.
pub fn test_example(package: &str, name: &str) -> PathBuf {
    let built = Build::package(package).example_cdylib(spdk(), name);
    built.unwrap_or_else(|error| panic!("cannot build the plugin {name} of {package}: {error}"))
}

/// A program that has the project's modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// SPDK's own `spdk_tgt`, with the plugin preloaded.
    SpdkTgt,
    /// An app with SPDK linked in; statically where there are archives.
    App,
    /// An app linked with SPDK's shared libraries.
    SharedApp,
}

impl Program {
    /// Describes a host that runs it.
    pub fn builder(self) -> HostBuilder {
        let app = |package: &str| {
            let built = Build::package(package).bin(spdk(), package);
            let path = built.unwrap_or_else(|error| panic!("cannot build {package}: {error}"));
            // It has all that `spdk_tgt` has.
            Host::builder(spdk(), path).mem_mb(1536)
        };
        match self {
            Self::SpdkTgt => Host::builder(spdk(), "spdk_tgt").plugin(modules()),
            Self::App => app("spdk-plugin-test-app"),
            Self::SharedApp => app("spdk-plugin-test-app-shared"),
        }
    }

    /// Starts it.
    pub fn start(self) -> Host {
        self.builder().start().unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// Makes a test of each function for each [`Program`].
#[macro_export]
macro_rules! in_every_program {
    ($($(#[$attribute:meta])* fn $name:ident($program:ident) $body:block)*) => {
        $(
            $(#[$attribute])*
            mod $name {
                use super::*;

                fn check($program: $crate::Program) $body

                #[test]
                fn in_spdk_tgt() {
                    check($crate::Program::SpdkTgt);
                }

                #[test]
                fn in_an_app() {
                    check($crate::Program::App);
                }

                #[test]
                fn in_a_shared_app() {
                    check($crate::Program::SharedApp);
                }
            }
        )*
    };
}

/// Whether the SPDK in use is that release or a later one.
pub fn at_least(major: u32, minor: u32) -> bool {
    spdk().version().at_least(major, minor)
}

/// How long a measured or verified run takes: `SPDK_PLUGIN_TEST_SECONDS`, 10 by default.
pub fn seconds() -> u32 {
    from_env("SPDK_PLUGIN_TEST_SECONDS", 10)
}

/// How often what must not go wrong even once is repeated: `SPDK_PLUGIN_TEST_ROUNDS`, 200 by default.
pub fn rounds() -> u32 {
    from_env("SPDK_PLUGIN_TEST_ROUNDS", 200)
}

fn from_env<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is '{text}', which is no number"))
}

/// Keeps tests apart that need the machine for themselves, in this process and others. Held until it
/// is dropped.
pub fn alone() -> File {
    let path = std::env::temp_dir().join("spdk-plugin-tests.lock");
    let file =
        File::create(&path).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    file.lock().unwrap_or_else(|e| panic!("cannot lock {}: {e}", path.display()));
    file
}

/// Has the machine prefer a host to other programs, where we may ask that of it, until what this gives is dropped:
/// for what is measured in time.
pub fn prefer(host: &Host) -> impl Drop + use<> {
    struct Preferred(PathBuf, Option<String>);
    impl Drop for Preferred {
        fn drop(&mut self) {
            let _ = self.1.as_ref().map(|nice| std::fs::write(&self.0, nice));
        }
    }
    let tasks = std::fs::read_dir(format!("/proc/{}/task", host.pid())).into_iter().flatten();
    let ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    for id in ids {
        // SAFETY: changes the priority of a thread of a child of ours.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, id, -20) };
    }
    // Where sessions share the processor evenly, that of the session counts, which is ours, too.
    let path = PathBuf::from(format!("/proc/{}/autogroup", std::process::id()));
    let before = std::fs::read_to_string(&path).ok();
    let before = before.and_then(|text| text.split_whitespace().last().map(str::to_owned));
    let _ = std::fs::write(&path, "-20");
    Preferred(path, before)
}

/// Names of all bdevs.
pub fn bdevs(host: &Host) -> Vec<String> {
    let bdevs: Vec<Value> = host.call("bdev_get_bdevs", ()).unwrap();
    bdevs.iter().map(|bdev| bdev["name"].as_str().unwrap().to_owned()).collect()
}

/// One bdev as `bdev_get_bdevs` shows it.
pub fn bdev(host: &Host, name: &str) -> Value {
    let mut bdevs: Vec<Value> = host.call("bdev_get_bdevs", json!({ "name": name })).unwrap();
    assert_eq!(bdevs.len(), 1);
    bdevs.remove(0)
}

/// Reads and writes that have ended, of all bdevs.
pub fn ios(host: &Host) -> u64 {
    let stat: Value = host.call("bdev_get_iostat", ()).unwrap();
    let list = stat.get("bdevs").unwrap_or(&stat).as_array().unwrap();
    let ops = |stat: &Value, key: &str| stat[key].as_u64().unwrap_or(0);
    list.iter().map(|stat| ops(stat, "num_read_ops") + ops(stat, "num_write_ops")).sum()
}

/// Waits until `done`, for which two minutes must do: disks that flush may be slow.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        thread::yield_now();
    }
}

/// How a request of [`probe`] ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Outcome {
    /// It was not submitted: an errno value.
    pub refused: Option<i32>,
    /// It ended well.
    pub success: bool,
    /// NVMe status code type and status code.
    pub status: (i32, i32),
    /// What every byte that was read is, if they are all the same.
    pub data: Option<u8>,
}

impl Outcome {
    /// Whether it failed after it was submitted.
    pub fn failed(&self) -> bool {
        self.refused.is_none() && !self.success
    }
}

/// Submits `ops` to a bdev at once, from a host with the [`prober`], and waits for all of them. Each is
/// an object with `kind` (`read`, `compare_and_write`, `reset`...), and `offset`, `blocks`, `fill`,
/// `no_buffer`, `source`, `target`, `repeat`.
pub fn probe(host: &Host, bdev: &str, ops: &[Value]) -> Vec<Outcome> {
    let outcomes = host.call("prober_run", json!({ "bdev": bdev, "ops": ops }));
    outcomes.unwrap_or_else(|error| panic!("{error}\n{}", host.log()))
}

/// The lines of the log that tell of errors.
pub fn errors(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("*ERROR*")).collect()
}

/// Fails unless the log holds all of `texts`.
#[track_caller]
pub fn assert_logged(host: &Host, texts: &[&str]) {
    let log = host.log();
    for text in texts {
        assert!(log.contains(text), "the log lacks '{text}':\n{log}");
    }
}

/// The heap of the [`counting`] plugin.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct Heap {
    /// Calls of its allocator.
    pub calls: u64,
    /// Bytes in use.
    pub live: i64,
}

impl Heap {
    /// How it is now.
    pub fn of(host: &Host) -> Self {
        host.call("counting_heap", ()).unwrap()
    }
}
