//! The envelope of a request to Python's objects.

use crate::Step;
use crate::ndarray::Array;
use pyo3::exceptions::{PyException, PyTypeError, PyUnicodeDecodeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDate, PyDateTime, PyDict, PyFloat, PyInt, PyList, PySet, PyString, PyTime, PyTuple,
};
use snakepit_core::locks::locked;
use snakepit_core::reader::{BadValue, Budget, Number, Reader, Token};
use snakepit_core::writer::ext;
use snakepit_core::{MAX_DEPTH, MAX_DIMS};
use std::collections::HashMap;
use std::sync::Mutex;

/// So many kinds of tensors are remembered.
const LAYOUTS: usize = 256;

/// Why a request was not decoded. Small, as every value's result has room for it.
pub struct Failure(pub Box<Why>);

pub enum Why {
    /// Not an envelope.
    Bad(&'static str),
    /// A value that Python cannot have: the reason, and words for it.
    Refused(&'static str, String),
    /// The exception that a function of Python raised.
    Raised(PyErr),
}

impl From<BadValue> for Failure {
    #[cold]
    fn from(bad: BadValue) -> Self {
        Self(Box::new(Why::Bad(bad.0)))
    }
}

impl From<PyErr> for Failure {
    #[cold]
    fn from(error: PyErr) -> Self {
        Self(Box::new(Why::Raised(error)))
    }
}

type Result<T> = std::result::Result<T, Failure>;
type Decoded<'py> = Result<Bound<'py, PyAny>>;

fn refused<T>(reason: &'static str, message: impl Into<String>) -> Result<T> {
    Err(Failure(Box::new(Why::Refused(reason, message.into()))))
}

fn bad_value<T>(message: impl Into<String>) -> Result<T> {
    refused("bad_value", message)
}

/// A kind of tensor that went before, known again by its bytes.
struct Layout {
    /// `snakepit.codec.arrays.Layout`
    layout: Py<PyAny>,
    dtype: Py<PyAny>,
    /// None where the array has one dimension, as it has without.
    shape: Option<Py<PyTuple>>,
    needed: usize,
    /// `numpy.frombuffer`
    from_buffer: Py<PyAny>,
    buffer: u32,
}

impl Layout {
    fn new(layout: &Bound<'_, PyAny>, buffer: u32) -> PyResult<Self> {
        let py = layout.py();
        let (dtype, shape, needed, from_buffer): (Py<PyAny>, Vec<u64>, usize, Py<PyAny>) =
            layout.call_method0("parts")?.extract()?;
        let shape = if shape.len() == 1 { None } else { Some(PyTuple::new(py, shape)?.unbind()) };
        Ok(Self { layout: layout.clone().unbind(), dtype, shape, needed, from_buffer, buffer })
    }

    /// The functions and values that make an array, which others may forget meanwhile.
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            layout: self.layout.clone_ref(py),
            dtype: self.dtype.clone_ref(py),
            shape: self.shape.as_ref().map(|shape| shape.clone_ref(py)),
            needed: self.needed,
            from_buffer: self.from_buffer.clone_ref(py),
            buffer: self.buffer,
        }
    }

    /// A read-only array over these bytes, as `snakepit.codec.arrays.Layout.over` makes it.
    fn over<'py>(&self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = data.py();
        // numpy makes no array of no bytes in this way; where others came than are needed, Python says what is wrong.
        if self.needed == 0 || data.len()? != self.needed {
            return self.layout.bind(py).call_method1("over", (data,));
        }
        let mut array = self.from_buffer.bind(py).call1((data, &self.dtype))?;
        if let Some(shape) = &self.shape {
            array = array.call_method1(intern!(py, "reshape"), (shape,))?;
        }
        if Array::of(&array).is_some_and(Array::is_writeable) {
            array.call_method1(intern!(py, "setflags"), (false,))?;
        }
        Ok(array)
    }
}

/// Keys of maps that went before: rows of a table have the same ones, and a string that is there costs a comparison.
#[derive(Default)]
struct Keys(Vec<Option<(Box<str>, Py<PyAny>)>>);

/// So many keys are remembered, of so many bytes each.
const KEYS: usize = 256;
const LONGEST_KEY: usize = 32;

impl Keys {
    fn get<'py>(&mut self, py: Python<'py>, s: &str) -> PyResult<Bound<'py, PyAny>> {
        if s.len() > LONGEST_KEY {
            return string(py, s);
        }
        if self.0.is_empty() {
            self.0.resize_with(KEYS, || None);
        }
        let place = s.bytes().fold(s.len(), |hash, b| hash.wrapping_mul(31).wrapping_add(usize::from(b))) % KEYS;
        match &self.0[place] {
            Some((known, key)) if **known == *s => Ok(key.bind(py).clone()),
            _ => {
                let key = string(py, s)?;
                self.0[place] = Some((s.into(), key.clone().unbind()));
                Ok(key)
            }
        }
    }
}

/// Decodes requests; belongs to one lane.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Decoder {
    /// `(code, parts) -> value`: datetimes with a zone, and decimals.
    make: Py<PyAny>,
    /// `(dtype, shape) -> layout`, which has `over(data) -> array`.
    layout: Py<PyAny>,
    /// `(failure, path) -> exception`, where `failure` is an exception or `(reason, message)`.
    error: Py<PyAny>,
    /// `key -> str`: a step of a path as it is written in source.
    step: Py<PyAny>,
    layouts: Mutex<HashMap<Box<[u8]>, Layout>>,
    keys: Mutex<Keys>,
}

#[pymethods]
impl Decoder {
    #[new]
    fn new(make: Py<PyAny>, layout: Py<PyAny>, error: Py<PyAny>, step: Py<PyAny>) -> Self {
        Self { make, layout, error, step, layouts: Mutex::default(), keys: Mutex::default() }
    }

    /// Command, arguments, caller, and whether there are bytes anywhere in the arguments, of a request's envelope and
    /// the buffers beside it. Raises what `error` makes of the first thing that it does not like.
    #[pyo3(signature = (envelope, buffers = None))]
    fn request<'py>(
        &self,
        py: Python<'py>,
        envelope: &[u8],
        buffers: Option<Vec<Bound<'py, PyAny>>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        self.decoded(py, envelope, buffers.unwrap_or_default())
    }

    /// How many kinds of tensors are remembered.
    fn remembered(&self) -> usize {
        locked(&self.layouts).len()
    }
}

impl Decoder {
    /// As `request`. The views of the buffers are held by the arguments alone afterwards.
    pub fn decoded<'py>(
        &self,
        py: Python<'py>,
        envelope: &[u8],
        buffers: Vec<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let budget = Budget::default();
        let mut run = Run::new(self, py, buffers);
        let mut reader = Reader::new(envelope, &budget);
        let done = run.request(&mut reader);
        drop(run.done());
        match done {
            Ok((command, arguments, caller)) => PyTuple::new(
                py,
                [command, arguments, caller, run.bytes_inside.into_pyobject(py)?.to_owned().into_any()],
            ),
            Err(failure) => Err(self.explained(py, failure, run.path)),
        }
    }

    fn explained(&self, py: Python<'_>, failure: Failure, path: Vec<Step>) -> PyErr {
        // An exception that ends the call itself, such as its cancellation, says nothing of the request.
        if let Why::Raised(error) = &*failure.0
            && !error.is_instance_of::<PyException>(py)
        {
            return error.clone_ref(py);
        }
        let made = self.path(py, path).and_then(|path| {
            let failure = match *failure.0 {
                Why::Bad(words) => {
                    return self.error.bind(py).call1((("bad_envelope", words), py.None()));
                }
                Why::Refused(reason, message) => (reason, message).into_pyobject(py)?.into_any(),
                // Without its frames: they hold what was decoded so far, views of shared memory among it.
                Why::Raised(error) => {
                    error.set_traceback(py, None);
                    error.into_value(py).into_bound(py).into_any()
                }
            };
            self.error.bind(py).call1((failure, path))
        });
        made.map_or_else(|error| error, PyErr::from_value)
    }

    fn path<'py>(&self, py: Python<'py>, path: Vec<Step>) -> PyResult<Bound<'py, PyString>> {
        let mut text = String::from("args");
        for step in path.iter().rev() {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::Key(key) => text.push_str(self.step.bind(py).call1((key,))?.cast::<PyString>()?.to_str()?),
            }
        }
        Ok(PyString::new(py, &text))
    }
}

/// One request on its way.
pub struct Run<'a, 'py> {
    decoder: &'a Decoder,
    py: Python<'py>,
    buffers: Vec<Bound<'py, PyAny>>,
    keys: Keys,
    /// Where a failure lies, innermost step first. Filled on the way out of it.
    path: Vec<Step>,
    pub bytes_inside: bool,
    /// Whether this is inside of a set, whose members need a hash: bytes are `bytes` there, not views.
    members: bool,
}

impl<'a, 'py> Run<'a, 'py> {
    pub fn new(decoder: &'a Decoder, py: Python<'py>, buffers: Vec<Bound<'py, PyAny>>) -> Self {
        // Not locked meanwhile: Python's functions may run, and wait for another thread's lock.
        let keys = std::mem::take(&mut *locked(&decoder.keys));
        Self { decoder, py, buffers, keys, path: Vec::new(), bytes_inside: false, members: false }
    }

    /// Keeps the keys that it learned for the next one. The views of the buffers.
    pub fn done(&mut self) -> Vec<Bound<'py, PyAny>> {
        let before = std::mem::replace(&mut *locked(&self.decoder.keys), std::mem::take(&mut self.keys));
        drop(before);
        std::mem::take(&mut self.buffers)
    }

    fn request(&mut self, r: &mut Reader) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let Token::Array(3) = r.next()? else {
            return Err(BadValue("a request must be [command, args, caller]").into());
        };
        let nameless = "a request needs the name of a command and a map of arguments";
        let command = self.a_string(r)?.ok_or(BadValue(nameless))?;
        let Token::Map(n) = r.next()? else {
            return Err(BadValue(nameless).into());
        };
        let arguments = self.map(r, n, 1)?;
        let caller = self.caller(r)?;
        r.finish()?;
        Ok((command, arguments, caller))
    }

    /// A session, or that and a correlation id.
    pub fn caller(&mut self, r: &mut Reader) -> Decoded<'py> {
        const BAD: BadValue = BadValue("a caller must be a session, or that and a correlation id");
        match r.next()? {
            Token::Nil => Ok(self.none()),
            Token::Array(2) => {
                let session = match r.next()? {
                    Token::Nil => self.none(),
                    token => self.text_of(token)?.ok_or(BAD)?,
                };
                let id = self.a_string(r)?.ok_or(BAD)?;
                Ok(PyList::new(self.py, [session, id])?.into_any())
            }
            token => Ok(self.text_of(token)?.ok_or(BAD)?),
        }
    }

    /// The next value, if it is a string.
    fn a_string(&self, r: &mut Reader) -> Result<Option<Bound<'py, PyAny>>> {
        let token = r.next()?;
        self.text_of(token)
    }

    /// A string, which may lie beside the envelope.
    fn text_of(&self, token: Token) -> Result<Option<Bound<'py, PyAny>>> {
        match token {
            Token::Str(s) => Ok(Some(string(self.py, s)?)),
            Token::Ext(ext::STR, index) => self.text(index).map(Some),
            _ => Ok(None),
        }
    }

    fn none(&self) -> Bound<'py, PyAny> {
        self.py.None().into_bound(self.py)
    }

    /// A value that would be a container of this depth.
    #[inline]
    pub fn value(&mut self, r: &mut Reader, depth: u32) -> Decoded<'py> {
        match r.number() {
            Some(Number::Int(n)) => Ok(PyInt::new(self.py, n).into_any()),
            Some(Number::Float(x)) => Ok(PyFloat::new(self.py, x).into_any()),
            None => self.other(r, depth),
        }
    }

    /// A value that is no number, or none that is read at once.
    fn other(&mut self, r: &mut Reader, depth: u32) -> Decoded<'py> {
        let py = self.py;
        Ok(match r.next()? {
            Token::Nil => self.none(),
            Token::Bool(b) => PyBool::new(py, b).to_owned().into_any(),
            Token::Int(n) => PyInt::new(py, n).into_any(),
            Token::Uint(n) => PyInt::new(py, n).into_any(),
            Token::Float(x) => PyFloat::new(py, x).into_any(),
            Token::Str(s) => string(py, s)?,
            Token::Bin(b) => {
                self.bytes_inside = true;
                new_bytes(py, b)?.into_any()
            }
            Token::Array(n) => self.list(r, n, depth)?.into_any(),
            Token::Map(n) => self.map(r, n, depth)?,
            Token::Ext(code, payload) => self.extension(r, code, payload, depth)?,
        })
    }

    /// Into a container of this depth. The error of a value that is too deep names the container that it lies in.
    fn enter(&mut self, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return refused("too_deep", format!("values are nested deeper than {MAX_DEPTH}"));
        }
        Ok(())
    }

    fn list(&mut self, r: &mut Reader, n: usize, depth: u32) -> Result<Bound<'py, PyList>> {
        self.enter(depth)?;
        let py = self.py;
        // SAFETY: the list is new and nobody else's until it is returned. Its items are NULL until they are set, which its
        // destructor allows for. Python may run meanwhile: it cannot find the list, as the collector does not know it until
        // it is full. `n` is at most the bytes that are left.
        unsafe {
            let list = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(n as ffi::Py_ssize_t))?;
            ffi::PyObject_GC_UnTrack(list.as_ptr().cast());
            for i in 0..n {
                let item = self.value(r, depth + 1).inspect_err(|_| self.path.push(Step::Index(i)))?;
                ffi::PyList_SET_ITEM(list.as_ptr(), i as ffi::Py_ssize_t, item.into_ptr());
            }
            ffi::PyObject_GC_Track(list.as_ptr().cast());
            Ok(list.cast_into_unchecked())
        }
    }

    fn map(&mut self, r: &mut Reader, n: usize, depth: u32) -> Decoded<'py> {
        self.enter(depth)?;
        let dict = PyDict::new(self.py);
        for _ in 0..n {
            let key = self.key(r)?;
            let item = self.value(r, depth + 1).inspect_err(|_| self.path.push(Step::Key(key.clone().unbind())))?;
            dict.set_item(key, item)?;
        }
        Ok(dict.into_any())
    }

    fn key(&mut self, r: &mut Reader) -> Decoded<'py> {
        match r.next()? {
            Token::Str(s) => Ok(self.keys.get(self.py, s)?),
            Token::Int(n) => Ok(PyInt::new(self.py, n).into_any()),
            Token::Uint(n) => Ok(PyInt::new(self.py, n).into_any()),
            Token::Float(x) => {
                self.path.push(Step::Key(PyFloat::new(self.py, x).into_any().unbind()));
                refused("unsupported_key", "keys must be str or int, this one is float")
            }
            _ => refused("unsupported_key", "keys must be str or int"),
        }
    }

    fn extension(&mut self, r: &mut Reader, code: i8, payload: &[u8], depth: u32) -> Decoded<'py> {
        match code {
            ext::TUPLE => {
                let items = self.array(r, payload, depth + 1, "tuple")?;
                Ok(items.to_tuple().into_any())
            }
            ext::SET => self.set(r, payload, depth + 1),
            ext::BYTES => {
                self.bytes_inside = true;
                let view = self.buffer(payload)?;
                // A view has no hash where the memory below it can change.
                if !self.members {
                    return Ok(view);
                }
                // SAFETY: `view` is an object.
                Ok(unsafe { Bound::from_owned_ptr_or_err(self.py, ffi::PyBytes_FromObject(view.as_ptr())) }?)
            }
            ext::STR => self.text(payload),
            ext::BIG_INT => self.big_int(payload),
            _ => {
                if depth + 2 > MAX_DEPTH {
                    return refused("too_deep", format!("values are nested deeper than {MAX_DEPTH}"));
                }
                match code {
                    ext::TENSOR => self.tensor(r, payload),
                    ext::DATE => self.date(r, payload),
                    ext::TIME => self.time(r, payload),
                    ext::NAIVE_DATETIME => self.naive(r, payload),
                    ext::DATETIME | ext::DECIMAL => {
                        let mut inner = r.inside(payload);
                        let parts = self.value(&mut inner, depth + 1)?;
                        inner.finish()?;
                        Ok(self.decoder.make.bind(self.py).call1((code, parts))?)
                    }
                    _ => refused("unsupported_type", format!("this worker does not know extension {code}")),
                }
            }
        }
    }

    /// The array that fills an extension's payload.
    fn array(&mut self, r: &Reader, payload: &[u8], depth: u32, what: &str) -> Result<Bound<'py, PyList>> {
        let mut inner = r.inside(payload);
        let Token::Array(n) = inner.next()? else { return bad_value(format!("a {what} must be an array")) };
        let items = self.list(&mut inner, n, depth)?;
        inner.finish()?;
        Ok(items)
    }

    fn set(&mut self, r: &Reader, payload: &[u8], depth: u32) -> Decoded<'py> {
        let around = std::mem::replace(&mut self.members, true);
        let items = self.array(r, payload, depth, "set");
        self.members = around;
        // A set's members have no place of their own.
        let items = items.inspect_err(|_| drop(self.path.pop()))?;
        let set = match PySet::new(self.py, items.iter()) {
            Ok(set) => set,
            Err(error) if error.is_instance_of::<PyTypeError>(self.py) => {
                return refused("bad_set", format!("Python cannot have this in a set: {}", error.value(self.py)));
            }
            Err(error) => return Err(error.into()),
        };
        if set.len() != items.len() {
            return refused("bad_set", "elements of this set are equal in Python (1, 1.0 and True are)");
        }
        Ok(set.into_any())
    }

    /// The view of the buffer that a payload names.
    fn buffer(&self, payload: &[u8]) -> Decoded<'py> {
        match payload.try_into() {
            Ok(index) => self.view(u32::from_le_bytes(index)),
            Err(_) => refused("bad_envelope", "a buffer's index has four bytes"),
        }
    }

    fn view(&self, index: u32) -> Decoded<'py> {
        match self.buffers.get(index as usize) {
            Some(view) => Ok(view.clone()),
            None => refused("bad_envelope", format!("there is no buffer {index}: {} came", self.buffers.len())),
        }
    }

    fn text(&self, payload: &[u8]) -> Decoded<'py> {
        let view = self.buffer(payload)?;
        // SAFETY: `view` is an object, and both strings end with a NUL.
        let text = unsafe {
            Bound::from_owned_ptr_or_err(
                self.py,
                ffi::PyUnicode_FromEncodedObject(view.as_ptr(), c"utf-8".as_ptr(), c"strict".as_ptr()),
            )
        };
        text.or_else(|error| {
            if error.is_instance_of::<PyUnicodeDecodeError>(self.py) {
                refused("not_utf8", "a str that is not UTF-8")
            } else {
                Err(error.into())
            }
        })
    }

    fn big_int(&self, payload: &[u8]) -> Decoded<'py> {
        let malformed = "an integer's sign or magnitude is malformed";
        let (sign, magnitude) = match payload.split_first() {
            Some((sign @ (0 | 1), magnitude)) if magnitude.last() != Some(&0) => (*sign, magnitude),
            _ => return bad_value(malformed),
        };
        // 64 bits, or -2^63 and less of them.
        let low = match magnitude.len() {
            0..8 => true,
            8 => sign == 0 || u64::from_le_bytes(magnitude.try_into().map_err(|_| BadValue(malformed))?) <= 1 << 63,
            _ => false,
        };
        if low {
            return bad_value("an integer of 64 bits does not travel as an extension");
        }
        let int = self.py.get_type::<PyInt>();
        let value = int.call_method1("from_bytes", (new_bytes(self.py, magnitude)?, "little"))?;
        if sign == 1 { Ok(value.neg()?) } else { Ok(value) }
    }

    fn tensor(&mut self, r: &Reader, payload: &[u8]) -> Decoded<'py> {
        let known = {
            let layouts = locked(&self.decoder.layouts);
            layouts.get(payload).map(|known| known.clone_ref(self.py))
        };
        if let Some(layout) = known {
            return Ok(layout.over(&self.view(layout.buffer)?)?);
        }
        let bad = "a tensor must be [dtype, shape, data]";
        let mut inner = r.inside(payload);
        let Token::Array(3) = inner.next()? else { return refused("bad_tensor", bad) };
        let (dtype, named_here) = match inner.next()? {
            Token::Str(dtype) => (string(self.py, dtype)?, true),
            Token::Ext(ext::STR, index) => (self.text(index)?, false),
            _ => return refused("bad_tensor", "a tensor's type must be its name"),
        };
        let shape = match inner.next()? {
            Token::Array(rank) if rank <= MAX_DIMS => self.shape(&mut inner, rank)?,
            _ => return refused("bad_tensor", format!("a tensor's shape must be a list of at most {MAX_DIMS} sizes")),
        };
        let (data, beside) = match inner.next()? {
            Token::Bin(b) => (new_bytes(self.py, b)?.into_any(), None),
            Token::Ext(ext::BYTES, index) => (self.buffer(index)?, index.try_into().ok().map(u32::from_le_bytes)),
            _ => return refused("bad_tensor", "a tensor's data must be bytes"),
        };
        inner.finish()?;
        let layout = self.decoder.layout.bind(self.py).call1((dtype, shape))?;
        let made = layout.call_method1("over", (data,))?;
        if let (true, Some(buffer)) = (named_here, beside) {
            let known = Layout::new(&layout, buffer)?;
            let mut layouts = locked(&self.decoder.layouts);
            let forgotten = if layouts.len() == LAYOUTS { std::mem::take(&mut *layouts) } else { HashMap::new() };
            let before = layouts.insert(payload.into(), known);
            drop(layouts);
            // Without the lock: Python may run.
            drop((forgotten, before));
        }
        Ok(made)
    }

    fn shape(&self, r: &mut Reader, rank: usize) -> Result<Bound<'py, PyList>> {
        let mut sizes = [0; MAX_DIMS];
        for size in &mut sizes[..rank] {
            *size = match r.next()? {
                Token::Int(n) if n >= 0 => n as u64,
                Token::Uint(n) => n,
                _ => return refused("bad_tensor", "a tensor's sizes must be integers from 0"),
            };
        }
        Ok(PyList::new(self.py, &sizes[..rank])?)
    }

    /// The integers that fill an extension's payload.
    fn integers<const N: usize>(&self, r: &Reader, payload: &[u8], what: &str) -> Result<[i64; N]> {
        let mut inner = r.inside(payload);
        let mut parts = [0; N];
        let wrong = || bad_value(format!("a {what} must be {N} integers"));
        match inner.next()? {
            Token::Array(n) if n == N => {}
            _ => return wrong(),
        }
        for part in &mut parts {
            match inner.next()? {
                Token::Int(n) => *part = n,
                _ => return wrong(),
            }
        }
        inner.finish()?;
        Ok(parts)
    }

    fn date(&self, r: &Reader, payload: &[u8]) -> Decoded<'py> {
        let [y, m, d] = self.integers(r, payload, "date")?;
        self.calendar(PyDate::new(self.py, small(y), byte(m), byte(d)), "date")
    }

    fn time(&self, r: &Reader, payload: &[u8]) -> Decoded<'py> {
        let [h, m, s, us] = self.integers(r, payload, "time")?;
        self.calendar(PyTime::new(self.py, byte(h), byte(m), byte(s), micros(us), None), "time")
    }

    fn naive(&self, r: &Reader, payload: &[u8]) -> Decoded<'py> {
        let [y, mo, d, h, mi, s, us] = self.integers(r, payload, "datetime")?;
        let made = PyDateTime::new(self.py, small(y), byte(mo), byte(d), byte(h), byte(mi), byte(s), micros(us), None);
        self.calendar(made, "datetime")
    }

    fn calendar<T>(&self, made: PyResult<Bound<'py, T>>, what: &str) -> Decoded<'py> {
        match made {
            Ok(made) => Ok(made.into_any()),
            Err(error) => bad_value(format!("Python has no such {what}: {}", error.value(self.py))),
        }
    }
}

// Numbers that are out of range stay so: Python says what is wrong with them.
fn small(n: i64) -> i32 {
    n.clamp(-1, 1 << 30) as i32
}

fn byte(n: i64) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn micros(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX >> 1)
}

/// Text of ASCII alone is the most common by far, and needs no second look. Raises `MemoryError`.
pub fn string<'py>(py: Python<'py>, s: &str) -> PyResult<Bound<'py, PyAny>> {
    let len = s.len() as ffi::Py_ssize_t;
    // SAFETY: a new string of `len` characters up to 127 has room for `len` bytes, and nobody has it yet; the other has
    // `len` bytes of UTF-8.
    unsafe {
        if !s.is_ascii() {
            return Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_FromStringAndSize(s.as_ptr().cast(), len));
        }
        let made = Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_New(len, 127))?;
        if !s.is_empty() {
            std::ptr::copy_nonoverlapping(s.as_ptr(), ffi::PyUnicode_DATA(made.as_ptr()).cast(), s.len());
        }
        Ok(made)
    }
}

/// Raises `MemoryError`.
pub fn new_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: as many bytes are there.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked())
    }
}
