//! Tables in memory of their own, for handlers that must not allocate: other threads may hold the allocator's locks.

use std::mem::MaybeUninit;

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
