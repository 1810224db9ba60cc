//! A reply on its way out, where the Python package sends it: on a lane, or as a gRPC message.

use super::replies::{Answer, Tokens};
use crate::decode::new_bytes;
use crate::errors::protocol_error;
use crate::socket::{part, send_all};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snakepit_core::frame::{self, Counts, INLINE_ALIGN, Kind, MAX_FRAME, Way, padding};
use snakepit_core::locks::locked;
use std::sync::{Arc, Mutex};

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
    head: Mutex<Arc<Vec<u8>>>,
    views: Vec<Py<PyAny>>,
    tokens: Mutex<Tokens>,
}

impl Reply {
    /// `head` is a frame up to its envelope's end, which has these tokens.
    pub fn new(answer: Answer, way: Way, head: Vec<u8>, views: Vec<Py<PyAny>>, tokens: Tokens) -> Self {
        let Answer { kind, call_id, .. } = answer;
        Self { kind, way, call_id, head: Mutex::new(Arc::new(head)), views, tokens: Mutex::new(tokens) }
    }

    /// The frame up to its envelope's end, as it is now.
    fn bytes(&self) -> Arc<Vec<u8>> {
        Arc::clone(&locked(&self.head))
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
        new_bytes(py, &self.bytes())
    }

    #[getter]
    fn envelope<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let head = self.bytes();
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
            frame::Reply::forget_released(Arc::make_mut(&mut locked(&self.head)));
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
        Self {
            kind,
            way,
            call_id: self.call_id,
            head: Mutex::new(Arc::new(head)),
            views: Vec::new(),
            tokens: Mutex::new(tokens),
        }
    }

    /// The whole frame of the way inline, with its buffers in it.
    fn frame<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = self.bytes().to_vec();
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
        let head = self.bytes();
        let mut len = head.len();
        for buffer in &buffers {
            len = len.saturating_add(padding(len)).saturating_add(buffer.len_bytes());
        }
        let Some(prefix) = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME).map(u32::to_be_bytes) else {
            return Err(protocol_error(py, "a reply is longer than a frame can be"));
        };
        let mut parts = Vec::with_capacity(2 + 2 * buffers.len());
        parts.extend([part(&prefix), part(&head)]);
        let mut at = head.len();
        for buffer in &buffers {
            let gap = padding(at);
            at += gap + buffer.len_bytes();
            let bytes = libc::iovec { iov_base: buffer.buf_ptr(), iov_len: buffer.len_bytes() };
            parts.extend([part(&ZEROS[..gap]), bytes]);
        }
        // SAFETY: `prefix`, `head`, and the exports in `buffers` are there until it returns.
        unsafe { send_all(py, descriptor, &mut parts) }
    }
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
