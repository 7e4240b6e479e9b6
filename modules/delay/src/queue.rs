//! Requests that wait until they are due.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

/// Lines of requests: fast and slow ones of each direction. In each, who came first is due first.
const LINES: usize = 4;

/// The requests of one channel. A request takes a place when it begins, so that each line is in order, and asks
/// whether it is due when all else is done. Places are used again: once there are enough, nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: [VecDeque<Entry>; LINES],
    /// What was in the lines when the latencies changed.
    old: Vec<VecDeque<Entry>>,
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    due: Instant,
    place: u32,
}

#[derive(Debug)]
enum Place {
    Free,
    Waits(Option<Waker>),
    Due,
    /// Its request has gone.
    Left,
}

impl Queue {
    /// Takes a place at the end of a line.
    pub(crate) fn add(&mut self, line: usize, due: Instant) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::Free);
            (self.places.len() - 1) as u32
        });
        self.places[place as usize] = Place::Waits(None);
        self.lines[line % LINES].push_back(Entry { due, place });
        place
    }

    /// Whether the request is due; if not it is woken when it is.
    pub(crate) fn is_due(&mut self, place: u32, waker: &Waker) -> bool {
        match &mut self.places[place as usize] {
            Place::Waits(there) if there.as_ref().is_some_and(|there| there.will_wake(waker)) => {
                false
            }
            Place::Waits(there) => {
                *there = Some(waker.clone());
                false
            }
            _ => true,
        }
    }

    /// Gives the place back.
    pub(crate) fn leave(&mut self, place: u32) {
        let there = &mut self.places[place as usize];
        if matches!(there, Place::Waits(_)) {
            *there = Place::Left;
        } else {
            *there = Place::Free;
            self.free.push(place);
        }
    }

    /// The latencies are others from now on: who comes later does not wait for those who are here.
    pub(crate) fn part(&mut self) {
        let lines = self.lines.iter_mut().filter(|line| !line.is_empty());
        self.old.extend(lines.map(std::mem::take));
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.old.is_empty() && self.lines.iter().all(VecDeque::is_empty)
    }

    /// Takes out one that is due, and whom to wake.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Option<Waker>> {
        let mut lines = self.lines.iter_mut().chain(&mut self.old);
        let line = lines.find(|line| line.front().is_some_and(|entry| entry.due <= now))?;
        let place = line.pop_front()?.place;
        self.old.retain(|line| !line.is_empty());
        match std::mem::replace(&mut self.places[place as usize], Place::Due) {
            Place::Waits(waker) => Some(waker),
            _ => {
                self.places[place as usize] = Place::Free;
                self.free.push(place);
                Some(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn all_due(queue: &mut Queue, now: Instant) -> usize {
        std::iter::from_fn(|| queue.take_due(now)).count()
    }

    #[test]
    fn who_is_due_is_taken_out_and_places_are_used_again() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let at = |us: u64| start + Duration::from_micros(us);
        for round in 0..100 {
            let places = [queue.add(0, at(10)), queue.add(0, at(20)), queue.add(3, at(15))];
            assert!(places.iter().all(|place| *place < 3), "round {round}");
            assert!(!queue.is_due(places[0], Waker::noop()));
            assert_eq!(all_due(&mut queue, at(9)), 0);
            assert_eq!(all_due(&mut queue, at(15)), 2);
            assert!(queue.is_due(places[0], Waker::noop()));
            assert!(!queue.is_due(places[1], Waker::noop()));
            assert!(queue.is_due(places[2], Waker::noop()));
            assert!(!queue.is_empty());
            assert_eq!(all_due(&mut queue, at(20)), 1);
            assert!(queue.is_empty());
            places.into_iter().for_each(|place| queue.leave(place));
        }
    }

    #[test]
    fn whoever_goes_early_is_forgotten() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let place = queue.add(1, now);
        queue.leave(place);
        // The place is not given away before its time.
        assert_ne!(queue.add(1, now), place);
        assert!(matches!(queue.take_due(now), Some(None)));
        assert_eq!(queue.add(1, now), place);
    }

    #[test]
    fn other_latencies_do_not_wait_for_the_former() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let (long, short) = (Duration::from_secs(100), Duration::from_secs(1));
        let slow = queue.add(0, now + long);
        queue.part();
        let quick = queue.add(0, now + short);
        assert_eq!(all_due(&mut queue, now + short), 1);
        assert!(queue.is_due(quick, Waker::noop()) && !queue.is_due(slow, Waker::noop()));
        assert!(!queue.is_empty());
        assert_eq!(all_due(&mut queue, now + long), 1);
        assert!(queue.is_empty());
    }
}
