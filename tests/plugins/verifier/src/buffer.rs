//! Memory for an operation, cut as chance will have it.

use spdk_plugin::Result;
use spdk_plugin::dma::{DmaBuf, IoVec};
use spdk_plugin_test_model::Random;

/// Memory for one operation at a time.
pub(crate) struct Buffer {
    memory: DmaBuf,
    odd: bool,
    block_size: usize,
}

/// The part that an operation uses, in one piece or in several, and what lies before and behind it.
pub(crate) struct Parts {
    before: DmaBuf,
    pub(crate) list: IoVec,
    behind: DmaBuf,
}

/// Most pieces of a list, but for the few that have many.
const FEW: u64 = 4;
const MANY: u64 = 40;

impl Buffer {
    pub(crate) fn new(
        bytes: usize,
        block_size: usize,
        alignment: usize,
        odd: bool,
    ) -> Result<Self> {
        // Room to begin elsewhere than at its start.
        let memory = DmaBuf::alloc_zeroed(bytes + 4096, alignment.max(4096))?;
        Ok(Self { memory, odd, block_size })
    }

    /// Takes out `bytes`, as `fill` has filled them in one piece.
    pub(crate) fn take(
        &mut self,
        bytes: usize,
        random: &mut Random,
        fill: impl FnOnce(&mut [u8]),
    ) -> Parts {
        let start = match random.below(4) {
            0 if self.odd => random.below(4096) as usize,
            1 => random.below(8) as usize * 512 / self.block_size * self.block_size,
            _ => 0,
        };
        let (before, rest) = std::mem::take(&mut self.memory).split_at(start);
        let (mut used, behind) = rest.split_at(bytes);
        fill(&mut used);
        let mut list = IoVec::new();
        for cut in self.cuts(bytes, random) {
            let rest = used.split_off(cut);
            list.push(std::mem::replace(&mut used, rest));
        }
        list.push(used);
        Parts { before, list, behind }
    }

    /// Where to cut: how long each piece but the last is.
    fn cuts(&self, bytes: usize, random: &mut Random) -> Vec<usize> {
        let pieces = match random.below(8) {
            0..4 => 1,
            4..7 => 1 + random.below(FEW),
            _ => 1 + random.below(MANY),
        };
        let unit = if self.odd { 1 } else { self.block_size };
        let mut places: Vec<_> = (1..pieces)
            .map(|_| random.below((bytes / unit) as u64) as usize * unit)
            .filter(|place| *place > 0)
            .collect();
        places.sort_unstable();
        places.dedup();
        let mut last = 0;
        places.into_iter().map(|place| place - std::mem::replace(&mut last, place)).collect()
    }

    /// Takes it back, and gives what is in it. What an abandoned operation keeps is replaced.
    pub(crate) fn put(&mut self, parts: Parts) -> std::ops::Range<usize> {
        let start = parts.before.len();
        let mut memory = parts.before;
        let mut bytes = 0;
        for part in parts.list.into_bufs() {
            bytes += part.len();
            // They are neighbours, as they were before.
            memory.join(part).expect("the parts of one buffer");
        }
        memory.join(parts.behind).expect("the parts of one buffer");
        self.memory = memory;
        start..start + bytes
    }

    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.memory[range]
    }
}
