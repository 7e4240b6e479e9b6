//! What becomes of a request.

use std::ops::Range;
use std::sync::Arc;

use spdk_plugin::bdev::IoOptions;
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::module::{BdevIo, IoError, IoKind, IoResult};

use crate::chance::Chance;
use crate::channel::{Channel, Release};
use crate::damage::Damage;
use crate::params::{Fault, When};
use crate::rule::Rule;

/// Passes a request on, unless a rule says otherwise.
pub(crate) async fn serve(channel: &Channel, io: BdevIo<'_>) -> IoResult {
    match io.kind().and_then(|kind| channel.hit(kind, &io.blocks())) {
        None => io.forward(&channel.base).await,
        // Boxed, so that only what goes wrong pays for it.
        Some((rule, chance)) => Box::pin(spoil(channel, io, rule, chance)).await,
    }
}

async fn spoil(channel: &Channel, io: BdevIo<'_>, rule: Arc<Rule>, mut chance: Chance) -> IoResult {
    let after = rule.params.when == Some(When::After);
    match rule.params.fault {
        Fault::Fail if after => io.forward(&channel.base).await?,
        Fault::Fail | Fault::Drop => {}
        Fault::Stick => return stick(channel, &io, &rule, after).await,
        Fault::Misdirect => {
            let to = elsewhere(channel, &io, &rule, &mut chance);
            io.forward_at(&channel.base, to).await?;
        }
        Fault::Tear => tear(channel, &io, &rule, &mut chance).await?,
        Fault::Corrupt if io.kind() == Some(IoKind::Read) => {
            corrupt_read(channel, io, &rule, &mut chance).await?;
        }
        Fault::Corrupt => {
            let damage = damage(&io, &rule, &mut chance);
            let bytes = |buf: &mut [u8]| damage.apply(io.bytes().start, buf);
            write_copy(channel, &io, io.num_blocks(), bytes).await?;
        }
    }
    rule.status().result()
}

async fn stick(channel: &Channel, io: &BdevIo<'_>, rule: &Rule, after: bool) -> IoResult {
    let done = if after { Some(io.forward(&channel.base).await) } else { None };
    match (channel.stick(rule).await, done) {
        (Release::Fail, _) => Err(rule.status().result().err().unwrap_or(IoError::Failed)),
        (Release::GoOn, Some(done)) => done,
        (Release::GoOn, None) => io.forward(&channel.base).await,
    }
}

/// Where a request goes that goes astray.
fn elsewhere(channel: &Channel, io: &BdevIo<'_>, rule: &Rule, chance: &mut Chance) -> u64 {
    let last = channel.base.base().num_blocks().saturating_sub(io.num_blocks());
    match rule.params.to_block {
        Some(block) => block.min(last),
        // Anywhere but where it should.
        None => match chance.within(0..last) {
            block if block < io.blocks().start => block,
            block => (block + 1).min(last),
        },
    }
}

/// What is done to the data of a request.
fn damage(io: &BdevIo<'_>, rule: &Rule, chance: &mut Chance) -> Damage {
    let Range { start, end } = rule.common(&io.blocks());
    let count = rule.params.blocks.unwrap_or(1).min(end - start);
    let first = chance.within(start..end - count + 1);
    let size = u64::from(io.block_size());
    let bytes = first * size..(first + count) * size;
    let how = rule.params.how.unwrap_or_default();
    Damage::new(how, bytes, rule.params.bits.unwrap_or(1), chance)
}

async fn corrupt_read(
    channel: &Channel,
    mut io: BdevIo<'_>,
    rule: &Rule,
    chance: &mut Chance,
) -> IoResult {
    io.forward(&channel.base).await?;
    let damage = damage(&io, rule, chance);
    io.chunks_mut().for_each(|(at, buf)| damage.apply(at, buf));
    Ok(())
}

async fn tear(channel: &Channel, io: &BdevIo<'_>, rule: &Rule, chance: &mut Chance) -> IoResult {
    let all = io.num_blocks();
    let keep = rule.params.keep_blocks.unwrap_or_else(|| chance.within(0..all)).min(all);
    if keep == 0 { Ok(()) } else { write_copy(channel, io, keep, |_| ()).await }
}

/// Writes a copy of the first blocks of a write.
async fn write_copy(
    channel: &Channel,
    io: &BdevIo<'_>,
    blocks: u64,
    spoil: impl FnOnce(&mut [u8]),
) -> IoResult {
    let base = channel.base.base();
    let len = (blocks * u64::from(io.block_size())) as usize;
    let mut copy = DmaBuf::alloc(len, base.alignment().max(1))?;
    let mut rest = &mut copy[..];
    for buf in io.bufs() {
        let count = buf.len().min(rest.len());
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
        now.copy_from_slice(&buf[..now.len()]);
        rest = later;
    }
    spoil(&mut copy);
    let mut options = IoOptions::new();
    if let Some(all) = io.metadata() {
        let metadata = &all[..all.len() / io.num_blocks() as usize * blocks as usize];
        let mut copy = DmaBuf::alloc(metadata.len(), 64)?;
        copy.copy_from_slice(metadata);
        options = options.with_metadata(copy);
    }
    let write = channel.base.write_blocks(&mut copy, io.blocks().start, blocks);
    Ok(write.with_options(&mut options).await?)
}
