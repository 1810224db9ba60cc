//! A lock-free list that any thread pushes to and one taker empties.
//!
//! Destructors of binaries push here and return at once; whoever next holds the arena takes everything. Taking all
//! in one swap is what keeps it free of the ABA problem.

use crate::sync::{AtomicPtr, Ordering};
use std::ptr;

struct Node<T> {
    value: T,
    next: *mut Node<T>,
}

/// Last in, first out, so that the warmest slot is reused first.
pub struct FreeList<T> {
    head: AtomicPtr<Node<T>>,
}

// SAFETY: the list owns its nodes; a value moves in through `push` and out through `take`, never shared.
unsafe impl<T: Send> Send for FreeList<T> {}
// SAFETY: as above; all access to the head is atomic, and a node is reachable by one thread at a time once taken.
unsafe impl<T: Send> Sync for FreeList<T> {}

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }
}

impl<T> FreeList<T> {
    /// Adds a value. Lock-free: a failed exchange means that another thread succeeded.
    pub fn push(&self, value: T) {
        let node = Box::into_raw(Box::new(Node { value, next: ptr::null_mut() }));
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is ours until the exchange below publishes it.
            unsafe { (*node).next = head };
            // Release: pairs with the Acquire in `take`, which then sees `value` and `next`.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Removes everything, last pushed first.
    pub fn take(&self) -> Taken<T> {
        // The common case is empty: a plain load keeps the line shared.
        if self.head.load(Ordering::Relaxed).is_null() {
            return Taken::default();
        }
        // Acquire: pairs with the Release in `push`.
        Taken { next: self.head.swap(ptr::null_mut(), Ordering::Acquire) }
    }

    /// Removes one value: of those taken before, or, if `before` is empty, of all that were pushed since. So a taker that
    /// must not take long can leave the rest for another time.
    pub fn take_next(&self, before: &mut Taken<T>) -> Option<T> {
        before.next().or_else(|| {
            *before = self.take();
            before.next()
        })
    }

    /// Whether nothing has been pushed since the last `take`. Another thread may push meanwhile.
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }
}

impl<T> Drop for FreeList<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// The values taken by [`FreeList::take`].
pub struct Taken<T> {
    next: *mut Node<T>,
}

// SAFETY: the chain is reachable from here alone, and its values may be sent.
unsafe impl<T: Send> Send for Taken<T> {}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self { next: ptr::null_mut() }
    }
}

impl<T> Taken<T> {
    pub fn is_empty(&self) -> bool {
        self.next.is_null()
    }
}

impl<T> Iterator for Taken<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: `take` detached this chain from the list, so every node in it is ours, made by `Box::into_raw`
        // in `push`, and visited once.
        let node = unsafe { Box::from_raw(self.next) };
        self.next = node.next;
        Some(node.value)
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn last_in_first_out() {
        let list = FreeList::default();
        assert!(list.is_empty());
        (0..5).for_each(|i| list.push(i));
        assert_eq!(list.take().collect::<Vec<_>>(), [4, 3, 2, 1, 0]);
        assert!(list.is_empty());
        assert_eq!(list.take().next(), None);
    }

    #[test]
    fn taken_bit_by_bit() {
        let (list, mut before) = (FreeList::default(), Taken::default());
        assert_eq!(list.take_next(&mut before), None);
        (0..3).for_each(|i| list.push(i));
        assert_eq!(list.take_next(&mut before), Some(2));
        assert!(list.is_empty() && !before.is_empty());
        list.push(3);
        let rest: Vec<_> = std::iter::from_fn(|| list.take_next(&mut before)).collect();
        assert_eq!(rest, [1, 0, 3]);
        assert!(before.is_empty());
    }

    #[test]
    fn nothing_is_lost_or_leaked_between_threads() {
        let list = std::sync::Arc::new(FreeList::default());
        let value = std::sync::Arc::new(());
        let pushers: Vec<_> = (0..4)
            .map(|_| {
                let (list, value) = (list.clone(), value.clone());
                std::thread::spawn(move || (0..10_000).for_each(|_| list.push(value.clone())))
            })
            .collect();
        let mut taken = 0;
        while pushers.iter().any(|p| !p.is_finished()) {
            taken += list.take().count();
        }
        pushers.into_iter().for_each(|p| p.join().unwrap());
        taken += list.take().count();
        assert_eq!(taken, 40_000);
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn every_value_is_taken_once() {
        loom::model(|| {
            let list = Arc::new(FreeList::default());
            let pushers: Vec<_> = (0..2)
                .map(|i| {
                    let list = list.clone();
                    thread::spawn(move || {
                        list.push(i * 2);
                        list.push(i * 2 + 1);
                    })
                })
                .collect();
            let mut got: Vec<i32> = list.take().collect();
            pushers.into_iter().for_each(|p| p.join().unwrap());
            got.extend(list.take());
            got.sort_unstable();
            assert_eq!(got, [0, 1, 2, 3]);
        });
    }

    #[test]
    fn one_pusher_keeps_its_order() {
        loom::model(|| {
            let list = Arc::new(FreeList::default());
            let pusher = {
                let list = list.clone();
                thread::spawn(move || (0..3).for_each(|i| list.push(i)))
            };
            let mut got: Vec<i32> = list.take().collect();
            assert!(got.windows(2).all(|w| w[0] > w[1]));
            pusher.join().unwrap();
            let rest: Vec<i32> = list.take().collect();
            assert!(rest.windows(2).all(|w| w[0] > w[1]));
            got.extend(rest);
            assert_eq!(got.len(), 3);
        });
    }
}
