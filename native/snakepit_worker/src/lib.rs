//! The worker's side of a call, as an extension of CPython: envelopes become Python's objects and the other way round.
//!
//! The format is that of `native/PROTOCOL.md`, *Envelope*; `snakepit_core` reads and writes its bytes. Values that
//! are rare, or need a library of Python's (arrays, zones, decimals), are made by functions of the Python package,
//! which hands them over when it makes a [`decode::Decoder`] or an [`encode::Encoder`].

mod decode;
mod encode;
mod lane;
mod quick;
mod tool;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::decode::Decoder;
    #[pymodule_export]
    use crate::encode::Encoder;
    #[pymodule_export]
    use crate::lane::serve;
    #[pymodule_export]
    use crate::quick::QuickCalls;
}

/// Where in a value something lies: one step down from a container.
enum Step {
    Index(usize),
    Key(Py<PyAny>),
}
