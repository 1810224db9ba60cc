//! Chunks that this worker reads: of others, and of its own when a result comes back.

use super::arena::Arena;
use super::mapping::Mapping;
use super::view::{End, Returns, View};
use crate::errors::{protocol_error, transfer_error};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use snakepit_core::frame::Place;
use snakepit_core::locks::locked;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A frame may overtake the message that announces its chunk.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);
/// How often signals are looked at meanwhile.
const STEP: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Chunks {
    mapped: HashMap<u64, Arc<Mapping>>,
    /// Those that could not be mapped, and why.
    refused: HashMap<u64, String>,
}

/// All chunks that requests may refer to, and the tokens of Python's views of them.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Borrowed {
    own: Option<Py<Arena>>,
    chunks: Mutex<Chunks>,
    arrival: Condvar,
    returns: Arc<Returns>,
}

/// A place as Python has it: chunk id, offset, length, token.
pub type Row = (u64, u64, u64, u64);

pub fn row(place: &Place) -> Row {
    (place.chunk, place.offset, place.len, place.token)
}

#[pymethods]
impl Borrowed {
    #[new]
    #[pyo3(signature = (own = None))]
    fn new(own: Option<Py<Arena>>) -> Self {
        Self { own, chunks: Mutex::default(), arrival: Condvar::new(), returns: Arc::default() }
    }

    /// Maps a chunk that was announced. Raises `OSError`. The descriptor stays the caller's.
    fn add(&self, py: Python<'_>, chunk: u64, fd: i32, size: u64) -> PyResult<()> {
        if fd < 0 {
            return Err(PyOSError::new_err((libc::EBADF, "no descriptor came")));
        }
        if snakepit_fork::is_child() {
            return Ok(());
        }
        // SAFETY: the caller's, who closes it after this.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match py.detach(|| Mapping::of_another(fd, size)) {
            Ok(mapping) => {
                let before = locked(&self.chunks).mapped.insert(chunk, mapping);
                self.arrival.notify_all();
                drop(before);
                Ok(())
            }
            Err(error) => Err(PyOSError::new_err((error.number(), error.to_string()))),
        }
    }

    /// A chunk that was announced could not be mapped: whoever waits for it waits in vain.
    fn refuse(&self, chunk: u64, why: String) {
        if !snakepit_fork::is_child() {
            locked(&self.chunks).refused.insert(chunk, why);
            self.arrival.notify_all();
        }
    }

    /// Forgets a chunk; it is unmapped when the last view of it goes.
    fn drop(&self, chunk: u64) {
        if !snakepit_fork::is_child() {
            let mut chunks = locked(&self.chunks);
            chunks.refused.remove(&chunk);
            let gone = chunks.mapped.remove(&chunk);
            // Unmapped without the lock.
            drop(chunks);
            drop(gone);
        }
    }

    /// Read-only views of these places. Each token comes back exactly once, whatever happens.
    ///
    /// Raises `CallError` (transfer) where a chunk is not there, and `ProtocolError` where a place is not inside of its
    /// chunk.
    fn views<'py>(&self, py: Python<'py>, places: Vec<Row>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let places: Vec<Place> =
            places.into_iter().map(|(chunk, offset, len, token)| Place { chunk, offset, len, token }).collect();
        self.shown(py, &places)
    }

    /// Tokens of a reply that is not sent after all: the next one has them.
    pub fn take_back(&self, tokens: Vec<u64>) {
        if !snakepit_fork::is_child() {
            self.returns.expect(tokens.len());
            self.returns.end(&tokens);
        }
    }

    /// The tokens to give back now. Each is returned by exactly one call.
    pub fn take_released(&self) -> Vec<u64> {
        if snakepit_fork::is_child() { Vec::new() } else { self.returns.take() }
    }

    /// Tokens that were not given back yet.
    #[getter]
    pub fn outstanding(&self) -> usize {
        self.returns.outstanding()
    }
}

impl Borrowed {
    /// Whether there are tokens to give back.
    pub fn returns_wait(&self) -> bool {
        self.returns.wait()
    }

    /// Whether all chunks of these places are there, so that nobody has to wait for one.
    pub fn has(&self, places: &[Place]) -> bool {
        let chunks = locked(&self.chunks);
        places.iter().all(|place| self.there(&chunks, place.chunk).is_some_and(|it| it.has(place.offset, place.len)))
    }

    fn there(&self, chunks: &Chunks, chunk: u64) -> Option<Arc<Mapping>> {
        chunks.mapped.get(&chunk).cloned().or_else(|| self.own.as_ref()?.get().memory().mapping(chunk))
    }

    /// As `views`.
    pub fn shown<'py>(&self, py: Python<'py>, places: &[Place]) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.returns.expect(places.len());
        let mut views = Vec::with_capacity(places.len());
        for (at, place) in places.iter().enumerate() {
            // Views that were made come back by themselves; the tokens from there on by hand.
            let ended = |from: usize| {
                let rest: Vec<u64> = places[from..].iter().map(|place| place.token).collect();
                self.returns.end(&rest);
            };
            let found = self.there(&locked(&self.chunks), place.chunk);
            let found = found.map_or_else(|| self.wait(py, place.chunk), Ok);
            let mapping = found.inspect_err(|_| ended(at))?;
            if !mapping.has(place.offset, place.len) {
                ended(at);
                return Err(protocol_error(py, "a buffer lies outside of its chunk"));
            }
            let end = End::Token(self.returns.clone(), place.token);
            let view = View::of_chunk(&mapping, place.offset, place.len, false, end);
            views.push(view.shown(py).inspect_err(|_| ended(at + 1))?);
        }
        Ok(views)
    }

    /// Waits for a chunk's announcement, without the interpreter's lock.
    fn wait(&self, py: Python<'_>, chunk: u64) -> PyResult<Arc<Mapping>> {
        let deadline = Instant::now() + ANNOUNCED_WITHIN;
        loop {
            let found = py.detach(|| {
                let mut chunks = locked(&self.chunks);
                if !chunks.mapped.contains_key(&chunk) && !chunks.refused.contains_key(&chunk) {
                    chunks = self.arrival.wait_timeout(chunks, STEP).unwrap_or_else(PoisonError::into_inner).0;
                }
                if let Some(mapping) = chunks.mapped.get(&chunk) {
                    return Some(Ok(mapping.clone()));
                }
                chunks.refused.get(&chunk).map(|why| Err(("no_memory", format!("shared memory is not mapped: {why}"))))
            });
            if let Some(found) = found {
                return found.map_err(|(reason, message)| transfer_error(py, reason, message, None));
            }
            py.check_signals()?;
            if Instant::now() >= deadline {
                let message = format!("chunk {chunk:#x} was never announced");
                return Err(transfer_error(py, "unknown_chunk", message, None));
            }
        }
    }
}
