//! A data memory handler for numpy ([NEP 49]): large arrays are made in the worker's shared memory, where their bytes
//! can be sent from without a copy.
//!
//! The worker's arena decides (`take`, a callback into Python, for large arrays only). All else goes to the handler that
//! numpy had before, at the price of one comparison. The arena's memory that numpy frees is put on a list, which the
//! arena empties when it next allocates: freeing happens in the middle of anything, and must not run Python code.
//!
//! `calloc` is left to the handler before: zeroed memory from the system costs nothing until it is touched, and much of it
//! may never be.
//!
//! [NEP 49]: https://numpy.org/neps/nep-0049-data-allocation-strategies.html

use snakepit_core::locks::locked;
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

type Malloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Calloc = unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void, usize);
/// Memory of at least this many bytes, or null: then the handler before is asked. May be called from any thread.
pub type Take = unsafe extern "C" fn(usize) -> *mut c_void;

/// `PyDataMemAllocator` of numpy's C API.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Allocator {
    pub ctx: *mut c_void,
    pub malloc: Malloc,
    pub calloc: Calloc,
    pub realloc: Realloc,
    pub free: Free,
}

/// `PyDataMem_Handler` of numpy's C API.
#[repr(C)]
pub struct Handler {
    pub name: [c_char; 127],
    pub version: u8,
    pub allocator: Allocator,
}

/// The version of `Handler` this is written for.
const VERSION: u8 = 1;

struct State {
    before: Allocator,
    threshold: usize,
    take: Take,
    handler: Handler,
}

// SAFETY: the pointers in it are functions and a context that numpy itself uses from every thread.
unsafe impl Send for State {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for State {}

static STATE: OnceLock<State> = OnceLock::new();
/// Lent memory by address, with its length.
static LENT: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);
static LENT_COUNT: AtomicUsize = AtomicUsize::new(0);
/// The addresses that numpy freed and the arena has not fetched yet.
static FREED: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static FREED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// This is a forked child: its parent's arena is not here.
static FORKED: AtomicBool = AtomicBool::new(false);

fn lend(address: usize, length: usize) {
    locked(&LENT).get_or_insert_with(HashMap::new).insert(address, length);
    LENT_COUNT.fetch_add(1, Ordering::Release);
}

fn lent(address: usize) -> Option<usize> {
    // An address that this thread was given was counted before it was given.
    if LENT_COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    locked(&LENT).as_ref()?.get(&address).copied()
}

/// Whether this was lent; now it is not.
fn give_back(address: usize) -> bool {
    if LENT_COUNT.load(Ordering::Acquire) == 0 {
        return false;
    }
    if locked(&LENT).as_mut().and_then(|lent| lent.remove(&address)).is_none() {
        return false;
    }
    LENT_COUNT.fetch_sub(1, Ordering::Release);
    locked(&FREED).push(address);
    FREED_COUNT.fetch_add(1, Ordering::Release);
    true
}

unsafe extern "C" fn malloc(_ctx: *mut c_void, size: usize) -> *mut c_void {
    let Some(state) = STATE.get() else { return ptr::null_mut() };
    if size >= state.threshold && !FORKED.load(Ordering::Acquire) {
        // SAFETY: the caller of `snakepit_numpy_handler` said that it may be called from any thread.
        let taken = unsafe { (state.take)(size) };
        if !taken.is_null() {
            lend(taken as usize, size);
            return taken;
        }
    }
    // SAFETY: numpy's own allocator, with its own context.
    unsafe { (state.before.malloc)(state.before.ctx, size) }
}

unsafe extern "C" fn calloc(_ctx: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let Some(state) = STATE.get() else { return ptr::null_mut() };
    // SAFETY: numpy's own allocator, with its own context.
    unsafe { (state.before.calloc)(state.before.ctx, count, size) }
}

unsafe extern "C" fn realloc(ctx: *mut c_void, old: *mut c_void, size: usize) -> *mut c_void {
    let Some(state) = STATE.get() else { return ptr::null_mut() };
    let Some(length) = lent(old as usize) else {
        // SAFETY: numpy's own allocator, with its own context, for memory that came from it.
        return unsafe { (state.before.realloc)(state.before.ctx, old, size) };
    };
    // SAFETY: as numpy calls it.
    let new = unsafe { malloc(ctx, size) };
    if !new.is_null() {
        // SAFETY: `old` has `length` bytes, as lent; `new` has `size`; both are held, so they are apart.
        unsafe { ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), length.min(size)) };
        give_back(old as usize);
    }
    new
}

unsafe extern "C" fn free(_ctx: *mut c_void, address: *mut c_void, size: usize) {
    if address.is_null() || give_back(address as usize) {
        return;
    }
    if let Some(state) = STATE.get() {
        // SAFETY: numpy's own allocator, with its own context, for memory that came from it.
        unsafe { (state.before.free)(state.before.ctx, address, size) }
    }
}

/// The handler to give to `PyDataMem_SetHandler`; the same one every time. Null if `before` is of another version.
///
/// # Safety
/// `before` points to the handler that numpy uses now, which lives as long as the process; `take` may be called from
/// any thread for as long, and returns null or memory that nobody else uses until [`snakepit_numpy_freed`] names it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snakepit_numpy_handler(
    before: *const Handler,
    threshold: usize,
    take: Take,
) -> *const Handler {
    // SAFETY: a handler, as the caller promises.
    let before = unsafe { &*before };
    if before.version != VERSION {
        return ptr::null();
    }
    let state = STATE.get_or_init(|| {
        // Not by Python's hooks: C may fork as well.
        // SAFETY: the handlers take no arguments, and numpy keeps this library for as long as the process lives.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child)) };
        let mut name = [0; 127];
        for (to, from) in name.iter_mut().zip(b"snakepit") {
            *to = from.cast_signed() as c_char;
        }
        let allocator = Allocator { ctx: ptr::null_mut(), malloc, calloc, realloc, free };
        State {
            before: before.allocator,
            threshold: threshold.max(1),
            take,
            handler: Handler { name, version: VERSION, allocator },
        }
    });
    &raw const state.handler
}

/// The locks, while a thread forks. Otherwise another thread, which the child does not have, could hold one for ever.
struct Forking(UnsafeCell<Option<Locks>>);
type Locks = (MutexGuard<'static, Option<HashMap<usize, usize>>>, MutexGuard<'static, Vec<usize>>);

// SAFETY: only a thread that holds both locks touches it.
unsafe impl Sync for Forking {}

static FORKING: Forking = Forking(UnsafeCell::new(None));

extern "C" fn before_fork() {
    let locks = (locked(&LENT), locked(&FREED));
    // SAFETY: this thread holds both locks.
    unsafe { *FORKING.0.get() = Some(locks) };
}

extern "C" fn after_fork_in_parent() {
    // SAFETY: this thread, or the one it was forked from, took both locks in `before_fork`.
    drop(unsafe { (*FORKING.0.get()).take() });
}

/// From now on nothing is lent. Memory lent before lies in private copies, which stay.
extern "C" fn after_fork_in_child() {
    FORKED.store(true, Ordering::Release);
    after_fork_in_parent();
}

/// Moves up to `room` addresses that numpy freed to `into`; how many.
///
/// # Safety
/// `into` has room for that many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snakepit_numpy_freed(into: *mut usize, room: usize) -> usize {
    if FREED_COUNT.load(Ordering::Acquire) == 0 {
        return 0;
    }
    let mut freed = locked(&FREED);
    let moved = freed.len().min(room);
    let from = freed.len() - moved;
    for (at, address) in freed.drain(from..).enumerate() {
        // SAFETY: `at` is below `room`.
        unsafe { into.add(at).write(address) };
    }
    FREED_COUNT.fetch_sub(moved, Ordering::Release);
    moved
}

#[cfg(test)]
mod tests {
    //! One test: the handler is one for the process.
    use super::*;
    use std::alloc::{Layout, alloc, dealloc};

    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    static BEFORE: AtomicUsize = AtomicUsize::new(0);
    static ROOM: [u8; 4096] = [0; 4096];

    const fn layout(size: usize) -> Layout {
        match Layout::from_size_align(size + 16, 16) {
            Ok(layout) => layout,
            Err(_) => panic!("a size out of range"),
        }
    }

    // The length is kept in front, as a system's allocator would.
    unsafe extern "C" fn plain(_: *mut c_void, size: usize) -> *mut c_void {
        BEFORE.fetch_add(1, Ordering::Relaxed);
        // SAFETY: never of size 0; the first 16 bytes are ours.
        unsafe {
            let at = alloc(layout(size));
            at.cast::<usize>().write(size);
            at.add(16).cast()
        }
    }
    unsafe extern "C" fn plain_zeroed(ctx: *mut c_void, count: usize, size: usize) -> *mut c_void {
        // SAFETY: as above; just made.
        unsafe {
            let at = plain(ctx, count * size);
            ptr::write_bytes(at.cast::<u8>(), 0, count * size);
            at
        }
    }
    unsafe extern "C" fn plain_realloc(ctx: *mut c_void, old: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: `old` came from `plain`.
        unsafe {
            let new = plain(ctx, size);
            let length = old.cast::<u8>().sub(16).cast::<usize>().read();
            ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), length.min(size));
            plain_free(ctx, old, 0);
            new
        }
    }
    unsafe extern "C" fn plain_free(_: *mut c_void, at: *mut c_void, _: usize) {
        BEFORE.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: `at` came from `plain`.
        unsafe {
            let start = at.cast::<u8>().sub(16);
            dealloc(start, layout(start.cast::<usize>().read()));
        }
    }
    // Lends the one room it has.
    unsafe extern "C" fn take(size: usize) -> *mut c_void {
        if size > ROOM.len() || TAKEN.swap(1, Ordering::Relaxed) == 1 {
            return ptr::null_mut();
        }
        ROOM.as_ptr().cast_mut().cast()
    }

    /// Forks while another thread holds the lock of what is lent. Whether `check` is true in the child.
    fn child_of_a_fork_beside_a_lock(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: asks for this thread's id.
        let forking = unsafe { libc::gettid() };
        let forked = AtomicBool::new(false);
        let is_asleep = || {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{forking}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
        };
        std::thread::scope(|scope| {
            let (locked_now, is_locked) = std::sync::mpsc::channel();
            let forked = &forked;
            scope.spawn(move || {
                let lent = locked(&LENT);
                let _ = locked_now.send(());
                // Until the other thread has forked, or waits for this lock to do so.
                while !forked.load(Ordering::Acquire) && !is_asleep() {
                    std::thread::yield_now();
                }
                drop(lent);
            });
            let _ = is_locked.recv();
            // SAFETY: the child calls only what a child of a worker may call, and ends at once.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: it ends this process without running anything of its parent's. A child that hangs is killed.
                unsafe {
                    libc::alarm(20);
                    libc::_exit(i32::from(!check()));
                }
            }
            forked.store(true, Ordering::Release);
            let mut status = -1;
            // SAFETY: waits for the child made above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            status == 0
        })
    }

    #[test]
    fn large_arrays_are_lent_and_come_back_once() {
        let mut before = Handler {
            name: [0; 127],
            version: 9,
            allocator: Allocator {
                ctx: ptr::null_mut(),
                malloc: plain,
                calloc: plain_zeroed,
                realloc: plain_realloc,
                free: plain_free,
            },
        };
        // SAFETY: a handler; it is copied.
        assert!(unsafe { snakepit_numpy_handler(&raw const before, 1024, take) }.is_null());
        before.version = VERSION;
        // SAFETY: as above, and everything below is called as numpy calls it. ROOM is only compared by address.
        unsafe {
            let handler = snakepit_numpy_handler(&raw const before, 1024, take);
            assert_eq!(handler, snakepit_numpy_handler(&raw const before, 1, take));
            let memory = (*handler).allocator;
            let room = ROOM.as_ptr().cast_mut().cast::<c_void>();
            let mut freed = [0; 4];

            let small = (memory.malloc)(memory.ctx, 1023);
            let zeroed = (memory.calloc)(memory.ctx, 1024, 2);
            assert_eq!(BEFORE.load(Ordering::Relaxed), 2);
            assert!(small != room && zeroed != room);

            let large = (memory.malloc)(memory.ctx, 1024);
            assert_eq!(large, room);
            let second = (memory.malloc)(memory.ctx, 1024);
            assert_eq!(BEFORE.load(Ordering::Relaxed), 3);
            assert_eq!(snakepit_numpy_freed(freed.as_mut_ptr(), 4), 0);

            let grown = (memory.realloc)(memory.ctx, large, 3000);
            assert!(grown != room, "lent memory is not grown in place");
            assert_eq!(snakepit_numpy_freed(freed.as_mut_ptr(), 4), 1);
            assert_eq!(freed[0], room as usize);

            TAKEN.store(0, Ordering::Relaxed);
            let again = (memory.malloc)(memory.ctx, 4096);
            assert_eq!(again, room);
            // numpy may free with another size than it asked for.
            (memory.free)(memory.ctx, again, 1);
            assert_eq!(snakepit_numpy_freed(freed.as_mut_ptr(), 0), 0);
            assert_eq!(snakepit_numpy_freed(freed.as_mut_ptr(), 4), 1);

            TAKEN.store(0, Ordering::Relaxed);
            let lent = (memory.malloc)(memory.ctx, 2000);
            assert_eq!(lent, room);
            assert!(child_of_a_fork_beside_a_lock(|| (memory.realloc)(memory.ctx, lent, 3000) != room));
            (memory.free)(memory.ctx, lent, 2000);
            assert_eq!(snakepit_numpy_freed(freed.as_mut_ptr(), 4), 1);

            let small = (memory.realloc)(memory.ctx, small, 5000);
            for at in [small, zeroed, second, grown] {
                (memory.free)(memory.ctx, at, 0);
            }
            assert_eq!(BEFORE.load(Ordering::Relaxed), 0);
            assert_eq!(snakepit_numpy_freed(freed.as_mut_ptr(), 4), 0);
            assert_eq!(LENT_COUNT.load(Ordering::Relaxed), 0);
        }
    }
}
