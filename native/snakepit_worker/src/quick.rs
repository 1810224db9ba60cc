//! The usual call in one go: all arguments of a known tool, a result that does not run on. Between the frame's arrival and
//! the tool, and between its return and the reply's departure, no line of the Python package runs.

use crate::decode::{Decoder, Failure, Run, Why};
use crate::encode::Encoder;
use crate::memory::buffers::Buffer;
use crate::memory::replies::{Answer, JOIN, Made, Replies, bare_way};
use crate::memory::reply::Unread;
use crate::memory::view::{FrameMemory, FrameRoom, View};
use crate::ndarray::Array;
use crate::progress::Progress;
use crate::tool::{Fit, Tool};
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PySet, PyString, PyTuple};
use snakepit_core::frame::{Ask, FLAG_FORCED, FLAG_STREAM, HEADER, Kind, Reply, RequestHead, Table, Way};
use snakepit_core::reader::{Budget, Reader, Token};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Bytes of a frame's length, before it.
pub const PREFIX: usize = 4;

/// The end of a frame.
pub enum Outcome<'py> {
    /// It is not so usual, or not right: no tool ran. The views of its buffers, if they were made: each goes back once.
    Left(Option<Vec<Bound<'py, PyAny>>>),
    /// The reply is a whole frame, its length before it, with these tokens. What is left of the call is let go once that is
    /// sent: to free a large list takes a while.
    Frame(Option<Unread>, Rest<'py>),
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
    /// A `snakepit.support.cancel.Cancellation`.
    cancellation: Py<Progress>,
    /// The context variable with the present call's caller.
    caller: Py<PyAny>,
    replies: Py<Replies>,
    known: Mutex<Known>,
}

/// The tools that were called. Most calls are of the same one as the call before.
#[derive(Default)]
struct Known {
    tools: Vec<(Box<str>, Tool)>,
    places: HashMap<Box<str>, usize>,
    latest: usize,
}

impl Known {
    /// Whether a tool of this name is here; it is the latest then.
    fn find(&mut self, name: &str) -> bool {
        if self.tools.get(self.latest).is_some_and(|(latest, _)| **latest == *name) {
            return true;
        }
        match self.places.get(name) {
            Some(place) => self.latest = *place,
            None => return false,
        }
        true
    }

    fn add(&mut self, name: &str, tool: Tool) {
        self.latest = self.tools.len();
        self.places.insert(name.into(), self.latest);
        self.tools.push((name.into(), tool));
    }

    fn latest(&mut self) -> Option<&mut Tool> {
        self.tools.get_mut(self.latest).map(|(_, tool)| tool)
    }
}

/// A call that may begin.
struct Opened<'py> {
    call: Bound<'py, PyAny>,
    tool: Bound<'py, PyAny>,
    given: Given<'py>,
    caller: Bound<'py, PyAny>,
}

/// A call's arguments and its result, where they hold no buffers.
pub type Rest<'py> = Option<(Given<'py>, Bound<'py, PyAny>)>;

/// Arguments of a frame up to this size live until its reply is sent. Larger ones make room for the reply first.
const LET_GO_LATE: usize = 4 << 20;

/// The arguments of a call.
pub enum Given<'py> {
    Named(Vec<Bound<'py, PyAny>>, Bound<'py, PyTuple>),
    /// Some were made anew.
    Map(Bound<'py, PyDict>),
}

#[pymethods]
impl QuickCalls {
    #[new]
    #[pyo3(signature = (*, decoder, encoder, tools, cancellation, caller, replies))]
    fn new(
        decoder: Py<Decoder>,
        encoder: Py<Encoder>,
        tools: Py<PyDict>,
        cancellation: Py<Progress>,
        caller: Py<PyAny>,
        replies: Py<Replies>,
    ) -> Self {
        Self { decoder, encoder, tools, cancellation, caller, replies, known: Mutex::default() }
    }

    /// The reply to a frame: a whole frame, its own length before it (`bytes`), or a `Reply`. `None`, before
    /// any tool ran, for whatever is not so usual, or not right.
    fn call<'py>(&self, calls: &Bound<'py, PyAny>, frame: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = calls.py();
        let (mut out, mut own) = (Vec::new(), None);
        if RequestHead::read(frame).is_some_and(|head| head.way == Way::ZeroCopy as u8 && head.buffers != 0) {
            // Its views could not be given to whoever looks at it again.
            return Ok(None);
        }
        if RequestHead::read(frame).is_some_and(|head| head.way == Way::Inline as u8 && head.buffers != 0) {
            let Some(room) = FrameRoom::new(frame.len()) else { return Ok(None) };
            // SAFETY: there is room for as many bytes, and all are written.
            own = Some(unsafe {
                std::ptr::copy_nonoverlapping(frame.as_ptr(), room.start(), frame.len());
                room.written()
            });
        }
        let frame = own.as_ref().map_or(frame, |own| own.bytes());
        Ok(match self.run(py, calls, frame, own.as_ref(), &mut out)? {
            Outcome::Left(_) => None,
            Outcome::Frame(..) => Some(PyBytes::new(py, &out).into_any()),
            Outcome::Reply(reply) => Some(reply),
        })
    }
}

impl QuickCalls {
    pub fn replies(&self) -> &Replies {
        self.replies.get()
    }

    /// Runs the call of a frame. It is not looked at any more once the tool begins, but for the buffers in it: these need
    /// a frame of its own memory.
    pub fn run<'py>(
        &self,
        py: Python<'py>,
        calls: &Bound<'py, PyAny>,
        frame: &[u8],
        own: Option<&Arc<FrameMemory>>,
        out: &mut Vec<u8>,
    ) -> PyResult<Outcome<'py>> {
        let left = Ok(Outcome::Left(None));
        let Some(head) = RequestHead::read(frame) else { return left };
        if head.kind != Ask::Call as u8 || head.flags & FLAG_STREAM != 0 {
            return left;
        }
        if head.buffers == 0 && head.freed == 0 {
            if head.way > Way::Grpc as u8 || HEADER + head.envelope != frame.len() {
                return left;
            }
            // An error leaves nothing behind, and is found, and explained, by a second look.
            let Some(opened) = looked_at(py, self.open(py, &frame[HEADER..], &mut Vec::new()))? else { return left };
            return self.served(py, calls, &head, opened, out);
        }
        let Ok(body) = head.body(frame) else { return left };
        let replies = self.replies.get();
        replies.freed(&body.freed);
        let mut views = match (body.table, own) {
            (Table::ZeroCopy(places), _) if replies.borrowed().has(&places) => match replies.shown(py, &places) {
                Ok(views) => views,
                Err(error) => return self.failed(calls, &head, error, 0),
            },
            (Table::Inline(ranges), Some(own)) => {
                let views = ranges.into_iter().map(|range| View::of_frame(own, range.start, range.len()).shown(py));
                views.collect::<PyResult<_>>()?
            }
            (Table::Inline(ranges), None) if ranges.is_empty() => Vec::new(),
            _ => return left,
        };
        match looked_at(py, self.open(py, &frame[body.envelope], &mut views))? {
            Some(opened) => {
                drop(views);
                self.served(py, calls, &head, opened, out)
            }
            None => Ok(Outcome::Left(Some(views))),
        }
    }

    /// The reply of a call that has failed. An exception that ends more than the call, such as `SystemExit`, goes on.
    fn failed<'py>(
        &self,
        calls: &Bound<'py, PyAny>,
        head: &RequestHead,
        error: PyErr,
        tool_ns: u64,
    ) -> PyResult<Outcome<'py>> {
        let py = calls.py();
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        let arguments = (head.call_id, head.reply_mask, error.into_value(py), tool_ns);
        Ok(Outcome::Reply(calls.call_method1(intern!(py, "quickly_failed"), arguments)?))
    }

    /// Decodes and checks the arguments. `views` are those of the buffers, and stay so.
    fn open<'py>(
        &self,
        py: Python<'py>,
        envelope: &[u8],
        views: &mut Vec<Bound<'py, PyAny>>,
    ) -> Result<Option<Opened<'py>>, Failure> {
        // Whoever holds it is in here as well, on this thread or another: a destructor that runs a call, say.
        let Ok(mut known) = self.known.try_lock() else { return Ok(None) };
        let budget = Budget::default();
        let mut reader = Reader::new(envelope, &budget);
        let (Token::Array(3), Token::Str(command), Token::Map(n)) = (reader.next()?, reader.next()?, reader.next()?)
        else {
            return Ok(None);
        };
        if !known.find(command) {
            let Some(tool) = self.tools.bind(py).get_item(command)? else { return Ok(None) };
            let Some(tool) = Tool::new(&tool)? else { return Ok(None) };
            known.add(command, tool);
        }
        let Some(tool) = known.latest() else { return Ok(None) };
        if tool.len() != n {
            return Ok(None);
        }
        let mut run = Run::new(self.decoder.get(), py, std::mem::take(views));
        let read = arguments(&mut run, &mut reader, tool);
        *views = run.done();
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
        self.set_caller(&opened.caller)?;
        let Opened { call, tool, given, .. } = opened;
        let started = now();
        self.cancellation.get().set_seen(head.call_id);
        let value = self.users(py, calls, &tool, head.call_id, || called(&call, &given));
        let late = head.buffers == 0 && head.envelope <= LET_GO_LATE;
        let given = late.then_some(given);
        let (mask, forced, tool_ns) = (head.reply_mask, head.flags & FLAG_FORCED != 0, now() - started);
        let value = match value {
            Ok(value) => value,
            Err(error) => {
                let arguments = (head.call_id, mask, error.into_value(py), tool_ns);
                return Ok(Outcome::Reply(calls.call_method1(intern!(py, "quickly_raised"), arguments)?));
            }
        };
        if !is_plain(&value) && Array::of(&value).is_none() {
            drop(given);
            return self.returned(calls, head.call_id, mask, forced, value, tool_ns, started);
        }
        out.clear();
        out.resize(PREFIX + HEADER, 0);
        let buffers = match self.encoder.get().append(&value, out) {
            Ok(buffers) => buffers,
            Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
            Err(_) => return self.returned(calls, head.call_id, mask, forced, value, tool_ns, started),
        };
        let rest = match given {
            Some(given) if buffers.is_empty() => Some((given, value)),
            _ => {
                // Buffers alone refer to the result's memory from now on.
                drop(value);
                None
            }
        };
        let answer = Answer { kind: Kind::Result, mask, forced, call_id: head.call_id, tool_ns };
        self.replied(py, calls, head, answer, buffers, rest, out)
    }

    /// The reply with a result that runs on, or needs a closer look.
    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn returned<'py>(
        &self,
        calls: &Bound<'py, PyAny>,
        id: u64,
        mask: u8,
        forced: bool,
        value: Bound<'py, PyAny>,
        tool_ns: u64,
        started: u64,
    ) -> PyResult<Outcome<'py>> {
        let py = calls.py();
        let holder = PyList::new(py, [value])?;
        let arguments = (id, mask, forced, holder, tool_ns, started);
        Ok(Outcome::Reply(calls.call_method1(intern!(py, "quickly_returned"), arguments)?))
    }

    /// The reply whose envelope is in `out`, behind room for its head and its length.
    #[expect(clippy::too_many_arguments, reason = "everything of a reply")]
    fn replied<'py>(
        &self,
        py: Python<'py>,
        calls: &Bound<'py, PyAny>,
        request: &RequestHead,
        answer: Answer,
        buffers: Vec<Buffer>,
        rest: Rest<'py>,
        out: &mut Vec<u8>,
    ) -> PyResult<Outcome<'py>> {
        let replies = self.replies.get();
        let size = out.len() - PREFIX - HEADER;
        let unread = if buffers.is_empty() && size <= replies.max_envelope() && !replies.borrowed().returns_wait() {
            let Answer { kind, mask, call_id, tool_ns, .. } = answer;
            let head = Reply::bare_head(kind, bare_way(mask), replies.waited(), size as u32, call_id, tool_ns);
            out[PREFIX..PREFIX + HEADER].copy_from_slice(&head);
            None
        } else {
            let envelope = out.split_off(PREFIX + HEADER);
            out.truncate(PREFIX);
            match replies.made(py, answer, out, PREFIX, &envelope, buffers, JOIN) {
                Ok(Made::Whole(tokens)) => Unread::of(answer.call_id, tokens),
                Ok(Made::With(way, views, tokens)) => {
                    let head = out[PREFIX..].to_vec();
                    return match replies.shown_reply(py, answer, way, head, views, tokens) {
                        Ok(reply) => Ok(Outcome::Reply(reply.into_any())),
                        Err(error) => self.failed(calls, request, error, answer.tool_ns),
                    };
                }
                Err(error) => return self.failed(calls, request, error, answer.tool_ns),
            }
        };
        let len = (out.len() - PREFIX) as u32;
        out[..PREFIX].copy_from_slice(&len.to_be_bytes());
        Ok(Outcome::Frame(unread, rest))
    }

    /// Calls the user's code, which may be cancelled meanwhile, as `Calls._users` does.
    fn users<'py>(
        &self,
        py: Python<'py>,
        calls: &Bound<'py, PyAny>,
        tool: &Bound<'py, PyAny>,
        id: u64,
        call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let progress = self.cancellation.get();
        progress.set_running(id);
        let value = call();
        progress.set_running(0);
        if !snakepit_fork::is_child() && progress.cancelling() == 0 {
            return value;
        }
        let error = value.as_ref().err().map(|error| error.value(py).clone());
        calls.call_method1(intern!(py, "quickly_over"), (tool, error))?;
        value
    }
}

/// `None` for a request that needs a second look, which finds what is wrong with it, and explains it. An exception that ends
/// more than the call goes on.
fn looked_at<T>(py: Python<'_>, opened: Result<Option<T>, Failure>) -> PyResult<Option<T>> {
    opened.or_else(|failure| match *failure.0 {
        Why::Raised(error) if !error.is_instance_of::<PyException>(py) => Err(error),
        _ => Ok(None),
    })
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

/// Calls a function with these arguments by name.
fn called<'py>(function: &Bound<'py, PyAny>, given: &Given<'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    match given {
        Given::Map(map) => function.call((), Some(map)),
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

/// Nanoseconds of the clock that Python's `perf_counter_ns` reads.
pub fn now() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `at` alone, and this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}
