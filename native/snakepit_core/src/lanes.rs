//! Who has which lane of a pool, and who waits for one. Pure bookkeeping, meant to be held under a lock for the
//! length of a few loads.
//!
//! A lane is idle only while nobody waits who could take it: a freed lane goes straight to whoever has waited longest.
//! A waiter may insist on one worker (a session's), so there is a line for each worker and one for everybody else.

use std::collections::{HashMap, VecDeque};

/// A place to run one call, on one run (epoch) of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// `worker * lanes per worker + lane of the worker`.
    pub id: u32,
    pub epoch: u64,
}

/// The answer to a request for a lane.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckoutAnswer {
    Lane(Lane),
    /// The caller is in line under this key.
    Waiting(u64),
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
    /// One line per worker; keys in order of arrival.
    lines: Vec<VecDeque<u64>>,
    /// The line of those who take any worker.
    any: VecDeque<u64>,
    waiting: HashMap<u64, W>,
    next_key: u64,
    closed: Option<u32>,
    /// Busy lanes of runs that were replaced while they worked, by epoch.
    retired: HashMap<u64, u32>,
    /// Replaced runs whose last lane came back, and nobody was told.
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
            lines: (0..workers).map(|_| VecDeque::new()).collect(),
            any: VecDeque::new(),
            waiting: HashMap::new(),
            next_key: 0,
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

    /// A lane, or a place in line; `waiter` is given its key.
    pub fn checkout(&mut self, want: Want, waiter: impl FnOnce(u64) -> W) -> CheckoutAnswer {
        if let Some(answer) = self.at_once(want) {
            return answer;
        }
        if self.waiting.len() >= self.max_waiting {
            return CheckoutAnswer::Full;
        }
        let key = self.next_key;
        self.next_key += 1;
        self.line(want).push_back(key);
        self.waiting.insert(key, waiter(key));
        CheckoutAnswer::Waiting(key)
    }

    /// The same for a waiter whose worker left: it keeps its key, and so its turn, however many wait.
    pub fn checkout_again(&mut self, want: Want, key: u64, waiter: W) -> CheckoutAnswer {
        if let Some(answer) = self.at_once(want) {
            return answer;
        }
        let line = self.line(want);
        let at = line.partition_point(|other| *other < key);
        line.insert(at, key);
        self.waiting.insert(key, waiter);
        CheckoutAnswer::Waiting(key)
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

    fn line(&mut self, want: Want) -> &mut VecDeque<u64> {
        match want {
            Want::Only(w) => &mut self.lines[w as usize],
            Want::Any | Want::Rather(_) => &mut self.any,
        }
    }

    /// A call is done: [`Self::offer`]s its lane.
    pub fn checkin(&mut self, lane: Lane) -> Option<W> {
        let worker = self.worker(lane);
        if self.up.get(worker).copied().flatten() == Some(lane.epoch) {
            self.served[worker] += 1;
        }
        self.offer(lane)
    }

    /// The waiter who gets this busy lane now; it stays busy. `None`: nobody wants it, and it is idle; or its run is
    /// over, and it is gone. Called again with the same lane if the waiter turns out to be dead.
    pub fn offer(&mut self, lane: Lane) -> Option<W> {
        let worker = self.worker(lane);
        if self.up.get(worker).copied().flatten() != Some(lane.epoch) {
            self.forget(lane);
            return None;
        }
        let own = Self::head(&mut self.lines[worker], &self.waiting);
        let any = Self::head(&mut self.any, &self.waiting);
        let key = match (own, any) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let Some(key) = key else {
            self.busy -= 1;
            self.idle.push(lane);
            return None;
        };
        let line = if own == Some(key) { &mut self.lines[worker] } else { &mut self.any };
        line.pop_front();
        self.waiting.remove(&key)
    }

    /// The first in line who still waits.
    fn head(line: &mut VecDeque<u64>, waiting: &HashMap<u64, W>) -> Option<u64> {
        while let Some(key) = line.front() {
            if waiting.contains_key(key) {
                return Some(*key);
            }
            line.pop_front();
        }
        None
    }

    /// A busy lane will not come back: its caller died, or left it in the middle of a call.
    pub fn forget(&mut self, lane: Lane) {
        self.busy -= 1;
        if let Some(left) = self.retired.get_mut(&lane.epoch) {
            *left -= 1;
            if *left == 0 {
                self.retired.remove(&lane.epoch);
                self.emptied.push(lane.epoch);
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

    /// A waiter leaves; false if it was given a lane already.
    pub fn cancel(&mut self, key: u64) -> bool {
        self.waiting.remove(&key).is_some()
    }

    /// Removes the waiters of whom `gone` is true.
    pub fn purge(&mut self, gone: impl Fn(&W) -> bool) {
        self.waiting.retain(|_, w| !gone(w));
        let waiting = &self.waiting;
        for line in self.lines.iter_mut().chain([&mut self.any]) {
            line.retain(|key| waiting.contains_key(key));
        }
    }

    /// A worker's run began: its lanes, each to be offered once, count as busy until then. A run that is still up is
    /// replaced: its idle lanes are gone at once, and its busy ones go when they are checked in (see [`Self::emptied`]).
    #[must_use]
    pub fn up(&mut self, worker: u32, epoch: u64) -> Vec<Lane> {
        if worker as usize >= self.workers {
            return Vec::new();
        }
        if let Some(old) = self.up[worker as usize].replace(epoch).filter(|old| *old != epoch) {
            self.retire(old);
        }
        self.served[worker as usize] = 0;
        self.suspended = None;
        self.busy += self.per_worker as usize;
        (0..self.per_worker).map(|n| Lane { id: worker * self.per_worker + n, epoch }).collect()
    }

    /// No more calls for a run: its idle lanes are gone, and its busy ones go when they are checked in.
    fn retire(&mut self, epoch: u64) {
        let before = self.idle.len();
        self.idle.retain(|l| l.epoch != epoch);
        match self.per_worker - (before - self.idle.len()) as u32 {
            0 => self.emptied.push(epoch),
            busy => drop(self.retired.insert(epoch, busy)),
        }
    }

    /// From now on there are so many workers. The runs of those that leave get no more calls (see [`Self::emptied`]).
    /// Returns those who waited for one of them, to [`Self::checkout_again`].
    #[must_use]
    pub fn resize(&mut self, workers: u32) -> Vec<(u64, W)> {
        let workers = workers as usize;
        self.workers = workers;
        if self.up.len() < workers {
            self.up.resize(workers, None);
            self.lines.resize_with(workers, VecDeque::new);
            self.served.resize(workers, 0);
            self.rested.resize(workers, None);
        }
        let mut moved = Vec::new();
        for worker in workers..self.up.len() {
            if let Some(epoch) = self.up[worker].take() {
                self.retire(epoch);
            }
            for key in std::mem::take(&mut self.lines[worker]) {
                moved.extend(self.waiting.remove(&key).map(|waiter| (key, waiter)));
            }
        }
        moved
    }

    /// A worker's run ended: its idle lanes are gone, its busy ones go when they are checked in.
    pub fn down(&mut self, worker: u32, epoch: u64) {
        if self.up.get(worker as usize).copied().flatten() == Some(epoch) {
            self.rested[worker as usize] = Some((epoch, self.idle_lanes(epoch)));
            self.up[worker as usize] = None;
            self.idle.retain(|l| l.epoch != epoch);
        }
    }

    fn idle_lanes(&self, epoch: u64) -> Vec<u32> {
        self.idle.iter().filter(|l| l.epoch == epoch).map(|l| l.id).collect()
    }

    /// The lanes of a run that have no call; of one that is down, those that had none when it went down.
    pub fn without_call(&self, worker: u32, epoch: u64) -> Vec<u32> {
        match self.rested.get(worker as usize) {
            Some(Some((down, lanes))) if *down == epoch => lanes.clone(),
            _ => self.idle_lanes(epoch),
        }
    }

    /// No more calls. Returns those who waited.
    pub fn close(&mut self, code: u32) -> Vec<W> {
        self.closed.get_or_insert(code);
        self.clear_lines()
    }

    /// No more calls until a worker is up; nothing happens if one is. Returns those who waited.
    pub fn suspend(&mut self, code: u32) -> Vec<W> {
        if self.up.iter().any(Option::is_some) {
            return Vec::new();
        }
        self.suspended = Some(code);
        self.clear_lines()
    }

    fn clear_lines(&mut self) -> Vec<W> {
        self.lines.iter_mut().for_each(VecDeque::clear);
        self.any.clear();
        std::mem::take(&mut self.waiting).into_values().collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn up(lanes: &mut Lanes<u32>, worker: u32, epoch: u64) {
        for lane in lanes.up(worker, epoch) {
            assert_eq!(lanes.offer(lane), None);
        }
    }

    fn lane(answer: CheckoutAnswer) -> Lane {
        match answer {
            CheckoutAnswer::Lane(lane) => lane,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_one_who_waited_longest_gets_a_freed_lane() {
        let mut lanes = Lanes::new(2, 1, 10);
        up(&mut lanes, 0, 100);
        up(&mut lanes, 1, 101);
        let (a, b) = (lane(lanes.checkout(Want::Any, |_| 0)), lane(lanes.checkout(Want::Any, |_| 0)));
        assert_eq!((a.id, b.id), (1, 0));
        assert_eq!(lanes.checkout(Want::Any, |_| 1), CheckoutAnswer::Waiting(0));
        assert_eq!(lanes.checkout(Want::Only(0), |_| 2), CheckoutAnswer::Waiting(1));
        assert_eq!(lanes.checkout(Want::Rather(0), |_| 3), CheckoutAnswer::Waiting(2));
        assert_eq!(lanes.checkin(b), Some(1));
        assert_eq!(lanes.checkin(a), Some(3), "worker 1 does not serve the session of worker 0");
        assert_eq!(lanes.checkin(b), Some(2));
        assert_eq!(lanes.checkin(b), None);
        assert_eq!(lanes.counts(), (1, 1, 0));
    }

    #[test]
    fn full_cancelled_closed() {
        let mut lanes: Lanes<u32> = Lanes::new(1, 2, 2);
        assert_eq!(lanes.checkout(Want::Any, |_| 1), CheckoutAnswer::Waiting(0));
        assert_eq!(lanes.checkout(Want::Any, |_| 2), CheckoutAnswer::Waiting(1));
        assert_eq!(lanes.checkout(Want::Any, |_| 3), CheckoutAnswer::Full);
        lanes.purge(|w| *w == 1);
        assert!(!lanes.cancel(0));
        assert_eq!(lanes.checkout(Want::Any, |_| 4), CheckoutAnswer::Waiting(2));
        assert!(lanes.cancel(1) && !lanes.cancel(1));
        assert_eq!(lanes.close(7), [4]);
        assert_eq!(lanes.checkout(Want::Any, |_| 5), CheckoutAnswer::Closed(7));
        assert!(lanes.at_rest());
    }

    #[test]
    fn suspended_until_a_worker_is_up() {
        let mut lanes: Lanes<u32> = Lanes::new(2, 1, 2);
        up(&mut lanes, 1, 1);
        assert_eq!(lanes.suspend(3), [], "one is up");
        assert_eq!(lane(lanes.checkout(Want::Any, |_| 0)).epoch, 1);
        assert_eq!(lanes.checkout(Want::Any, |_| 7), CheckoutAnswer::Waiting(0));
        lanes.down(1, 1);
        assert_eq!(lanes.suspend(3), [7]);
        assert_eq!(lanes.checkout(Want::Any, |_| 8), CheckoutAnswer::Closed(3));
        lanes.forget(Lane { id: 0, epoch: 1 });
        assert!(!lanes.at_rest(), "it is not closed");
        up(&mut lanes, 0, 2);
        assert_eq!(lane(lanes.checkout(Want::Any, |_| 0)).epoch, 2);
        lanes.down(0, 2);
        assert_eq!(lanes.suspend(3), []);
        assert_eq!(lanes.close(7), []);
        assert_eq!(lanes.checkout(Want::Any, |_| 9), CheckoutAnswer::Closed(7), "closed for good");
    }

    #[test]
    fn the_lanes_without_a_call_are_known_after_the_end_of_their_run() {
        let mut lanes: Lanes<u32> = Lanes::new(2, 3, 2);
        up(&mut lanes, 1, 7);
        let held = lane(lanes.checkout(Want::Any, |_| 0));
        let mut idle = vec![3, 4, 5];
        idle.retain(|id| *id != held.id);
        assert_eq!(lanes.without_call(1, 7), idle);
        lanes.down(1, 7);
        lanes.forget(held);
        assert_eq!(lanes.without_call(1, 7), idle);
        up(&mut lanes, 1, 8);
        assert_eq!((lanes.without_call(1, 7), lanes.without_call(1, 8)), (idle, vec![3, 4, 5]));
        lanes.down(1, 8);
        assert_eq!(lanes.without_call(1, 7), []);
    }

    #[test]
    fn a_lane_of_an_earlier_run_is_dropped() {
        let mut lanes: Lanes<u32> = Lanes::new(1, 1, 2);
        up(&mut lanes, 0, 1);
        let old = lane(lanes.checkout(Want::Any, |_| 0));
        lanes.down(0, 1);
        up(&mut lanes, 0, 2);
        assert_eq!(lanes.checkin(old), None);
        assert_eq!(lanes.counts(), (1, 0, 0));
        assert_eq!(lane(lanes.checkout(Want::Any, |_| 0)).epoch, 2);
        lanes.down(0, 1);
        lanes.forget(Lane { id: 0, epoch: 2 });
        assert_eq!(lanes.counts(), (0, 0, 0));
        assert_eq!(lanes.emptied(), None);
    }

    #[test]
    fn a_run_that_is_replaced_is_named_when_its_last_lane_came_back() {
        let mut lanes = Lanes::new(1, 3, 2);
        up(&mut lanes, 0, 1);
        let old: Vec<_> = (0..2).map(|_| lane(lanes.checkout(Want::Any, |_| 0))).collect();
        assert_eq!(lanes.checkin(old[0]), None);
        assert_eq!(lanes.served(0), 1);
        let again = lane(lanes.checkout(Want::Any, |_| 0));
        up(&mut lanes, 0, 2);
        assert_eq!((lanes.emptied(), lanes.served(0), lanes.counts()), (None, 0, (3, 2, 0)));
        assert_eq!(lanes.checkin(again), None);
        assert_eq!(lanes.emptied(), None);
        lanes.forget(old[1]);
        assert_eq!((lanes.emptied(), lanes.emptied()), (Some(1), None));
        assert_eq!((lanes.served(0), lanes.counts()), (0, (3, 0, 0)));
        // One that has nothing to do is named at once.
        up(&mut lanes, 0, 3);
        assert_eq!(lanes.emptied(), Some(2));
    }

    #[test]
    fn a_worker_that_leaves_finishes_its_calls_and_sends_away_who_waits_for_it() {
        let mut lanes = Lanes::new(1, 1, 3);
        assert_eq!(lanes.resize(3), []);
        for worker in 0..3 {
            up(&mut lanes, worker, 100 + u64::from(worker));
        }
        let held: Vec<_> = (0..3).map(|w| lane(lanes.checkout(Want::Only(w), |_| 0))).collect();
        assert_eq!(lanes.checkout(Want::Only(2), |_| 1), CheckoutAnswer::Waiting(0));
        assert_eq!(lanes.checkout(Want::Only(0), |_| 2), CheckoutAnswer::Waiting(1));
        assert_eq!(lanes.checkout(Want::Any, |_| 3), CheckoutAnswer::Waiting(2));
        assert_eq!(lanes.checkin(lane_of(&held, 1)), Some(3));
        let again = lane_of(&held, 1);
        assert_eq!(lanes.resize(1), [(0, 1)], "who waits for one that stays is left alone");
        assert_eq!(lanes.emptied(), None);
        assert_eq!(lanes.checkout(Want::Only(1), |_| 4), CheckoutAnswer::Moved);
        assert_eq!(lanes.checkout(Want::Any, |_| 5), CheckoutAnswer::Waiting(3));
        assert_eq!(lanes.checkout(Want::Rather(2), |_| 6), CheckoutAnswer::Waiting(4));
        assert_eq!(lanes.checkout(Want::Any, |_| 7), CheckoutAnswer::Full);
        // It was in line already, and before the others.
        assert_eq!(lanes.checkout_again(Want::Only(0), 0, 1), CheckoutAnswer::Waiting(0));
        assert_eq!(lanes.checkin(again), None);
        assert_eq!(lanes.emptied(), Some(101));
        lanes.forget(lane_of(&held, 2));
        assert_eq!((lanes.emptied(), lanes.emptied()), (Some(102), None));
        let served: Vec<_> = (0..4).map(|_| lanes.checkin(lane_of(&held, 0))).collect();
        assert_eq!(served, [Some(1), Some(2), Some(5), Some(6)]);
        assert_eq!(lanes.checkin(lane_of(&held, 0)), None);
        assert_eq!(lanes.counts(), (1, 0, 0));
        assert_eq!(lanes.up(1, 200), [], "it left");
        assert_eq!(lanes.resize(2), []);
        up(&mut lanes, 1, 201);
        assert_eq!(lanes.counts(), (2, 0, 0));
    }

    fn lane_of(held: &[Lane], worker: u32) -> Lane {
        *held.iter().find(|l| l.id == worker).unwrap()
    }

    proptest! {
        /// No lane is held twice, no waiter is forgotten, and no lane idles while somebody waits for it.
        #[test]
        fn agrees_with_the_naive_view(steps in prop::collection::vec((0u8..7, 0u32..3), 1..300)) {
            let mut lanes: Lanes<(u32, Want)> = Lanes::new(3, 2, 8);
            let mut size = 3;
            let (mut epoch, mut alive) = (0u64, [None; 3]);
            let mut held: Vec<Lane> = Vec::new();
            let mut waiting: Vec<(u32, Want)> = Vec::new();
            let mut next = 0;
            let mut replaced: Vec<u64> = Vec::new();
            for (step, w) in steps {
                match step {
                    0..=2 => {
                        let want = [Want::Any, Want::Only(w), Want::Rather(w)][step as usize];
                        next += 1;
                        match lanes.checkout(want, |_| (next, want)) {
                            CheckoutAnswer::Lane(lane) => {
                                prop_assert!(!held.contains(&lane));
                                prop_assert_eq!(alive[(lane.id / 2) as usize], Some(lane.epoch));
                                if let Want::Only(w) = want {
                                    prop_assert_eq!(lane.id / 2, w);
                                }
                                held.push(lane);
                            }
                            CheckoutAnswer::Waiting(_) => waiting.push((next, want)),
                            CheckoutAnswer::Full => prop_assert_eq!(waiting.len(), 8),
                            CheckoutAnswer::Closed(_) => prop_assert!(false),
                            CheckoutAnswer::Moved => prop_assert!(matches!(want, Want::Only(w) if w >= size)),
                        }
                    }
                    3 if !held.is_empty() => {
                        let lane = held.swap_remove(w as usize % held.len());
                        if let Some(waiter) = lanes.checkin(lane) {
                            waiting.retain(|x| *x != waiter);
                            held.push(lane);
                        }
                    }
                    4 if w < size => {
                        epoch += 1;
                        replaced.extend(alive[w as usize].replace(epoch));
                        for lane in lanes.up(w, epoch) {
                            if let Some(waiter) = lanes.offer(lane) {
                                waiting.retain(|x| *x != waiter);
                                held.push(lane);
                            }
                        }
                    }
                    5 => {
                        if let Some(e) = alive[w as usize].take() {
                            lanes.down(w, e);
                        }
                    }
                    6 => {
                        size = w + 1;
                        for run in &mut alive[size as usize..] {
                            replaced.extend(run.take());
                        }
                        for (key, waiter) in lanes.resize(size) {
                            let Want::Only(left) = waiter.1 else { panic!("{waiter:?} can take any") };
                            prop_assert!(left >= size);
                            let at = waiting.iter().position(|x| *x == waiter).unwrap();
                            waiting[at].1 = Want::Only(left % size);
                            match lanes.checkout_again(Want::Only(left % size), key, waiting[at]) {
                                CheckoutAnswer::Waiting(same) => prop_assert_eq!(same, key),
                                CheckoutAnswer::Lane(lane) => {
                                    prop_assert!(!held.contains(&lane));
                                    waiting.remove(at);
                                    held.push(lane);
                                }
                                other => panic!("{other:?}"),
                            }
                        }
                    }
                    _ => {}
                }
                while let Some(emptied) = lanes.emptied() {
                    prop_assert!(replaced.contains(&emptied));
                    replaced.retain(|e| *e != emptied);
                    prop_assert!(held.iter().all(|l| l.epoch != emptied));
                }
                prop_assert!(replaced.iter().all(|e| held.iter().any(|l| l.epoch == *e)));
                let (idle, busy, queued) = lanes.counts();
                prop_assert_eq!(busy, held.len());
                prop_assert_eq!(queued, waiting.len());
                let up = alive.iter().flatten().count();
                let held_alive = held.iter().filter(|l| alive[(l.id / 2) as usize] == Some(l.epoch)).count();
                prop_assert_eq!(idle + held_alive, up * 2);
                prop_assert!(idle == 0 || waiting.iter().all(|(_, want)| matches!(want, Want::Only(_))));
            }
        }
    }
}
