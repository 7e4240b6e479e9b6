//! Copies blocks between bdevs and files, as `dd` does.
//!
//! `dd --json bdevs.json if=Malloc0 of=copy.img bs=64K count=16 skip=4`, with any of SPDK's usual options.
//! A name that is no bdev's is a file's. Blocks of `bs` bytes are read from `skip` on and written from
//! `seek` on, `count` of them or to the end, `qd` at a time. The end of a file is filled up with zeroes
//! to a block of the bdev.

#![forbid(unsafe_code)]

mod end;
mod operands;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use end::End;
use operands::Operands;
use spdk_plugin::runtime::spawn_local;
use spdk_plugin::{DmaBuf, Error, Result};

struct Copy {
    operands: Operands,
    input: End,
    output: End,
    /// Blocks to copy.
    count: u64,
    /// The first that nobody has taken yet.
    next: Cell<u64>,
}

impl Copy {
    async fn new(operands: Operands) -> Result<Self> {
        let input = End::open(&operands.input, false).await?;
        let output = End::open(&operands.output, true).await?;
        let bs = operands.bs;
        for end in [&input, &output] {
            if !bs.is_multiple_of(end.block_size()) {
                let size = end.block_size();
                return Err(Error::Invalid(format!(
                    "bs={bs} is no multiple of the block size {size}"
                )));
            }
        }
        let there = input.size().div_ceil(bs).saturating_sub(operands.skip);
        let count = operands.count.map_or(there, |count| count.min(there));
        Ok(Self { operands, input, output, count, next: Cell::new(0) })
    }

    /// Copies blocks until there are none left. Gives the number of bytes.
    async fn blocks(self: Rc<Self>) -> Result<u64> {
        let Operands { bs, skip, seek, .. } = self.operands;
        let mut copied = 0;
        loop {
            let n = self.next.get();
            if n >= self.count {
                return Ok(copied);
            }
            self.next.set(n + 1);
            let beyond = || Error::Invalid(format!("block {n} is out of reach"));
            let from = n.checked_add(skip).and_then(|n| n.checked_mul(bs)).ok_or_else(beyond)?;
            let to = n.checked_add(seek).and_then(|n| n.checked_mul(bs)).ok_or_else(beyond)?;
            let buf = DmaBuf::alloc(bs as usize, 4096)?;
            let (buf, len) = self.input.read(buf, from).await?;
            self.output.write(buf, to, len).await?;
            copied += len as u64;
        }
    }
}

#[spdk_plugin::main(name = "dd")]
async fn main() -> Result<()> {
    let operands = Operands::parse(std::env::args().skip(1))?;
    let (depth, start) = (operands.depth, Instant::now());
    let copy = Rc::new(Copy::new(operands).await?);
    let tasks: Vec<_> = (0..depth).map(|_| spawn_local(Rc::clone(&copy).blocks())).collect();
    let mut copied = 0;
    for task in tasks {
        copied += task.await??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = copied as f64 / 1e6 / seconds.max(1e-9);
    println!("{copied} bytes copied, {seconds:.3} s, {rate:.1} MB/s");
    Ok(())
}
