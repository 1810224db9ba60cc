//! A tool's signature as a call looks at it: which arguments it has, and which types of them pass at once.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyString, PyTuple, PyType};

/// Bits for the types that most arguments have.
mod bit {
    pub const INT: u8 = 1;
    pub const FLOAT: u8 = 2;
    pub const BOOL: u8 = 4;
    pub const NONE: u8 = 8;
    pub const STR: u8 = 16;
    pub const BYTES: u8 = 32;
}

struct Parameter {
    name: Py<PyString>,
    text: Box<str>,
    /// Types whose values the function gets as they arrived ([`bit`]).
    simple: u8,
    /// Types that pass the check; `None`: all.
    kinds: Option<Py<PyFrozenSet>>,
}

/// How an argument's type stands to its parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is given to the function as it arrived.
    Simple,
    /// It passes; bytes inside of it may have to be adapted.
    Passes,
    /// The tool's own check has to look at it.
    Unknown,
}

/// A tool that takes named arguments, and converts none.
pub struct Tool {
    /// `snakepit.tools.signature.Tool`
    pub tool: Py<PyAny>,
    pub call: Py<PyAny>,
    pub writable: bool,
    parameters: Vec<Parameter>,
    /// The parameters in the order in which the arguments of an earlier call came, and their names as a tuple.
    order: Vec<u16>,
    names: Py<PyTuple>,
}

impl Tool {
    /// `None` for a tool whose calls need a closer look: one that converts, or takes arguments of any name.
    pub fn new(tool: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = tool.py();
        let complete: i64 = tool.getattr("complete")?.extract()?;
        let simple = tool.getattr("simple")?.cast_into::<PyDict>()?;
        let kinds = tool.getattr("kinds")?.cast_into::<PyDict>()?;
        if usize::try_from(complete) != Ok(simple.len()) || simple.len() > usize::from(u16::MAX) {
            return Ok(None);
        }
        let mut parameters = Vec::with_capacity(simple.len());
        for (name, passing) in simple.iter() {
            let name = name.cast_into::<PyString>()?;
            let text = name.to_str()?.into();
            let kinds = kinds.get_item(&name)?.filter(|kinds| !kinds.is_none());
            parameters.push(Parameter {
                text,
                simple: bits(&passing)?,
                kinds: kinds.map(|kinds| kinds.cast_into::<PyFrozenSet>().map(Bound::unbind)).transpose()?,
                name: name.unbind(),
            });
        }
        let order: Vec<u16> = (0..parameters.len() as u16).collect();
        Ok(Some(Self {
            names: names(py, &parameters, &order)?,
            order,
            parameters,
            call: tool.getattr("call")?.unbind(),
            writable: tool.getattr("writable")?.is_truthy()?,
            tool: tool.clone().unbind(),
        }))
    }

    pub fn len(&self) -> usize {
        self.parameters.len()
    }

    /// The parameter of this name, for the argument that comes at `at`: most calls give them in the same order.
    pub fn parameter(&self, at: usize, name: &str) -> Option<u16> {
        let usual = self.order[at];
        if *self.parameters[usize::from(usual)].text == *name {
            return Some(usual);
        }
        self.parameters.iter().position(|p| *p.text == *name).map(|at| at as u16)
    }

    pub fn name<'py>(&self, py: Python<'py>, parameter: u16) -> &Bound<'py, PyString> {
        self.parameters[usize::from(parameter)].name.bind(py)
    }

    /// The names of the arguments in this order, as a call of the function takes them.
    pub fn names(&mut self, py: Python<'_>, order: &[u16]) -> PyResult<Py<PyTuple>> {
        if order != self.order {
            self.names = names(py, &self.parameters, order)?;
            self.order = order.to_vec();
        }
        Ok(self.names.clone_ref(py))
    }

    pub fn fit(&self, parameter: u16, value: &Bound<'_, PyAny>) -> PyResult<Fit> {
        let parameter = &self.parameters[usize::from(parameter)];
        let kind = value.get_type();
        if parameter.simple & bit_of(&kind) != 0 {
            return Ok(Fit::Simple);
        }
        match &parameter.kinds {
            Some(kinds) if !kinds.bind(value.py()).contains(kind)? => Ok(Fit::Unknown),
            _ => Ok(Fit::Passes),
        }
    }
}

fn names(py: Python<'_>, parameters: &[Parameter], order: &[u16]) -> PyResult<Py<PyTuple>> {
    let names = order.iter().map(|at| parameters[usize::from(*at)].name.bind(py).clone());
    Ok(PyTuple::new(py, names.collect::<Vec<_>>())?.unbind())
}

fn bits(types: &Bound<'_, PyAny>) -> PyResult<u8> {
    let mut bits = 0;
    for kind in types.try_iter()? {
        bits |= bit_of(kind?.cast::<PyType>()?);
    }
    Ok(bits)
}

fn bit_of(kind: &Bound<'_, PyType>) -> u8 {
    let py = kind.py();
    if kind.is(py.get_type::<PyInt>()) {
        bit::INT
    } else if kind.is(py.get_type::<PyFloat>()) {
        bit::FLOAT
    } else if kind.is(py.get_type::<PyString>()) {
        bit::STR
    } else if kind.is(py.get_type::<PyBool>()) {
        bit::BOOL
    } else if kind.is(py.get_type::<PyBytes>()) {
        bit::BYTES
    } else if is_none_type(kind) {
        bit::NONE
    } else {
        0
    }
}

fn is_none_type(kind: &Bound<'_, PyType>) -> bool {
    // SAFETY: `None` lives as long as the interpreter, and so does its type.
    unsafe { kind.as_ptr().cast() == ffi::Py_TYPE(ffi::Py_None()) }
}
