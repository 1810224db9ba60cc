//! A reply on its way out, where the Python package sends it: on a lane, or as a gRPC message.

use super::replies::{Answer, Tokens};
use crate::decode::new_bytes;
use crate::errors::protocol_error;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snakepit_core::frame::{self, Counts, INLINE_ALIGN, Kind, Way, padding};
use snakepit_core::locks::locked;
use std::io::Error;
use std::sync::Mutex;

/// The BEAM's sockets take no longer frame.
pub const MAX_FRAME: usize = (1 << 31) - 2;
/// Parts that one system call sends; the kernel takes 1,024.
const PARTS: usize = 512;
/// Up to so many bytes are first tried while the interpreter's lock is held: to give it up takes as long.
const AT_ONCE: usize = 64 << 10;
const ZEROS: [u8; INLINE_ALIGN] = [0; INLINE_ALIGN];
/// The envelope of a reply that has no value.
const NIL: &[u8] = &[0xc0];

/// Everything of a reply up to its envelope's end, and the buffers that follow it in the frame, or go beside it.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Reply {
    kind: Kind,
    way: Way,
    #[pyo3(get)]
    call_id: u64,
    head: Mutex<Vec<u8>>,
    views: Vec<Py<PyAny>>,
    tokens: Mutex<Tokens>,
}

impl Reply {
    /// `head` is a frame up to its envelope's end, which has these tokens.
    pub fn new(answer: Answer, way: Way, head: Vec<u8>, views: Vec<Py<PyAny>>, tokens: Tokens) -> Self {
        let Answer { kind, call_id, .. } = answer;
        Self { kind, way, call_id, head: Mutex::new(head), views, tokens: Mutex::new(tokens) }
    }

    fn pinned(&self, py: Python<'_>) -> PyResult<Vec<PyBuffer<u8>>> {
        self.views.iter().map(|view| PyBuffer::get(view.bind(py))).collect()
    }
}

#[pymethods]
impl Reply {
    #[getter]
    fn kind(&self) -> u8 {
        self.kind as u8
    }

    #[getter]
    fn way(&self) -> u8 {
        self.way as u8
    }

    /// The frame up to its envelope's end.
    #[getter]
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let head = locked(&self.head).clone();
        new_bytes(py, &head)
    }

    #[getter]
    fn envelope<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let head = locked(&self.head).clone();
        let start = Counts::read(&head).map_or(0, |counts| counts.released_at(self.way).end);
        new_bytes(py, &head[start..])
    }

    /// The bytes of each buffer, as memoryviews.
    #[getter]
    fn buffers(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.views.iter().map(|view| view.clone_ref(py)).collect()
    }

    /// The tokens in it, which are lost if nobody reads it; `None` if it has none.
    #[getter]
    fn tokens(&self) -> Option<Unread> {
        Unread::of(self.call_id, locked(&self.tokens).clone())
    }

    /// Takes its released tokens out: they go another way.
    fn take_released(&self) -> Vec<u64> {
        let released = std::mem::take(&mut locked(&self.tokens).released);
        if !released.is_empty() {
            frame::Reply::forget_released(&mut locked(&self.head));
        }
        released
    }

    /// The lane's answer while this reply waits to be fetched by gRPC. The released tokens go with it: a reply that nobody
    /// fetches must not take them away.
    fn waits(&self) -> Self {
        let released = self.take_released();
        let (kind, way, mut head) = (Kind::Fetch, Way::Grpc, Vec::new());
        frame::Reply::write_head(&mut head, kind, way, 0, 0, self.call_id, 0, NIL.len() as u32, &[], &[], &released);
        head.extend_from_slice(NIL);
        let tokens = Tokens { granted: Vec::new(), released };
        Self { kind, way, call_id: self.call_id, head: Mutex::new(head), views: Vec::new(), tokens: Mutex::new(tokens) }
    }

    /// The whole frame of the way inline, with its buffers in it.
    fn frame<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = locked(&self.head).clone();
        for buffer in &self.pinned(py)? {
            let start = out.len() + padding(out.len());
            out.resize(start + buffer.len_bytes(), 0);
            buffer.copy_to_slice(py, &mut out[start..])?;
        }
        new_bytes(py, &out)
    }

    /// Sends it on a lane's socket, its length before it; buffers of the way inline are a part of it.
    fn send(&self, py: Python<'_>, descriptor: i32) -> PyResult<()> {
        let buffers = if self.way == Way::Inline { self.pinned(py)? } else { Vec::new() };
        let head = locked(&self.head).clone();
        let mut len = head.len();
        for buffer in &buffers {
            len = len.saturating_add(padding(len)).saturating_add(buffer.len_bytes());
        }
        let Some(prefix) = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME).map(u32::to_be_bytes) else {
            return Err(protocol_error(py, "a reply is longer than a frame can be"));
        };
        let mut parts = Vec::with_capacity(2 + 2 * buffers.len());
        parts.extend([Part::of(&prefix), Part::of(&head)]);
        let mut at = head.len();
        for buffer in &buffers {
            let gap = padding(at);
            at += gap + buffer.len_bytes();
            parts.extend([Part::of(&ZEROS[..gap]), Part { start: buffer.buf_ptr() as usize, len: buffer.len_bytes() }]);
        }
        // SAFETY: `prefix`, `head`, and the exports in `buffers` are there until it returns.
        unsafe { send_all(py, descriptor, &mut parts, len + prefix.len()) }
    }
}

/// Bytes to be sent.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    len: usize,
}

impl Part {
    fn of(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr() as usize, len: bytes.len() }
    }
}

/// Sends all of these, `left` bytes.
///
/// # Safety
/// The bytes are there until it returns.
unsafe fn send_all(py: Python<'_>, descriptor: i32, parts: &mut [Part], mut left: usize) -> PyResult<()> {
    let mut first = 0;
    let mut flags = if left <= AT_ONCE { libc::MSG_DONTWAIT } else { 0 };
    while left != 0 {
        let unsent = &parts[first..];
        // SAFETY: as the caller promises.
        let send = || unsafe { send_some(descriptor, unsent, flags | libc::MSG_NOSIGNAL) };
        match if flags == 0 { py.detach(send) } else { send() } {
            Ok(sent) => {
                left -= sent;
                first += sent_of(&mut parts[first..], sent);
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
fn sent_of(parts: &mut [Part], mut sent: usize) -> usize {
    for (at, part) in parts.iter_mut().enumerate() {
        if sent < part.len {
            *part = Part { start: part.start + sent, len: part.len - sent };
            return at;
        }
        sent -= part.len;
    }
    parts.len()
}

/// # Safety
/// As for [`send_all`].
unsafe fn send_some(descriptor: i32, parts: &[Part], flags: i32) -> Result<usize, Error> {
    let some = &parts[..parts.len().min(PARTS)];
    let iov = some.iter().map(|part| libc::iovec { iov_base: part.start as *mut libc::c_void, iov_len: part.len });
    let mut iov: Vec<libc::iovec> = iov.collect();
    // SAFETY: all zeros is a valid msghdr; the parts are only read.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = iov.as_mut_ptr();
        message.msg_iovlen = iov.len() as _;
        libc::sendmsg(descriptor, &raw const message, flags)
    };
    usize::try_from(sent).map_err(|_| Error::last_os_error())
}

/// The tokens of a call's only reply, as long as nobody may have read it.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Unread {
    #[pyo3(get)]
    call_id: u64,
    /// Those of the places that it grants.
    #[pyo3(get)]
    pub granted: Vec<u64>,
    /// Those that it gives back.
    #[pyo3(get)]
    pub released: Vec<u64>,
}

impl Unread {
    pub fn of(call_id: u64, tokens: Tokens) -> Option<Self> {
        let Tokens { granted, released } = tokens;
        (!granted.is_empty() || !released.is_empty()).then_some(Self { call_id, granted, released })
    }
}
