//! What the tests of mirrors share.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Config, Host, until};

/// The RPC method that makes a mirror.
pub const CREATE: &str = "bdev_mirror_create";

/// What [`state`] says of the mirror `m0`, which the tests use.
pub const NAME: &str = "m0";

/// Where the data begin on legs of the size that the tests use.
const DATA: usize = 1 << 20;

/// What a mirror tells of itself.
pub fn state(host: &Host) -> Value {
    let call = host.call::<Vec<Value>>("bdev_mirror_get_mirrors", json!({ "name": NAME }));
    call.unwrap_or_else(|error| panic!("{error}\n{}", host.log()))[0].clone()
}

/// Waits until the mirror is in a state.
#[track_caller]
pub fn becomes(host: &Host, wanted: &str) {
    until(&format!("to be {wanted}"), || state(host)["state"] == wanted);
}

/// The state of one leg.
pub fn leg(host: &Host, slot: usize) -> String {
    state(host)["legs"][slot]["state"].as_str().unwrap_or("none").to_owned()
}

/// Calls a method that says true.
#[track_caller]
pub fn does(host: &Host, method: &str, params: Value) {
    let done = host.call::<bool>(method, params);
    assert!(done.unwrap_or_else(|error| panic!("{method}: {error}\n{}", host.log())));
}

/// Has the legs compared, and tells how many blocks differ.
pub fn differing(host: &Host) -> u64 {
    does(host, "bdev_mirror_check", json!({ "name": NAME }));
    until("the check", || state(host)["check"]["done"] == true);
    state(host)["check"]["differing_blocks"].as_u64().unwrap()
}

/// The parameters of a mirror on bases, with small regions and little patience.
pub fn mirror(bases: &[&str]) -> Value {
    json!({ "name": NAME, "base_bdevs": bases, "region_size_kb": 256, "quiet_ms": 50 })
}

/// Legs in files.
#[derive(Debug)]
pub struct Files {
    dir: TempDir,
    count: usize,
}

impl Files {
    /// So many files of so many MiB, all zero.
    pub fn new(count: usize, mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let this = Self { dir, count };
        (0..count)
            .for_each(|leg| File::create(this.path(leg)).unwrap().set_len(mib << 20).unwrap());
        this
    }

    /// The directory that they are in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a leg's file.
    pub fn path(&self, leg: usize) -> PathBuf {
        self.dir.path().join(format!("leg{leg}"))
    }

    /// The parameters of `bdev_aio_create` for a leg.
    pub fn aio(&self, leg: usize) -> Value {
        json!({ "name": format!("leg{leg}"), "filename": self.path(leg), "block_size": 512 })
    }

    /// A configuration with some of the legs, in this order.
    pub fn some(&self, legs: &[usize]) -> Config {
        let add = |config: Config, leg: &usize| config.bdev("bdev_aio_create", self.aio(*leg));
        legs.iter().fold(Config::new(), add)
    }

    /// A configuration with all legs.
    pub fn all(&self) -> Config {
        self.some(&(0..self.count).collect::<Vec<_>>())
    }

    /// Fails unless the data are the same on these legs.
    #[track_caller]
    pub fn equal(&self, legs: &[usize]) {
        let first = fs::read(self.path(legs[0])).unwrap();
        for leg in &legs[1..] {
            let other = fs::read(self.path(*leg)).unwrap();
            assert_eq!(first.len(), other.len());
            let at = (DATA..first.len()).find(|at| first[*at] != other[*at]);
            assert_eq!(at, None, "legs {} and {leg} differ at this byte", legs[0]);
        }
    }
}

/// Kills a host as a power failure would.
pub fn kill(host: &Host) {
    let pid = libc::pid_t::try_from(host.pid()).unwrap();
    // SAFETY: a signal to a child of ours that was not waited for yet.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}
