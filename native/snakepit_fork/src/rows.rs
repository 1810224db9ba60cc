//! The memory and descriptors in use, in rows that a fork's handlers read while other threads may be in the middle of
//! anything: no lock is needed to add a row, to remove one, or to read them.
//!
//! A row's second cell is written last, and cleared first: half a row belongs to a view that no forking thread has yet.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// So many are listed. Beyond that, chunks are copied as a whole.
const ROWS: usize = 1 << 16;
const DESCRIPTOR: u64 = u64::MAX;

struct Cells {
    /// In a free row: the row that is free after it.
    first: AtomicU64,
    second: AtomicU64,
}

/// Pages that are never touched cost nothing.
static TABLE: [Cells; ROWS] = [const { Cells { first: AtomicU64::new(0), second: AtomicU64::new(0) } }; ROWS];
/// So many rows were ever in use; those after them are not looked at.
static USED: AtomicU32 = AtomicU32::new(0);
/// The last row that became free, plus 1, below a count of changes, which tells it from one that was there before.
static FREE: AtomicU64 = AtomicU64::new(0);
static OVERFLOW: AtomicBool = AtomicBool::new(false);

/// An entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// A part of a chunk that Python looks at: its address and length.
    Memory(usize, usize),
    /// A descriptor of the worker's.
    Descriptor(i32),
}

/// The place of what is listed. It stays listed until [`remove`].
#[derive(Debug, PartialEq, Eq)]
pub struct Row(u32);

impl Row {
    const NOWHERE: Self = Self(u32::MAX);

    /// The row as a number, for those who cannot keep it.
    pub fn into_number(self) -> u32 {
        self.0
    }

    /// The row of such a number; `None` where no row has it.
    pub fn from_number(number: u32) -> Option<Self> {
        ((number as usize) < ROWS || number == u32::MAX).then_some(Self(number))
    }
}

/// Lists what is alive, before anybody can look at it. Memory of no length is not listed.
pub fn add(alive: Alive) -> Row {
    let (first, second) = match alive {
        Alive::Memory(address, length) => (address as u64, length as u64),
        Alive::Descriptor(fd) => (fd as u64, DESCRIPTOR),
    };
    let Some(row) = reuse().or_else(grow) else {
        OVERFLOW.store(true, Ordering::Release);
        return Row::NOWHERE;
    };
    let cells = &TABLE[row as usize];
    cells.first.store(first, Ordering::Relaxed);
    cells.second.store(second, Ordering::Release);
    Row(row)
}

/// That is over: the memory may be written again, the descriptor may be closed.
pub fn remove(row: Row) {
    let Some(cells) = TABLE.get(row.0 as usize) else { return };
    cells.second.store(0, Ordering::Release);
    let mut free = FREE.load(Ordering::Acquire);
    loop {
        cells.first.store(free & u64::from(u32::MAX), Ordering::Relaxed);
        let next = changed(free) | u64::from(row.0 + 1);
        match FREE.compare_exchange_weak(free, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(other) => free = other,
        }
    }
}

fn changed(free: u64) -> u64 {
    ((free >> 32).wrapping_add(1)) << 32
}

fn reuse() -> Option<u32> {
    let mut free = FREE.load(Ordering::Acquire);
    loop {
        let row = (free as u32).checked_sub(1)?;
        // Another thread may have taken it, and written to it: then the count of changes is another as well.
        let after = TABLE[row as usize].first.load(Ordering::Relaxed) & u64::from(u32::MAX);
        match FREE.compare_exchange_weak(free, changed(free) | after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(row),
            Err(other) => free = other,
        }
    }
}

fn grow() -> Option<u32> {
    USED.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| ((used as usize) < ROWS).then_some(used + 1)).ok()
}

/// How many rows were ever in use.
pub fn used() -> usize {
    USED.load(Ordering::Acquire) as usize
}

/// Whether some of what is alive could not be listed.
pub fn overflowed() -> bool {
    OVERFLOW.load(Ordering::Acquire)
}

/// All that is listed. While other threads add or remove rows, also what was a moment ago, or half a row.
pub fn alive() -> impl Iterator<Item = Alive> {
    TABLE[..used()].iter().filter_map(|cells| match cells.second.load(Ordering::Acquire) {
        0 => None,
        DESCRIPTOR => Some(Alive::Descriptor(cells.first.load(Ordering::Relaxed) as i32)),
        length => Some(Alive::Memory(cells.first.load(Ordering::Relaxed) as usize, length as usize)),
    })
}

#[cfg(test)]
pub fn pretend_overflow() {
    OVERFLOW.store(true, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_row_is_one_holders_alone_and_is_used_again() {
        crate::tests::in_a_child(rows_are_used_again);
    }

    fn rows_are_used_again() {
        let taken = || -> Vec<Row> {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4u64)
                    .map(|thread| {
                        scope.spawn(move || {
                            let mut kept = Vec::new();
                            for n in 0..20_000u64 {
                                let address = (thread << 32 | n | 1) as usize;
                                let row = add(Alive::Memory(address, 8));
                                assert_eq!(TABLE[row.0 as usize].first.load(Ordering::Relaxed), address as u64);
                                kept.push(row);
                                if kept.len() > 100 {
                                    kept.drain(..50).for_each(remove);
                                }
                            }
                            kept
                        })
                    })
                    .collect();
                threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
            })
        };
        for _ in 0..3 {
            let rows = taken();
            let distinct: HashSet<u32> = rows.iter().map(|row| row.0).collect();
            assert_eq!(distinct.len(), rows.len());
            assert!(used() <= 4 * 101, "{}", used());
            assert_eq!(alive().count(), rows.len());
            rows.into_iter().for_each(remove);
            assert_eq!(alive().count(), 0);
        }
        let row = add(Alive::Descriptor(7));
        assert_eq!(alive().collect::<Vec<_>>(), [Alive::Descriptor(7)]);
        let number = row.into_number();
        remove(Row::from_number(number).expect("a row"));
        assert_eq!(Row::from_number(ROWS as u32), None);
        assert!(!overflowed());
        let all: Vec<Row> = (0..ROWS + 1).map(|n| add(Alive::Memory(n, 1))).collect();
        assert!(overflowed() && all[ROWS] == Row::NOWHERE);
        all.into_iter().for_each(remove);
        assert_eq!(alive().count(), 0);
    }
}
