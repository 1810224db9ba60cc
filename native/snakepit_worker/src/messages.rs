//! MessagePack of plain values: messages on the control socket, log records, errors.
//!
//! Unlike an envelope ([`crate::encode`], [`crate::decode`]) a message has no extensions and nothing beside it, and a
//! tuple is an array.

use crate::decode::{new_bytes, string};
use crate::encode::next_pair;
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use snakepit_core::reader::{BadValue, Budget, Reader, Token};
use snakepit_core::writer::Writer;
use snakepit_core::{MAX_DEPTH, MAX_VALUES};

/// The most bytes that the head of a value takes, or a value without bytes of its own.
const HEAD: usize = 9;

/// The MessagePack of a value. Raises `TypeError` for what no message can have, and `ValueError` for what does not fit.
#[pyfunction]
pub fn pack<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let mut message = Packed { out: Writer::with_capacity(64), values: 0 };
    message.value(value, 1)?;
    new_bytes(value.py(), message.out.as_slice())
}

/// The value of a message. Raises `ValueError` for everything else.
#[pyfunction]
pub fn unpack<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let budget = Budget::default();
    let mut reader = Reader::new(data, &budget);
    let value = unpacked(py, &mut reader)?;
    reader.finish().map_err(malformed)?;
    Ok(value)
}

struct Packed {
    out: Writer,
    values: usize,
}

impl<'py> Packed {
    /// A value that would be a container of this depth.
    fn value(&mut self, value: &Bound<'py, PyAny>, depth: u32) -> PyResult<()> {
        if let Ok(text) = value.cast::<PyString>() {
            return self.text(text);
        }
        self.reserve(0)?;
        if value.is_none() {
            self.out.nil();
        } else if let Ok(b) = value.cast_exact::<PyBool>() {
            self.out.bool(b.is_true());
        } else if let Ok(int) = value.cast::<PyInt>() {
            self.int(int)?;
        } else if let Ok(float) = value.cast::<PyFloat>() {
            self.out.float(float.value());
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            let raw = bytes.as_bytes();
            fits(raw.len(), "bytes")?;
            self.reserve(raw.len())?;
            self.out.bin(raw);
        } else if let Ok(dict) = value.cast_exact::<PyDict>() {
            self.dict(dict, depth)?;
        } else if let Ok(list) = value.cast::<PyList>() {
            self.list(list, depth)?;
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            enter(depth)?;
            let n = self.count(tuple.len(), 1)?;
            self.out.array(n);
            tuple.iter_borrowed().try_for_each(|item| self.value(&item, depth + 1))?;
        } else if value.is_instance_of::<PyDict>() {
            // Its order, and what it has for a key, may be its own.
            let plain = value.py().get_type::<PyDict>().call1((value,))?;
            self.dict(plain.cast::<PyDict>()?, depth)?;
        } else {
            return Err(PyTypeError::new_err(format!("a message cannot have a value of type {}", type_name(value)?)));
        }
        Ok(())
    }

    /// Makes room for a value with so many bytes of its own: Rust ends the process where it finds no memory.
    fn reserve(&mut self, bytes: usize) -> PyResult<()> {
        if self.out.try_reserve(HEAD + bytes) { Ok(()) } else { Err(PyMemoryError::new_err(())) }
    }

    fn text(&mut self, text: &Bound<'py, PyString>) -> PyResult<()> {
        // Raises for a lone surrogate.
        let s = text.to_str()?;
        fits(s.len(), "a str")?;
        self.reserve(s.len())?;
        self.out.str(s);
        Ok(())
    }

    fn int(&mut self, int: &Bound<'py, PyInt>) -> PyResult<()> {
        let mut overflow = 0;
        // SAFETY: `int` is an int, so that this fails by `overflow` alone.
        let n = unsafe { ffi::PyLong_AsLongLongAndOverflow(int.as_ptr(), &mut overflow) };
        if overflow == 0 {
            self.out.int(n);
            return Ok(());
        }
        match (overflow, int.extract::<u64>()) {
            (1, Ok(n)) => self.out.uint(n),
            _ => return Err(PyValueError::new_err("a message cannot have an int of more than 64 bits")),
        }
        Ok(())
    }

    fn count(&mut self, n: usize, each: usize) -> PyResult<u32> {
        self.values = self.values.saturating_add(n.saturating_mul(each));
        match u32::try_from(n) {
            Ok(n) if self.values <= MAX_VALUES as usize => Ok(n),
            _ => Err(PyValueError::new_err("a message has more than 2^26 values")),
        }
    }

    fn list(&mut self, list: &Bound<'py, PyList>, depth: u32) -> PyResult<()> {
        enter(depth)?;
        let n = list.len();
        let head = self.count(n, 1)?;
        self.out.array(head);
        for i in 0..n {
            // Python may run on the way, and change the list.
            let item = list.get_item(i).map_err(|_| changed("list"))?;
            self.value(&item, depth + 1)?;
        }
        if list.len() == n { Ok(()) } else { Err(changed("list")) }
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>, depth: u32) -> PyResult<()> {
        enter(depth)?;
        let n = dict.len();
        let head = self.count(n, 2)?;
        self.out.map(head);
        let (mut at, mut done) = (0, 0);
        while let Some((key, item)) = next_pair(dict, &mut at) {
            self.key(&key)?;
            self.value(&item, depth + 1)?;
            done += 1;
            if dict.len() != n || done > n {
                return Err(changed("dict"));
            }
        }
        if done == n { Ok(()) } else { Err(changed("dict")) }
    }

    fn key(&mut self, key: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast::<PyString>() {
            return self.text(text);
        }
        match key.cast::<PyInt>() {
            Ok(int) if !key.is_instance_of::<PyBool>() => {
                self.reserve(0)?;
                self.int(int)
            }
            _ => Err(PyTypeError::new_err(format!(
                "keys in a message must be str or int, this one is of type {}",
                type_name(key)?
            ))),
        }
    }
}

fn type_name(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(value.get_type().fully_qualified_name()?.to_string())
}

fn enter(depth: u32) -> PyResult<()> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("values in a message are nested deeper than {MAX_DEPTH}")))
}

fn fits(bytes: usize, what: &str) -> PyResult<()> {
    if u32::try_from(bytes).is_ok() {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("a message cannot have {what} of {bytes} bytes")))
}

fn changed(what: &str) -> PyErr {
    PyValueError::new_err(format!("a {what} changed while it was read"))
}

fn malformed(bad: BadValue) -> PyErr {
    PyValueError::new_err(bad.0)
}

fn unpacked<'py>(py: Python<'py>, r: &mut Reader) -> PyResult<Bound<'py, PyAny>> {
    match r.next().map_err(malformed)? {
        Token::Nil => Ok(py.None().into_bound(py)),
        Token::Bool(b) => Ok(PyBool::new(py, b).to_owned().into_any()),
        Token::Int(n) => int(py, n),
        Token::Uint(n) => uint(py, n),
        // SAFETY: a new reference, or NULL with an exception set.
        Token::Float(x) => unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyFloat_FromDouble(x)) },
        Token::Str(s) => string(py, s),
        Token::Bin(b) => Ok(new_bytes(py, b)?.into_any()),
        Token::Array(n) => {
            r.enter().map_err(malformed)?;
            // SAFETY: likewise. The list grows by what is there, not by what its head says.
            let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(0))? }.cast_into::<PyList>()?;
            for _ in 0..n {
                list.append(unpacked(py, r)?)?;
            }
            r.leave();
            Ok(list.into_any())
        }
        Token::Map(n) => {
            r.enter().map_err(malformed)?;
            // SAFETY: likewise.
            let dict = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDict_New())? }.cast_into::<PyDict>()?;
            for _ in 0..n {
                let key = match r.next().map_err(malformed)? {
                    Token::Str(s) => string(py, s)?,
                    Token::Int(n) => int(py, n)?,
                    Token::Uint(n) => uint(py, n)?,
                    _ => return Err(PyValueError::new_err("keys in a message must be str or int")),
                };
                dict.set_item(key, unpacked(py, r)?)?;
            }
            r.leave();
            Ok(dict.into_any())
        }
        Token::Ext(code, _) => {
            Err(PyValueError::new_err(format!("a message cannot have an extension, this one has {code}")))
        }
    }
}

fn int(py: Python<'_>, n: i64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: a new reference, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(n)) }
}

fn uint(py: Python<'_>, n: u64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: likewise.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromUnsignedLongLong(n)) }
}
