//! The large values that travel beside an envelope: each is copied once, straight to where it goes, or not at all.

use crate::decode::new_bytes;
use crate::ndarray::Array;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};
use snakepit_core::copy::copy;
use snakepit_core::locks::locked;
use std::ffi::c_int;
use std::sync::Mutex;

/// From this many bytes, other threads run while it is copied, heartbeats among them.
const LET_OTHERS_RUN: usize = 1 << 20;

const CHANGED: &str = "a result changed while it was sent";

/// `snakepit.codec.arrays.copy_into` and `flat`: for arrays whose bytes do not lie as they travel.
static COPY_INTO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static FLAT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn arrays<'py>(py: Python<'py>, cell: &'static PyOnceLock<Py<PyAny>>, name: &str) -> PyResult<&'py Bound<'py, PyAny>> {
    cell.get_or_try_init(py, || Ok(py.import("snakepit.codec.arrays")?.getattr(name)?.unbind()))
        .map(|function| function.bind(py))
}

enum Kind {
    /// A string, as UTF-8.
    Text,
    /// `bytes`, `bytearray` or a contiguous memoryview.
    Bytes,
    /// An array of numpy's, of so many elements, whose bytes are what travels.
    Array(u64),
    /// Another array of numpy's, which travels in C order as this dtype.
    OtherArray(Py<PyAny>),
}

/// A contiguous run of bytes, or an array that becomes one.
pub struct Buffer {
    pub source: Py<PyAny>,
    pub len: usize,
    kind: Kind,
}

impl Buffer {
    /// A string that has `len` bytes of UTF-8.
    pub fn text(text: &Bound<'_, PyString>, len: usize) -> Self {
        Self { source: text.clone().into_any().unbind(), len, kind: Kind::Text }
    }

    /// `bytes`, `bytearray` or a contiguous memoryview.
    pub fn bytes(source: &Bound<'_, PyAny>) -> PyResult<Self> {
        let len = if let Ok(view) = source.cast_exact::<PyMemoryView>() {
            let view = PyBuffer::<u8>::get(view).map(|view| (view.len_bytes(), view.is_c_contiguous()));
            match view
                .or_else(|_| Ok((source.getattr("nbytes")?.extract()?, source.getattr("c_contiguous")?.extract()?)))
            {
                Ok((len, true)) => len,
                Ok(_) => return Err(PyTypeError::new_err("a memoryview with gaps")),
                Err(error) => return Err(error),
            }
        } else {
            source.len()?
        };
        Ok(Self { source: source.clone().unbind(), len, kind: Kind::Bytes })
    }

    /// An array of so many elements and `len` bytes, which travels as `dtype`; `None` if that is its own.
    pub fn array(array: &Bound<'_, PyAny>, elements: u64, len: usize, dtype: Option<&Bound<'_, PyAny>>) -> Self {
        let same = dtype.is_none() && Array::of(array).is_some_and(Array::is_contiguous);
        let kind = match (same, dtype) {
            (true, _) => Kind::Array(elements),
            (false, Some(dtype)) => Kind::OtherArray(dtype.clone().unbind()),
            (false, None) => Kind::OtherArray(array.py().None()),
        };
        Self { source: array.clone().unbind(), len, kind }
    }

    pub fn is_array(&self) -> bool {
        matches!(self.kind, Kind::Array(_) | Kind::OtherArray(_))
    }

    /// Calls `read` with the address of its bytes, which are there meanwhile; `None` if they have none.
    fn at<T>(&self, py: Python<'_>, read: impl FnOnce(*const u8) -> T) -> PyResult<Option<T>> {
        let source = self.source.bind(py);
        Ok(match &self.kind {
            Kind::Text => {
                let mut len = 0;
                // SAFETY: a string.
                let start = unsafe { ffi::PyUnicode_AsUTF8AndSize(source.as_ptr(), &raw mut len) };
                if start.is_null() {
                    return Err(PyErr::fetch(py));
                }
                Some(read(start.cast()))
            }
            Kind::Array(elements) => match Array::of(source) {
                Some(array) if array.is_contiguous() && array.len() == *elements => Some(read(array.data())),
                _ => return Err(PyTypeError::new_err(CHANGED)),
            },
            Kind::OtherArray(_) => None,
            Kind::Bytes => {
                let raw = RawBuffer::of(source)?;
                if raw.0.len as usize != self.len {
                    return Err(PyTypeError::new_err(CHANGED));
                }
                Some(read(raw.0.buf.cast_const().cast()))
            }
        })
    }

    /// Where the bytes lie, if they may lie in the arena; else 0.
    pub fn address(&self, py: Python<'_>) -> PyResult<usize> {
        let source = self.source.bind(py);
        let may = match &self.kind {
            Kind::Array(_) => true,
            Kind::Bytes => source.is_exact_instance_of::<PyMemoryView>(),
            Kind::Text | Kind::OtherArray(_) => false,
        };
        if may { Ok(self.at(py, |at| at as usize)?.unwrap_or(0)) } else { Ok(0) }
    }

    /// Copies it to `to`.
    ///
    /// # Safety
    /// There is room for all of it, which nobody else looks at.
    pub unsafe fn copy_to(&self, py: Python<'_>, to: *mut u8) -> PyResult<()> {
        let (len, target) = (self.len, to as usize);
        let copied = self.at(py, |from| {
            let from = from as usize;
            // SAFETY: `at` says that its bytes are there, and the caller that the target is. An array that another thread
            // changes meanwhile gives bytes of both versions, as it would to any reader; to resize one with
            // `refcheck=False` while others use it is undefined in numpy as well.
            let run = || unsafe { copy(from as *const u8, target as *mut u8, len) };
            if len >= LET_OTHERS_RUN { py.detach(run) } else { run() }
        })?;
        if copied.is_some() {
            return Ok(());
        }
        let Kind::OtherArray(dtype) = &self.kind else { return Err(PyTypeError::new_err("not an array any more")) };
        // SAFETY: as the caller says; the function does not keep the view.
        let view = unsafe {
            let view = ffi::PyMemoryView_FromMemory(to.cast(), len as ffi::Py_ssize_t, ffi::PyBUF_WRITE);
            Bound::from_owned_ptr_or_err(py, view)?
        };
        arrays(py, &COPY_INTO, "copy_into")?.call1((&self.source, dtype, view)).map(drop)
    }

    /// Appends its bytes. They are not many.
    pub fn append(&self, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<()> {
        let start = out.len();
        out.resize(start + self.len, 0);
        // SAFETY: there is room for it.
        unsafe { self.copy_to(py, out[start..].as_mut_ptr()) }
    }

    /// The bytes as a memoryview, without a copy where that can be.
    pub fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let source = self.source.bind(py);
        match &self.kind {
            Kind::Text => {
                let bytes = self.at(py, |at| {
                    // SAFETY: as many bytes are there.
                    new_bytes(py, unsafe { std::slice::from_raw_parts(at, self.len) })
                })?;
                Ok(PyMemoryView::from(bytes.expect("a text has an address")?.as_any())?.into_any())
            }
            Kind::Bytes => PyMemoryView::from(source)?.call_method1("cast", ("B",)),
            Kind::Array(_) => arrays(py, &FLAT, "flat")?.call1((source, py.None())),
            Kind::OtherArray(dtype) => arrays(py, &FLAT, "flat")?.call1((source, dtype)),
        }
    }
}

/// An export of an object's bytes, whatever its element type.
struct RawBuffer(Box<ffi::Py_buffer>);

impl RawBuffer {
    fn of(source: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        const FLAGS: c_int = ffi::PyBUF_SIMPLE;
        // SAFETY: `view` is released when this is dropped.
        if unsafe { ffi::PyObject_GetBuffer(source.as_ptr(), &raw mut *view, FLAGS) } == 0 {
            Ok(Self(view))
        } else {
            Err(PyErr::fetch(source.py()))
        }
    }
}

impl Drop for RawBuffer {
    fn drop(&mut self) {
        // SAFETY: filled in by `of`, with the interpreter's lock held as it is now.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.0) };
    }
}

/// The buffers of one value, on their way through Python.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Buffers(Mutex<Vec<Buffer>>);

impl Buffers {
    pub fn new(buffers: Vec<Buffer>) -> Self {
        Self(Mutex::new(buffers))
    }

    /// All of them; none are left.
    pub fn take(&self) -> Vec<Buffer> {
        std::mem::take(&mut *locked(&self.0))
    }
}

#[pymethods]
impl Buffers {
    /// The buffers of objects that show bytes.
    #[new]
    fn of(sources: Vec<Bound<'_, PyAny>>) -> PyResult<Self> {
        let known = |source: &Bound<'_, PyAny>| {
            source.is_exact_instance_of::<PyBytes>()
                || source.is_exact_instance_of::<PyByteArray>()
                || source.is_exact_instance_of::<PyMemoryView>()
        };
        match sources.iter().find(|source| !known(source)) {
            Some(_) => Err(PyTypeError::new_err("a buffer is of bytes, a bytearray or a memoryview")),
            None => Ok(Self::new(sources.iter().map(Buffer::bytes).collect::<PyResult<_>>()?)),
        }
    }

    fn __len__(&self) -> usize {
        locked(&self.0).len()
    }

    /// The bytes of each, as memoryviews.
    fn views<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let buffers = self.take();
        let views = buffers.iter().map(|buffer| buffer.view(py)).collect();
        *locked(&self.0) = buffers;
        views
    }

    /// Where the bytes of each lie, if they may lie in the arena; else 0.
    fn addresses(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        let buffers = self.take();
        let addresses = buffers.iter().map(|buffer| buffer.address(py)).collect();
        *locked(&self.0) = buffers;
        addresses
    }
}
