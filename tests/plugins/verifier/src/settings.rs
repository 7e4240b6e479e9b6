//! What the methods are told, and what they answer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use spdk_plugin_test_model::{Kind, Mismatch};

/// The parameters of `verify_bdev`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Verify {
    pub(crate) name: String,
    /// What everything follows from that is left to chance.
    pub(crate) seed: u64,
    /// It ends after so many operations,
    pub(crate) operations: Option<u64>,
    /// or after so many seconds, whichever comes first.
    pub(crate) seconds: Option<f64>,
    /// It runs on the first so many of the program's cores.
    #[serde(default = "one")]
    pub(crate) cores: usize,
    /// Operations in flight on each.
    #[serde(default = "eight")]
    pub(crate) depth: usize,
    /// First block that is used.
    #[serde(default)]
    pub(crate) first: u64,
    /// The number of blocks that are used, by default as many as a model has room for.
    pub(crate) blocks: Option<u64>,
    /// The most bytes of an operation.
    #[serde(default = "longest")]
    pub(crate) longest: u64,
    /// The kinds of operations, by default all that the bdev knows, but for resets.
    pub(crate) kinds: Option<Vec<Kind>>,
    /// Several operations may change a block at once, and one of them wins.
    #[serde(default)]
    pub(crate) races: bool,
    /// Failing I/O is counted and not an error; a change that has failed may have happened or not. Else it is one,
    /// but for a run with resets that of I/O that was aborted.
    #[serde(default)]
    pub(crate) may_fail: bool,
    /// Buffers lie at any address and are cut anywhere. Else both are a multiple of the block size.
    #[serde(default = "yes")]
    pub(crate) odd_buffers: bool,
    /// Goes on with what the last call has found out about this bdev.
    #[serde(default)]
    pub(crate) resume: bool,
    /// A file that tells of all that was changed, and outlives the program. If it is there, the run goes on with it.
    pub(crate) journal: Option<PathBuf>,
    /// At the end every block is read once more.
    #[serde(default = "yes")]
    pub(crate) sweep: bool,
}

/// The parameters of `fill_bdev` and `check_bdev`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Pattern {
    pub(crate) name: String,
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) first: u64,
    /// By default all to the end.
    pub(crate) blocks: Option<u64>,
    #[serde(default = "eight")]
    pub(crate) depth: usize,
    #[serde(default = "longest")]
    pub(crate) longest: u64,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn eight() -> usize {
    8
}

fn longest() -> u64 {
    256 << 10
}

/// What a run has shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Operations that have ended, by kind.
    pub(crate) operations: BTreeMap<Kind, u64>,
    /// Operations that have failed, as they may.
    pub(crate) failed: u64,
    /// One of those.
    pub(crate) last_error: Option<String>,
    /// Blocks that were read and held what they should, by all operations.
    pub(crate) blocks_checked: u64,
    /// Blocks of them that were checked by the sweep at the end.
    pub(crate) blocks_swept: u64,
    /// Kinds that the bdev does not know.
    pub(crate) unsupported: Vec<Kind>,
    /// The bdev was removed, which has ended the run.
    pub(crate) removed: bool,
    pub(crate) seconds: f64,
    /// What went wrong.
    pub(crate) failure: Option<Failure>,
}

/// What went wrong first.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// A block does not hold what it should.
    Mismatch(Mismatch),
    /// An operation failed, or has not failed as it should.
    Operation(String),
}
