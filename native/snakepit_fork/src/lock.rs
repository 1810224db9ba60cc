//! The lock that a fork holds from its first handler to its last. Whoever holds it neither allocates nor calls Python:
//! the handlers run while other libraries hold locks of theirs.

use crate::chunks::Chunks;
use crate::copies::Copies;
use std::cell::UnsafeCell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};

/// What the lock guards.
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

/// Fresh private memory from the system, for tables that must not be allocated. Null if there is none.
pub fn pages(bytes: usize) -> *mut u8 {
    // SAFETY: new memory at an address that the kernel chooses.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED { std::ptr::null_mut() } else { address.cast() }
}

/// A table in memory of its own, of plain values.
pub struct Table<T> {
    start: *mut MaybeUninit<T>,
    pub count: usize,
    pub room: usize,
}

impl<T: Copy> Table<T> {
    pub const NONE: Self = Self { start: std::ptr::null_mut(), count: 0, room: 0 };

    /// Room for so many; false if there is no memory for that.
    pub fn reserve(&mut self, room: usize) -> bool {
        if room <= self.room {
            return true;
        }
        let room = room.max(256).next_power_of_two();
        let start: *mut MaybeUninit<T> = pages(room * size_of::<T>()).cast();
        if start.is_null() {
            return false;
        }
        // SAFETY: both have room for `count` of them, and are apart.
        unsafe { std::ptr::copy_nonoverlapping(self.start, start, self.count) };
        let count = self.count;
        self.unmap();
        *self = Self { start, count, room };
        true
    }

    pub fn as_slice(&self) -> &[T] {
        self.parts(self.count)
    }

    fn parts(&self, count: usize) -> &[T] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: the first `count` were written; the pages of the system are aligned for everything.
        unsafe { std::slice::from_raw_parts(self.start.cast(), count) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: as above, borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.count) }
    }

    /// Puts one at this place; false if there is no room.
    pub fn insert(&mut self, at: usize, value: T) -> bool {
        if self.count == self.room || at > self.count {
            return false;
        }
        // SAFETY: there is room for one more; what is behind the place moves up.
        unsafe {
            let place = self.start.add(at);
            std::ptr::copy(place, place.add(1), self.count - at);
            place.write(MaybeUninit::new(value));
        }
        self.count += 1;
        true
    }

    pub fn push(&mut self, value: T) -> bool {
        self.insert(self.count, value)
    }

    pub fn remove(&mut self, at: usize) {
        let count = self.count;
        self.as_mut_slice().copy_within(at + 1.., at);
        self.count = count - 1;
    }

    pub fn unmap(&mut self) {
        if !self.start.is_null() {
            // SAFETY: this memory is the table's alone.
            unsafe { libc::munmap(self.start.cast(), self.room * size_of::<T>()) };
        }
        *self = Self::NONE;
    }
}
