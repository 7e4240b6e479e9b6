//! What was written is what is read: the project's own verifier, on any bdev of a host that has its plugin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Host, RpcError, from_env, plugin};

/// What a call may take beyond the seconds that it was given.
const OVERHEAD: Duration = Duration::from_secs(120);

/// The plugin whose RPC methods verify any bdev, optimized; see [`verify`], [`fill`] and [`check`].
pub fn verifier() -> PathBuf {
    plugin("spdk-plugin-test-verifier")
}

/// What a test leaves to chance follows from this: `SPDK_PLUGIN_TEST_SEED`, or the time. It is printed.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let seed = from_env("SPDK_PLUGIN_TEST_SEED", now as u64);
    eprintln!("SPDK_PLUGIN_TEST_SEED={seed}");
    seed
}

/// A run of the verifier: by default of a second, on one core, with 8 operations of at most 256 KiB in flight, of all
/// kinds that the bdev knows.
///
/// One core and a depth of 1 with a number of operations does the same again for the same seed; otherwise it depends
/// on time which operations meet.
#[derive(Clone, Debug)]
#[must_use = "a description runs nothing"]
pub struct Verify {
    params: Map<String, Value>,
}

impl Default for Verify {
    fn default() -> Self {
        Self::new()
    }
}

impl Verify {
    /// The default.
    pub fn new() -> Self {
        Self { params: Map::new() }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// It is about chance; [`seed`] by default.
    pub fn seed(self, seed: u64) -> Self {
        self.with("seed", seed)
    }

    /// It ends after so many operations.
    pub fn operations(self, count: u64) -> Self {
        self.with("operations", count)
    }

    /// It ends after so many seconds; together with [`operations`](Self::operations), whichever comes first.
    pub fn seconds(self, seconds: impl Into<f64>) -> Self {
        self.with("seconds", seconds.into())
    }

    /// It runs on the first so many of the host's cores, which use the same blocks.
    pub fn cores(self, count: usize) -> Self {
        self.with("cores", count)
    }

    /// Operations in flight on each core.
    pub fn depth(self, depth: usize) -> Self {
        self.with("depth", depth)
    }

    /// The blocks that are used: so many from the first on. By default all, but for those beyond 4 million.
    pub fn blocks(self, first: u64, count: u64) -> Self {
        self.with("first", first).with("blocks", count)
    }

    /// The most bytes of an operation.
    pub fn longest(self, bytes: u64) -> Self {
        self.with("longest", bytes)
    }

    /// The kinds of operations, of `read`, `write`, `unmap`, `write_zeroes`, `flush`, `compare`, `compare_and_write`,
    /// `copy` and `reset`. By default all but the last.
    pub fn kinds(self, kinds: &[&str]) -> Self {
        self.with("kinds", kinds)
    }

    /// Several writes of a block may be in flight at once. One of them wins, and that for good: of a bdev that
    /// keeps them apart. A memory disk copies two at once, and a block may end up with some of both.
    pub fn races(self) -> Self {
        self.with("races", true)
    }

    /// I/O may fail; of a change that has failed, a block may show or not. Otherwise a failure is an error.
    pub fn may_fail(self) -> Self {
        self.with("may_fail", true)
    }

    /// Buffers lie at multiples of the block size, and so do their pieces. By default they lie anywhere.
    pub fn even_buffers(self) -> Self {
        self.with("odd_buffers", false)
    }

    /// Goes on with what the last run on this host knows of the bdev, with the same blocks. With no
    /// [`operations`](Self::operations) it only checks.
    pub fn resume(self) -> Self {
        self.with("resume", true)
    }

    /// Writes a file before and after every change. A run with a file that is there goes on with what that says, also
    /// after the host was killed: what was acknowledged must be there, what was in flight may be.
    pub fn journal(self, path: &Path) -> Self {
        self.with("journal", path.to_str().expect("a path of UTF-8"))
    }

    /// Leaves out the last step, to read every block once more.
    pub fn no_sweep(self) -> Self {
        self.with("sweep", false)
    }

    fn params(mut self, bdev: &str) -> Value {
        let params = &mut self.params;
        params.insert("name".into(), bdev.into());
        if !params.contains_key("seed") {
            params.insert("seed".into(), seed().into());
        }
        if !params.contains_key("operations") && !params.contains_key("seconds") {
            params.insert("seconds".into(), 1.into());
        }
        self.params.into()
    }
}

/// What a run has shown.
#[derive(Clone, Debug, Deserialize)]
pub struct Verified {
    /// What it has left to chance follows from this.
    pub seed: u64,
    /// Operations that have ended, by kind.
    pub operations: BTreeMap<String, u64>,
    /// Operations that have failed, as they might.
    pub failed: u64,
    /// The last of those.
    pub last_error: Option<String>,
    /// Blocks that were read whose contents were known and right.
    pub blocks_checked: u64,
    /// Those of the last step, which reads every block.
    pub blocks_swept: u64,
    /// Kinds that the bdev does not know.
    pub unsupported: Vec<String>,
    /// The bdev was removed, which has ended the run.
    pub removed: bool,
    /// How long it took.
    pub seconds: f64,
    /// What was wrong: `mismatch` with the block, what it should hold and does hold, and the last operations on it; or
    /// `operation`, with one that failed.
    pub failure: Option<Value>,
}

impl Verified {
    /// Operations of all kinds.
    pub fn total(&self) -> u64 {
        self.operations.values().sum()
    }
}

/// Verifies a bdev of a host that has the [`verifier`], and gives what was found, be it wrong or not.
pub fn try_verify(host: &Host, bdev: &str, options: Verify) -> Result<Verified, RpcError> {
    let params = options.params(bdev);
    let mut rpc = host.rpc()?;
    rpc.set_timeout(OVERHEAD + Duration::from_secs_f64(params["seconds"].as_f64().unwrap_or(0.0)));
    rpc.call("verify_bdev", params)
}

/// Verifies a bdev of a host that has the [`verifier`]. Anything that is wrong is a panic that tells of it.
#[track_caller]
pub fn verify(host: &Host, bdev: &str, options: Verify) -> Verified {
    let run = try_verify(host, bdev, options).unwrap_or_else(|e| panic!("{bdev}: {e}"));
    if let Some(failure) = &run.failure {
        panic!("bdev {bdev}, SPDK_PLUGIN_TEST_SEED={}: {failure:#}", run.seed);
    }
    assert!(!run.removed, "bdev {bdev} was removed: {run:?}");
    run
}

#[derive(Deserialize)]
struct Pattern {
    blocks: u64,
    wrong: u64,
    first_wrong: Option<(u64, String)>,
}

fn pattern(host: &Host, method: &str, bdev: &str, seed: u64) -> Pattern {
    let call = || {
        let mut rpc = host.rpc()?;
        rpc.set_timeout(OVERHEAD);
        rpc.call(method, json!({ "name": bdev, "seed": seed }))
    };
    call().unwrap_or_else(|error| panic!("{method} {bdev}: {error}"))
}

/// Fills a bdev with what follows from a seed. Gives the number of its blocks.
#[track_caller]
pub fn fill(host: &Host, bdev: &str, seed: u64) -> u64 {
    pattern(host, "fill_bdev", bdev, seed).blocks
}

/// Checks that a bdev holds what [`fill`] wrote, on this host or another. Gives the number of its blocks.
#[track_caller]
pub fn check(host: &Host, bdev: &str, seed: u64) -> u64 {
    let checked = pattern(host, "check_bdev", bdev, seed);
    if let Some((block, found)) = checked.first_wrong {
        panic!(
            "bdev {bdev}, seed {seed}: {} blocks of {} are wrong; the first is {block}, which holds {found}",
            checked.wrong,
            checked.wrong + checked.blocks
        );
    }
    checked.blocks
}
