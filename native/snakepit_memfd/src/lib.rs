//! Chunks of shared memory before they are mapped: memfds, allocated and sealed. The VM and its workers make them, and
//! look at those of the other side, by this crate alone.
//!
//! A memfd has no name, so nothing is left behind after a crash. Its pages are allocated before it is used: touching a
//! page that the system cannot provide is SIGBUS, and so the end of the process. The seals keep it that way, whatever
//! its owner does.

use snakepit_core::room::{self, NoRoom};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which system call refused, and why.
#[derive(Debug)]
pub enum ChunkError {
    /// Its pages would be more than the machine or a memory group has left.
    NoRoom(NoRoom),
    /// Files may have only this many bytes (`RLIMIT_FSIZE`), and a chunk counts as one.
    FileSize(u64),
    Create(io::Error),
    Allocate(io::Error),
    Map(io::Error),
    Seal(io::Error),
    Inspect(io::Error),
    /// The peer's memfd lacks a seal that keeps it mapped safely.
    Unsealed,
    /// Its size is not what was announced.
    Size {
        announced: u64,
        actual: u64,
    },
    /// It belongs to another user.
    Owner {
        uid: u32,
    },
}

impl ChunkError {
    /// The error number that fits it best, of errno(3).
    pub fn number(&self) -> i32 {
        match self {
            Self::NoRoom(_) => libc::ENOMEM,
            Self::FileSize(_) => libc::EFBIG,
            Self::Create(e) | Self::Allocate(e) | Self::Map(e) | Self::Seal(e) | Self::Inspect(e) => {
                e.raw_os_error().unwrap_or(libc::EIO)
            }
            Self::Unsealed | Self::Size { .. } | Self::Owner { .. } => libc::EINVAL,
        }
    }
}

impl std::fmt::Display for ChunkError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::NoRoom(why) => why.fmt(f),
            Self::FileSize(limit) => {
                write!(f, "files of this process may have at most {limit} bytes (ulimit -f, RLIMIT_FSIZE)")
            }
            Self::Create(e) => write!(f, "memfd_create: {e}"),
            Self::Allocate(e) => write!(f, "fallocate: {e}"),
            Self::Map(e) => write!(f, "mmap: {e}"),
            Self::Seal(e) => write!(f, "fcntl(F_ADD_SEALS): {e}"),
            Self::Inspect(e) => write!(f, "fstat or fcntl(F_GET_SEALS): {e}"),
            Self::Unsealed => write!(f, "the chunk is not sealed against shrinking, growing and writing"),
            Self::Size { announced, actual } => {
                write!(f, "a chunk of {announced} bytes was announced, it has {actual}")
            }
            Self::Owner { uid } => write!(f, "the chunk belongs to user {uid}"),
        }
    }
}

/// Seals a peer's chunk must carry. `F_SEAL_FUTURE_WRITE` (Linux 5.1) needs the owner's own mapping to exist first.
const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;

fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is writable. Should the call fail, there is no limit to know of.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    limit.rlim_cur
}

/// A memfd of `size` bytes with every page allocated. Map it, then [`seal`] it.
pub fn create(size: u64) -> Result<OwnedFd, ChunkError> {
    let most = file_size_limit();
    if size > most {
        return Err(ChunkError::FileSize(most));
    }
    room::check(size, |path| std::fs::read_to_string(path).ok()).map_err(ChunkError::NoRoom)?;
    // SAFETY: the name is a C string; the flags are valid for memfd_create(2).
    let fd = unsafe { libc::memfd_create(c"snakepit".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(ChunkError::Create(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `fd` is open. fallocate, unlike ftruncate, fails cleanly when the memory is not there.
    while unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, size as i64) } != 0 {
        return Err(match io::Error::last_os_error() {
            // A signal came; what was allocated stays so.
            error if error.kind() == io::ErrorKind::Interrupted => continue,
            // The limit was lowered meanwhile.
            error if error.raw_os_error() == Some(libc::EFBIG) => ChunkError::FileSize(file_size_limit()),
            error => ChunkError::Allocate(error),
        });
    }
    Ok(fd)
}

/// From now on its size stays, and only mappings that are there already can be written to.
pub fn seal(fd: BorrowedFd) -> Result<(), ChunkError> {
    // SAFETY: `fd` is open.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } != 0 {
        return Err(ChunkError::Seal(io::Error::last_os_error()));
    }
    Ok(())
}

/// Whether a peer's memfd may be mapped: it cannot change its size, and is what was announced.
pub fn check(fd: BorrowedFd, size: u64) -> Result<(), ChunkError> {
    // SAFETY: all-zero is a valid `stat`.
    let (mut stat, raw) = (unsafe { std::mem::zeroed::<libc::stat>() }, fd.as_raw_fd());
    // SAFETY: `stat` is writable and `fd` open.
    if unsafe { libc::fstat(raw, &raw mut stat) } != 0 {
        return Err(ChunkError::Inspect(io::Error::last_os_error()));
    }
    // SAFETY: `fd` is open.
    let seals = unsafe { libc::fcntl(raw, libc::F_GET_SEALS) };
    if seals < 0 {
        let error = io::Error::last_os_error();
        // A file, a device or a path can have no seals: the peer's choice, and not the system's.
        return Err(match error.raw_os_error() {
            Some(libc::EINVAL | libc::EBADF) => ChunkError::Unsealed,
            _ => ChunkError::Inspect(error),
        });
    }
    if seals & SEALS != SEALS {
        return Err(ChunkError::Unsealed);
    }
    // SAFETY: geteuid has no preconditions.
    if stat.st_uid != unsafe { libc::geteuid() } {
        return Err(ChunkError::Owner { uid: stat.st_uid });
    }
    // Blocks are allocated pages: a sparse file would be SIGBUS when memory runs out.
    let (actual, backed) = (stat.st_size as u64, stat.st_blocks as u64 * 512);
    if actual != size || size == 0 || backed < size {
        return Err(ChunkError::Size { announced: size, actual: actual.min(backed) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const SIZE: u64 = 1 << 16;

    #[test]
    fn only_sealed_memory_of_the_announced_size_may_be_mapped() {
        let fd = create(SIZE).unwrap();
        assert!(matches!(check(fd.as_fd(), SIZE), Err(ChunkError::Unsealed)));
        seal(fd.as_fd()).unwrap();
        check(fd.as_fd(), SIZE).unwrap();
        for size in [0, SIZE - 1, SIZE + 1, 2 * SIZE] {
            assert!(matches!(check(fd.as_fd(), size), Err(ChunkError::Size { actual: SIZE, .. })), "{size}");
        }
        assert!(matches!(seal(fd.as_fd()), Ok(())), "seals may be added again");
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(check(null.as_fd(), 1), Err(ChunkError::Unsealed)));
    }

    #[test]
    fn sparse_memory_may_not_be_mapped() {
        // SAFETY: as in `create`.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"sparse".as_ptr(), libc::MFD_ALLOW_SEALING)) };
        // SAFETY: `fd` is open.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), SIZE as i64) }, 0);
        seal(fd.as_fd()).unwrap();
        let found = check(fd.as_fd(), SIZE);
        assert!(matches!(found, Err(ChunkError::Size { announced: SIZE, actual: 0 })), "{found:?}");
    }

    #[test]
    fn more_than_the_machine_has_is_refused_with_its_number() {
        let error = create(1 << 50).unwrap_err();
        assert_eq!(error.number(), libc::ENOMEM, "{error}");
    }
}
