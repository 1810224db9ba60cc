//! The errors of the Python package, `snakepit.support.errors`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

static CALL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static PROTOCOL: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// A call that fails; it crosses to the caller as data.
pub fn call_error(
    py: Python<'_>,
    category: &str,
    reason: &str,
    message: String,
    details: Option<Bound<'_, PyDict>>,
) -> PyErr {
    let made = CALL.import(py, "snakepit.support.errors", "CallError").and_then(|class| {
        let named = PyDict::new(py);
        named.set_item("details", details)?;
        class.call((category, reason, message), Some(&named))
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// A call whose memory cannot be had, or not be reached.
pub fn transfer_error(py: Python<'_>, reason: &str, message: String, details: Option<Bound<'_, PyDict>>) -> PyErr {
    call_error(py, "transfer", reason, message, details)
}

/// The peer broke a rule of the protocol: its connection ends.
pub fn protocol_error(py: Python<'_>, message: &str) -> PyErr {
    let made =
        PROTOCOL.import(py, "snakepit.support.errors", "ProtocolError").and_then(|class| class.call1((message,)));
    made.map_or_else(|error| error, PyErr::from_value)
}
