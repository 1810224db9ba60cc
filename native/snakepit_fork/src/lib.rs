//! The memory and descriptors of a process forked from a worker. However it was forked (by Python, by C,
//! in any thread), the child has
//!
//! - a private copy of every part of a chunk that Python still looks at, as it was at the fork, at the same address;
//! - nothing of any chunk else: such memory cannot be touched;
//! - dead descriptors where the worker's lanes, control socket and gRPC connections were.
//!
//! Chunks are mapped by [`snakepit_fork_map`] alone, and never inherited (`MADV_DONTFORK`): not even a child that was
//! made without the handlers below (by `clone`) shares a page. `vfork` and `posix_spawn` run no handlers and need none:
//! their child only replaces its image.
//!
//! Python lists what is alive in a *table* of its own memory, which can be read here without the interpreter's lock: a
//! header of [`ROWS`] cells of 64 bits, then rows of two. A row is the address and length of a part of a chunk, or a
//! file descriptor and [`DESCRIPTOR`]; one whose second cell is 0 is free. Python writes the second cell last, and
//! clears it first; half a row belongs to a view that no forking thread has yet.
//!
//! The handlers are registered before any module of the user's is imported. So `prepare` runs as the last of all, and
//! `child` as the first: nothing else in the child could have taken the address of a chunk.

#![cfg(target_os = "linux")]

mod child;
mod chunks;
mod copies;
mod lock;
mod table;

use lock::Lock;
use std::ffi::c_char;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

/// Cells of the table's header.
const FORKED: usize = 0;
const USED: usize = 1;
const OVERFLOW: usize = 2;
/// The first row.
const ROWS: usize = 8;
/// The second cell of a row that is a descriptor.
const DESCRIPTOR: u64 = u64::MAX;

static TABLE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// A descriptor with which nothing can be done but to close it.
static DEAD: AtomicI32 = AtomicI32::new(-1);
/// This process was forked from a worker. It has nothing that its own children would have to be kept from.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// The cell at this place of the table.
fn cell(at: usize) -> u64 {
    // SAFETY: set once by `snakepit_fork_install`, whose caller promised that the table is that long and stays.
    unsafe { (*TABLE.load(Ordering::Acquire).add(at)).load(Ordering::Acquire) }
}

fn set_cell(at: usize, value: u64) {
    // SAFETY: as in `cell`.
    unsafe { (*TABLE.load(Ordering::Acquire).add(at)).store(value, Ordering::Release) };
}

/// The rows in use, and some that are free.
fn rows() -> impl Iterator<Item = (u64, u64)> {
    (ROWS..cell(USED) as usize).step_by(2).map(|at| (cell(at), cell(at + 1))).filter(|row| row.1 != 0)
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's own errno.
    unsafe { *libc::__errno_location() }
}

/// Registers the handlers, once for the life of the process. 0, or an errno.
///
/// # Safety
/// `table` is as described above, 8-byte aligned, and stays where it is until the process ends; its cell `USED` never
/// exceeds its length. The library is never unloaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snakepit_fork_install(table: *mut u64) -> i32 {
    if !TABLE.swap(table.cast(), Ordering::AcqRel).is_null() {
        return 0;
    }
    copies::page();
    // SAFETY: a C string.
    let dead = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if dead < 0 {
        return errno();
    }
    DEAD.store(dead, Ordering::Release);
    // SAFETY: the handlers take no arguments, and stay, as the caller promised.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) }
}

/// Maps a chunk, and makes its pages ready. Its address, or a negative errno.
#[unsafe(no_mangle)]
pub extern "C" fn snakepit_fork_map(fd: i32, size: usize, writable: bool) -> isize {
    if IS_CHILD.load(Ordering::Acquire) {
        return -(libc::EPERM as isize);
    }
    match Lock::take().map(fd, size, writable) {
        Ok(address) => {
            // Not under the lock: a fork need not wait for it.
            chunks::populate(address, size, writable);
            address as isize
        }
        Err(errno) => -(errno as isize),
    }
}

/// Unmaps a chunk. In a forked child that is not done: what lies there is not the chunk.
///
/// # Safety
/// The chunk was mapped by [`snakepit_fork_map`], with this size, and nobody looks at it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snakepit_fork_unmap(address: usize, size: usize) {
    if !IS_CHILD.load(Ordering::Acquire) && Lock::take().forget(address) {
        // SAFETY: as the caller promised; a fork that began before it was forgotten is over.
        unsafe { libc::munmap(address as *mut _, size) };
    }
}

/// Sockets that listen on this path, or were accepted there, are dead in children. False if it is too long for one.
///
/// # Safety
/// `path` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snakepit_fork_path(path: *const c_char) -> bool {
    // SAFETY: as the caller promised.
    let path = unsafe { std::ffi::CStr::from_ptr(path) };
    Lock::take().set_path(path.to_bytes())
}

extern "C" fn before() {
    let mut held = Lock::take();
    if !IS_CHILD.load(Ordering::Acquire) {
        held.copy_live();
    }
    held.keep();
}

extern "C" fn in_parent() {
    // SAFETY: `before` took it in this thread, and kept it.
    let mut held = unsafe { Lock::kept() };
    held.drop_copies();
}

/// Makes system calls only: other threads may have held any lock at the fork.
extern "C" fn in_child() {
    // SAFETY: `before` took it in this thread, and kept it.
    let mut held = unsafe { Lock::kept() };
    if IS_CHILD.swap(true, Ordering::AcqRel) {
        return;
    }
    set_cell(FORKED, 1);
    held.place_copies();
    child::close(held.path());
}

#[cfg(test)]
mod tests;
