//! The latest records of a pool: any thread adds, one takes. Nobody waits; who is too slow loses the oldest.
//!
//! Each slot is a seqlock of its own. An odd sequence number means that somebody writes; a writer that comes around again
//! while a slow one still does drops its own record, and a reader that finds a slot changed drops that.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of a record. (loom tries all orders of all their loads and stores.)
pub const WORDS: usize = if cfg!(loom) { 2 } else { 4 };

struct Slot {
    /// Twice the record's number plus two once it is whole, plus one while it is written.
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

pub struct Ring {
    slots: Box<[Slot]>,
    /// Records ever begun.
    head: AtomicU64,
    dropped: AtomicU64,
}

impl Ring {
    pub fn new(capacity: usize) -> Self {
        let slot = || Slot { sequence: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) };
        Self {
            slots: (0..capacity.next_power_of_two()).map(|_| slot()).collect(),
            head: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[number as usize & (self.slots.len() - 1)]
    }

    /// Adds a record, in place of the oldest.
    pub fn add(&self, record: [u64; WORDS]) {
        let number = self.head.fetch_add(1, Ordering::Relaxed);
        let slot = self.slot(number);
        let before = slot.sequence.load(Ordering::Relaxed);
        // Acquire: no word is written before the slot is ours.
        if before & 1 == 1
            || before > 2 * number
            || slot.sequence.compare_exchange(before, 2 * number + 1, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Pairs with the fence in `take`: who sees a word of ours sees the odd number as well.
        fence(Ordering::Release);
        for (word, value) in slot.words.iter().zip(record) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `take`, which then sees all words.
        slot.sequence.store(2 * number + 2, Ordering::Release);
    }

    /// The records from number `from` on, and the number to go on from. Records that were overwritten, or are still being
    /// written, are not among them.
    pub fn take(&self, from: u64, mut each: impl FnMut([u64; WORDS])) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        let oldest = head.saturating_sub(self.slots.len() as u64);
        self.dropped.fetch_add(oldest.saturating_sub(from), Ordering::Relaxed);
        for number in from.max(oldest)..head {
            let slot = self.slot(number);
            if slot.sequence.load(Ordering::Acquire) != 2 * number + 2 {
                continue;
            }
            let record = std::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if slot.sequence.load(Ordering::Relaxed) == 2 * number + 2 {
                each(record);
            }
        }
        head
    }

    /// Records ever begun, and those that were dropped, since their slot was busy or since nobody took them in time.
    pub fn counts(&self) -> (u64, u64) {
        (self.head.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn taken(ring: &Ring, from: u64) -> (Vec<u64>, u64) {
        let mut seen = Vec::new();
        let next = ring.take(from, |record| {
            assert!(record.iter().all(|word| *word == record[0]), "torn: {record:?}");
            seen.push(record[0]);
        });
        (seen, next)
    }

    #[test]
    fn keeps_the_latest() {
        let ring = Ring::new(4);
        assert_eq!(taken(&ring, 0), (vec![], 0));
        (0..3).for_each(|n| ring.add([n; WORDS]));
        assert_eq!(taken(&ring, 0), (vec![0, 1, 2], 3));
        assert_eq!(taken(&ring, 3), (vec![], 3));
        (3..10).for_each(|n| ring.add([n; WORDS]));
        assert_eq!(taken(&ring, 3), (vec![6, 7, 8, 9], 10));
        assert_eq!(ring.counts(), (10, 3));
    }

    #[test]
    fn no_record_is_torn_and_none_is_seen_twice() {
        let ring = Ring::new(64);
        let each = if cfg!(miri) { 200 } else { 50_000 };
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let ring = &ring;
                scope.spawn(move || (0..each).for_each(|n| ring.add([thread << 32 | n; WORDS])));
            }
            let (mut from, mut last) = (0, [None; 3]);
            while from < 3 * each {
                let (seen, next) = taken(&ring, from);
                for value in seen {
                    let thread = (value >> 32) as usize;
                    assert!(last[thread] < Some(value), "in order, once");
                    last[thread] = Some(value);
                }
                from = next;
            }
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn a_record_is_whole_or_not_seen() {
        // All orders in which a thread is interrupted at most three times, of all that memory may show it. Each further
        // time takes many times as long.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let ring = Arc::new(Ring::new(1));
            let writers: Vec<_> = (1..=2u64)
                .map(|n| {
                    let ring = ring.clone();
                    loom::thread::spawn(move || ring.add([n; WORDS]))
                })
                .collect();
            ring.take(0, |record| assert!(record.iter().all(|word| *word == record[0])));
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
    }
}
