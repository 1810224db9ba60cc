//! The memory and descriptors of a process forked from a worker. However it was forked (by Python, by C,
//! in any thread), the child has
//!
//! - a private copy of every part of a chunk that Python still looks at, as it was at the fork, at the same address;
//! - nothing of any chunk else: such memory cannot be touched;
//! - dead descriptors where the worker's lanes, control socket and gRPC connections were.
//!
//! Chunks are mapped by [`map`] alone, and never inherited (`MADV_DONTFORK`): not even a child that was made without the
//! handlers below (by `clone`) shares a page. `vfork` and `posix_spawn` run no handlers and need none: their child only
//! replaces its image.
//!
//! The handlers are registered before any module of the user's is imported. So `prepare` runs as the last of all, and
//! `child` as the first: nothing else in the child could have taken the address of a chunk. Before [`install`], a child
//! has nothing of any chunk, and the descriptors are as they were.

#![cfg(target_os = "linux")]

mod child;
mod chunks;
mod copies;
mod lock;
mod rows;
mod table;

pub use rows::{Alive, Row, add, remove};

use lock::Lock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// A descriptor with which nothing can be done but to close it.
static DEAD: AtomicI32 = AtomicI32::new(-1);
/// This process was forked from a worker. It has nothing that its own children would have to be kept from.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

fn errno() -> i32 {
    // SAFETY: the address of this thread's own errno.
    unsafe { *libc::__errno_location() }
}

/// Registers the handlers, once for the life of the process; or the errno.
///
/// # Safety
/// The library that this is in is never unloaded.
pub unsafe fn install() -> Result<(), i32> {
    // SAFETY: a C string.
    let dead = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if dead < 0 {
        return Err(errno());
    }
    if DEAD.compare_exchange(-1, dead, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: opened above, and not needed: somebody else was here before.
        unsafe { libc::close(dead) };
        return Ok(());
    }
    copies::page();
    // SAFETY: the handlers take no arguments, and stay, as the caller promised.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        number => Err(number),
    }
}

/// Whether this process was forked from a worker.
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Acquire)
}

/// Makes a child of this process, where it was forked before [`install`].
pub fn become_child() {
    IS_CHILD.store(true, Ordering::Release);
}

/// Maps a chunk, and makes its pages ready. Its address, or the errno.
pub fn map(fd: i32, size: usize, writable: bool) -> Result<usize, i32> {
    if is_child() {
        return Err(libc::EPERM);
    }
    let address = Lock::take().map(fd, size, writable)?;
    // Not under the lock: a fork need not wait for it.
    chunks::populate(address, size, writable);
    Ok(address)
}

/// Unmaps a chunk. In a forked child that is not done: what lies there is not the chunk.
///
/// # Safety
/// The chunk was mapped by [`map`], with this size, and nobody looks at it any more.
pub unsafe fn unmap(address: usize, size: usize) {
    if !is_child() && Lock::take().forget(address) {
        // SAFETY: as the caller promised; a fork that began before it was forgotten is over.
        unsafe { libc::munmap(address as *mut _, size) };
    }
}

/// Sockets that listen on this path, or were accepted there, are dead in children. False if it is too long for one.
pub fn close_in_children(path: &[u8]) -> bool {
    Lock::take().set_path(path)
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
    held.place_copies();
    child::close(held.path());
}

#[cfg(test)]
mod tests;
