//! A file that tells what was changed, and outlives a program that is killed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use crate::model::{Ended, Model, Ticket};
use crate::plan::{Kind, Op};

/// Begins and ends of operations that change something. Each is written before the operation begins, or after it was
/// acknowledged.
#[derive(Debug)]
pub struct Journal(File);

type Entry = [u64; 5];

const MAGIC: u64 = 0x6c6e_6a2d_7366_6572;
const BEGIN: u64 = 1;
const END: u64 = 2;
const STARTED: u64 = 3;

impl Journal {
    /// A new journal for a model of that seed and those blocks.
    ///
    /// # Errors
    /// The file cannot be written, or is there already.
    pub fn create(path: &Path, seed: u64, blocks: Range<u64>) -> io::Result<Self> {
        let mut journal = Self(OpenOptions::new().append(true).create_new(true).open(path)?);
        journal.try_put([MAGIC, seed, blocks.start, blocks.end, 0])?;
        Ok(journal)
    }

    /// Goes on with a journal: gives the model as it says, in which what was in flight may or may not have happened.
    ///
    /// # Errors
    /// The file cannot be read, or is no journal.
    pub fn resume(path: &Path) -> io::Result<Model> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        // The last may be cut off.
        let mut entries = bytes.chunks_exact(40).map(|entry| {
            let mut words = entry.chunks_exact(8).map(word);
            [(); 5].map(|()| words.next().unwrap_or(0))
        });
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "it is no journal of the verifier");
        let Some([MAGIC, seed, start, end, _]) = entries.next() else { return Err(bad()) };
        let mut model = Model::new(seed, start..end);
        replay(&mut model, entries).ok_or_else(bad)?;
        let mut journal = Self(OpenOptions::new().append(true).open(path)?);
        journal.try_put([STARTED, 0, 0, 0, 0])?;
        model.set_journal(journal);
        Ok(model)
    }

    fn try_put(&mut self, entry: Entry) -> io::Result<()> {
        let mut bytes = [0; 40];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(entry) {
            *place = word.to_le_bytes();
        }
        self.0.write_all(&bytes)
    }

    /// # Panics
    /// If it cannot be written: what comes after would prove nothing.
    fn put(&mut self, entry: Entry) {
        self.try_put(entry).expect("the journal can be written");
    }

    pub(crate) fn begin(&mut self, number: u64, op: &Op) {
        let head = BEGIN | (op.kind as u64) << 8 | u64::from(op.differs) << 16;
        self.put([head, number, op.blocks.start, op.blocks.end, op.source]);
    }

    pub(crate) fn end(&mut self, number: u64, ended: &Ended) {
        let how = match ended {
            Ended::Well => 0,
            Ended::Maybe(_) => 1,
            Ended::Never(_) => 2,
        };
        self.put([END | how << 8, number, 0, 0, 0]);
    }
}

fn replay(model: &mut Model, entries: impl Iterator<Item = Entry>) -> Option<()> {
    model.set_races(true);
    let mut flying: HashMap<u64, Ticket> = HashMap::new();
    for [head, number, start, end, source] in entries {
        match head & 0xff {
            BEGIN => {
                let kind = Kind::from_number((head >> 8) as u8)?;
                let all = model.blocks();
                if start < all.start || end > all.end || start > end {
                    return None;
                }
                let op = Op { kind, blocks: start..end, source, differs: head >> 16 & 1 != 0 };
                flying.insert(number, model.replay(number, op)?);
            }
            END => {
                let ended = match head >> 8 {
                    0 => Ended::Well,
                    1 => Ended::Maybe("it failed".into()),
                    _ => Ended::Never("it failed".into()),
                };
                model.end(&flying.remove(&number)?, ended);
            }
            STARTED => model.end_all(flying.drain().map(|(_, ticket)| ticket)),
            _ => return None,
        }
    }
    model.end_all(flying.into_values());
    model.set_races(false);
    Some(())
}
