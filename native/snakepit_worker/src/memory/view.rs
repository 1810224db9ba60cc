//! What Python sees of memory that is not its own.

use super::arena::{Memory, SlotId};
use super::mapping::Mapping;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use snakepit_core::frame::INLINE_ALIGN;
use snakepit_core::locks::locked;
use snakepit_fork::{Alive, Row};
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The tokens of views that are gone, until a reply gives them back.
#[derive(Default)]
pub struct Returns {
    gone: Mutex<Vec<u64>>,
    /// How many are in `gone`.
    waiting: AtomicUsize,
    /// Tokens that were not given back yet.
    outstanding: AtomicUsize,
}

impl Returns {
    pub fn expect(&self, tokens: usize) {
        self.outstanding.fetch_add(tokens, Ordering::AcqRel);
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Whether there are tokens to give back.
    pub fn wait(&self) -> bool {
        self.waiting.load(Ordering::Acquire) != 0
    }

    pub fn end(&self, tokens: &[u64]) {
        let mut gone = locked(&self.gone);
        gone.extend_from_slice(tokens);
        self.waiting.store(gone.len(), Ordering::Release);
    }

    /// The tokens to give back now. Each is returned by exactly one call.
    pub fn take(&self) -> Vec<u64> {
        if !self.wait() {
            return Vec::new();
        }
        let mut gone = locked(&self.gone);
        self.waiting.store(0, Ordering::Release);
        self.outstanding.fetch_sub(gone.len(), Ordering::AcqRel);
        std::mem::take(&mut *gone)
    }
}

/// The duty of a view whose last reader is gone.
pub enum End {
    /// The token goes back to whoever sent it.
    Token(Arc<Returns>, u64),
    /// The slot has one holder less.
    Slot(Arc<Memory>, SlotId),
    /// The frame is freed with its last view.
    Frame(Arc<FrameMemory>),
}

/// A part of mapped memory, or of a frame, as an object that exports it. Every object that shows its bytes (memoryview,
/// slice, ndarray, reshape) keeps it alive.
///
/// The last of them may go in any thread, in the middle of anything, and no line of Python runs then in which a tool that
/// is being cancelled could be hit.
#[pyclass(frozen, module = "snakepit._native")]
pub struct View {
    address: usize,
    len: usize,
    writable: bool,
    row: Mutex<Option<Row>>,
    end: End,
    _mapping: Option<Arc<Mapping>>,
}

impl View {
    /// A view of a part of a chunk, which lies inside of it.
    pub fn of_chunk(mapping: &Arc<Mapping>, offset: u64, len: u64, writable: bool, end: End) -> Self {
        let (address, len) = (mapping.address + offset as usize, len as usize);
        // Before anybody has the view: whoever forks with it must find it listed.
        let row = snakepit_fork::add(Alive::Memory(address, len));
        Self { address, len, writable, row: Mutex::new(Some(row)), end, _mapping: Some(mapping.clone()) }
    }

    /// A view of a part of a frame, which lies inside of it.
    pub fn of_frame(frame: &Arc<FrameMemory>, start: usize, len: usize) -> Self {
        let address = frame.bytes().as_ptr() as usize + start;
        Self { address, len, writable: false, row: Mutex::default(), end: End::Frame(frame.clone()), _mapping: None }
    }

    /// As a memoryview.
    pub fn shown(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let view = Bound::new(py, self)?;
        // SAFETY: `view` exports its bytes.
        unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyMemoryView_FromObject(view.as_ptr())) }
    }
}

#[pymethods]
impl View {
    // SAFETY: called by the interpreter as `bf_getbuffer`.
    unsafe fn __getbuffer__(this: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view was given to fill in"));
        }
        let shown = this.get();
        // SAFETY: `view` can be written to. The memory is there for as long as `this`, to which the view gets a reference.
        let status = unsafe {
            let len = shown.len as ffi::Py_ssize_t;
            ffi::PyBuffer_FillInfo(view, this.as_ptr(), shown.address as *mut _, len, (!shown.writable).into(), flags)
        };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(this.py())) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if snakepit_fork::is_child() {
            // The worker's books are not here.
            return;
        }
        if let Some(row) = locked(&self.row).take() {
            snakepit_fork::remove(row);
        }
        match &self.end {
            End::Token(returns, token) => returns.end(&[*token]),
            End::Slot(memory, slot) => memory.returned(*slot),
            End::Frame(_) => {}
        }
    }
}

/// A frame's own memory: its buffers lie aligned in it.
pub struct FrameMemory {
    start: *mut u8,
    len: usize,
    layout: Layout,
}

// SAFETY: plain memory that nobody writes to once it is shared.
unsafe impl Send for FrameMemory {}
// SAFETY: as above.
unsafe impl Sync for FrameMemory {}

/// Memory for a frame that is still to be written.
pub struct FrameRoom(FrameMemory);

impl FrameRoom {
    /// Room for `len` bytes; `None` where there is no memory for them.
    pub fn new(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.max(1), INLINE_ALIGN).ok()?;
        // SAFETY: of at least one byte.
        let start = unsafe { alloc(layout) };
        (!start.is_null()).then_some(Self(FrameMemory { start, len, layout }))
    }

    pub fn start(&self) -> *mut u8 {
        self.0.start
    }

    /// The frame.
    ///
    /// # Safety
    /// All of its bytes were written.
    pub unsafe fn written(self) -> Arc<FrameMemory> {
        Arc::new(self.0)
    }
}

impl FrameMemory {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: they were written (`FrameRoom::written`), and nobody writes to them after that.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for FrameMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start, self.layout) };
    }
}
