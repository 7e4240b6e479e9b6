//! What may be read from each block.

/// One write of a block.
#[derive(Clone, Copy, Debug)]
struct Event {
    value: u64,
    start: u64,
    /// When it was acknowledged or had failed.
    end: Option<u64>,
    acked: bool,
    durable: bool,
}

/// The writes of each block. Zeroes are the value 0.
pub(super) struct History {
    blocks: Vec<Vec<Event>>,
}

impl History {
    pub(super) fn new(blocks: usize) -> Self {
        let zero = Event { value: 0, start: 0, end: Some(0), acked: true, durable: true };
        Self { blocks: vec![vec![zero]; blocks] }
    }

    pub(super) fn start(&mut self, blocks: std::ops::Range<u64>, value: u64, now: u64) {
        for block in blocks {
            let event = Event { value, start: now, end: None, acked: false, durable: false };
            self.blocks[block as usize].push(event);
        }
    }

    /// The write that had started at `start` ends.
    pub(super) fn end(
        &mut self,
        blocks: std::ops::Range<u64>,
        value: u64,
        start: u64,
        now: u64,
        ok: bool,
    ) {
        for block in blocks {
            let events = &mut self.blocks[block as usize];
            let event = events.iter_mut().find(|e| e.start == start && e.value == value).unwrap();
            (event.end, event.acked) = (Some(now), ok);
        }
    }

    /// A flush that had started at `start` has ended well.
    pub(super) fn flushed(&mut self, start: u64) {
        for event in self.blocks.iter_mut().flatten() {
            event.durable |= event.acked && event.end.is_some_and(|end| end < start);
        }
    }

    /// Whether a read that ran from `start` to `end` may see `value`.
    pub(super) fn may_read(&self, block: u64, value: u64, start: u64, end: u64) -> bool {
        let events = &self.blocks[block as usize];
        let over = |old: &Event| {
            events.iter().any(|new| {
                new.acked
                    && new.end.is_some_and(|end| end < start)
                    && old.end.is_some_and(|end| new.start > end)
            })
        };
        events.iter().any(|event| event.value == value && event.start <= end && !over(event))
    }

    /// Whether it may be there after a crash. `all`: no acknowledged write may be lost, flushed or not.
    pub(super) fn may_survive(&self, block: u64, value: u64, all: bool) -> bool {
        let events = &self.blocks[block as usize];
        let over = |old: &Event| {
            events.iter().any(|new| {
                (new.durable || (all && new.acked)) && old.end.is_some_and(|end| new.start > end)
            })
        };
        events.iter().any(|event| event.value == value && !over(event))
    }

    /// From now on the block has this and nothing else.
    pub(super) fn settle(&mut self, block: u64, value: u64, now: u64) {
        let event = Event { value, start: now, end: Some(now), acked: true, durable: true };
        self.blocks[block as usize] = vec![event];
    }

    pub(super) fn describe(&self, block: u64) -> String {
        format!("{:?}", self.blocks[block as usize])
    }
}
