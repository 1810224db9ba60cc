//! The file that says what is to fail and counts uses: mapped by all processes, written by the bench.
//!
//! Words of 64 bits: 0 armed, 1 role, 2 function, 3 errno, 4 k, 5 class, 6 how often it failed (once at most), 7 the process
//! in which. From word 64 on the counts, by role, function and class. From byte 64 KiB on the functions' names, a line each.

use crate::{CLASSES, Role};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

const SIZE: usize = 128 << 10;
const NAMES_AT: usize = 64 << 10;
const WORDS: usize = NAMES_AT / 8;
const COUNTS: usize = 64;
const FUNCTIONS: usize = 128;

pub struct Control(&'static [AtomicU64; WORDS]);

impl Control {
    /// `None` where the environment does not name a file of the right size.
    pub fn open(names: &[&str]) -> Option<Self> {
        let path = std::env::var_os("SNAKEPIT_FAULTS")?;
        let file = std::fs::File::options().read(true).write(true).open(path).ok()?;
        if file.metadata().ok()?.len() < SIZE as u64 {
            return None;
        }
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, std::os::fd::AsRawFd::as_raw_fd(&file));
        // SAFETY: a new mapping of a file that is at least as long.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, libc::MAP_SHARED, fd, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        let text = names.join("\n");
        // SAFETY: mapped above, for good, aligned to a page; every process writes the same names, which none reads. All
        // other words are only ever used as atomics.
        unsafe {
            let room = at.cast::<u8>().add(NAMES_AT);
            std::ptr::copy_nonoverlapping(text.as_ptr(), room, text.len().min(SIZE - NAMES_AT));
            Some(Self(&*at.cast()))
        }
    }

    pub fn armed(&self) -> bool {
        self.0[0].load(Ordering::Acquire) != 0
    }

    /// Counts a use; the errno if it is the one that has to fail.
    pub fn due(&self, role: Role, function: usize, classes: [bool; CLASSES]) -> Option<c_int> {
        let at = COUNTS + (role as usize * FUNCTIONS + function) * CLASSES;
        let is = |word: usize, value: u64| self.0[word].load(Ordering::Relaxed) == value;
        let mut errno = None;
        for (class, _) in classes.iter().enumerate().filter(|(_, is)| **is) {
            let n = self.0[at + class].fetch_add(1, Ordering::Relaxed) + 1;
            if is(1, role as u64) && is(2, function as u64) && is(5, class as u64) && is(4, n) {
                self.0[6].fetch_add(1, Ordering::Relaxed);
                self.0[7].store(u64::from(std::process::id()), Ordering::Relaxed);
                errno = Some(self.0[3].load(Ordering::Relaxed) as c_int);
            }
        }
        errno
    }
}
