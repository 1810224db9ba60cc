//! Frames on their way out.

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use std::io::Error;

/// Parts that one system call sends; the kernel takes 1,024.
const PARTS: usize = 512;
/// Up to so many bytes are first tried while the interpreter's lock is held: to give it up takes as long.
const AT_ONCE: usize = 64 << 10;

/// Bytes to be sent.
pub fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// The parts that are still to be sent, for a closure that runs without the interpreter's lock.
#[derive(Clone, Copy)]
struct Unsent(*const libc::iovec, usize);

// SAFETY: it points to parts that `send_all` has alone, and to bytes that are there until that returns.
unsafe impl Send for Unsent {}

/// Sends the bytes of all parts, in their order.
///
/// # Safety
/// The bytes are there until it returns.
pub unsafe fn send_all(py: Python<'_>, descriptor: i32, parts: &mut [libc::iovec]) -> PyResult<()> {
    let mut left: usize = parts.iter().map(|part| part.iov_len).sum();
    let mut first = 0;
    let mut flags = if left <= AT_ONCE { libc::MSG_DONTWAIT } else { 0 };
    while left != 0 {
        let unsent = Unsent(parts[first..].as_ptr(), (parts.len() - first).min(PARTS));
        // SAFETY: these are parts, and the caller promises that their bytes are there.
        let send = move || unsafe { send_some(descriptor, unsent, flags | libc::MSG_NOSIGNAL) };
        match if flags == 0 { py.detach(send) } else { send() } {
            Ok(sent) => {
                left -= sent;
                first += sent_whole(&mut parts[first..], sent);
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => py.check_signals()?,
                Some(libc::EAGAIN) if flags != 0 => {}
                code => return Err(PyOSError::new_err((code, error.to_string()))),
            },
        }
        flags = 0;
    }
    Ok(())
}

/// How many of the parts are sent whole with these bytes. The one after them begins where it goes on.
fn sent_whole(parts: &mut [libc::iovec], mut sent: usize) -> usize {
    for (at, part) in parts.iter_mut().enumerate() {
        if sent < part.iov_len {
            part.iov_base = part.iov_base.wrapping_byte_add(sent);
            part.iov_len -= sent;
            return at;
        }
        sent -= part.iov_len;
    }
    parts.len()
}

/// # Safety
/// The parts and their bytes are there.
unsafe fn send_some(descriptor: i32, Unsent(parts, count): Unsent, flags: i32) -> Result<usize, Error> {
    // SAFETY: all zeros is a valid msghdr; the parts are only read.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.cast_mut();
        message.msg_iovlen = count as _;
        libc::sendmsg(descriptor, &raw const message, flags)
    };
    usize::try_from(sent).map_err(|_| Error::last_os_error())
}
