//! The holders of a pool's lanes, and those who wait for one. Pure bookkeeping, meant to be held under a lock for the
//! length of a few loads.
//!
//! A lane is idle only while nobody waits who could take it: a freed lane goes straight to whoever has waited longest.
//! A waiter may insist on one worker (a session's), so there is a line for each worker and one for everybody else.

mod line;
#[cfg(test)]
mod tests;

use line::Lines;
pub use line::Place;
use std::collections::HashMap;

/// A place to run one call, on one run of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// `worker * lanes per worker + lane of the worker`.
    pub id: u32,
    pub run: u64,
}

/// The answer to a request for a lane.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckoutAnswer {
    Lane(Lane),
    /// The caller is in line.
    Waiting(Place),
    /// As many wait as may.
    Full,
    /// No more calls; the number is the closer's.
    Closed(u32),
    /// The pool has no such worker any more.
    Moved,
}

/// Which workers will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Any,
    /// This one and no other.
    Only(u32),
    /// This one if it is idle, else any.
    Rather(u32),
}

/// The lanes of a pool. `W` is whatever it takes to reach a waiter.
pub struct Lanes<W> {
    per_worker: u32,
    max_waiting: usize,
    /// How many workers there are; what is listed of more is of workers that left.
    workers: usize,
    /// Each worker's current run; `None` while it is down.
    up: Vec<Option<u64>>,
    /// Last used last: its worker's caches are warm.
    idle: Vec<Lane>,
    busy: usize,
    waiting: Lines<W>,
    closed: Option<u32>,
    /// Busy lanes of runs that were replaced while they worked, by run.
    retired: HashMap<u64, u32>,
    /// Replaced runs whose last lane came back, and which [`Self::emptied`] has not named yet.
    emptied: Vec<u64>,
    /// Calls that each worker's current run has served.
    served: Vec<u64>,
    /// Closed until a worker is up.
    suspended: Option<u32>,
    /// By worker: its latest run that went down, and which of its lanes were idle then.
    rested: Vec<Option<(u64, Vec<u32>)>>,
}

impl<W> Lanes<W> {
    /// The lanes of `workers` workers, all of them down.
    pub fn new(workers: u32, per_worker: u32, max_waiting: usize) -> Self {
        Self {
            per_worker: per_worker.max(1),
            max_waiting,
            workers: workers as usize,
            up: vec![None; workers as usize],
            idle: Vec::new(),
            busy: 0,
            waiting: Lines::new(workers as usize),
            closed: None,
            retired: HashMap::new(),
            emptied: Vec::new(),
            served: vec![0; workers as usize],
            suspended: None,
            rested: vec![None; workers as usize],
        }
    }

    fn worker(&self, lane: Lane) -> usize {
        (lane.id / self.per_worker) as usize
    }

    /// A lane's number within its worker.
    pub fn number(&self, id: u32) -> u32 {
        id % self.per_worker
    }

    /// A lane, or a place in line. A refusal looks at no waiter: their number is all that it needs.
    pub fn checkout(&mut self, want: Want, waiter: impl FnOnce() -> W) -> CheckoutAnswer {
        if let Some(answer) = self.at_once(want) {
            return answer;
        }
        if self.waiting.len() >= self.max_waiting {
            return CheckoutAnswer::Full;
        }
        CheckoutAnswer::Waiting(self.waiting.join(only(want), None, waiter()))
    }

    /// The same for a waiter whose worker left: it keeps its turn, however many wait.
    pub fn checkout_again(&mut self, want: Want, turn: u64, waiter: W) -> CheckoutAnswer {
        match self.at_once(want) {
            Some(answer) => answer,
            None => CheckoutAnswer::Waiting(self.waiting.join(only(want), Some(turn), waiter)),
        }
    }

    /// The answer to a request for a lane that need not wait.
    fn at_once(&mut self, want: Want) -> Option<CheckoutAnswer> {
        if let Some(code) = self.closed.or(self.suspended) {
            return Some(CheckoutAnswer::Closed(code));
        }
        let own = |this: &Self, w: u32| this.idle.iter().rposition(|l| this.worker(*l) == w as usize);
        let found = match want {
            Want::Only(w) if w as usize >= self.workers => return Some(CheckoutAnswer::Moved),
            Want::Any => self.idle.len().checked_sub(1),
            Want::Only(w) => own(self, w),
            Want::Rather(w) => own(self, w).or(self.idle.len().checked_sub(1)),
        }?;
        self.busy += 1;
        Some(CheckoutAnswer::Lane(self.idle.remove(found)))
    }

    /// A call is done: [`Self::offer`]s its lane.
    pub fn checkin(&mut self, lane: Lane) -> Option<W> {
        let worker = self.worker(lane);
        if self.up.get(worker).copied().flatten() == Some(lane.run) {
            self.served[worker] += 1;
        }
        self.offer(lane)
    }

    /// The waiter who gets this busy lane now; it stays busy. `None`: nobody wants it, and it is idle; or its run is
    /// over, and it is gone. Called again with the same lane if the waiter turns out to be dead.
    pub fn offer(&mut self, lane: Lane) -> Option<W> {
        let worker = self.worker(lane);
        if self.up.get(worker).copied().flatten() != Some(lane.run) {
            self.forget(lane);
            return None;
        }
        let next = self.waiting.serve(worker as u32);
        if next.is_none() {
            self.busy -= 1;
            self.idle.push(lane);
        }
        next
    }

    /// A busy lane will not come back: its caller died, or left it in the middle of a call.
    pub fn forget(&mut self, lane: Lane) {
        self.busy -= 1;
        if let Some(left) = self.retired.get_mut(&lane.run) {
            *left -= 1;
            if *left == 0 {
                self.retired.remove(&lane.run);
                self.emptied.push(lane.run);
            }
        }
    }

    /// A run that was replaced, and none of whose lanes is in use any more. Each is named once.
    pub fn emptied(&mut self) -> Option<u64> {
        self.emptied.pop()
    }

    /// How many calls the current run of a worker has served.
    pub fn served(&self, worker: u32) -> u64 {
        self.served.get(worker as usize).copied().unwrap_or(0)
    }

    /// A waiter leaves; false if it is not in line any more.
    pub fn cancel(&mut self, place: Place) -> bool {
        self.waiting.leave(place).is_some()
    }

    /// A worker's run began: its lanes, each to be offered once, count as busy until then. A run that is still up is
    /// replaced: its idle lanes are gone at once, and its busy ones go when they are checked in (see [`Self::emptied`]).
    #[must_use]
    pub fn up(&mut self, worker: u32, run: u64) -> Vec<Lane> {
        if worker as usize >= self.workers {
            return Vec::new();
        }
        if let Some(old) = self.up[worker as usize].replace(run).filter(|old| *old != run) {
            self.retire(old);
        }
        self.served[worker as usize] = 0;
        self.suspended = None;
        self.busy += self.per_worker as usize;
        (0..self.per_worker).map(|n| Lane { id: worker * self.per_worker + n, run }).collect()
    }

    /// No more calls for a run: its idle lanes are gone, and its busy ones go when they are checked in.
    fn retire(&mut self, run: u64) {
        let before = self.idle.len();
        self.idle.retain(|l| l.run != run);
        match self.per_worker - (before - self.idle.len()) as u32 {
            0 => self.emptied.push(run),
            busy => drop(self.retired.insert(run, busy)),
        }
    }

    /// From now on there are so many workers. The runs of those that leave get no more calls (see [`Self::emptied`]).
    /// Returns those who waited for one of them, with their turns, to [`Self::checkout_again`].
    #[must_use]
    pub fn resize(&mut self, workers: u32) -> Vec<(u64, W)> {
        let workers = workers as usize;
        self.workers = workers;
        if self.up.len() < workers {
            self.up.resize(workers, None);
            self.waiting.at_least(workers);
            self.served.resize(workers, 0);
            self.rested.resize(workers, None);
        }
        for worker in workers..self.up.len() {
            if let Some(run) = self.up[worker].take() {
                self.retire(run);
            }
        }
        self.waiting.leave_all_from(workers)
    }

    /// A worker's run ended: its idle lanes are gone, its busy ones go when they are checked in.
    pub fn down(&mut self, worker: u32, run: u64) {
        if self.up.get(worker as usize).copied().flatten() == Some(run) {
            self.rested[worker as usize] = Some((run, self.idle_lanes(run)));
            self.up[worker as usize] = None;
            self.idle.retain(|l| l.run != run);
        }
    }

    fn idle_lanes(&self, run: u64) -> Vec<u32> {
        self.idle.iter().filter(|l| l.run == run).map(|l| l.id).collect()
    }

    /// The lanes of a run that have no call; of one that is down, those that had none when it went down.
    pub fn without_call(&self, worker: u32, run: u64) -> Vec<u32> {
        match self.rested.get(worker as usize) {
            Some(Some((down, lanes))) if *down == run => lanes.clone(),
            _ => self.idle_lanes(run),
        }
    }

    /// No more calls. Returns those who waited.
    pub fn close(&mut self, code: u32) -> Vec<W> {
        self.closed.get_or_insert(code);
        self.waiting.leave_all()
    }

    /// No more calls until a worker is up; nothing happens if one is. Returns those who waited.
    pub fn suspend(&mut self, code: u32) -> Vec<W> {
        if self.up.iter().any(Option::is_some) {
            return Vec::new();
        }
        self.suspended = Some(code);
        self.waiting.leave_all()
    }

    /// Whether the pool is closed and its last call is done.
    pub fn at_rest(&self) -> bool {
        self.closed.is_some() && self.busy == 0
    }

    /// `(idle, busy, waiting)`.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.idle.len(), self.busy, self.waiting.len())
    }
}

/// The one worker that will do, if there is but one.
fn only(want: Want) -> Option<u32> {
    match want {
        Want::Only(worker) => Some(worker),
        Want::Any | Want::Rather(_) => None,
    }
}
