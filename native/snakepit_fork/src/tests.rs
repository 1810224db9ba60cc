//! Tests in processes of their own: what they look at is global.
use super::*;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

const PAGE: usize = 4096;
const SIZE: usize = 1 << 20;

struct Worker {
    chunks: Vec<(OwnedFd, usize)>,
}

impl Worker {
    fn new() -> Self {
        // SAFETY: it stays: the process ends with `_exit`.
        assert_eq!(unsafe { install() }, Ok(()));
        // SAFETY: as above.
        assert_eq!(unsafe { install() }, Ok(()));
        Self { chunks: Vec::new() }
    }

    fn chunk(&mut self, mark: u8) -> usize {
        // SAFETY: plain system calls on a descriptor of our own.
        let (fd, address) = unsafe {
            let fd = OwnedFd::from_raw_fd(libc::memfd_create(c"snakepit".as_ptr(), libc::MFD_CLOEXEC));
            assert_eq!(libc::posix_fallocate(fd.as_raw_fd(), 0, SIZE as i64), 0);
            let address = map(fd.as_raw_fd(), SIZE, true).expect("mapped");
            (fd, address)
        };
        // SAFETY: mapped, writable.
        unsafe { (address as *mut u8).write_bytes(mark, SIZE) };
        self.chunks.push((fd, address));
        address
    }
}

fn list(address: usize, length: usize) {
    add(Alive::Memory(address, length));
}

/// Runs in a child, which exits with what `child` returns; its status.
fn forked(child: impl FnOnce() -> i32) -> i32 {
    let mut status = 0;
    // SAFETY: the child only calls `child` and `_exit`.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::_exit(child());
        }
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
    }
    status
}

fn byte(address: usize) -> u8 {
    // SAFETY: the test says that it is mapped; where it is not, it waits for the fault.
    unsafe { std::ptr::read_volatile(address as *const u8) }
}

fn put(address: usize, value: u8) {
    // SAFETY: as in `byte`.
    unsafe { std::ptr::write_volatile(address as *mut u8, value) }
}

const EXITED_1: i32 = 1 << 8;

fn all() {
    let mut worker = Worker::new();
    let (one, two) = (worker.chunk(1), worker.chunk(2));
    let path = std::env::temp_dir().join(format!("snakepit-fork-{}", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    assert!(close_in_children(path.to_str().expect("plain").as_bytes()));
    let mut client = UnixStream::connect(&path).expect("connected");
    let (accepted, _) = listener.accept().expect("accepted");
    std::fs::remove_file(&path).expect("removed");
    let (lane, mut caller) = UnixStream::pair().expect("a pair");
    let (users, _other) = UnixStream::pair().expect("a pair");

    list(one + 100, 50);
    list(one + 3 * PAGE, 2 * PAGE);
    // Far from those.
    list(one + 100 * PAGE + 7, 1);
    // Half a row, one that is free, one of no chunk, one that leaves its chunk.
    list(1234, 5);
    list(one, 0);
    list(usize::MAX, 1 << 60);
    list(two + SIZE - 1, 2);
    add(Alive::Descriptor(lane.as_raw_fd()));

    let mut seen = [0; 1];
    let status = forked(|| {
        let same = byte(one + 100) == 1 && byte(one + 5 * PAGE - 1) == 1 && byte(one + 100 * PAGE + 7) == 1;
        put(one + 100, 9);
        put(one + 100 * PAGE + 7, 9);
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let shares = maps.contains("memfd:snakepit");
        let dead = [lane.as_raw_fd(), listener.as_raw_fd(), accepted.as_raw_fd()];
        let works = dead.iter().any(|fd| {
            // SAFETY: reads no byte to nowhere, and sends one.
            unsafe {
                libc::recv(*fd, [0u8; 1].as_mut_ptr().cast(), 1, 0) > 0
                    || libc::send(*fd, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) >= 0
            }
        });
        // SAFETY: as above.
        let kept = unsafe { libc::send(users.as_raw_fd(), b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) } == 1;
        let memory = worker.chunks.iter().all(|(fd, _)| {
            // SAFETY: asks for the size only.
            unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) < 0 }
        });
        // A child of the child has what the child has.
        let grandchild = forked(|| {
            let saw = byte(one + 100) == 9;
            put(one + 100, 10);
            i32::from(saw)
        });
        let apart = grandchild == EXITED_1 && byte(one + 100) == 9;
        // SAFETY: not the chunk any more: nothing happens.
        unsafe { unmap(one, SIZE) };
        i32::from(same && !shares && !works && kept && memory && apart && byte(one + 3 * PAGE) == 1)
    });
    assert_eq!(status, EXITED_1);
    assert_eq!((byte(one + 100), byte(one + 100 * PAGE + 7)), (1, 1));
    // The parent's chunks and descriptors still work.
    assert_eq!(forked(|| byte(two).into()), libc::SIGSEGV);
    assert_eq!(forked(|| byte(one + 50 * PAGE).into()), libc::SIGSEGV);
    drop(lane);
    assert_eq!(caller.read(&mut seen).expect("its end"), 0);
    drop(accepted);
    assert_eq!(client.read(&mut seen).expect("its end"), 0);

    // A child that runs no handlers shares nothing either.
    // SAFETY: as fork, with no other thread here; the child only reads and exits.
    let status = unsafe {
        let pid = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32;
        if pid == 0 {
            put(one + 100, 9);
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        status
    };
    assert_eq!((status, byte(one + 100)), (libc::SIGSEGV, 1));

    // No memory for copies: the child has none, the parent goes on.
    list(two, SIZE);
    let none = libc::rlimit { rlim_cur: 4096, rlim_max: libc::RLIM_INFINITY };
    let mut before = none;
    // SAFETY: reads and sets a limit of this process.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_DATA, &raw mut before), 0);
        assert_eq!(libc::setrlimit(libc::RLIMIT_DATA, &raw const none), 0);
    }
    let status = forked(|| byte(two).into());
    // SAFETY: as above.
    unsafe { assert_eq!(libc::setrlimit(libc::RLIMIT_DATA, &raw const before), 0) };
    assert_eq!((status, byte(two)), (libc::SIGSEGV, 2));

    // Rows that could not be listed: everything is copied.
    rows::pretend_overflow();
    assert_eq!(forked(|| i32::from(byte(one + 50 * PAGE) == 1 && byte(two + SIZE - 1) == 2)), EXITED_1);
    // SAFETY: nobody looks at it any more.
    unsafe { unmap(one, SIZE) };
    assert_eq!(forked(|| i32::from(byte(two) == 2)), EXITED_1);
}

/// Runs a test in a process of its own: tables are one for a process, and other tests' threads would be in the middle of
/// anything.
pub fn in_a_child(test: fn()) {
    let mut status = 0;
    // SAFETY: the child runs the test, and exits without returning to the harness.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            // The harness keeps what is printed in its own way, and it is not in this process.
            std::panic::set_hook(Box::new(|panic| drop(writeln!(std::io::stderr(), "{panic}"))));
            let passed = std::panic::catch_unwind(test).is_ok();
            libc::_exit(i32::from(!passed));
        }
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
    }
    assert_eq!(status, 0, "see what it printed");
}

#[test]
fn a_child_has_private_copies_and_dead_sockets() {
    in_a_child(all);
}
