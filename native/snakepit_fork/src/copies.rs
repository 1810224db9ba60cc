//! Private copies of the parts of chunks that Python looks at, made by the parent, right before a fork.

use crate::chunks::Chunk;
use crate::errno;
use crate::rows::{self, Alive};
use crate::table::{Table, pages};
use std::sync::OnceLock;

/// Parts that are closer than this are copied in one: each costs a mapping of the child's, of which there are not many.
const GAP: usize = 64 << 10;

static PAGE: OnceLock<usize> = OnceLock::new();

/// The size of a page. Asked for the first time where nothing is forked.
pub fn page() -> usize {
    // SAFETY: reads a constant of the system.
    *PAGE.get_or_init(|| usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096))
}

/// A part of a chunk, in whole pages.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
}

pub struct Copies {
    parts: Table<Part>,
    /// The copies, one behind the other. Null if there are none.
    memory: *mut u8,
    length: usize,
}

impl Copies {
    pub const NONE: Self = Self { parts: Table::NONE, memory: std::ptr::null_mut(), length: 0 };

    /// Copies what is alive in these chunks. Where there is no memory for it, the child has nothing there.
    pub fn make(&mut self, chunks: &[Chunk]) {
        if chunks.is_empty() {
            return;
        }
        let whole = rows::overflowed();
        let room = if whole { chunks.len() } else { rows::used() };
        if !self.parts.reserve(room) {
            return;
        }
        if whole {
            for chunk in chunks {
                self.parts.push(Part { start: chunk.address, end: chunk.address + chunk.size });
            }
        } else {
            self.list_live(chunks);
        }
        self.copy();
    }

    fn list_live(&mut self, chunks: &[Chunk]) {
        let page = page();
        for alive in rows::alive() {
            let Alive::Memory(address, length) = alive else { continue };
            let after = chunks.partition_point(|chunk| chunk.address <= address);
            let Some(chunk) = after.checked_sub(1).and_then(|at| chunks.get(at)) else { continue };
            // Half a row, or one of a chunk that is gone: no view is left that it could stand for.
            let Some(end) = address.checked_add(length).filter(|end| *end <= chunk.address + chunk.size) else {
                continue;
            };
            self.parts.push(Part { start: address & !(page - 1), end: end.next_multiple_of(page) });
        }
        let parts = self.parts.as_mut_slice();
        parts.sort_unstable_by_key(|part| part.start);
        let mut kept = 0;
        for at in 1..parts.len() {
            let part = parts[at];
            let last = &mut parts[kept];
            // Two chunks may lie side by side, but never in one part: between them may be what is no chunk.
            if part.start <= last.end || (part.start - last.end < GAP && in_one(chunks, last.start, part.start)) {
                last.end = last.end.max(part.end);
            } else {
                kept += 1;
                parts[kept] = part;
            }
        }
        self.parts.count = parts.len().min(kept + 1);
    }

    fn copy(&mut self) {
        self.length = self.parts.as_slice().iter().map(|part| part.end - part.start).sum();
        if self.length == 0 {
            return;
        }
        self.memory = pages(self.length);
        if self.memory.is_null() {
            return;
        }
        // Large pages are quicker to make, and to fork.
        // SAFETY: new memory.
        unsafe { libc::madvise(self.memory.cast(), self.length, libc::MADV_HUGEPAGE) };
        // One call instead of a fault for each page. Linux before 5.14 does not know it.
        // SAFETY: new memory.
        let ready = unsafe { libc::madvise(self.memory.cast(), self.length, libc::MADV_POPULATE_WRITE) } == 0;
        if !ready && errno() != libc::EINVAL {
            self.unmap();
            return;
        }
        let mut to = self.memory;
        for part in self.parts.as_slice() {
            let length = part.end - part.start;
            // SAFETY: part of a chunk that is mapped, as the lock is held; `memory` has room for all parts. Somebody may
            // write to the chunk meanwhile, as to any memory of a process that forks.
            unsafe {
                std::ptr::copy_nonoverlapping(part.start as *const u8, to, length);
                to = to.add(length);
            }
        }
    }

    /// In the parent.
    pub fn unmap(&mut self) {
        if !self.memory.is_null() {
            // SAFETY: made by `copy`, and known to nobody else.
            unsafe { libc::munmap(self.memory.cast(), self.length) };
        }
        self.parts.unmap();
        *self = Self::NONE;
    }

    /// In the child: moves them to where they were copied from.
    pub fn place(&mut self) {
        let mut from = self.memory;
        for part in self.parts.as_slice() {
            if from.is_null() {
                break;
            }
            let length = part.end - part.start;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: this memory is a part of one mapping, and what it replaces is the empty place of a chunk. If it
            // fails, that place stays empty.
            unsafe {
                libc::mremap(from.cast(), length, length, flags, part.start as *mut libc::c_void);
                from = from.add(length);
            }
        }
        self.parts.unmap();
        *self = Self::NONE;
    }
}

fn in_one(chunks: &[Chunk], one: usize, other: usize) -> bool {
    let index = |address| chunks.partition_point(|chunk| chunk.address <= address);
    index(one) == index(other)
}

/// In the child: keeps a chunk's addresses from other use. Touching them is a fault.
pub fn reserve(chunk: &Chunk) {
    // SAFETY: the chunk is not inherited, so nothing is there; handlers of others have not run yet.
    unsafe {
        libc::mmap(
            chunk.address as *mut _,
            chunk.size,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        );
    }
}
