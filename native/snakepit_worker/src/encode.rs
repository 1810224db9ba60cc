//! A result of Python's to an envelope, and the buffers that travel beside it.

use crate::decode::new_bytes;
use crate::memory::buffers::{Buffer, Buffers};
use crate::ndarray::Array;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDate, PyDateAccess, PyDateTime, PyDict, PyFloat, PyFrozenSet, PyInt, PyList,
    PyMemoryView, PySet, PyString, PyTime, PyTimeAccess, PyTuple, PyTzInfoAccess,
};
use snakepit_core::frame::MAX_BUFFERS;
use snakepit_core::locks::locked;
use snakepit_core::writer::{Writer, ext};
use snakepit_core::{MAX_DEPTH, MAX_VALUES};
use std::sync::Mutex;

/// So many element types of arrays are remembered.
const DTYPES: usize = 64;

/// An element type of arrays that went before. The reference keeps its address from being another's.
struct Dtype {
    dtype: Py<PyAny>,
    name: Box<str>,
    size: usize,
    /// The dtype that it travels as, if its bytes are not that already.
    travels_as: Option<Py<PyAny>>,
}

/// Encodes values; belongs to one lane.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Encoder {
    /// Bytes and strings from here on, and arrays with as many, travel beside the envelope.
    limit: usize,
    /// `value -> (code, parts)`, `(array,)` for what offers itself as one, or a plain value, for what is not known here.
    convert: Py<PyAny>,
    /// `array -> (name, dtype)`: the protocol's name for its element type, and the dtype that it travels as.
    wire_dtype: Py<PyAny>,
    /// Raised for what cannot cross; where and why is found out by a second look.
    suspect: Py<PyAny>,
    dtypes: Mutex<Vec<Dtype>>,
}

#[pymethods]
impl Encoder {
    #[new]
    fn new(limit: usize, convert: Py<PyAny>, wire_dtype: Py<PyAny>, suspect: Py<PyAny>) -> Self {
        Self { limit, convert, wire_dtype, suspect, dtypes: Mutex::default() }
    }

    /// The envelope, and the buffers beside it (`None`: none).
    fn encode<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, Option<Buffers>)> {
        let py = value.py();
        let mut out = Vec::with_capacity(64);
        let buffers = self.append(value, &mut out)?;
        Ok((new_bytes(py, &out)?, (!buffers.is_empty()).then(|| Buffers::new(buffers))))
    }

    /// How many element types of arrays are remembered.
    fn remembered(&self) -> usize {
        locked(&self.dtypes).len()
    }
}

impl Encoder {
    /// Appends the envelope to `out`; the buffers beside it. After an error, `out` has a part of it.
    pub fn append<'py>(&self, value: &Bound<'py, PyAny>, out: &mut Vec<u8>) -> PyResult<Vec<Buffer>> {
        let writer = Writer::from(std::mem::take(out));
        let mut run = Run { encoder: self, out: writer, buffers: Vec::new(), values: 0, limit: self.limit };
        let done = run.value(value, 1);
        *out = run.out.into();
        done.map(|()| run.buffers)
    }

    /// The element type of an array, as it travels: calls `write` with its name and size, and what it travels as if that
    /// is another.
    fn dtype<'py, T>(
        &self,
        value: &Bound<'py, PyAny>,
        array: Array<'_, 'py>,
        write: impl FnOnce(&str, usize, Option<&Bound<'py, PyAny>>) -> PyResult<T>,
    ) -> PyResult<T> {
        let (py, dtype) = (value.py(), array.dtype());
        let known = locked(&self.dtypes).iter().find(|known| known.dtype.is(&dtype)).map(|known| {
            let travels_as = known.travels_as.as_ref().map(|dtype| dtype.clone_ref(py));
            (known.name.clone(), known.size, travels_as)
        });
        if let Some((name, size, travels_as)) = known {
            return write(&name, size, travels_as.as_ref().map(|dtype| dtype.bind(py)));
        }
        let (name, wire): (String, Bound<'py, PyAny>) = self.wire_dtype.bind(py).call1((value,))?.extract()?;
        let size = dtype.getattr("itemsize")?.extract()?;
        let native: bool = dtype.getattr("isnative")?.extract()?;
        let travels_as = (!native || cfg!(target_endian = "big")).then(|| wire.unbind());
        let done = write(&name, size, travels_as.as_ref().map(|dtype| dtype.bind(py)));
        let known = Dtype { dtype: dtype.unbind(), name: name.into(), size, travels_as };
        let mut dtypes = locked(&self.dtypes);
        let forgotten = if dtypes.len() >= DTYPES { std::mem::take(&mut *dtypes) } else { Vec::new() };
        dtypes.push(known);
        drop(dtypes);
        drop(forgotten);
        done
    }
}

/// One value on its way.
struct Run<'a> {
    encoder: &'a Encoder,
    out: Writer,
    buffers: Vec<Buffer>,
    values: u32,
    /// The encoder's, or none inside of an extension whose parts stay in it.
    limit: usize,
}

impl<'py> Run<'_> {
    fn suspect(&self, py: Python<'py>, words: &'static str) -> PyErr {
        match self.encoder.suspect.bind(py).call1((words,)) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }

    fn count(&mut self, py: Python<'py>, more: usize) -> PyResult<()> {
        match u32::try_from(more).ok().and_then(|more| self.values.checked_add(more)) {
            Some(values) if values <= MAX_VALUES => {
                self.values = values;
                Ok(())
            }
            _ => Err(self.suspect(py, "too_many_values")),
        }
    }

    fn enter(&self, py: Python<'py>, depth: u32) -> PyResult<()> {
        if depth > MAX_DEPTH { Err(self.suspect(py, "too_deep")) } else { Ok(()) }
    }

    /// A value that would be a container of this depth. The order is that of how common they are.
    fn value(&mut self, value: &Bound<'py, PyAny>, depth: u32) -> PyResult<()> {
        let py = value.py();
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.text(text)
        } else if let Ok(float) = value.cast_exact::<PyFloat>() {
            self.out.float(float.value());
            Ok(())
        } else if let Ok(int) = value.cast_exact::<PyInt>() {
            self.int(int)
        } else if let Ok(dict) = value.cast_exact::<PyDict>() {
            self.dict(dict, depth)
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            self.list(list, depth)
        } else if value.is_none() {
            self.out.nil();
            Ok(())
        } else if let Ok(b) = value.cast_exact::<PyBool>() {
            self.out.bool(b.is_true());
            Ok(())
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            self.extension(py, ext::TUPLE, |run| {
                run.enter(py, depth + 1)?;
                run.array(py, tuple.len())?;
                tuple.iter_borrowed().try_for_each(|item| run.value(&item, depth + 2))
            })
        } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            let raw = bytes.as_bytes();
            if raw.len() >= self.limit {
                return self.push(py, ext::BYTES, Buffer::bytes(value)?);
            }
            self.out.bin(raw);
            Ok(())
        } else {
            self.rarer(value, depth)
        }
    }

    fn text(&mut self, text: &Bound<'py, PyString>) -> PyResult<()> {
        let s = text.to_str()?;
        if s.len() >= self.limit && text.len()? >= self.limit {
            return self.push(text.py(), ext::STR, Buffer::text(text, s.len()));
        }
        self.out.str(s);
        Ok(())
    }

    fn int(&mut self, int: &Bound<'py, PyInt>) -> PyResult<()> {
        let mut overflow = 0;
        // SAFETY: `int` is an int, so that this fails by `overflow` alone.
        let n = unsafe { ffi::PyLong_AsLongLongAndOverflow(int.as_ptr(), &mut overflow) };
        if overflow == 0 {
            self.out.int(n);
        } else if let (1, Ok(n)) = (overflow, int.extract::<u64>()) {
            self.out.uint(n);
        } else {
            let magnitude = int.abs()?;
            let bits: usize = magnitude.call_method0("bit_length")?.extract()?;
            let bytes = magnitude.call_method1("to_bytes", (bits.div_ceil(8), "little"))?;
            self.out.big_int(overflow < 0, bytes.cast::<PyBytes>()?.as_bytes());
        }
        Ok(())
    }

    fn array(&mut self, py: Python<'py>, n: usize) -> PyResult<()> {
        self.count(py, n)?;
        // `count` bounds it.
        self.out.array(n as u32);
        Ok(())
    }

    fn list(&mut self, list: &Bound<'py, PyList>, depth: u32) -> PyResult<()> {
        let py = list.py();
        self.enter(py, depth)?;
        let n = list.len();
        self.array(py, n)?;
        for i in 0..n {
            // A conversion of Python's may change the list.
            let item = list.get_item(i).map_err(|_| self.suspect(py, "changed"))?;
            self.value(&item, depth + 1)?;
        }
        if list.len() == n { Ok(()) } else { Err(self.suspect(py, "changed")) }
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>, depth: u32) -> PyResult<()> {
        let py = dict.py();
        self.enter(py, depth)?;
        let n = dict.len();
        self.count(py, 2 * n)?;
        self.out.map(n as u32);
        let (mut at, mut done) = (0, 0);
        while let Some((key, item)) = next_pair(dict, &mut at) {
            self.key(&key)?;
            self.value(&item, depth + 1)?;
            done += 1;
            if dict.len() != n || done > n {
                return Err(self.suspect(py, "changed"));
            }
        }
        if done == n { Ok(()) } else { Err(self.suspect(py, "changed")) }
    }

    fn key(&mut self, key: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast_exact::<PyString>() {
            self.out.str(text.to_str()?);
            return Ok(());
        }
        if let Ok(int) = key.cast_exact::<PyInt>() {
            if let Ok(n) = int.extract::<i64>() {
                self.out.int(n);
                return Ok(());
            }
            if let Ok(n) = int.extract::<u64>() {
                self.out.uint(n);
                return Ok(());
            }
        }
        Err(self.suspect(key.py(), "key"))
    }

    fn extension(&mut self, py: Python<'py>, code: i8, inner: impl FnOnce(&mut Self) -> PyResult<()>) -> PyResult<()> {
        let open = self.out.open_ext(code);
        inner(self)?;
        if self.out.close_ext(open) { Ok(()) } else { Err(self.suspect(py, "too_large")) }
    }

    /// With nothing beside the envelope.
    fn whole(&mut self, inner: impl FnOnce(&mut Self) -> PyResult<()>) -> PyResult<()> {
        let limit = std::mem::replace(&mut self.limit, usize::MAX);
        let done = inner(self);
        self.limit = limit;
        done
    }

    /// A buffer beside the envelope.
    fn push(&mut self, py: Python<'py>, code: i8, buffer: Buffer) -> PyResult<()> {
        let index = self.buffers.len();
        if index >= MAX_BUFFERS {
            return Err(self.suspect(py, "too_many_buffers"));
        }
        self.buffers.push(buffer);
        self.out.buffer(code, index as u32);
        Ok(())
    }

    fn rarer(&mut self, value: &Bound<'py, PyAny>, depth: u32) -> PyResult<()> {
        let py = value.py();
        if value.is_exact_instance_of::<PySet>() || value.is_exact_instance_of::<PyFrozenSet>() {
            return self.extension(py, ext::SET, |run| {
                run.enter(py, depth + 1)?;
                let n = value.len()?;
                run.array(py, n)?;
                let mut done = 0;
                for item in value.try_iter()? {
                    run.value(&item?, depth + 2)?;
                    done += 1;
                }
                if done == n { Ok(()) } else { Err(run.suspect(py, "changed")) }
            });
        }
        if let Ok(bytes) = value.cast_exact::<PyByteArray>() {
            if bytes.len() >= self.limit {
                return self.push(py, ext::BYTES, Buffer::bytes(value)?);
            }
            self.out.bin(&bytes.to_vec());
            return Ok(());
        }
        if value.is_exact_instance_of::<PyMemoryView>() {
            return self.view(value);
        }
        if value.is_instance_of::<PyDict>() {
            let plain = py.get_type::<PyDict>().call1((value,))?;
            return self.dict(plain.cast::<PyDict>()?, depth);
        }
        if depth + 2 > MAX_DEPTH {
            return Err(self.suspect(py, "too_deep"));
        }
        if let Some(array) = Array::of(value) {
            return self.tensor(value, array);
        }
        if self.calendar(value)? {
            return Ok(());
        }
        let made = self.encoder.convert.bind(py).call1((value,))?;
        if let Ok(parts) = made.cast_exact::<PyTuple>() {
            return match parts.len() {
                2 => {
                    let code: i8 = parts.get_item(0)?.extract()?;
                    let parts = parts.get_item(1)?;
                    self.extension(py, code, |run| run.whole(|run| run.value(&parts, depth + 1)))
                }
                1 => {
                    let array = parts.get_item(0)?;
                    match Array::of(&array) {
                        Some(fields) => self.tensor(&array, fields),
                        None => Err(PyValueError::new_err("a conversion gave no array")),
                    }
                }
                _ => Err(PyValueError::new_err("a conversion gave neither one nor two parts")),
            };
        }
        self.plain(&made, depth)
    }

    /// Encodes the plain value that a conversion gave for one that equals it.
    fn plain(&mut self, made: &Bound<'py, PyAny>, depth: u32) -> PyResult<()> {
        let known = made.is_exact_instance_of::<PyString>()
            || made.is_exact_instance_of::<PyFloat>()
            || made.is_exact_instance_of::<PyInt>()
            || made.is_exact_instance_of::<PyBool>()
            || made.is_exact_instance_of::<PyBytes>()
            || made.is_exact_instance_of::<PyByteArray>();
        if known { self.value(made, depth) } else { Err(self.suspect(made.py(), "converted")) }
    }

    fn view(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = value.py();
        let contiguous: bool = value.getattr("c_contiguous")?.extract()?;
        let size: usize = value.getattr("nbytes")?.extract()?;
        if contiguous && size >= self.limit {
            return self.push(py, ext::BYTES, Buffer::bytes(value)?);
        }
        let bytes = value.call_method0("tobytes")?;
        if size >= self.limit {
            return self.push(py, ext::BYTES, Buffer::bytes(&bytes)?);
        }
        self.out.bin(bytes.cast::<PyBytes>()?.as_bytes());
        Ok(())
    }

    /// `[dtype, shape, data]`.
    fn tensor(&mut self, value: &Bound<'py, PyAny>, array: Array<'_, 'py>) -> PyResult<()> {
        let (py, encoder) = (value.py(), self.encoder);
        let shape = array.shape();
        encoder.dtype(value, array, |name, size, travels_as| {
            let elements = array.len();
            let size = (elements as usize).saturating_mul(size);
            let buffer = Buffer::array(value, elements, size, travels_as);
            self.extension(py, ext::TENSOR, |run| {
                run.array(py, 3)?;
                run.out.str(name);
                run.array(py, shape.len())?;
                shape.iter().for_each(|size| run.out.uint(*size));
                if size >= run.limit {
                    return run.push(py, ext::BYTES, buffer);
                }
                let mut bytes = Vec::with_capacity(size);
                buffer.append(py, &mut bytes)?;
                run.out.bin(&bytes);
                Ok(())
            })
        })
    }

    /// Dates, times and datetimes without a zone. False: the value is none of them.
    fn calendar(&mut self, value: &Bound<'py, PyAny>) -> PyResult<bool> {
        let py = value.py();
        if let Ok(at) = value.cast_exact::<PyDateTime>() {
            if at.get_tzinfo().is_some() {
                return Ok(false);
            }
            self.integers(
                py,
                ext::NAIVE_DATETIME,
                &[
                    at.get_year().into(),
                    at.get_month().into(),
                    at.get_day().into(),
                    at.get_hour().into(),
                    at.get_minute().into(),
                    at.get_second().into(),
                    at.get_microsecond().into(),
                ],
            )?;
        } else if let Ok(day) = value.cast_exact::<PyDate>() {
            self.integers(py, ext::DATE, &[day.get_year().into(), day.get_month().into(), day.get_day().into()])?;
        } else if let Ok(time) = value.cast_exact::<PyTime>() {
            if time.get_tzinfo().is_some() {
                return Ok(false);
            }
            let (h, m, s) = (time.get_hour().into(), time.get_minute().into(), time.get_second().into());
            self.integers(py, ext::TIME, &[h, m, s, time.get_microsecond().into()])?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn integers(&mut self, py: Python<'py>, code: i8, parts: &[i64]) -> PyResult<()> {
        self.extension(py, code, |run| {
            run.array(py, parts.len())?;
            parts.iter().for_each(|part| run.out.int(*part));
            Ok(())
        })
    }
}

/// The next pair of a dict. One that changes meanwhile gives other pairs or fewer, and never what is not there.
pub fn next_pair<'py>(
    dict: &Bound<'py, PyDict>,
    at: &mut ffi::Py_ssize_t,
) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let (mut key, mut item) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: `PyDict_Next` lends its references. They are made strong before anything else touches the dict: where
    // there is an interpreter's lock, no Python runs in between, and elsewhere the dict's own lock is held.
    with_critical_section(dict, || unsafe {
        (ffi::PyDict_Next(dict.as_ptr(), at, &mut key, &mut item) != 0)
            .then(|| (Bound::from_borrowed_ptr(dict.py(), key), Bound::from_borrowed_ptr(dict.py(), item)))
    })
}
