//! The worker's side of a call, as an extension of CPython.
//!
//! | module | what it does |
//! |---|---|
//! | [`lane`] | reads frames, has calls run, sends replies |
//! | [`cores`] | keeps a lane off its caller's core |
//! | [`quick`] | runs the usual call without a line of the Python package: decodes, checks, calls, encodes |
//! | [`requests`] | reads the frames of other calls, for the Python package |
//! | [`progress`] | where a lane's calls are |
//! | [`socket`] | sends frames |
//! | [`tool`] | a tool's signature, as a call looks at it |
//! | [`decode`], [`encode`] | envelopes to Python's objects, and back |
//! | [`messages`] | plain values to MessagePack, and back: control messages, log records, errors |
//! | [`memory`] | shared memory: the worker's arena, chunks of others, and Python's views of both |
//! | [`ndarray`] | numpy's arrays, by their fields |
//! | [`forks`] | what forked children get |
//!
//! The formats are those of `native/PROTOCOL.md`; `snakepit_core` reads and writes their bytes. Values that are rare, or
//! need a library of Python's (tensors that come, zones, decimals), are made by functions of the Python package, which
//! hands them over when it makes a [`decode::Decoder`] or an [`encode::Encoder`]. So do calls that are rare: streams,
//! tools that run on, failures.

mod cores;
mod decode;
mod encode;
mod errors;
mod forks;
mod lane;
mod memory;
mod messages;
mod ndarray;
mod progress;
mod quick;
mod requests;
mod socket;
mod tool;

use pyo3::prelude::*;

// Python's objects are read under the interpreter's lock.
#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use crate::decode::Decoder;
    #[pymodule_export]
    use crate::encode::Encoder;
    #[pymodule_export]
    use crate::forks::{add_descriptor, become_child, close_in_children, install_fork_handlers, is_child, remove_row};
    #[pymodule_export]
    use crate::lane::serve;
    #[pymodule_export]
    use crate::memory::arena::{Arena, Slot};
    #[pymodule_export]
    use crate::memory::borrowed::Borrowed;
    #[pymodule_export]
    use crate::memory::buffers::Buffers;
    #[pymodule_export]
    use crate::memory::replies::Replies;
    #[pymodule_export]
    use crate::memory::reply::{Reply, Unread};
    #[pymodule_export]
    use crate::memory::view::View;
    #[pymodule_export]
    use crate::messages::{pack, unpack};
    #[pymodule_export]
    use crate::progress::{Leftover, Progress};
    #[pymodule_export]
    use crate::quick::QuickCalls;
    #[pymodule_export]
    use crate::requests::{Requests, frame_layout};
}

/// Where in a value something lies: one step down from a container.
enum Step {
    Index(usize),
    Key(Py<PyAny>),
}
