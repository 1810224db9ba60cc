//! Chunks that this process maps: its own writable, those of others only to be read. No child inherits one.

use snakepit_memfd::{ChunkError, check, create, seal};
use std::io::Error;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Mapped memory; unmapped when nothing refers to it any more.
pub struct Mapping {
    pub address: usize,
    pub size: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd, size: u64, writable: bool) -> Result<Arc<Self>, ChunkError> {
        let size = size as usize;
        match snakepit_fork::map(fd.as_raw_fd(), size, writable) {
            Ok(address) => Ok(Arc::new(Self { address, size })),
            Err(number) => Err(ChunkError::Map(Error::from_raw_os_error(number))),
        }
    }

    /// A new chunk of this process.
    pub fn create(size: u64) -> Result<(OwnedFd, Arc<Self>), ChunkError> {
        let fd = create(size)?;
        let mapping = Self::new(fd.as_fd(), size, true)?;
        seal(fd.as_fd())?;
        Ok((fd, mapping))
    }

    /// Another process's chunk, once its seals, size and owner are as they must be.
    pub fn of_another(fd: BorrowedFd, size: u64) -> Result<Arc<Self>, ChunkError> {
        check(fd, size)?;
        Self::new(fd, size, false)
    }

    pub fn has(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size as u64)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size. Views and slots hold the mapping while they are used.
        unsafe { snakepit_fork::unmap(self.address, self.size) };
    }
}
