//! In a forked child: closes the worker's connections to it. Makes system calls only.
//!
//! Each descriptor becomes a dead one, under the same number. A number that is merely closed would be taken by
//! the child's next file, which objects of Python's then might read, write or close.

use crate::DEAD;
use crate::rows::{Alive, alive};
use std::sync::atomic::Ordering;

/// The worker's descriptors, and those that listen on `path` (if it has a length) or were accepted there.
pub fn close(path: &[u8]) {
    for alive in alive() {
        if let Alive::Descriptor(descriptor) = alive {
            kill(descriptor);
        }
    }
    each_descriptor(|directory, name, descriptor| {
        let mut link = [0; 32];
        // SAFETY: `name` ends with a zero; at most as much is written as there is room.
        let length = unsafe { libc::readlinkat(directory, name.as_ptr().cast(), link.as_mut_ptr().cast(), link.len()) };
        let link = &link[..length.clamp(0, 32) as usize];
        // A chunk's, if another thread was just about to map it.
        if link.starts_with(b"/memfd:snakepit ") || (link.starts_with(b"socket:") && is_at(descriptor, path)) {
            kill(descriptor);
        }
    });
}

fn kill(descriptor: i32) {
    // SAFETY: replaces a descriptor of the worker's, of which this process has only a copy.
    unsafe { libc::dup3(DEAD.load(Ordering::Acquire), descriptor, libc::O_CLOEXEC) };
}

fn is_at(socket: i32, path: &[u8]) -> bool {
    // SAFETY: all zeros is an address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: at most `size` bytes are written to `address`.
    let found = unsafe { libc::getsockname(socket, (&raw mut address).cast(), &raw mut size) } == 0;
    let is = address.sun_path.iter().map(|byte| byte.cast_unsigned());
    found
        && !path.is_empty()
        && i32::from(address.sun_family) == libc::AF_UNIX
        && is.take(path.len() + 1).eq(path.iter().copied().chain([0]))
}

/// Calls with the directory of this process' descriptors, the name of one in it, and its number.
fn each_descriptor(mut call: impl FnMut(i32, &[u8], i32)) {
    #[repr(align(8))]
    struct Buffer([u8; 4096]);
    // `struct linux_dirent64`: inode and offset, length of the entry, type, name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let directory = unsafe { libc::open(c"/proc/self/fd".as_ptr(), flags) };
    if directory < 0 {
        return;
    }
    let mut buffer = Buffer([0; 4096]);
    loop {
        // SAFETY: at most as much is written as there is room.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, directory, buffer.0.as_mut_ptr(), buffer.0.len()) };
        let Some(mut entries) = usize::try_from(got).ok().and_then(|got| buffer.0.get(..got)) else { break };
        if entries.is_empty() {
            break;
        }
        while entries.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([entries[LENGTH], entries[LENGTH + 1]]));
            let Some((entry, rest)) = entries.split_at_checked(length.max(NAME)) else { break };
            entries = rest;
            if let Some(descriptor) = number(&entry[NAME..])
                && descriptor != directory
            {
                call(directory, &entry[NAME..], descriptor);
            }
        }
    }
    // SAFETY: opened above.
    unsafe { libc::close(directory) };
}

/// The number that a name is.
fn number(name: &[u8]) -> Option<i32> {
    let end = name.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&name[..end]).ok()?.parse().ok()
}
