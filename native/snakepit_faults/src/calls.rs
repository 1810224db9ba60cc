//! The functions that may fail. Each asks [`crate::due`], and else calls the one it stands before.

use crate::{About, due, mark};
use libc::{
    c_char, c_int, c_long, c_uint, c_ulong, c_void, mode_t, off_t, pid_t, size_t, sockaddr, socklen_t, ssize_t,
};
use std::sync::atomic::{AtomicUsize, Ordering};

fn next(name: &str) -> usize {
    // SAFETY: `name` ends with a zero byte.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) as usize }
}

fn fail<T: From<i8>>(errno: c_int) -> T {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    T::from(-1)
}

/// The answer of an mmap(2) that failed.
struct Pointer(*mut c_void);

impl From<i8> for Pointer {
    fn from(_: i8) -> Self {
        Self(libc::MAP_FAILED)
    }
}

// `name(arguments) -> answer, what it is about, how it fails`. A function with variable arguments is given as many as it can
// have: on Linux these are passed as any others.
macro_rules! functions {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty, $about:expr, $fail:expr;)*) => {
        /// In the order of their numbers.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];

        #[expect(non_camel_case_types, reason = "functions' own names")]
        #[derive(Clone, Copy)]
        enum Number { $($name),* }

        static REAL: [AtomicUsize; NAMES.len()] = [const { AtomicUsize::new(0) }; NAMES.len()];

        /// Finds all functions, so that none is looked for in a forked child.
        pub fn resolve() {
            $(REAL[Number::$name as usize].store(next(concat!(stringify!($name), "\0")), Ordering::Relaxed);)*
        }

        $(
            /// # Safety
            /// As the function of libc.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                if let Some(errno) = due(Number::$name as usize, $about) {
                    return ($fail)(errno);
                }
                let mut real = REAL[Number::$name as usize].load(Ordering::Relaxed);
                if real == 0 {
                    // Called by another library's start.
                    real = next(concat!(stringify!($name), "\0"));
                }
                // SAFETY: the address of the function of this name, whose arguments and answer these are.
                unsafe {
                    let real: unsafe extern "C" fn($($type),*) -> $ret = std::mem::transmute(real);
                    let answer = real($($arg),*);
                    after(Number::$name, $about, answer as isize);
                    answer
                }
            }
        )*
    };
}

fn pointer(errno: c_int) -> *mut c_void {
    fail::<Pointer>(errno).0
}

/// These return the number of the error.
fn number(errno: c_int) -> c_int {
    errno
}

functions! {
    memfd_create(name: *const c_char, flags: c_uint) -> c_int, About::Nothing, fail;
    fallocate(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int, About::Descriptor(fd), fail;
    posix_fallocate(fd: c_int, offset: off_t, len: off_t) -> c_int, About::Descriptor(fd), number;
    fallocate64(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int, About::Descriptor(fd), fail;
    posix_fallocate64(fd: c_int, offset: off_t, len: off_t) -> c_int, About::Descriptor(fd), number;
    mmap(at: *mut c_void, len: size_t, prot: c_int, flags: c_int, fd: c_int, offset: off_t) -> *mut c_void, About::Nothing, pointer;
    mmap64(at: *mut c_void, len: size_t, prot: c_int, flags: c_int, fd: c_int, offset: off_t) -> *mut c_void, About::Nothing, pointer;
    mprotect(at: *mut c_void, len: size_t, prot: c_int) -> c_int, About::Nothing, fail;
    madvise(at: *mut c_void, len: size_t, advice: c_int) -> c_int, About::Nothing, fail;
    fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int, About::Descriptor(fd), fail;
    fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int, About::Descriptor(fd), fail;
    fstat(fd: c_int, stat: *mut libc::stat) -> c_int, About::Descriptor(fd), fail;
    fstat64(fd: c_int, stat: *mut libc::stat) -> c_int, About::Descriptor(fd), fail;
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, About::Path(path), fail;
    open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, About::Path(path), fail;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, About::Path(path), fail;
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, About::Path(path), fail;
    read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t, About::Descriptor(fd), fail;
    write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t, About::Descriptor(fd), fail;
    writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t, About::Descriptor(fd), fail;
    mkdir(path: *const c_char, mode: mode_t) -> c_int, About::Path(path), fail;
    chmod(path: *const c_char, mode: mode_t) -> c_int, About::Path(path), fail;
    unlink(path: *const c_char) -> c_int, About::Path(path), fail;
    rmdir(path: *const c_char) -> c_int, About::Path(path), fail;
    rename(from: *const c_char, to: *const c_char) -> c_int, About::Path(from), fail;
    dup(fd: c_int) -> c_int, About::Descriptor(fd), fail;
    dup2(fd: c_int, to: c_int) -> c_int, About::Descriptor(fd), fail;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int, About::Descriptor(fd), fail;
    pipe2(fds: *mut c_int, flags: c_int) -> c_int, About::Nothing, fail;
    socket(family: c_int, kind: c_int, protocol: c_int) -> c_int, made(family), fail;
    socketpair(family: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int, About::Nothing, fail;
    bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int, About::Descriptor(fd), fail;
    listen(fd: c_int, backlog: c_int) -> c_int, About::Descriptor(fd), fail;
    accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int, About::Descriptor(fd), fail;
    accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int, About::Descriptor(fd), fail;
    connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int, About::Address(fd, address), fail;
    send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> ssize_t, About::Message(fd, flags), fail;
    sendto(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int, to: *const sockaddr, tolen: socklen_t) -> ssize_t, About::Message(fd, flags), fail;
    sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> ssize_t, About::Message(fd, flags), fail;
    recv(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> ssize_t, About::Message(fd, flags), fail;
    recvfrom(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr, fromlen: *mut socklen_t) -> ssize_t, About::Message(fd, flags), fail;
    recvmsg(fd: c_int, message: *mut libc::msghdr, flags: c_int) -> ssize_t, About::Message(fd, flags), fail;
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int, About::Descriptor(fd), fail;
    poll(fds: *mut libc::pollfd, count: c_ulong, timeout: c_int) -> c_int, About::Nothing, fail;
    epoll_create1(flags: c_int) -> c_int, About::Nothing, fail;
    epoll_ctl(set: c_int, op: c_int, fd: c_int, event: *mut libc::epoll_event) -> c_int, About::Nothing, fail;
    epoll_wait(set: c_int, events: *mut libc::epoll_event, most: c_int, timeout: c_int) -> c_int, About::Nothing, fail;
    eventfd(value: c_uint, flags: c_int) -> c_int, About::Nothing, fail;
    signalfd(fd: c_int, set: *const libc::sigset_t, flags: c_int) -> c_int, About::Nothing, fail;
    fork() -> pid_t, About::Nothing, fail;
    execvp(program: *const c_char, arguments: *const *const c_char) -> c_int, About::Nothing, fail;
    setsid() -> pid_t, About::Nothing, fail;
    prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int, About::Nothing, fail;
    setrlimit(resource: c_int, limit: *const libc::rlimit) -> c_int, About::Nothing, fail;
    waitid(kind: c_uint, id: c_uint, info: *mut libc::siginfo_t, options: c_int) -> c_int, About::Nothing, fail;
    waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t, About::Nothing, fail;
    killpg(group: pid_t, signal: c_int) -> c_int, About::Nothing, fail;
    sigprocmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int, About::Nothing, fail;
    pthread_create(thread: *mut libc::pthread_t, attr: *const c_void, run: *const c_void, argument: *mut c_void) -> c_int, About::Nothing, number;
}

pub const PRCTL: usize = Number::prctl as usize;
pub const CONNECT: usize = Number::connect as usize;

/// A socket that is to be made: of the VM's, those of Unix are ours, which is known by an address that begins with the family.
fn made(family: c_int) -> About {
    static OURS: &[u8] = b"/snakepit-\0";
    if family == libc::AF_UNIX { About::Path(OURS.as_ptr().cast()) } else { About::Nothing }
}

/// Keeps in mind which descriptors of the VM are files of ours. A number that is given out anew is unknown again.
fn after(function: Number, about: About, answer: isize) {
    if answer < 0 {
        return;
    }
    match function {
        Number::open | Number::open64 | Number::openat => {
            let About::Path(path) = about else { return };
            // SAFETY: a path given to libc.
            let path = unsafe { std::ffi::CStr::from_ptr(path) }.to_bytes();
            let ours = [&b"/snakepit-"[..], b"/calibration-"]
                .iter()
                .any(|part| path.windows(part.len()).any(|window| window == *part));
            mark(answer as c_int, ours);
        }
        Number::socket | Number::accept | Number::accept4 | Number::dup | Number::memfd_create => {
            mark(answer as c_int, false);
        }
        _ => {}
    }
}

/// fcntl(2), uncounted.
///
/// # Safety
/// As fcntl(2).
pub unsafe fn real_fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: the address of fcntl, found when the library was loaded.
    unsafe {
        let real: unsafe extern "C" fn(c_int, c_int, c_long) -> c_int =
            std::mem::transmute(REAL[Number::fcntl as usize].load(Ordering::Relaxed));
        real(fd, command, argument)
    }
}

/// fstat(2), uncounted.
///
/// # Safety
/// As fstat(2).
pub unsafe fn real_fstat(fd: c_int, stat: *mut libc::stat) -> c_int {
    // SAFETY: the address of fstat, found when the library was loaded.
    unsafe {
        let real: unsafe extern "C" fn(c_int, *mut libc::stat) -> c_int =
            std::mem::transmute(REAL[Number::fstat as usize].load(Ordering::Relaxed));
        real(fd, stat)
    }
}
