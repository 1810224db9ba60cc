//! The common call in one go: all arguments of a known tool in the envelope, a plain result. Between the frame's arrival
//! and the tool, and between its return and the reply's departure, no line of Python runs.

use crate::decode::{Decoder, Failure, Run};
use crate::encode::Encoder;
use crate::tool::{Fit, Tool};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PySet, PyString, PyTuple};
use snakepit_core::frame::{Ask, FLAG_FORCED, FLAG_STREAM, HEADER, Kind, Reply, RequestHead, Way};
use snakepit_core::reader::{Budget, Reader, Token};
use std::collections::HashMap;
use std::sync::Mutex;

/// Bytes of a frame's length, before it.
pub const PREFIX: usize = 4;

/// The end of a frame.
pub enum Outcome<'py> {
    /// It is not so simple, or not right: no tool ran.
    Left,
    /// The reply is a whole frame, its length before it.
    Frame,
    /// The reply, as `snakepit.runtime.calls.Calls` makes it.
    Reply(Bound<'py, PyAny>),
}

/// The quick way of one lane's calls.
#[pyclass(frozen, module = "snakepit._native")]
pub struct QuickCalls {
    decoder: Py<Decoder>,
    encoder: Py<Encoder>,
    /// `snakepit.tools.signature.Tool` by name.
    tools: Py<PyDict>,
    /// `snakepit.support.cancel.Cancellation`
    cancellation: Py<PyAny>,
    /// The context variable with the present call's caller.
    caller: Py<PyAny>,
    /// What Python no longer looks at: its tokens go with the next reply.
    gone: Py<PyAny>,
    forked: Forked,
    max_envelope: usize,
    known: Mutex<HashMap<Box<str>, Tool>>,
}

/// The cell that says whether this process is a forked child, in memory that every child has a copy of.
struct Forked {
    table: PyBuffer<u64>,
}

impl Forked {
    fn yes(&self) -> bool {
        // SAFETY: the table has more than one cell and is never resized, as `table` exports it. A handler of fork writes
        // to it, before any thread of the child runs this.
        unsafe { self.table.buf_ptr().cast::<u64>().read_volatile() != 0 }
    }
}

/// A call that may begin.
struct Opened<'py> {
    call: Bound<'py, PyAny>,
    tool: Bound<'py, PyAny>,
    given: Given<'py>,
    caller: Bound<'py, PyAny>,
}

/// The arguments of a call.
enum Given<'py> {
    Named(Vec<Bound<'py, PyAny>>, Bound<'py, PyTuple>),
    /// Some were made anew.
    Map(Bound<'py, PyDict>),
}

#[pymethods]
impl QuickCalls {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "made in one place, by name")]
    #[pyo3(signature = (*, decoder, encoder, tools, cancellation, caller, gone, table, max_envelope))]
    fn new(
        decoder: Py<Decoder>,
        encoder: Py<Encoder>,
        tools: Py<PyDict>,
        cancellation: Py<PyAny>,
        caller: Py<PyAny>,
        gone: Py<PyAny>,
        table: &Bound<'_, PyAny>,
        max_envelope: usize,
    ) -> PyResult<Self> {
        let table = PyBuffer::<u64>::get(table)?;
        if table.item_count() == 0 {
            return Err(PyTypeError::new_err("the table of what is alive has no cells"));
        }
        let (forked, known) = (Forked { table }, Mutex::default());
        Ok(Self { decoder, encoder, tools, cancellation, caller, gone, forked, max_envelope, known })
    }

    /// The reply to a frame of `length` bytes, which begins at `start` of `memory`, behind its own length: a whole frame
    /// (`bytes`), or one as `calls` makes it. `None`, before any tool ran, for whatever is not so simple, or not right.
    fn call<'py>(
        &self,
        calls: &Bound<'py, PyAny>,
        memory: &Bound<'py, PyAny>,
        start: usize,
        length: usize,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = calls.py();
        let view = PyBuffer::<u8>::get(memory)?;
        if !view.is_c_contiguous() || start < PREFIX || start + length > view.len_bytes() {
            return Err(PyTypeError::new_err("a frame must lie in contiguous memory, behind its length"));
        }
        // SAFETY: in range (checked), and `view` holds the memory. It is the caller's own, who does not write to it.
        let bytes = unsafe {
            let at = view.buf_ptr().cast::<u8>().cast_const().add(start - PREFIX);
            std::slice::from_raw_parts(at, PREFIX + length)
        };
        let mut out = Vec::new();
        Ok(match self.run(py, calls, bytes, &mut out)? {
            Outcome::Left => None,
            Outcome::Frame => Some(PyBytes::new(py, &out).into_any()),
            Outcome::Reply(reply) => Some(reply),
        })
    }
}

impl QuickCalls {
    /// Runs the call of a frame, whose length is before it. What is read lies in `bytes` until the tool begins.
    pub fn run<'py>(
        &self,
        py: Python<'py>,
        calls: &Bound<'py, PyAny>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> PyResult<Outcome<'py>> {
        let Some((prefix, frame)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(Outcome::Left) };
        let Some(head) = RequestHead::read(frame) else { return Ok(Outcome::Left) };
        if head.kind != Ask::Call as u8
            || head.way > Way::Grpc as u8
            || head.flags & FLAG_STREAM != 0
            || head.buffers != 0
            || head.freed != 0
            || HEADER + head.envelope != frame.len()
            || u32::from_be_bytes(*prefix) as usize != frame.len()
        {
            return Ok(Outcome::Left);
        }
        // An error leaves nothing behind, and is found, and explained, by a second look.
        let Ok(Some(opened)) = self.open(py, &frame[HEADER..]) else { return Ok(Outcome::Left) };
        self.set_caller(&opened.caller)?;
        self.served(py, calls, &head, opened, out)
    }

    fn open<'py>(&self, py: Python<'py>, envelope: &[u8]) -> Result<Option<Opened<'py>>, Failure> {
        // Whoever holds it is in here as well, on this thread or another: a destructor that runs a call, say.
        let Ok(mut known) = self.known.try_lock() else { return Ok(None) };
        let budget = Budget::default();
        let mut reader = Reader::new(envelope, &budget);
        let (Token::Array(3), Token::Str(command), Token::Map(n)) = (reader.next()?, reader.next()?, reader.next()?)
        else {
            return Ok(None);
        };
        if !known.contains_key(command) {
            let Some(tool) = self.tools.bind(py).get_item(command)? else { return Ok(None) };
            let Some(tool) = Tool::new(&tool)? else { return Ok(None) };
            known.insert(command.into(), tool);
        }
        let Some(tool) = known.get_mut(command) else { return Ok(None) };
        if tool.len() != n {
            return Ok(None);
        }
        let mut run = Run::new(self.decoder.get(), py, None);
        let read = arguments(&mut run, &mut reader, tool);
        run.done();
        let Some((order, values, caller, bytes_inside)) = read? else { return Ok(None) };
        let (mut simple, mut unknown) = (true, false);
        for (at, value) in order.iter().zip(&values) {
            let fit = tool.fit(*at, value)?;
            simple &= fit == Fit::Simple;
            unknown |= fit == Fit::Unknown;
        }
        let call = tool.call.bind(py).clone();
        let adapts = !simple && (bytes_inside || tool.writable);
        if !unknown && !adapts {
            let given = Given::Named(values, tool.names(py, &order)?.into_bound(py));
            return Ok(Some(Opened { call, given, caller, tool: tool.tool.bind(py).clone() }));
        }
        let map = PyDict::new(py);
        for (at, value) in order.iter().zip(values) {
            map.set_item(tool.name(py, *at), value)?;
        }
        let tool = tool.tool.bind(py).clone();
        drop(known);
        if unknown {
            tool.call_method1(intern!(py, "check"), (&map,))?;
        }
        if adapts {
            tool.call_method1(intern!(py, "adapt"), (&map,))?;
        }
        Ok(Some(Opened { call, given: Given::Map(map), caller, tool }))
    }

    fn set_caller(&self, caller: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = caller.py();
        let mut present = std::ptr::null_mut();
        // SAFETY: `caller` is a context variable, or this fails; the reference that is written is a new one, or NULL.
        let present = unsafe {
            if ffi::PyContextVar_Get(self.caller.as_ptr(), std::ptr::null_mut(), &raw mut present) != 0 {
                return Err(PyErr::fetch(py));
            }
            Bound::from_owned_ptr_or_opt(py, present)
        };
        if present.is_some_and(|present| present.is(caller)) {
            return Ok(());
        }
        // SAFETY: as above; the token that it returns is not needed.
        unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContextVar_Set(self.caller.as_ptr(), caller.as_ptr())) }
            .map(drop)
    }

    /// Calls the tool, and makes its reply.
    fn served<'py>(
        &self,
        py: Python<'py>,
        calls: &Bound<'py, PyAny>,
        head: &RequestHead,
        opened: Opened<'py>,
        out: &mut Vec<u8>,
    ) -> PyResult<Outcome<'py>> {
        let Opened { call, tool, given, .. } = opened;
        let id = PyInt::new(py, head.call_id);
        let started = now();
        calls.setattr(intern!(py, "seen"), &id)?;
        let value = self.users(py, calls, &tool, &id, || called(&call, given));
        let nanoseconds = now() - started;
        let (mask, forced) = (head.reply_mask, head.flags & FLAG_FORCED != 0);
        let value = match value {
            Ok(value) => value,
            Err(error) => {
                let arguments = (id, mask, error.into_value(py), nanoseconds);
                return Ok(Outcome::Reply(calls.call_method1(intern!(py, "quickly_raised"), arguments)?));
            }
        };
        if is_plain(&value) {
            out.clear();
            out.resize(PREFIX + HEADER, 0);
            if let Ok(buffers) = self.encoder.get().append(&value, out) {
                let size = out.len() - PREFIX - HEADER;
                if buffers.is_none() && size <= self.max_envelope && !self.gone.bind(py).is_truthy()? {
                    let head = Reply::bare_head(Kind::Result, bare_way(mask), size as u32, head.call_id, nanoseconds);
                    out[..PREFIX].copy_from_slice(&((HEADER + size) as u32).to_be_bytes());
                    out[PREFIX..PREFIX + HEADER].copy_from_slice(&head);
                    return Ok(Outcome::Frame);
                }
                // The buffers alone refer to its memory from now on.
                drop(value);
                let envelope = PyBytes::new(py, &out[PREFIX + HEADER..]);
                let arguments = (id, mask, forced, nanoseconds, envelope, buffers);
                return Ok(Outcome::Reply(calls.call_method1(intern!(py, "quickly_encoded"), arguments)?));
            }
        }
        let holder = PyList::new(py, [value])?;
        let arguments = (id, mask, forced, holder, nanoseconds, started);
        Ok(Outcome::Reply(calls.call_method1(intern!(py, "quickly_returned"), arguments)?))
    }

    /// Calls the user's code, which may be cancelled meanwhile, as `Calls._users` does.
    fn users<'py>(
        &self,
        py: Python<'py>,
        calls: &Bound<'py, PyAny>,
        tool: &Bound<'py, PyAny>,
        id: &Bound<'py, PyInt>,
        call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (cancellation, running) = (self.cancellation.bind(py), intern!(py, "running"));
        cancellation.setattr(running, id)?;
        let value = call();
        cancellation.setattr(running, 0)?;
        if !self.forked.yes() && !cancellation.getattr(intern!(py, "cancelling"))?.is_truthy()? {
            return value;
        }
        let error = value.as_ref().err().map(|error| error.value(py).clone());
        calls.call_method1(intern!(py, "quickly_over"), (tool, error))?;
        value
    }
}

type Arguments<'py> = (Vec<u16>, Vec<Bound<'py, PyAny>>, Bound<'py, PyAny>, bool);

/// The parameters and values of all arguments, the caller, and whether there are bytes inside. `None`: these are not the
/// tool's parameters.
fn arguments<'py>(run: &mut Run<'_, 'py>, reader: &mut Reader, tool: &Tool) -> Result<Option<Arguments<'py>>, Failure> {
    let n = tool.len();
    let (mut order, mut values) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for at in 0..n {
        let Token::Str(name) = reader.next()? else { return Ok(None) };
        match tool.parameter(at, name) {
            Some(parameter) if !order.contains(&parameter) => order.push(parameter),
            _ => return Ok(None),
        }
        values.push(run.value(reader, 2)?);
    }
    let caller = run.caller(reader)?;
    reader.finish()?;
    Ok(Some((order, values, caller, run.bytes_inside)))
}

/// Calls a function with these arguments by name. They are gone when it returns.
fn called<'py>(function: &Bound<'py, PyAny>, given: Given<'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    match given {
        Given::Map(map) => function.call((), Some(&map)),
        Given::Named(values, names) => {
            let pointers: Vec<*mut ffi::PyObject> = values.iter().map(Bound::as_ptr).collect();
            // SAFETY: as many values as names, all of them alive until it returns; none is positional.
            unsafe {
                let value = ffi::PyObject_Vectorcall(function.as_ptr(), pointers.as_ptr(), 0, names.as_ptr());
                Bound::from_owned_ptr_or_err(py, value)
            }
        }
    }
}

/// Whether a result is neither an array nor a coroutine or a generator, which run on.
fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PySet>()
        || value.is_exact_instance_of::<PyMemoryView>()
}

/// The way that a reply without buffers names.
fn bare_way(mask: u8) -> Way {
    [Way::Inline, Way::ZeroCopy].into_iter().find(|way| mask & 1 << *way as u8 != 0).unwrap_or(Way::Grpc)
}

/// Nanoseconds of the clock that Python's `perf_counter_ns` reads.
pub fn now() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `at` alone, and this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}
