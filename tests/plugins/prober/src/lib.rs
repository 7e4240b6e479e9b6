//! `prober_run`: submits I/O to any bdev, all at once and from the app thread, and tells how each ended.

mod device;

use futures_channel::oneshot;
use serde::{Deserialize, Serialize};
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

use device::Open;

spdk_plugin::spdk_plugin! { modules: [] }

#[derive(Deserialize)]
struct Run {
    bdev: String,
    ops: Vec<Op>,
}

/// One request.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Op {
    pub(crate) kind: Kind,
    /// First block; of a copy, the destination's.
    #[serde(default)]
    pub(crate) offset: u64,
    #[serde(default)]
    pub(crate) blocks: u64,
    /// What each byte of the data is.
    #[serde(default)]
    pub(crate) fill: u8,
    /// A read brings no buffer: the bdev layer has to find one.
    #[serde(default)]
    pub(crate) no_buffer: bool,
    /// First block of a copy's source.
    #[serde(default)]
    pub(crate) source: u64,
    /// The number of the request that an abort is about.
    #[serde(default)]
    pub(crate) target: usize,
    /// How often it is submitted.
    repeat: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Read,
    Write,
    Unmap,
    Flush,
    WriteZeroes,
    Compare,
    CompareAndWrite,
    Copy,
    Reset,
    Abort,
}

/// How a request ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// It was not submitted: an errno value.
    pub(crate) refused: Option<i32>,
    pub(crate) success: bool,
    /// NVMe status code type and status code.
    pub(crate) status: (i32, i32),
    /// What every byte of a read's data is, if they are all the same.
    pub(crate) data: Option<u8>,
}

#[rpc(name = "prober_run")]
async fn run(params: Run) -> Result<Vec<Outcome>, RpcError> {
    let open = Open::new(&params.bdev)?;
    let mut waits: Vec<oneshot::Receiver<Outcome>> = Vec::new();
    let mut submitted = Vec::new();
    for op in &params.ops {
        for _ in 0..op.repeat.unwrap_or(1) {
            let (send, receive) = oneshot::channel();
            waits.push(receive);
            submitted.push(open.submit(op, send, &submitted));
        }
    }
    let mut outcomes = Vec::new();
    for wait in waits {
        outcomes.push(wait.await.map_err(|_| RpcError::internal("a request was forgotten"))?);
    }
    Ok(outcomes)
}
