//! The callers that wait for a lane: a line for each worker, and one for callers that take any worker.
//!
//! A waiter that leaves is gone at once, whichever place it has, so that the number of waiters is always the true one
//! and nobody ever has to search a line.

use std::collections::BTreeMap;

/// A place in line. It is never given twice: not even to a waiter that moves to another line and keeps its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    turn: u64,
    number: u64,
    /// The worker that this line waits for; `None`: the line of those who take any worker.
    worker: Option<u32>,
}

impl Place {
    /// Smaller turns are served first.
    pub fn turn(self) -> u64 {
        self.turn
    }
}

type Line<W> = BTreeMap<Place, W>;

/// All lines of a pool. `W` is whatever it takes to reach a waiter.
pub struct Lines<W> {
    any: Line<W>,
    by_worker: Vec<Line<W>>,
    len: usize,
    next: u64,
}

impl<W> Lines<W> {
    pub fn new(workers: usize) -> Self {
        let mut lines = Self { any: Line::new(), by_worker: Vec::new(), len: 0, next: 0 };
        lines.at_least(workers);
        lines
    }

    /// Makes lines for so many workers; there are never fewer than there were.
    pub fn at_least(&mut self, workers: usize) {
        if self.by_worker.len() < workers {
            self.by_worker.resize_with(workers, Line::new);
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn line(&mut self, worker: Option<u32>) -> Option<&mut Line<W>> {
        match worker {
            None => Some(&mut self.any),
            Some(worker) => self.by_worker.get_mut(worker as usize),
        }
    }

    /// Puts a waiter in line: at the end, or where its earlier turn is.
    pub fn join(&mut self, worker: Option<u32>, turn: Option<u64>, waiter: W) -> Place {
        let number = self.next;
        self.next += 1;
        let place = Place { turn: turn.unwrap_or(number), number, worker };
        if let Some(line) = self.line(worker) {
            line.insert(place, waiter);
            self.len += 1;
        }
        place
    }

    /// Takes a waiter out; `None` if it is no longer in line.
    pub fn leave(&mut self, place: Place) -> Option<W> {
        let waiter = self.line(place.worker)?.remove(&place);
        self.len -= usize::from(waiter.is_some());
        waiter
    }

    /// Takes out the one whose turn it is to get a lane of this worker.
    pub fn serve(&mut self, worker: u32) -> Option<W> {
        let first = |line: &Line<W>| line.first_key_value().map(|(place, _)| *place);
        let own = self.by_worker.get(worker as usize).and_then(first);
        let place = match (own, first(&self.any)) {
            (Some(own), Some(any)) => own.min(any),
            (own, any) => own.or(any)?,
        };
        self.leave(place)
    }

    /// Takes out everybody who waits for one of these workers alone, with their turns.
    pub fn leave_all_from(&mut self, workers: usize) -> Vec<(u64, W)> {
        let lines = self.by_worker.iter_mut().skip(workers).map(std::mem::take);
        let gone: Vec<_> = lines.flatten().map(|(place, waiter)| (place.turn, waiter)).collect();
        self.len -= gone.len();
        gone
    }

    /// Takes out everybody.
    pub fn leave_all(&mut self) -> Vec<W> {
        self.len = 0;
        let any = std::mem::take(&mut self.any).into_values();
        any.chain(self.by_worker.iter_mut().flat_map(|line| std::mem::take(line).into_values())).collect()
    }
}
