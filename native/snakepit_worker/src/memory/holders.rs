//! The holders of a result's memory: it is sent in place only if the reply is its sole holder.
//!
//! Another holder may write to it later, and so change what the caller was given. Python's own counts of references tell:
//! every way to reach memory that is lent to Python holds a reference to one of the objects between the result and that
//! memory. So each of these must have exactly the references that the reply accounts for, and no weak one, which anybody
//! could turn into a strong one.

use super::view::View;
use crate::ndarray::Array;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView, PyType};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

/// The class of the object that all memoryviews of one export share, which holds the exporter.
static SHARED_EXPORT: PyOnceLock<Option<Py<PyType>>> = PyOnceLock::new();

static GIL: PyOnceLock<bool> = PyOnceLock::new();

/// An object between a result and its memory.
struct Link {
    /// References from the reply itself, and from other links.
    expected: usize,
    next: Option<*mut ffi::PyObject>,
    /// It may be reached in ways that are not known here.
    open: bool,
    alone: Option<bool>,
}

/// For each source, whether nothing but these sources refers to its memory. One reference to each source is the
/// caller's.
pub fn sole_holders<'a, 'py: 'a>(py: Python<'py>, sources: impl Iterator<Item = &'a Py<PyAny>>) -> Vec<bool> {
    if !counts_are_proof(py) {
        return sources.map(|_| false).collect();
    }
    let mut links: HashMap<*mut ffi::PyObject, Link> = HashMap::new();
    let first: Vec<*mut ffi::PyObject> = sources.map(|source| linked(py, source.as_ptr(), &mut links)).collect();
    first.into_iter().map(|link| is_alone(link, &mut links)).collect()
}

/// Without the interpreter's lock a count of references is no proof.
fn counts_are_proof(py: Python<'_>) -> bool {
    *GIL.get_or_init(py, || {
        let enabled = py.import("sys").and_then(|sys| sys.getattr("_is_gil_enabled"));
        // Older Pythons cannot be without it.
        enabled.and_then(|enabled| enabled.call0()?.is_truthy()).unwrap_or(true)
    })
}

fn linked(
    py: Python<'_>,
    first: *mut ffi::PyObject,
    links: &mut HashMap<*mut ffi::PyObject, Link>,
) -> *mut ffi::PyObject {
    let mut object = first;
    loop {
        if let Some(link) = links.get_mut(&object) {
            link.expected += 1;
            return first;
        }
        let (next, open) = held_by(py, object);
        links.insert(object, Link { expected: 1, next, open, alone: None });
        match next {
            Some(next) => object = next,
            None => return first,
        }
    }
}

/// The object that this one holds in turn, and whether its memory may be reached in another way.
fn held_by(py: Python<'_>, object: *mut ffi::PyObject) -> (Option<*mut ffi::PyObject>, bool) {
    // SAFETY: `object` is alive: a source, or held by one that is.
    let value = unsafe { Bound::from_borrowed_ptr(py, object) };
    if let Some(array) = Array::of(&value) {
        let base = array.base();
        return if base.is_null() { (None, !array.owns_data()) } else { (Some(base), false) };
    }
    if value.is_exact_instance_of::<PyMemoryView>() || is_shared_export(&value) {
        return match referent(&value) {
            Some(next) => (Some(next), false),
            None => (None, true),
        };
    }
    // The chain ends with the object that exports the memory itself.
    (None, !value.is_exact_instance_of::<View>())
}

fn is_alone(object: *mut ffi::PyObject, links: &mut HashMap<*mut ffi::PyObject, Link>) -> bool {
    let Some(link) = links.get(&object) else { return false };
    if let Some(alone) = link.alone {
        return alone;
    }
    let (expected, next, open) = (link.expected, link.next, link.open);
    // SAFETY: as in `held_by`.
    let counted = !open && unsafe { ffi::Py_REFCNT(object) } as usize == expected && !has_weak_references(object);
    let alone = counted && next.is_none_or(|next| is_alone(next, links));
    if let Some(link) = links.get_mut(&object) {
        link.alone = Some(alone);
    }
    alone
}

/// Whether there is a weak reference to an object, or none can be excluded.
fn has_weak_references(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the object is alive. Where its class has an offset, a pointer to its first weak reference lies there; a
    // negative one says that the interpreter manages them.
    unsafe {
        match (*ffi::Py_TYPE(object)).tp_weaklistoffset {
            0 => false,
            offset if offset > 0 => !object.byte_offset(offset).cast::<*mut ffi::PyObject>().read().is_null(),
            _ => true,
        }
    }
}

/// The one object that this one shows to the collector.
fn referent(value: &Bound<'_, PyAny>) -> Option<*mut ffi::PyObject> {
    #[derive(Default)]
    struct Seen {
        first: Option<*mut ffi::PyObject>,
        more: bool,
    }
    unsafe extern "C" fn visit(object: *mut ffi::PyObject, seen: *mut c_void) -> c_int {
        // SAFETY: `referent` passes it.
        let seen = unsafe { &mut *seen.cast::<Seen>() };
        if seen.first.is_some() {
            seen.more = true;
        } else {
            seen.first = Some(object);
        }
        0
    }
    let mut seen = Seen::default();
    // SAFETY: the class's own function, which calls `visit` for each object that this one refers to, and does nothing else.
    unsafe {
        let traverse = (*ffi::Py_TYPE(value.as_ptr())).tp_traverse?;
        traverse(value.as_ptr(), visit, (&raw mut seen).cast());
    }
    seen.first.filter(|_| !seen.more)
}

fn is_shared_export(value: &Bound<'_, PyAny>) -> bool {
    let py = value.py();
    let class = SHARED_EXPORT.get_or_init(py, || {
        let view = PyMemoryView::from(&PyBytes::new(py, b"")).ok()?;
        // SAFETY: it is alive while `view` is.
        let export = unsafe { Bound::from_borrowed_ptr(py, referent(view.as_any())?) };
        Some(export.get_type().unbind())
    });
    class.as_ref().is_some_and(|class| value.get_type().is(class.bind(py)))
}
