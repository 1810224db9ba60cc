//! Requests that are no usual calls, for the Python package: their headers, and the arguments in them.

use crate::decode::{Decoder, new_bytes};
use crate::errors::protocol_error;
use crate::memory::replies::Replies;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PySlice, PyTuple};
use snakepit_core::frame::{Ask, LAYOUT, Request, RequestBody, RequestHead, Table, Way};
use snakepit_core::reader::{Budget, Reader, Token};
use std::collections::HashMap;

/// Reads the requests of one lane.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Requests {
    decoder: Py<Decoder>,
    replies: Py<Replies>,
}

/// A frame's bytes.
struct Bytes(PyBuffer<u8>);

impl Bytes {
    fn of(frame: &Bound<'_, PyAny>) -> PyResult<Self> {
        let view = PyBuffer::<u8>::get(frame)?;
        if view.is_c_contiguous() { Ok(Self(view)) } else { Err(PyTypeError::new_err("a frame must be contiguous")) }
    }

    fn get(&self) -> &[u8] {
        // SAFETY: contiguous (checked), and held by `self`, so that it is neither freed nor resized. It is immutable, or a
        // lane's own, which the calling thread alone writes to.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>().cast_const(), self.0.len_bytes()) }
    }
}

fn head(py: Python<'_>, frame: &[u8]) -> PyResult<RequestHead> {
    RequestHead::read(frame).ok_or_else(|| protocol_error(py, "a frame is shorter than a header"))
}

#[pymethods]
impl Requests {
    #[new]
    fn new(decoder: Py<Decoder>, replies: Py<Replies>) -> Self {
        Self { decoder, replies }
    }

    /// Kind, reply's mask, flags, call id and lane of a request. Raises `ProtocolError`.
    #[staticmethod]
    fn head(frame: &Bound<'_, PyAny>) -> PyResult<(u8, u8, u8, u64, u32)> {
        let head = head(frame.py(), Bytes::of(frame)?.get())?;
        Ok((head.kind, head.reply_mask, head.flags, head.call_id, head.lane.into()))
    }

    /// A call by the frame, of this envelope, whose reply takes the frame as well.
    #[staticmethod]
    fn plain<'py>(py: Python<'py>, envelope: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let (kind, way, reply_mask) = (Ask::Call, Way::Inline, 1 << Way::Inline as u8);
        let request = Request { kind, way, reply_mask, flags: 0, call_id: 0, timeout_ms: 0, lane: 0, core: 0 };
        let mut frame = Vec::new();
        request.write(&mut frame, envelope.len(), &[], &[], &[]);
        frame.extend_from_slice(envelope);
        new_bytes(py, &frame)
    }

    /// Command, arguments, caller, and whether there are bytes anywhere in the arguments, of a call's frame.
    ///
    /// `beside` has the buffers that came beside the frame, by gRPC; `views` those of any frame, if they were made already.
    /// Raises `ProtocolError`, or `CallError` for what the decoder does not like.
    #[pyo3(signature = (frame, beside = None, views = None))]
    fn open<'py>(
        &self,
        frame: &Bound<'py, PyAny>,
        beside: Option<Vec<Bound<'py, PyAny>>>,
        views: Option<&Bound<'py, PyList>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let py = frame.py();
        let bytes = Bytes::of(frame)?;
        let head = head(py, bytes.get())?;
        if head.kind != Ask::Call as u8 {
            return Err(protocol_error(py, "a request that is no call"));
        }
        let body = self.body(py, &head, bytes.get())?;
        let views = match views {
            Some(made) => {
                let views = made.iter().collect();
                // The list is still somebody's, and holds what a tool may let go.
                made.del_slice(0, made.len())?;
                views
            }
            None => self.views(frame, &body.table, beside)?,
        };
        self.decoder.get().decoded(py, &bytes.get()[body.envelope], views)
    }

    /// The reply's mask, the call id, and the call whose only reply was not read, of a request to synchronize.
    fn synchronize(&self, frame: &Bound<'_, PyAny>) -> PyResult<(u8, u64, Option<u64>)> {
        let py = frame.py();
        let bytes = Bytes::of(frame)?;
        let head = head(py, bytes.get())?;
        if head.buffers != 0 || head.reply_mask != 1 << Way::Inline as u8 || head.way != Way::Inline as u8 {
            return Err(protocol_error(py, "a request to synchronize has neither buffers nor a choice of ways"));
        }
        let body = self.body(py, &head, bytes.get())?;
        let budget = Budget::default();
        match Reader::new(&bytes.get()[body.envelope], &budget).next() {
            Ok(Token::Nil) => Ok((head.reply_mask, head.call_id, None)),
            Ok(Token::Int(id)) if id >= 0 => Ok((head.reply_mask, head.call_id, Some(id as u64))),
            Ok(Token::Uint(id)) => Ok((head.reply_mask, head.call_id, Some(id))),
            _ => Err(protocol_error(py, "a request to synchronize names a call, or none")),
        }
    }
}

impl Requests {
    /// The part after the header. Tokens in it are freed.
    fn body(&self, py: Python<'_>, head: &RequestHead, frame: &[u8]) -> PyResult<RequestBody> {
        let body = head.body(frame).map_err(|bad| protocol_error(py, bad.0))?;
        self.replies.get().freed(&body.freed);
        Ok(body)
    }

    fn views<'py>(
        &self,
        frame: &Bound<'py, PyAny>,
        table: &Table,
        beside: Option<Vec<Bound<'py, PyAny>>>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let py = frame.py();
        match table {
            Table::ZeroCopy(places) => self.replies.get().shown(py, places),
            Table::Inline(ranges) => ranges
                .iter()
                .map(|range| frame.get_item(PySlice::new(py, range.start as isize, range.end as isize, 1)))
                .collect(),
            Table::Grpc(lens) => {
                let beside = beside.unwrap_or_default();
                let found = beside.iter().map(|view| view.len().map(|len| len as u64)).collect::<PyResult<Vec<_>>>()?;
                if found != *lens {
                    return Err(protocol_error(py, "the buffers beside a frame are not those it lists"));
                }
                Ok(beside)
            }
        }
    }
}

/// Everything a frame's header is made of, by section and name: a number, or a field's offset and size.
#[pyfunction]
pub fn frame_layout() -> HashMap<&'static str, HashMap<&'static str, Vec<u64>>> {
    let section = |entries: &[(&'static str, &[u64])]| entries.iter().map(|(name, of)| (*name, of.to_vec())).collect();
    LAYOUT.iter().map(|(name, entries)| (*name, section(entries))).collect()
}
