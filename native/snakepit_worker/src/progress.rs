//! Where a lane's calls are. Both this library and the Python package look at it in each call: these fields cost no lookup
//! of a name.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use snakepit_core::locks::locked;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The call that runs. `snakepit.support.cancel.Cancellation` is one.
#[pyclass(frozen, subclass, module = "snakepit._native")]
#[derive(Default)]
pub struct Progress {
    seen: AtomicU64,
    running: AtomicU64,
    cancelling: AtomicU64,
}

#[pymethods]
impl Progress {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// The last call that came, by whichever way.
    #[getter(seen)]
    fn get_seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    #[setter]
    pub fn set_seen(&self, call_id: u64) {
        self.seen.store(call_id, Ordering::Relaxed);
    }

    /// The call whose tool runs, or 0.
    #[getter(running)]
    fn get_running(&self) -> u64 {
        self.running.load(Ordering::Acquire)
    }

    #[setter]
    pub fn set_running(&self, call_id: u64) {
        self.running.store(call_id, Ordering::Release);
    }

    /// The call that is being cancelled, or 0.
    #[getter]
    pub fn cancelling(&self) -> u64 {
        self.cancelling.load(Ordering::Acquire)
    }

    #[setter]
    fn set_cancelling(&self, call_id: u64) {
        self.cancelling.store(call_id, Ordering::Release);
    }
}

/// The remains of a lane's last call. `snakepit.runtime.lane.Lane` is one. It is looked at by whoever has the lane.
#[pyclass(frozen, subclass, module = "snakepit._native")]
#[derive(Default)]
pub struct Leftover {
    waiting: Mutex<Option<Py<PyAny>>>,
    lost: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Leftover {
    #[new]
    #[pyo3(signature = (*_positional, **_named))]
    fn new(_positional: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    /// A reply that waits to be fetched by gRPC, or `None`.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        locked(&self.waiting).as_ref().map(|kept| kept.clone_ref(py))
    }

    #[setter]
    fn set_waiting(&self, reply: Option<Py<PyAny>>) {
        put(&self.waiting, reply);
    }

    /// Whether a reply of the call had tokens, of places that it grants or buffers that it gives back: if nobody read it,
    /// they are lost. The tokens, if it is the only one of its call: they can be taken back.
    #[getter]
    fn lost(&self, py: Python<'_>) -> Py<PyAny> {
        let lost = locked(&self.lost).as_ref().map(|lost| lost.clone_ref(py));
        lost.unwrap_or_else(|| {
            false.into_pyobject(py).map_or_else(|_| py.None(), |no| no.to_owned().into_any().unbind())
        })
    }

    #[setter]
    pub fn set_lost(&self, lost: &Bound<'_, PyAny>) -> PyResult<()> {
        put(&self.lost, lost.is_truthy()?.then(|| lost.clone().unbind()));
        Ok(())
    }
}

impl Leftover {
    /// A call's reply has none.
    pub fn clear(&self) {
        put(&self.waiting, None);
        put(&self.lost, None);
    }
}

/// The one before is let go when nobody holds the lock: its end may run Python's code.
fn put(place: &Mutex<Option<Py<PyAny>>>, value: Option<Py<PyAny>>) {
    let before = std::mem::replace(&mut *locked(place), value);
    drop(before);
}
