//! The chunks that this process maps, by address.

use crate::errno;
use crate::table::Table;

#[derive(Clone, Copy)]
pub struct Chunk {
    pub address: usize,
    pub size: usize,
}

pub struct Chunks(Table<Chunk>);

impl Chunks {
    pub const NONE: Self = Self(Table::NONE);

    pub fn as_slice(&self) -> &[Chunk] {
        self.0.as_slice()
    }

    pub fn clear(&mut self) {
        self.0.count = 0;
    }

    /// No fork sees it half done: its caller holds the lock.
    pub fn map(&mut self, fd: i32, size: usize, writable: bool) -> Result<usize, i32> {
        if !self.0.reserve(self.0.count + 1) {
            return Err(libc::ENOMEM);
        }
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: new memory at an address that the kernel chooses.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(errno());
        }
        // SAFETY: changes only what children inherit.
        if unsafe { libc::madvise(memory, size, libc::MADV_DONTFORK) } != 0 {
            let why = errno();
            // SAFETY: mapped above, and nobody else knows of it.
            unsafe { libc::munmap(memory, size) };
            return Err(why);
        }
        let address = memory as usize;
        let at = self.as_slice().partition_point(|chunk| chunk.address < address);
        self.0.insert(at, Chunk { address, size });
        Ok(address)
    }

    /// Whether it was there.
    pub fn forget(&mut self, address: usize) -> bool {
        let found = self.as_slice().binary_search_by_key(&address, |chunk| chunk.address);
        if let Ok(at) = found {
            self.0.remove(at);
        }
        found.is_ok()
    }
}

/// Makes pages ready, so that no call pays for the first touch of one.
pub fn populate(address: usize, size: usize, writable: bool) {
    let advice = if writable { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    // SAFETY: the chunk was just mapped; its content stays.
    if unsafe { libc::madvise(address as *mut _, size, advice) } == 0 || errno() != libc::EINVAL {
        return;
    }
    // Linux before 5.14.
    for at in (address..address + size).step_by(4096) {
        // SAFETY: the chunk is allocated in full and sealed, so that every page can be read.
        unsafe { std::ptr::read_volatile(at as *const u8) };
    }
}
