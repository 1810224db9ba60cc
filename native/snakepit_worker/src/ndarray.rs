//! numpy's arrays, by the fields that every array has. numpy is never imported from here.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use std::ffi::{c_char, c_int};

/// `PyArrayObject_fields` of numpy's C API, the same from numpy 1.7 on.
#[repr(C)]
struct Fields {
    object: ffi::PyObject,
    data: *mut c_char,
    nd: c_int,
    dimensions: *mut ffi::Py_ssize_t,
    strides: *mut ffi::Py_ssize_t,
    base: *mut ffi::PyObject,
    descr: *mut ffi::PyObject,
    flags: c_int,
}

const C_CONTIGUOUS: c_int = 1;
const OWNS_DATA: c_int = 4;
const WRITEABLE: c_int = 0x400;

static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// `numpy.ndarray`, if numpy was imported.
fn class(py: Python<'_>) -> Option<&Bound<'_, PyType>> {
    if let Some(class) = CLASS.get(py) {
        return Some(class.bind(py));
    }
    let modules = py.import("sys").and_then(|sys| sys.getattr("modules")).ok()?;
    let numpy = modules.cast::<PyDict>().ok()?.get_item("numpy").ok()??;
    // A numpy that is being imported has no class yet.
    let class = numpy.getattr("ndarray").ok()?.cast_into::<PyType>().ok()?;
    // A module of that name may be somebody else's. A class that is written in Python has no such fields.
    // SAFETY: a class.
    let (flags, size) = unsafe {
        let class = class.as_type_ptr();
        (ffi::PyType_GetFlags(class), (*class).tp_basicsize)
    };
    if flags & ffi::Py_TPFLAGS_HEAPTYPE != 0 || size < size_of::<Fields>() as ffi::Py_ssize_t {
        return None;
    }
    let class = class.unbind();
    Some(CLASS.get_or_init(py, || class).bind(py))
}

/// An array of numpy's own class.
#[derive(Clone, Copy)]
pub struct Array<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> Array<'a, 'py> {
    /// `None`: it is of another class, which may be more than its numbers.
    pub fn of(value: &'a Bound<'py, PyAny>) -> Option<Self> {
        value.get_type().is(class(value.py())?).then_some(Self(value))
    }

    fn fields(self) -> *const Fields {
        self.0.as_ptr().cast()
    }

    // SAFETY (all of the following): an instance of `numpy.ndarray` begins with these fields, and the interpreter's lock
    // is held, so that nobody changes them meanwhile.

    pub fn data(self) -> *const u8 {
        // SAFETY: see above.
        unsafe { (*self.fields()).data.cast_const().cast() }
    }

    pub fn shape(self) -> Vec<u64> {
        // SAFETY: see above; `dimensions` has `nd` sizes, none of them negative.
        unsafe {
            let fields = self.fields();
            (0..(*fields).nd as usize).map(|at| *(*fields).dimensions.add(at) as u64).collect()
        }
    }

    /// How many elements it has.
    pub fn len(self) -> u64 {
        self.shape().iter().fold(1, |n, size| n.saturating_mul(*size))
    }

    /// The element type.
    pub fn dtype(self) -> Bound<'py, PyAny> {
        // SAFETY: see above; it is never NULL.
        unsafe { Bound::from_borrowed_ptr(self.0.py(), (*self.fields()).descr) }
    }

    pub fn is_contiguous(self) -> bool {
        // SAFETY: see above.
        unsafe { (*self.fields()).flags & C_CONTIGUOUS != 0 }
    }

    pub fn is_writeable(self) -> bool {
        // SAFETY: see above.
        unsafe { (*self.fields()).flags & WRITEABLE != 0 }
    }

    /// The object that its memory belongs to, if that is not its own.
    pub fn base(self) -> *mut ffi::PyObject {
        // SAFETY: see above.
        unsafe { (*self.fields()).base }
    }

    pub fn owns_data(self) -> bool {
        // SAFETY: see above.
        unsafe { (*self.fields()).flags & OWNS_DATA != 0 }
    }
}
