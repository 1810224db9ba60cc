//! The lock that a fork holds from its first handler to its last. Its holder neither allocates nor calls Python:
//! the handlers run while other libraries hold locks of theirs.

use crate::chunks::Chunks;
use crate::copies::Copies;
use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// The state that the lock guards.
pub struct Memory {
    pub chunks: Chunks,
    pub copies: Copies,
    pub path: [u8; 108],
    pub path_length: usize,
}

struct Shared {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    memory: UnsafeCell<Memory>,
}

// SAFETY: `memory` is touched only by whoever holds `mutex`.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared {
    mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
    memory: UnsafeCell::new(Memory { chunks: Chunks::NONE, copies: Copies::NONE, path: [0; 108], path_length: 0 }),
};

pub struct Lock(());

impl Lock {
    pub fn take() -> Self {
        // SAFETY: a mutex of the plain kind, initialized, that never moves. A plain one is never refused.
        unsafe { libc::pthread_mutex_lock(SHARED.mutex.get()) };
        Self(())
    }

    /// Leaves it locked, until somebody takes it over by [`Lock::kept`].
    pub fn keep(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// # Safety
    /// This thread, or the one that forked it, holds the lock by [`Lock::keep`].
    pub unsafe fn kept() -> Self {
        Self(())
    }

    pub fn path(&self) -> &[u8] {
        &self.path[..self.path_length]
    }

    pub fn set_path(&mut self, path: &[u8]) -> bool {
        let fits = path.len() < self.path.len();
        if fits {
            self.path[..path.len()].copy_from_slice(path);
            self.path_length = path.len();
        }
        fits
    }

    pub fn map(&mut self, fd: i32, size: usize, writable: bool) -> Result<usize, i32> {
        self.chunks.map(fd, size, writable)
    }

    pub fn forget(&mut self, address: usize) -> bool {
        self.chunks.forget(address)
    }

    /// Copies what Python looks at, for a child that is to be made.
    pub fn copy_live(&mut self) {
        let Memory { chunks, copies, .. } = &mut **self;
        copies.make(chunks.as_slice());
    }

    pub fn drop_copies(&mut self) {
        self.copies.unmap();
    }

    /// In the child: puts the copies where the chunks were.
    pub fn place_copies(&mut self) {
        let Memory { chunks, copies, .. } = &mut **self;
        for chunk in chunks.as_slice() {
            crate::copies::reserve(chunk);
        }
        copies.place();
        chunks.clear();
    }
}

impl Deref for Lock {
    type Target = Memory;
    fn deref(&self) -> &Memory {
        // SAFETY: this holds the lock.
        unsafe { &*SHARED.memory.get() }
    }
}

impl DerefMut for Lock {
    fn deref_mut(&mut self) -> &mut Memory {
        // SAFETY: this holds the lock, and is borrowed alone.
        unsafe { &mut *SHARED.memory.get() }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: as in `take`. In a child, the thread that forked is the one that is left.
        unsafe { libc::pthread_mutex_unlock(SHARED.mutex.get()) };
    }
}
