//! What was done before, as far as it is remembered.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use crate::plan::{Kind, Op};

/// An operation that was begun.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number: operations are counted in the order in which they begin.
    pub number: u64,
    /// What it was.
    pub op: Op,
    /// The first of the serials of its blocks' contents, for what writes.
    pub serial: u64,
    /// How it has ended.
    pub end: Option<Result<(), Box<str>>>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}", self.number, self.op)?;
        match &self.end {
            None => write!(f, ", in flight"),
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => write!(f, ", which failed: {error}"),
        }
    }
}

/// The last operations.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Record>);

const KEPT: usize = 1 << 17;

impl History {
    pub(crate) fn begin(&mut self, record: Record) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(record);
    }

    pub(crate) fn end(&mut self, number: u64, end: Result<(), Box<str>>) {
        // In the order of their numbers, some of which may be missing.
        if let Ok(at) = self.0.binary_search_by_key(&number, |record| record.number) {
            self.0[at].end = Some(end);
        }
    }

    /// The last `count` that changed, read or compared the block, the newest first, but for the one of that number.
    pub(crate) fn of_block(&self, block: u64, but: u64, count: usize) -> Vec<String> {
        let about = |record: &&Record| {
            let covers = |range: Range<u64>| range.contains(&block);
            record.number != but && (covers(record.op.reads()) || covers(record.op.changes()))
        };
        self.0.iter().rev().filter(about).take(count).map(ToString::to_string).collect()
    }

    /// Who wrote the contents with this serial, and for which block.
    pub(crate) fn writer(&self, serial: u64) -> Option<(&Record, u64)> {
        self.0.iter().rev().find_map(|record| {
            let writes = matches!(record.op.kind, Kind::Write | Kind::CompareAndWrite);
            let at = serial.checked_sub(record.serial)?;
            let block = record.op.blocks.start + at;
            (writes && block < record.op.blocks.end).then_some((record, block))
        })
    }
}
