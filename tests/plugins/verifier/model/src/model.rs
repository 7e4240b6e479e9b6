//! What each block may hold.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::flights::Flights;
use crate::history::{History, Record};
use crate::journal::Journal;
use crate::plan::{Kind, Op};
use crate::stamp::Stamp;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody can say, and it may change at any time.
    Anything,
    Is(Stamp),
    /// One of what is kept in [`Model::open`], until a read shows which.
    OneOf,
}

/// What a block may hold.
#[derive(Clone, Debug, PartialEq)]
enum Candidate {
    Is(Stamp),
    /// What was read there, after two had written it at once.
    Bytes(Arc<[u8]>),
}

/// A block of which it is not known yet what it holds.
#[derive(Debug)]
struct Open {
    candidates: Vec<Candidate>,
    /// Several wrote at once, so it may be some of each.
    mixed: bool,
}

/// Changes of a block at one time. It holds one of them, or what it did before if none was acknowledged.
#[derive(Debug, Default)]
struct Race {
    states: Vec<State>,
    acknowledged: bool,
    several: bool,
}

/// How an operation has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Well,
    /// It failed: what it would change may or may not have changed.
    Maybe(String),
    /// Nothing has changed.
    Never(String),
}

/// An operation in flight.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub op: Op,
    serial: u64,
    seed: u64,
    expected: Vec<State>,
}

/// A block that does not hold what it should.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Mismatch {
    /// Which block.
    pub block: u64,
    /// The first byte of it that is wrong.
    pub byte: usize,
    /// What it should hold, and who wrote that.
    pub expected: String,
    /// What it holds.
    pub found: String,
    /// The operation that has found it.
    pub operation: String,
    /// The last operations on the block, the newest first.
    pub history: Vec<String>,
}

/// What a disk should hold.
#[derive(Debug)]
pub struct Model {
    seed: u64,
    first: u64,
    states: Vec<State>,
    open: HashMap<u64, Open>,
    races: HashMap<u64, Race>,
    may_race: bool,
    flights: Flights,
    history: History,
    journal: Option<Journal>,
    /// Operations that were begun.
    number: u64,
    /// Blocks that were written.
    serial: u64,
}

/// Operations of a block's history that a mismatch shows.
const SHOWN: usize = 12;

impl Model {
    /// A disk of which these blocks are used, and of which nothing is known. What is written to it follows from
    /// `seed`.
    pub fn new(seed: u64, blocks: Range<u64>) -> Self {
        Self {
            seed,
            first: blocks.start,
            states: vec![State::Anything; (blocks.end - blocks.start) as usize],
            open: HashMap::new(),
            races: HashMap::new(),
            may_race: false,
            flights: Flights::default(),
            history: History::default(),
            journal: None,
            number: 0,
            serial: 0,
        }
    }

    /// Whether several operations may change a block at the same time.
    pub fn set_races(&mut self, may_race: bool) {
        self.may_race = may_race;
    }

    /// Tells the journal of every change from now on.
    pub fn set_journal(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// What the contents that are written follow from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Operations that were begun.
    pub fn begun(&self) -> u64 {
        self.number
    }

    /// The blocks that are used.
    pub fn blocks(&self) -> Range<u64> {
        self.first..self.first + self.states.len() as u64
    }

    /// How many blocks' contents are known, at least as one of several.
    pub fn known(&self) -> u64 {
        self.states.iter().filter(|state| **state != State::Anything).count() as u64
    }

    /// Begins an operation, unless it cannot go together with those in flight, or compares with what is not known.
    pub fn begin(&mut self, op: Op) -> Option<Ticket> {
        if !self.flights.admits(&op, self.may_race) {
            return None;
        }
        let expected: Vec<_> = op.reads().map(|block| self.state(block)).collect();
        let compares = matches!(op.kind, Kind::Compare | Kind::CompareAndWrite);
        if compares && !expected.iter().all(|state| matches!(state, State::Is(_))) {
            return None;
        }
        Some(self.take_off(op, expected))
    }

    fn take_off(&mut self, op: Op, expected: Vec<State>) -> Ticket {
        let (number, serial) = (self.number, self.serial);
        self.number += 1;
        if matches!(op.kind, Kind::Write | Kind::CompareAndWrite) {
            self.serial += op.blocks.end - op.blocks.start;
        }
        for block in self.flights.raced(&op) {
            self.races.entry(block).or_default().several = true;
        }
        self.flights.add(number, op.clone());
        self.history.begin(Record { number, op: op.clone(), serial, end: None });
        if let Some(journal) = self.journal.as_mut().filter(|_| op.kind.changes()) {
            journal.begin(number, &op);
        }
        Ticket { number, op, serial, seed: self.seed, expected }
    }

    /// Ends an operation.
    pub fn end(&mut self, ticket: &Ticket, ended: Ended) {
        let Some(op) = self.flights.remove(ticket.number) else { return };
        if let Some(journal) = self.journal.as_mut().filter(|_| op.kind.changes()) {
            journal.end(ticket.number, &ended);
        }
        for (i, block) in op.changes().enumerate() {
            self.settle(block, ticket.becomes(i), &ended);
        }
        let end = match ended {
            Ended::Well => Ok(()),
            Ended::Maybe(error) | Ended::Never(error) => Err(error.into()),
        };
        self.history.end(ticket.number, end);
    }

    /// Begins an operation as a journal tells it.
    pub(crate) fn replay(&mut self, number: u64, op: Op) -> Option<Ticket> {
        let (all, reads) = (self.blocks(), op.reads());
        if !reads.is_empty() && (reads.start < all.start || reads.end > all.end) {
            return None;
        }
        self.number = number;
        let expected = reads.map(|block| self.state(block)).collect();
        Some(self.take_off(op, expected))
    }

    /// Ends every operation in flight as one that nobody has heard of again.
    pub(crate) fn end_all(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        for ticket in tickets {
            self.end(&ticket, Ended::Maybe("nobody has heard how it ended".into()));
        }
    }

    fn settle(&mut self, block: u64, state: State, ended: &Ended) {
        let mut race = match (self.races.remove(&block), ended) {
            (None, Ended::Well) => return self.set(block, state),
            (None, Ended::Never(_)) => return,
            (race, _) => race.unwrap_or_default(),
        };
        race.acknowledged |= *ended == Ended::Well;
        if !matches!(ended, Ended::Never(_)) {
            race.states.push(state);
        }
        if self.flights.changes(block) {
            self.races.insert(block, race);
        } else {
            self.finish(block, race);
        }
    }

    /// All that changed the block at one time have ended.
    fn finish(&mut self, block: u64, race: Race) {
        let mut candidates = Vec::new();
        let (mut states, mut mixed) = (race.states, race.several);
        if !race.acknowledged {
            states.push(self.state(block));
        }
        for state in states {
            match state {
                State::Anything => return self.set(block, State::Anything),
                State::Is(stamp) => candidates.push(Candidate::Is(stamp)),
                State::OneOf => {
                    let Some(open) = self.open.get(&block) else { continue };
                    mixed |= open.mixed;
                    candidates.extend(open.candidates.iter().cloned());
                }
            }
        }
        let mut distinct: Vec<Candidate> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            if !distinct.contains(&candidate) {
                distinct.push(candidate);
            }
        }
        match &distinct[..] {
            [] => {}
            [Candidate::Is(stamp)] => self.set(block, State::Is(*stamp)),
            _ => {
                self.set(block, State::OneOf);
                self.open.insert(block, Open { candidates: distinct, mixed });
            }
        }
    }

    fn state(&self, block: u64) -> State {
        self.states[(block - self.first) as usize]
    }

    fn set(&mut self, block: u64, state: State) {
        let place = &mut self.states[(block - self.first) as usize];
        if *place == State::OneOf {
            self.open.remove(&block);
        }
        *place = state;
    }

    /// Judges blocks of a read that [`Ticket::check`] could not: by their number in the read.
    ///
    /// # Errors
    /// The first that does not hold what it should.
    pub fn judge(
        &mut self,
        ticket: &Ticket,
        suspects: &[usize],
        data: &[u8],
        block_size: usize,
    ) -> Result<(), Box<Mismatch>> {
        for i in suspects {
            let block = ticket.op.blocks.start + *i as u64;
            let bytes = &data[i * block_size..(i + 1) * block_size];
            match self.state(block) {
                State::Anything => {}
                State::Is(stamp) => {
                    if let Some(byte) = stamp.difference(bytes) {
                        let expected = self.name(stamp);
                        return Err(self.mismatch(ticket, block, byte, expected, bytes));
                    }
                }
                State::OneOf => self.resolve(ticket, block, bytes)?,
            }
        }
        Ok(())
    }

    /// A block may hold one of several; from now on it is what was read.
    fn resolve(&mut self, ticket: &Ticket, block: u64, data: &[u8]) -> Result<(), Box<Mismatch>> {
        let Some(open) = self.open.get(&block) else { return Ok(()) };
        let fits = |candidate: &&Candidate| match candidate {
            Candidate::Is(stamp) => stamp.is_in(data),
            Candidate::Bytes(bytes) => **bytes == *data,
        };
        match open.candidates.iter().find(fits) {
            Some(Candidate::Is(stamp)) => {
                let stamp = *stamp;
                self.set(block, State::Is(stamp));
                return Ok(());
            }
            Some(Candidate::Bytes(_)) if open.candidates.len() == 1 => return Ok(()),
            Some(Candidate::Bytes(_)) => {}
            None if open.mixed && is_mix(&open.candidates, data) => {}
            None => {
                let names = open.candidates.iter().map(|candidate| match candidate {
                    Candidate::Is(stamp) => self.name(*stamp),
                    Candidate::Bytes(_) => "what was read before".into(),
                });
                let expected = names.collect::<Vec<_>>().join(", or ");
                return Err(self.mismatch(ticket, block, 0, expected, data));
            }
        }
        let open = Open { candidates: vec![Candidate::Bytes(data.into())], mixed: false };
        self.open.insert(block, open);
        Ok(())
    }

    fn mismatch(
        &self,
        ticket: &Ticket,
        block: u64,
        byte: usize,
        expected: String,
        data: &[u8],
    ) -> Box<Mismatch> {
        let found = self.found(data, byte);
        let operation = format!("#{} {}", ticket.number, ticket.op);
        let history = self.history.of_block(block, ticket.number, SHOWN);
        Box::new(Mismatch { block, byte, expected, found, operation, history })
    }

    /// Says what contents are, and who wrote them.
    fn name(&self, stamp: Stamp) -> String {
        if !stamp.is_of(self.seed) {
            return format!("{stamp:?}");
        }
        match self.history.writer(stamp.serial()) {
            Some((record, block)) => format!("what #{} wrote to block {block}", record.number),
            None => format!("{stamp:?}, written long ago"),
        }
    }

    /// Says what a block holds that is wrong from that byte on.
    fn found(&self, data: &[u8], byte: usize) -> String {
        if Stamp::ZEROES.is_in(data) {
            return "zeroes".into();
        }
        let hex = |bytes: &[u8]| {
            bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let stamp = Stamp::at_start_of(data).unwrap_or(Stamp::ZEROES);
        match stamp.difference(data) {
            None => self.name(stamp),
            Some(end) if end >= 8 && stamp.is_of(self.seed) => {
                let name = self.name(stamp);
                format!("{name}, up to byte {end}, then {}", hex(&data[end..]))
            }
            _ => format!("{} from byte {byte} on", hex(&data[byte..])),
        }
    }
}

/// Whether each word of the block is that of a candidate.
fn is_mix(candidates: &[Candidate], data: &[u8]) -> bool {
    data.chunks(8).enumerate().all(|(i, found)| {
        candidates.iter().any(|candidate| match candidate {
            Candidate::Is(stamp) => stamp.word(i as u64).to_le_bytes().starts_with(found),
            Candidate::Bytes(bytes) => bytes[i * 8..].starts_with(found),
        })
    })
}

impl Ticket {
    /// What block `i` of what it changes holds then.
    fn becomes(&self, i: usize) -> State {
        match self.op.kind {
            Kind::Write | Kind::CompareAndWrite => State::Is(self.stamp(i)),
            Kind::WriteZeroes => State::Is(Stamp::ZEROES),
            Kind::Copy => match self.expected[i] {
                State::Is(stamp) => State::Is(stamp),
                State::Anything | State::OneOf => State::Anything,
            },
            _ => State::Anything,
        }
    }

    fn stamp(&self, i: usize) -> Stamp {
        Stamp::new(self.seed, self.serial + i as u64)
    }

    /// Writes what it writes.
    pub fn fill_new(&self, data: &mut [u8], block_size: usize) {
        data.chunks_mut(block_size).enumerate().for_each(|(i, block)| self.stamp(i).fill(block));
    }

    /// Writes what the blocks should hold that it compares; something else in one of them, if it is to differ.
    pub fn fill_expected(&self, data: &mut [u8], block_size: usize) {
        for (block, state) in data.chunks_mut(block_size).zip(&self.expected) {
            if let State::Is(stamp) = state {
                stamp.fill(block);
            }
        }
        if self.op.differs && !data.is_empty() {
            let at = (self.number as usize).wrapping_mul(0x9e37_79b1) % data.len();
            data[at] ^= 1 << (at % 8);
        }
    }

    /// Whether the metadata that came with the data are right where they are known: of blocks that were written.
    ///
    /// # Errors
    /// The first block whose metadata are not, and what is wrong.
    pub fn check_metadata(&self, metadata: &[u8], md_size: usize) -> Result<(), String> {
        let blocks = metadata.chunks(md_size).zip(&self.expected).zip(self.op.blocks.clone());
        for ((found, state), block) in blocks {
            let State::Is(stamp) = state else { continue };
            if *stamp != Stamp::ZEROES && !stamp.is_in(found) {
                let stamp = Stamp::at_start_of(found);
                return Err(format!(
                    "the metadata of block {block} are not its own, but {stamp:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks what it has read. Gives how many blocks were right, and those that only the model can tell of.
    pub fn check(&self, data: &[u8], block_size: usize) -> (u64, Vec<usize>) {
        let (mut right, mut suspects) = (0, Vec::new());
        for (i, (block, state)) in data.chunks(block_size).zip(&self.expected).enumerate() {
            match state {
                State::Anything => {}
                State::Is(stamp) if stamp.is_in(block) => right += 1,
                State::Is(_) | State::OneOf => suspects.push(i),
            }
        }
        (right, suspects)
    }
}

#[cfg(test)]
mod tests;
