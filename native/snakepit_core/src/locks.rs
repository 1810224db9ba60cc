//! How Snakepit's libraries lock, and what they do with a poisoned lock.
//!
//! A lock is poisoned when a thread panicked while it held the lock. All libraries ignore that and go on with what the lock
//! guards:
//!
//! - To panic on a poisoned lock would make one failed call fail every later one, for the rest of the VM's life. Some of
//!   these locks are taken in destructors, where a second panic ends the VM.
//! - The guarded data stay usable. Locks are held for bookkeeping only, in collections of the standard library, which
//!   keep their own invariants when they panic. At worst one entry is wrong afterwards: a slot is not given back, or
//!   a lane counts as busy. No such panic is known; the property tests of this crate look for them.
//! - No memory is read or written on the word of these books alone: offsets are checked against the mapping, and reference
//!   counts keep what is in use.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks, whether or not the lock is poisoned.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading, whether or not the lock is poisoned.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing, whether or not the lock is poisoned.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_under_a_lock_leaves_it_usable() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(1));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _guards = (locked(&mutex), write(&lock));
            panic!("with both locks held");
        }));
        assert!(panicked.is_err() && mutex.is_poisoned() && lock.is_poisoned());
        *locked(&mutex) += 1;
        *write(&lock) += 1;
        assert_eq!((*locked(&mutex), *read(&lock)), (2, 2));
    }
}
