//! Plain operations that the bench compares transfers with: copies of memory, and handing over to another thread.
//!
//! Nothing in production loads this library. `Snakepit.Bench.Floor.Native` builds and loads it when a suite first needs it.

mod worlds;

use rustler::{Error, NifResult};
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Always true: the stub of this function answers false while the library is not loaded.
#[rustler::nif(name = "loaded?")]
fn is_loaded() -> bool {
    true
}

/// memcpy between two warm buffers made here: nanoseconds of each round.
#[rustler::nif(schedule = "DirtyCpu")]
fn memcpy_warm(len: usize, rounds: usize) -> Vec<u64> {
    let from = vec![7u8; len];
    let mut to = vec![1u8; len];
    let copy = || {
        let start = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        start.elapsed().as_nanos() as u64
    };
    std::iter::repeat_with(copy).take(rounds).collect()
}

/// Four buffers, each with what the one before it has.
struct Chain(Vec<Vec<u8>>);

impl Chain {
    fn new(len: usize) -> Self {
        Self((0..4).map(|n| vec![n; len]).collect())
    }

    /// Copies to these buffers, each from the one before it.
    fn copy(&mut self, to: std::ops::Range<usize>) {
        for at in to {
            let (before, after) = self.0.split_at_mut(at);
            after[0].copy_from_slice(black_box(&before[at - 1]));
        }
        black_box(&self.0);
    }
}

/// Three copies one after the other, each of what the one before it wrote, between warm buffers made here: what a value
/// costs that is written for the worker, that its tool copies, and that is written for the caller. Nanoseconds of each
/// round.
#[rustler::nif(schedule = "DirtyCpu")]
fn memcpy_chain(len: usize, rounds: usize) -> Vec<u64> {
    let mut chain = Chain::new(len);
    let copies = || {
        let start = Instant::now();
        chain.copy(1..4);
        start.elapsed().as_nanos() as u64
    };
    std::iter::repeat_with(copies).take(rounds).collect()
}

/// The same, the first copy by one thread, the others by another. Both spin while they wait.
#[rustler::nif(schedule = "DirtyIo")]
fn memcpy_across(len: usize, rounds: usize) -> Vec<u64> {
    let (chain, turn) = (Mutex::new(Chain::new(len)), AtomicU32::new(0));
    let until = |theirs: u32| {
        while turn.load(Ordering::Acquire) != theirs {
            std::hint::spin_loop();
        }
    };
    let copy = |to| chain.lock().unwrap_or_else(PoisonError::into_inner).copy(to);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                until(1);
                copy(2..4);
                turn.store(0, Ordering::Release);
            }
        });
        let trip = || {
            let start = Instant::now();
            copy(1..2);
            turn.store(1, Ordering::Release);
            until(0);
            start.elapsed().as_nanos() as u64
        };
        std::iter::repeat_with(trip).take(rounds).collect()
    })
}

/// memcpy into shared memory that nobody has touched before (`mmap(2)`, `MAP_SHARED`): every page of it is a fault.
#[rustler::nif(schedule = "DirtyCpu")]
fn memcpy_cold(len: usize, rounds: usize) -> NifResult<Vec<u64>> {
    let from = vec![7u8; len];
    (0..rounds).map(|_| cold(black_box(&from))).collect()
}

fn cold(from: &[u8]) -> NifResult<u64> {
    let len = from.len().max(1);
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping of at least one byte, which nothing else refers to.
    let to = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if to == libc::MAP_FAILED {
        return Err(Error::Term(Box::new(std::io::Error::last_os_error().to_string())));
    }
    let start = Instant::now();
    // SAFETY: `to` has room for all of `from`, was mapped just now, and so does not overlap it.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.cast::<u8>(), from.len()) };
    black_box(to);
    let took = start.elapsed().as_nanos() as u64;
    // SAFETY: the whole mapping made above; no reference into it is left.
    unsafe { libc::munmap(to, len) };
    Ok(took)
}

/// One thread wakes another and sleeps until that one wakes it (`futex(2)`): nanoseconds of each round trip. Handing
/// a call to another process costs at least that, where neither side burns a core by spinning.
#[rustler::nif(schedule = "DirtyIo")]
fn futex(rounds: u16) -> Vec<u64> {
    let turn = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..u32::from(rounds) {
                wait_while(&turn, 2 * round);
                pass(&turn, 2 * round + 2);
            }
        });
        let mut round = 0u32;
        let trip = || {
            let start = Instant::now();
            pass(&turn, 2 * round + 1);
            wait_while(&turn, 2 * round + 1);
            round += 1;
            start.elapsed().as_nanos() as u64
        };
        std::iter::repeat_with(trip).take(rounds.into()).collect()
    })
}

fn pass(turn: &AtomicU32, to: u32) {
    turn.store(to, Ordering::Release);
    // SAFETY: the address is that of an atomic that outlives the call; without FUTEX_PRIVATE_FLAG, as between processes.
    unsafe { libc::syscall(libc::SYS_futex, turn.as_ptr(), libc::FUTEX_WAKE, 1) };
}

fn wait_while(turn: &AtomicU32, is: u32) {
    let limit = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    while turn.load(Ordering::Acquire) == is {
        // SAFETY: as in `pass`, and `limit` lives as long as the call. A wake-up for nothing is looked at again.
        unsafe { libc::syscall(libc::SYS_futex, turn.as_ptr(), libc::FUTEX_WAIT, is, ptr::from_ref(&limit)) };
    }
}

rustler::init!("Elixir.Snakepit.Bench.Floor.Native");
