//! Makes one call of one function of libc fail. Preloaded (`LD_PRELOAD`) by `mix snakepit.bench faults` alone.
//!
//! A file that all processes map says what is to fail, and counts: the k-th use of a function by a *role* (the VM, the
//! companion, a worker), over all processes of that role. Only Snakepit's own uses count:
//!
//! * in the VM those whose caller lies in one of Snakepit's libraries, and what the VM does for it on Unix sockets and
//!   on files of Snakepit's, all made since the scenario armed the file;
//! * in the companion all since its first `prctl`, before which there is only Rust's own start;
//! * in a worker all since it connected to the VM, before which there is only Python's own start.
//!
//! `strace -e inject` would hit the VM's own calls as well, and counts by thread.
//!
//! A call fails only in a way in which the kernel may have it fail: a *class* of uses says which may.

mod calls;
mod control;

use control::Control;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The role of this process. Others get no faults.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Vm = 0,
    Companion = 1,
    Worker = 2,
}

struct Process {
    role: Role,
    control: Control,
}

static PROCESS: OnceLock<Option<Process>> = OnceLock::new();
/// A companion or worker that has come to its own code.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// The number of the VM's descriptors whose kind is kept here.
const DESCRIPTORS: usize = 4096;
const UNKNOWN: u8 = 0;
const FOREIGN: u8 = 1;
const OURS: u8 = 2;
static KINDS: [AtomicU8; DESCRIPTORS] = [const { AtomicU8::new(UNKNOWN) }; DESCRIPTORS];
static SCANNED: AtomicBool = AtomicBool::new(false);

/// Which uses of a function an error is possible for.
#[derive(Clone, Copy)]
pub enum Class {
    Any = 0,
    /// On a descriptor that does not block, and is waited for by level: EAGAIN.
    NonBlocking = 1,
    /// On one that may sleep: EINTR.
    Blocking = 2,
    /// On a file on a disk: ENOSPC.
    File = 3,
    /// On a descriptor that keeps the bytes written to it, unlike an eventfd: ENOMEM.
    Keeping = 4,
}

const CLASSES: usize = 5;

/// The subject of a use of a function.
#[derive(Clone, Copy)]
pub enum About {
    Nothing,
    Descriptor(c_int),
    /// With the flags of a message.
    Message(c_int, c_int),
    Path(*const c_char),
    Address(c_int, *const libc::sockaddr),
}

#[unsafe(link_section = ".init_array")]
#[used]
static START: extern "C" fn() = start;

extern "C" fn start() {
    calls::resolve();
    PROCESS.get_or_init(|| {
        let role = match own_name()?.as_slice() {
            b"beam.smp" => Role::Vm,
            b"snakepit_companion" => Role::Companion,
            name if name.starts_with(b"python") => Role::Worker,
            _ => return None,
        };
        if role == Role::Vm {
            // The first use loads a library.
            caller();
        }
        Some(Process { role, control: Control::open(calls::NAMES)? })
    });
}

fn own_name() -> Option<Vec<u8>> {
    let mut path = [0u8; 512];
    // SAFETY: a C string, and a buffer with its length.
    let len = unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    let path = path.get(..usize::try_from(len).ok()?)?;
    path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec)
}

/// The errno with which this use has to fail, if it has to.
pub fn due(function: usize, about: About) -> Option<c_int> {
    let process = PROCESS.get()?.as_ref()?;
    if !process.control.armed() || !counts(process.role, function, about) {
        return None;
    }
    let class = class(process.role, about);
    process.control.due(process.role, function, class)
}

fn counts(role: Role, function: usize, about: About) -> bool {
    match role {
        Role::Companion => begun(function == calls::PRCTL),
        Role::Worker => begun(function == calls::CONNECT && is_runtime_socket(about)),
        Role::Vm => by_vm(about),
    }
}

fn begun(begins: bool) -> bool {
    if begins {
        BEGUN.store(true, Ordering::Relaxed);
    }
    BEGUN.load(Ordering::Relaxed)
}

fn is_runtime_socket(about: About) -> bool {
    let About::Address(_, address) = about else { return false };
    // SAFETY: `connect` was given an address, whose family comes first; a Unix address is long enough for a path.
    unsafe {
        i32::from((*address).sa_family) == libc::AF_UNIX
            && contains(
                CStr::from_ptr((*address.cast::<libc::sockaddr_un>()).sun_path.as_ptr()).to_bytes(),
                b"snakepit-",
            )
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn by_vm(about: About) -> bool {
    scan();
    let ours = match about {
        About::Nothing => false,
        // The paths of Snakepit's runtime directory and its calibrations.
        About::Path(path) => {
            // SAFETY: a path given to libc.
            let path = unsafe { CStr::from_ptr(path) }.to_bytes();
            contains(path, b"/snakepit-") || contains(path, b"/calibration-")
        }
        About::Descriptor(fd) | About::Message(fd, _) | About::Address(fd, _) => is_ours(fd),
    };
    ours || caller()
}

/// Unix sockets that were there before are the VM's own: it starts programs by one.
fn scan() {
    if !SCANNED.swap(true, Ordering::Relaxed) {
        for (fd, kind) in KINDS.iter().enumerate() {
            if family(fd as c_int) == Some(libc::AF_UNIX) {
                kind.store(FOREIGN, Ordering::Relaxed);
            }
        }
    }
}

fn is_ours(fd: c_int) -> bool {
    let Some(kind) = usize::try_from(fd).ok().and_then(|fd| KINDS.get(fd)) else { return false };
    match kind.load(Ordering::Relaxed) {
        FOREIGN => false,
        OURS => true,
        _ => family(fd) == Some(libc::AF_UNIX),
    }
}

/// The descriptor of a file of ours was opened, or closed.
pub fn mark(fd: c_int, ours: bool) {
    if let Some(kind) = usize::try_from(fd).ok().and_then(|fd| KINDS.get(fd)) {
        kind.store(if ours { OURS } else { UNKNOWN }, Ordering::Relaxed);
    }
}

fn family(fd: c_int) -> Option<c_int> {
    let (mut family, mut len): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
    let (value, len) = (&raw mut family, &raw mut len);
    // SAFETY: an integer, and its size. Not by the function, which counts.
    let answer = unsafe { libc::syscall(libc::SYS_getsockopt, fd, libc::SOL_SOCKET, libc::SO_DOMAIN, value, len) };
    (answer == 0).then_some(family)
}

unsafe extern "C" {
    fn backtrace(buffer: *mut *mut c_void, size: c_int) -> c_int;
}

/// Whether the first function outside of this library lies in one of Snakepit's.
fn caller() -> bool {
    let mut frames = [std::ptr::null_mut::<c_void>(); 12];
    // SAFETY: a buffer, and its length.
    let found = unsafe { backtrace(frames.as_mut_ptr(), frames.len() as c_int) };
    for frame in &frames[..found.max(0) as usize] {
        // SAFETY: all-zero is a valid `Dl_info`, which the call fills.
        let name = unsafe {
            let mut info = std::mem::zeroed::<libc::Dl_info>();
            if libc::dladdr(*frame, &raw mut info) == 0 || info.dli_fname.is_null() {
                return false;
            }
            CStr::from_ptr(info.dli_fname).to_bytes()
        };
        if !contains(name, b"snakepit_faults") {
            return contains(name, b"snakepit_nif") || contains(name, b"snakepit_grpc");
        }
    }
    false
}

/// Each class that the use is in.
fn class(role: Role, about: About) -> [bool; CLASSES] {
    let mut classes = [true, false, false, false, false];
    let (fd, flags) = match about {
        // A wait of its own, or one for a file.
        About::Nothing | About::Path(_) => {
            classes[Class::Blocking as usize] = true;
            return classes;
        }
        About::Descriptor(fd) | About::Address(fd, _) => (fd, 0),
        About::Message(fd, flags) => (fd, flags),
    };
    // SAFETY: asks for the flags of a descriptor, and for its kind; all-zero is a valid `stat`.
    let (nonblocking, kind) = unsafe {
        let mut stat = std::mem::zeroed::<libc::stat>();
        let kind = if calls::real_fstat(fd, &raw mut stat) == 0 { stat.st_mode & libc::S_IFMT } else { 0 };
        (calls::real_fcntl(fd, libc::F_GETFL, 0) & libc::O_NONBLOCK != 0, kind)
    };
    let dont_wait = flags & libc::MSG_DONTWAIT != 0;
    // gRPC on either side waits by edge: the kernel never says EAGAIN there without another edge to come.
    let by_level = match role {
        Role::Vm => !caller(),
        Role::Companion => true,
        Role::Worker => false,
    };
    classes[Class::NonBlocking as usize] = dont_wait || nonblocking && by_level;
    classes[Class::Blocking as usize] = !dont_wait && !nonblocking;
    classes[Class::File as usize] = kind == libc::S_IFREG;
    classes[Class::Keeping as usize] = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK].contains(&kind);
    classes
}
